"""`pnag train` and `pnag retarget`: records and a latency table in, a verified bundle out.

records ─▶ evaluator ─┐
                      ├─▶ archive ─▶ generator ─▶ ONNX, compared with torch ─▶ bundle, answered once to record a
latency table ────────┘                                                        self-test, then written
"""

import math
import platform
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pnag.models.accuracy.features import ArchitectureFeatures
from pnag.models.answer.limits import COSTS
from pnag.models.answer.question import Query
from pnag.models.answer.runtime import DEFAULT_NUM_CANDIDATES, OnnxGenerator
from pnag.models.answer.sessions import open_session, run_evaluator
from pnag.models.bundle.bundle import (
    EVALUATOR,
    GENERATOR,
    LATENCY_TABLE,
    PARETO_FRONT,
    TABLE_COSTS,
    Bundle,
    write_bundle,
)
from pnag.models.cost.latency_table import LatencyTable
from pnag.models.cost.slack import SlackTable
from pnag.models.cost.tabular import NetworkCosts, TableCosts
from pnag.models.errors import TrainingError
from pnag.models.files import to_json
from pnag.models.pareto import hypervolume
from pnag.models.policy.generator import Generator
from pnag.models.space.search_space import SearchSpace, Tokens
from pnag.models.space.tabular import TableSpace
from pnag.trainer.config import TrainConfig
from pnag.trainer.data.records import Records, options_seen, read_records
from pnag.trainer.data.references import read_references
from pnag.trainer.evaluator.dominance import pair_agreement
from pnag.trainer.evaluator.ranking import train_ranking_evaluator
from pnag.trainer.evaluator.train import train_evaluator
from pnag.trainer.generator.archive import Archive
from pnag.trainer.generator.export import export_generator, verify_generator
from pnag.trainer.generator.objective import Objective
from pnag.trainer.generator.reinforce import Score
from pnag.trainer.generator.train import sample, train_generator
from pnag.trainer.progress import Progress
from pnag.trainer.tabular.inputs import read_table_inputs, search_objective
from pnag.trainer.tabular.space_file import load_space

Floats = NDArray[np.float64]

NUM_HELD_OUT_BUDGETS = 50
NUM_SELF_TESTS = 5
_BLOCK = 2048


@dataclass(frozen=True)
class Identity:
    """What a bundle is called, and what its accuracies are of."""

    name: str
    version: str
    dataset: str


@dataclass(frozen=True)
class _Expertise:
    """A trained evaluator in the form that both `train` and `retarget` have: exported.

    Attributes:
        known: architectures that were measured, and their accuracies.
        references: `name` and `encoding` of networks that people know.
    """

    space: SearchSpace
    model: bytes
    accuracy: dict[str, Any]
    metrics: dict[str, Any]
    known: list[dict[str, Any]]
    references: list[dict[str, str]] = field(default_factory=list)

    def predictor(self) -> Callable[[Tokens], Floats]:
        """tokens [N, D] -> accuracy [N], computed as the service will."""
        features = ArchitectureFeatures(self.space)
        session = open_session(self.model)

        def predict(tokens_ND: Tokens) -> Floats:
            # In blocks: a kernel against every record at once would take gigabytes for a front's neighbours.
            blocks = [tokens_ND[i : i + _BLOCK] for i in range(0, len(tokens_ND), _BLOCK)]
            return np.concatenate([run_evaluator(session, features(block)) for block in blocks])

        return predict


