"""`pnag bench front`: run the methods, score their answers against the best known, keep every run on disk.

A run is one method with one seed; its answers lie in a JSON file as soon as it ends, so a long benchmark that is broken
off goes on where it stopped. Scores are computed from those files, because the reference front gains from every run.

Axis letters: N = architectures, B = budgets.
"""

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pnag.bench.search.methods.registry import METHODS
from pnag.bench.search.methods.run import NO_ANSWER, MethodRun
from pnag.bench.search.problem import Problem, best_of
from pnag.models.files import to_json, write_atomic
from pnag.models.pareto import hypervolume, pareto_front
from pnag.trainer.config import ArchiveConfig, GeneratorConfig, TrainConfig
from pnag.trainer.generator.archive import search_archive
from pnag.trainer.generator.objective import Objective
from pnag.trainer.progress import Progress

Floats = NDArray[np.float64]

logger = logging.getLogger(__name__)

CLIFF_FRACTION = 0.1
"""Below this part of the range the front is a cliff; regret above it is reported on its own."""
_ROUNDING = 1e-9
_REFERENCE = ArchiveConfig(cells=256, elites=12, generations=150, children=2000, initial=10_000, local_search_rounds=60)


@dataclass(frozen=True)
class Answers:
    """Answers of one run, one architecture per budget.

    Attributes:
        cost_B, accuracy_B: by the evaluator; NaN where there was no answer.
        truth_B: true accuracy, where it is known.
        fit_calls, answer_calls: different architectures the evaluator was asked about.
    """

    method: str
    seed: int
    encodings: tuple[str | None, ...]
    cost_B: Floats
    accuracy_B: Floats
    truth_B: Floats | None
    fit_calls: int
    answer_calls: int
    fit_seconds: float
    answer_seconds: float


@dataclass(frozen=True)
class Reference:
    """The best that is known: everything on a small space, a long search and all runs together on a large one."""

    kind: str
    cost_F: Floats
    accuracy_F: Floats
    cheapest_accuracy: float
    """Predicted accuracy of the cheapest network: what anybody can answer."""
    truth_cost_F: Floats | None
    truth_F: Floats | None

    def best(self, budgets_B: Floats) -> Floats:
        """Predicted accuracy of the best within each budget."""
        return self.accuracy_F[best_of(self.cost_F, self.accuracy_F, budgets_B)]