def train_bundle(
    space_name: str, records_path: Path, table_path: Path | None, out: Path, identity: Identity, config: TrainConfig,
    progress: Progress, checkpoint: Path | None = None, *, candidates_path: Path | None = None,
    only_recorded: bool = False, device: str | None = None, references_path: Path | None = None,
) -> Bundle:  # fmt: skip
    """Train everything and write the bundle; nothing is written if any stage fails.

    Args:
        space_name: a registered name, or a YAML file.
        table_path: None = latency comes from the records; only of a table-only space.
        checkpoint: a folder that keeps the generator's training resumable, and its curves.
        candidates_path, only_recorded, device: see `read_table_inputs`; only of a table-only space.
        references_path: a file of named networks, see `read_references`.

    Raises:
        RecordsError, LatencyTableError, TrainingError: naming the row, layer or figure that stands in the way.
    """
    started = time.monotonic()
    whole_space = load_space(space_name)
    if isinstance(whole_space, TableSpace):
        given = read_table_inputs(
            whole_space, records_path, table_path,
            candidates_path=candidates_path, only_recorded=only_recorded, device=device,
        )  # fmt: skip
        costs = NetworkCosts.of(given.space, given.table, given.costs)
        cost_N = costs.latency_ms(given.records.tokens_ND)
        references = read_references(references_path, given.space, costs.allowed) if references_path else []
        expertise = _learn_accuracy(given.space, given.records, identity.dataset, config, progress, cost_N)
        expertise = replace(expertise, references=references)
        return _generate_bundle(
            expertise, given.table, out, identity, config, progress, started, checkpoint, given.costs
        )
    if table_path is None or candidates_path is not None or only_recorded or device is not None:
        raise TrainingError(
            f"{whole_space.name} has layers: give it a --latency-table (`pnag latency measure` makes one); "
            "--candidates, --only-recorded and --device are for spaces without layers, from a YAML file"
        )
    records = read_records(records_path, whole_space)
    space = whole_space.restrict(options_seen(whole_space, records.tokens_ND))
    records = records.within(space)
    table = LatencyTable.load(table_path)
    table.predictor(space)  # refuse a table that does not fit before minutes of training
    _check_cost_spread(records, table, space)
    references = read_references(references_path, space, space.allowed) if references_path else []
    expertise = _learn_accuracy(space, records, identity.dataset, config, progress)
    expertise = replace(expertise, references=references)
    return _generate_bundle(expertise, table, out, identity, config, progress, started, checkpoint)


def retarget_bundle(
    source: Bundle, table_path: Path, out: Path, name: str, config: TrainConfig, progress: Progress
) -> Bundle:
    """A bundle for another device: the source's evaluator, a new generator.

    Raises:
        LatencyTableError: if the table is for another space or misses a layer.
    """
    recorded = source.table_costs.without_latency() if source.table_costs else None
    started = time.monotonic()
    table = LatencyTable.load(table_path)
    table.predictor(source.space)
    expertise = _Expertise(
        source.space,
        source.contents[EVALUATOR],
        dict(source.manifest["accuracy"]),
        dict(source.manifest["metrics"]["evaluator"]),
        [{"encoding": k.encoding, "accuracy": k.accuracy} for k in source.known],
        source.manifest.get("references", []),
    )
    identity = Identity(name, source.version, str(source.manifest["accuracy"]["dataset"]))
    return _generate_bundle(expertise, table, out, identity, config, progress, started, recorded=recorded)


def _learn_accuracy(
    space: SearchSpace, records: Records, dataset: str, config: TrainConfig, progress: Progress,
    cost_N: Floats | None = None,
) -> _Expertise:  # fmt: skip
    torch.set_num_threads(1)  # one thread sums in one order: same seed, same bundle
    torch.manual_seed(config.seed)
    fitted = train_evaluator(space, records, config.evaluator, config.seed, progress, cost_N)
    accuracy_N = records.require_accuracy()
    expertise = _Expertise(
        space,
        fitted.model.to_onnx(),
        {
            "dataset": dataset,
            "metric": _metric(space),
            "source": records.source,
            "interval": None
            if math.isinf(fitted.interval_half_width)
            else {"coverage": fitted.interval_coverage, "half_width": fitted.interval_half_width},
        },
        fitted.metrics,
        [{"encoding": e, "accuracy": float(a)} for e, a in zip(records.encodings, accuracy_N, strict=True)],
    )
    probes_ND = space.sample(256, np.random.default_rng(config.seed))
    worst = float(np.max(np.abs(expertise.predictor()(probes_ND) - fitted.accuracy(probes_ND))))
    if worst > 1e-6:
        raise TrainingError(f"the exported evaluator differs from the fitted one by {worst:.2g}; no bundle was written")
    return expertise


def _generate_bundle(
    expertise: _Expertise, table: LatencyTable, out: Path, identity: Identity, config: TrainConfig,
    progress: Progress, started: float, checkpoint: Path | None = None, recorded: TableCosts | None = None,
) -> Bundle:  # fmt: skip
    space = expertise.space
    costs = NetworkCosts.of(space, table, recorded)
    slack = SlackTable.build(space, costs.lower_bounds())
    assert len(COSTS) == len(slack.base_K)
    objective = search_objective(space, costs, expertise.predictor())
    score, ranking = _ranking(expertise, objective, config, progress)
    archive, generator = train_generator(space, slack, objective, config, progress, checkpoint, score)
    exported = export_generator(generator)
    num_compared = verify_generator(generator, exported, config.seed)
    manifest: dict[str, Any] = {
        "name": identity.name,
        "version": identity.version,
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "git_commit": _git_commit(),
        "search_space": space.to_dict(),
        "device": asdict(table.device),
        "accuracy": expertise.accuracy,
        "generator": {"costs": list(COSTS), "seed": config.seed, "num_candidates": DEFAULT_NUM_CANDIDATES},
        "metrics": {
            "evaluator": {**expertise.metrics, **ranking},
            "generator": _measure_generator(generator, archive, config.seed),
            "latency_table": dict(table.check) if table.check else None,
        },
        "training": {
            "config": asdict(config),
            "seed": config.seed,
            "evaluator_calls": objective.calls,
            "tokens_compared": num_compared,
            "versions": {"python": platform.python_version()}
            | {
                name: version(name)
                for name in ("pnag", "numpy", "torch", "gpytorch", "scikit-learn", "onnx", "onnxruntime")
            },
        },
    }
    if expertise.references:
        manifest["references"] = expertise.references
    contents = {
        GENERATOR: exported,
        EVALUATOR: expertise.model,
        LATENCY_TABLE: to_json(table.to_dict()).encode(),
        PARETO_FRONT: to_json({"points": _front_points(archive), "known": expertise.known}).encode(),
    }
    if recorded is not None:
        contents[TABLE_COSTS] = to_json(recorded.to_dict(space), indent=None).encode()
    manifest["self_test"] = _self_test(Bundle.assemble(manifest, contents))
    manifest["training"]["wall_seconds"] = round(time.monotonic() - started, 1)
    return write_bundle(out, manifest, contents)


def _metric(space: SearchSpace) -> str | dict[str, Any]:
    """What the accuracies are: of a space with layers always top-1."""
    if not isinstance(space, TableSpace):
        return "top-1"
    return space.metric.to_dict() if space.metric else "accuracy"


def _ranking(
    expertise: _Expertise, objective: Objective, config: TrainConfig, progress: Progress
) -> tuple[Score | None, dict[str, Any]]:
    """The paper's learned score where the configuration asks for it, with how well it ranks held-out records."""
    if config.evaluator.score != "ranking":
        return None, {}
    tokens_ND = np.stack([expertise.space.decode(k["encoding"]) for k in expertise.known])
    accuracy_N = np.array([k["accuracy"] for k in expertise.known])
    cost_N = objective.cost(tokens_ND)
    order = np.random.default_rng(config.seed).permutation(len(tokens_ND))
    held_out, fitted = np.split(order, [max(2, round(config.evaluator.held_out_fraction * len(order)))])
    evaluator = train_ranking_evaluator(
        expertise.space, tokens_ND[fitted], cost_N[fitted], accuracy_N[fitted], config.ranking, config.seed, progress
    )
    budgets_K = np.linspace(cost_N.min(), cost_N.max(), 12)[1:-1]
    held_out = held_out[:300]  # all pairs of more would take gigabytes
    score_KN = np.stack([evaluator.score(tokens_ND[held_out], np.full(len(held_out), b)) for b in budgets_K])
    agreement = pair_agreement(score_KN, cost_N[held_out], accuracy_N[held_out], budgets_K)
    figures = {k: v if math.isfinite(v) else None for k, v in asdict(agreement).items()}
    return lambda tokens, _cost, _accuracy, budget: evaluator.score(tokens, budget), {"ranking": figures}