def scaled_config(base: TrainConfig, allowance: int) -> TrainConfig:
    """Our training within an allowance: evolution takes up to two thirds, local search and the policy the rest."""
    children = int(np.clip(allowance // 60, 10, 1000))
    initial = int(np.clip(allowance // 10, 10, base.archive.initial))
    return replace(
        base,
        archive=replace(
            base.archive,
            initial=initial,
            children=children,
            generations=max(1, (2 * allowance // 3 - initial) // children),
            cells=int(np.clip(allowance // 20, 16, base.archive.cells)),
        ),
        generator=replace(base.generator, ask_budgets=int(np.clip(allowance // 200, 16, base.generator.ask_budgets))),
    )


def run_methods(
    problem: Problem, names: Sequence[str], seeds: Sequence[int], allowance: int, samples: int, folder: Path,
    progress: Progress, base: TrainConfig | None = None,
) -> list[Answers]:  # fmt: skip
    """Run every method with every seed; what `folder` already has is read instead of run."""
    base = base or TrainConfig(generator=GeneratorConfig())
    setting = f"{problem.digest()}-{allowance}-{samples}"
    done = []
    for seed in seeds:
        run = MethodRun(problem, allowance, samples, seed, scaled_config(base, allowance), progress)
        for name in names:
            path = folder / f"{name}-{seed}.json"
            answers = _read(path, setting)
            if answers is None:
                if name == "exhaustive" and not problem.is_enumerable:
                    continue
                answers = run_method(run, name)
                write_atomic(path, to_json({"setting": setting, **_as_json(answers)}))
                logger.info(
                    "%s seed %d: %.1f s, %d calls",
                    name,
                    seed,
                    answers.fit_seconds + answers.answer_seconds,
                    answers.fit_calls,
                )
            done.append(answers)
    return done


def run_method(run: MethodRun, name: str) -> Answers:
    """Fit one method and ask it for the test budgets."""
    problem, method = run.problem, METHODS[name]
    objective = problem.objective(limit=run.allowance)
    started = time.monotonic()
    answerer = method.fit(run, objective)
    fit_calls, fitted = objective.calls, time.monotonic()
    asked = problem.objective()
    tokens_BD = answerer(problem.budgets_B, asked)
    ended = time.monotonic()
    if name == "elite-imitation+front":
        # Trained once for both ways of asking it; each row shows what it would have taken alone.
        started = fitted - run.shared["elite"][2]
    has_answer_B = tokens_BD[:, 0] != NO_ANSWER
    valid_BD = np.where(has_answer_B[:, np.newaxis], tokens_BD, tokens_BD[has_answer_B][:1])
    accuracy_B = np.where(has_answer_B, problem.accuracy(valid_BD), np.nan)
    return Answers(
        name, run.seed,
        tuple(problem.space.encode(t) if ok else None for t, ok in zip(tokens_BD, has_answer_B, strict=True)),
        np.where(has_answer_B, problem.cost(valid_BD), np.nan), accuracy_B,
        None if problem.truth is None else np.where(has_answer_B, problem.truth(valid_BD), np.nan),
        fit_calls, asked.calls, fitted - started, ended - fitted,
    )  # fmt: skip


def find_reference(problem: Problem, runs: Sequence[Answers], folder: Path, progress: Progress) -> Reference:
    """Find the best of all architectures where they can be listed, else of a long search (in `folder`) and all runs."""
    truth_cost_F = truth_F = None
    if problem.is_enumerable:
        tokens_ND = problem.everything()
        cost_N, accuracy_N, kind = problem.cost(tokens_ND), problem.accuracy(tokens_ND), "exhaustive"
        if problem.truth is not None:
            truth_N = problem.truth(tokens_ND)
            front = pareto_front(cost_N, truth_N)
            truth_cost_F, truth_F = cost_N[front], truth_N[front]
    else:
        path, setting = folder / "reference.json", problem.digest()
        document = json.loads(path.read_text()) if path.exists() else {}
        if document.get("setting") != setting:
            archive = search_archive(
                problem.space, problem.slack, Objective(problem.cost, problem.accuracy), _REFERENCE,
                np.random.default_rng(2024), progress,
            )  # fmt: skip
            front = archive.front_indices()
            document = {
                "setting": setting,
                "calls": archive.objective.calls,
                "cost": archive.cost_N[front].tolist(),
                "accuracy": archive.accuracy_N[front].tolist(),
            }
            write_atomic(path, to_json(document))
        found = [(a.cost_B, a.accuracy_B) for a in runs]
        cost_N = np.concatenate([document["cost"], *(c for c, _ in found)])
        accuracy_N = np.concatenate([document["accuracy"], *(a for _, a in found)])
        known = np.isfinite(cost_N)
        cost_N, accuracy_N = cost_N[known], accuracy_N[known]
        kind = f"search with {document['calls']} calls, and every run"
    front = pareto_front(cost_N, accuracy_N)
    cheapest_accuracy = float(accuracy_N[np.lexsort((-accuracy_N, cost_N))[0]])
    return Reference(kind, cost_N[front], accuracy_N[front], cheapest_accuracy, truth_cost_F, truth_F)


def regret(best_B: Floats, accuracy_B: Floats, fits_B: NDArray[np.bool_], cheapest_accuracy: float) -> Floats:
    """Give what answers fall short of the best within their budget, as fractions; >= 0 against a true best.

    An answer over its budget is worth no more than the cheapest network: the caller must fall back on it.
    """
    worth_B = np.where(fits_B, accuracy_B, np.minimum(cheapest_accuracy, best_B))
    # A reference may have been computed in another batch: beyond its rounding nothing is better than the best.
    return np.where(np.abs(best_B - worth_B) < _ROUNDING, 0.0, best_B - worth_B)


def score(problem: Problem, reference: Reference, answers: Answers) -> dict[str, Any]:
    """Figures of one run; accuracies in points."""
    budgets_B = problem.budgets_B
    with np.errstate(invalid="ignore"):
        fits_B = answers.cost_B <= budgets_B
    regret_B = 100 * regret(reference.best(budgets_B), answers.accuracy_B, fits_B, reference.cheapest_accuracy)
    above = budgets_B >= problem.low + CLIFF_FRACTION * (problem.high - problem.low)
    figures = {
        "mean_regret": float(regret_B.mean()),
        "max_regret": float(regret_B.max()),
        "mean_regret_above_cliff": float(regret_B[above].mean()),
        "max_regret_above_cliff": float(regret_B[above].max()),
        "hypervolume_percent": _hypervolume_percent(problem, reference, answers.cost_B, answers.accuracy_B, fits_B),
        "violations": int(np.sum(np.isfinite(answers.cost_B) & ~fits_B)),
        "unanswered": int(np.sum(~np.isfinite(answers.cost_B))),
        "fit_calls": answers.fit_calls,
        "answer_calls": answers.answer_calls,
        "seconds": answers.fit_seconds + answers.answer_seconds,
        "answer_seconds": answers.answer_seconds,
    }
    if answers.truth_B is not None and reference.truth_F is not None and reference.truth_cost_F is not None:
        best_B = reference.truth_F[best_of(reference.truth_cost_F, reference.truth_F, budgets_B)]
        true_regret_B = 100 * regret(best_B, answers.truth_B, fits_B, float(reference.truth_F[0]))
        figures |= {"true_mean_regret": float(true_regret_B.mean()), "true_max_regret": float(true_regret_B.max())}
    return figures


def regret_by_budget(problem: Problem, reference: Reference, answers: Answers) -> Floats:
    """Give the regret in points, per budget; for plots."""
    with np.errstate(invalid="ignore"):
        fits_B = answers.cost_B <= problem.budgets_B
    return 100 * regret(reference.best(problem.budgets_B), answers.accuracy_B, fits_B, reference.cheapest_accuracy)


def _hypervolume_percent(
    problem: Problem, reference: Reference, cost_B: Floats, accuracy_B: Floats, fits_B: NDArray[np.bool_]
) -> float:
    """Hypervolume of the answers, relative to what they and the best answers span together.

    The corner is the highest cost and the accuracy of the cheapest network.

    The best answers are those to the same budgets; one a little worse but cheaper can span what they leave out.
    """
    places = best_of(reference.cost_F, reference.accuracy_F, problem.budgets_B)
    cost = np.append(reference.cost_F[places], cost_B[fits_B])
    accuracy = np.append(reference.accuracy_F[places], accuracy_B[fits_B])
    possible = hypervolume(cost, accuracy, problem.high, reference.cheapest_accuracy)
    reached = hypervolume(cost_B[fits_B], accuracy_B[fits_B], problem.high, reference.cheapest_accuracy)
    return 100 * reached / possible


def _as_json(answers: Answers) -> dict[str, Any]:
    def numbers(values: Floats | None) -> list[float | None] | None:
        return None if values is None else [float(v) if np.isfinite(v) else None for v in values]

    return {
        **{k: v for k, v in vars(answers).items() if not k.endswith("_B")},
        "encodings": list(answers.encodings),
        "cost": numbers(answers.cost_B),
        "accuracy": numbers(answers.accuracy_B),
        "truth": numbers(answers.truth_B),
    }


def _read(path: Path, setting: str) -> Answers | None:
    if not path.exists():
        return None
    document = json.loads(path.read_text())
    if document.pop("setting", None) != setting:
        return None
    for name in ("cost", "accuracy", "truth"):
        column = document.pop(name)
        document[f"{name}_B"] = None if column is None else np.array(column, dtype=np.float64)
    document["encodings"] = tuple(document["encodings"])
    return Answers(**document)