def _front_points(archive: Archive) -> list[dict[str, Any]]:
    assert archive.tokens_ND is not None
    space = archive.space
    return [
        {
            "encoding": space.encode(archive.tokens_ND[i]),
            "latency_ms": float(archive.cost_N[i]),
            "accuracy": float(archive.accuracy_N[i]),
        }
        for i in archive.front_indices()
    ]


def _measure_generator(generator: Generator, archive: Archive, seed: int) -> dict[str, Any]:
    """The policy alone, without the front's help, against the archive at budgets between those it was trained on."""
    rng = np.random.default_rng([seed, 3])
    low, high = float(archive.budgets_J[0]), float(archive.budgets_J[-1])
    budgets = np.linspace(low, high, NUM_HELD_OUT_BUDGETS + 2)[1:-1]
    front = archive.front_indices()
    front_cost, front_accuracy = archive.cost_N[front], archive.accuracy_N[front]
    regrets, costs, accuracies, over_budget = [], [], [], 0
    for budget in budgets:
        tokens_SD = sample(generator, np.full(64, budget), len(COSTS), rng)
        cost, accuracy = archive.objective.cost(tokens_SD), archive.objective.accuracy(tokens_SD)
        fits = cost <= budget
        over_budget += int(np.sum(~fits))
        best = int(np.argmax(np.where(fits, accuracy, -1.0)))
        regrets.append(front_accuracy[front_cost <= budget].max() - (accuracy[best] if fits.any() else 0.0))
        costs.append(cost[best])
        accuracies.append(accuracy[best])
    reference = (high, float(front_accuracy[0]) - 0.01)
    reached = hypervolume(np.array(costs), np.array(accuracies), *reference)
    known = [int(np.flatnonzero(front_cost <= budget)[-1]) for budget in budgets]
    possible = hypervolume(front_cost[known], front_accuracy[known], *reference)
    return {
        "candidates": 64,
        "budgets": NUM_HELD_OUT_BUDGETS,
        "mean_regret_percent": float(np.mean(regrets)) * 100,
        "max_regret_percent": float(np.max(regrets)) * 100,
        "hypervolume_percent": reached / possible * 100,
        "samples_over_budget": over_budget,
        "front_points": len(front),
    }


def _self_test(bundle: Bundle) -> list[dict[str, Any]]:
    """Answers that a service can check a loaded bundle with."""
    runtime = OnnxGenerator(bundle)
    lowest = runtime.smallest_feasible_ms()
    highest = max(runtime.range_ms[1], lowest)
    budgets: Sequence[float] = np.linspace(lowest, highest, NUM_SELF_TESTS + 1)[:-1].tolist()
    answers = [runtime.generate(Query(max(lowest, round(budget, 3)))) for budget in budgets]
    return [{"budget_ms": a.budget_ms, "encoding": a.best.architecture.encoding} for a in answers]


def _check_cost_spread(records: Records, table: LatencyTable, space: SearchSpace) -> None:
    cost_N = table.predictor(space)(records.tokens_ND)
    if np.ptp(cost_N) < 1e-9 * cost_N.max():
        raise TrainingError(
            f"{records.source}: every architecture costs {cost_N[0]:.4g} ms by the table; a trade-off needs "
            "architectures of different cost"
        )


def _git_commit() -> str | None:
    """The commit that trained the bundle, with "+" when files were changed; None outside a repository."""
    folder = Path(__file__).parent

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
