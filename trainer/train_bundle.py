"""`pnag train` and `pnag retarget`: records and a latency table in, a verified bundle out.

    Sources ─ read_inputs ─▶ Inputs ─ _fit_evaluator ─▶ ExportedEvaluator
        ─ train_generator ─▶ TrainedGenerator ─ export, write_bundle ─▶ Bundle

Exported networks are compared with torch's, and the bundle answers once to record a self-test, before it is written.
"""

import math
import platform
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
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
from pnag.models.errors import TrainingError
from pnag.models.files import to_json
from pnag.models.pareto import hypervolume
from pnag.models.space.search_space import SearchSpace, Tokens
from pnag.models.space.tabular import TableSpace
from pnag.trainer.config import TrainConfig
from pnag.trainer.data.inputs import Inputs
from pnag.trainer.data.records import Records, options_seen, read_records
from pnag.trainer.data.references import read_references
from pnag.trainer.evaluator.dominance import pair_agreement
from pnag.trainer.evaluator.ranking import train_ranking_evaluator
from pnag.trainer.evaluator.train import train_evaluator
from pnag.trainer.generator.archive import Archive
from pnag.trainer.generator.export import export_generator, verify_generator
from pnag.trainer.generator.objective import Objective
from pnag.trainer.generator.policy_run import sample
from pnag.trainer.generator.reinforce import Score
from pnag.trainer.generator.train import GeneratorTask, TrainedGenerator, method_of, train_generator
from pnag.trainer.progress import Progress
from pnag.trainer.repeatable import use_one_thread
from pnag.trainer.tabular.inputs import Choices, read_table_inputs, search_objective
from pnag.trainer.tabular.space_file import load_space

Floats = NDArray[np.float64]

NUM_HELD_OUT_BUDGETS = 50
NUM_SELF_TESTS = 5
_BLOCK = 2048


@dataclass(frozen=True)
class BundleRef:
    """A bundle's name and version, and the data set that its accuracies are of."""

    name: str
    version: str
    dataset: str


@dataclass(frozen=True)
class Sources:
    """Files that a bundle is trained from.

    Attributes:
        space: a registered name, or a YAML file.
        latency_table: None = latency comes from the records; only of a table-only space.
        choices: only of a table-only space.
        references: a file of named networks, see `read_references`.
    """

    space: str
    records: Path
    latency_table: Path | None = None
    choices: Choices = Choices()
    references: Path | None = None


@dataclass(frozen=True)
class ExportedEvaluator:
    """A trained evaluator as a bundle holds it, which is what `train` and `retarget` have in common.

    Attributes:
        model: ONNX.
        accuracy, metrics: what the manifest says of it.
    """

    space: SearchSpace
    model: bytes
    accuracy: dict[str, Any]
    metrics: dict[str, Any]

    def predictor(self) -> Callable[[Tokens], Floats]:
        """tokens [N, D] -> accuracy [N], computed as the service will."""
        features, session = ArchitectureFeatures(self.space), open_session(self.model)

        def predict(tokens_ND: Tokens) -> Floats:
            # In blocks: a kernel against every record at once would take gigabytes for a front's neighbours.
            blocks = [tokens_ND[i : i + _BLOCK] for i in range(0, len(tokens_ND), _BLOCK)]
            return np.concatenate([run_evaluator(session, features(block)) for block in blocks])

        return predict


@dataclass(frozen=True)
class Job:
    """Settings of a training, the name of its result, and the folder to write.

    Attributes:
        checkpoint: a folder that keeps the generator's training resumable, and its curves.
    """

    out: Path
    ref: BundleRef
    config: TrainConfig
    progress: Progress
    checkpoint: Path | None = None
    started: float = field(default_factory=time.monotonic)


def train_bundle(sources: Sources, job: Job) -> Bundle:
    """Train everything and write the bundle; nothing is written if any stage fails.

    Raises:
        RecordsError, LatencyTableError, TrainingError: naming the row, layer or figure that stands in the way.
    """
    method_of(job.config)  # refuse what cannot be combined before minutes of training
    inputs = read_inputs(sources)
    return _generate_bundle(inputs, _fit_evaluator(inputs, job), job)


def retarget_bundle(source: Bundle, table_path: Path, job: Job) -> Bundle:
    """Make a bundle for another device: the source's evaluator, a new generator.

    Raises:
        LatencyTableError: if the table is for another space or misses a layer.
    """
    space, manifest = source.space, source.manifest
    table = LatencyTable.load(table_path)
    table.predictor(space)
    tokens_ND = np.array([space.decode(k.encoding) for k in source.known]).reshape(-1, len(space.decisions))
    known = Records(
        tokens_ND,
        tuple(k.encoding for k in source.known),
        np.array([k.accuracy for k in source.known]),
        None,
        source.name,
    )
    recorded = source.table_costs.without_latency() if source.table_costs else None
    inputs = Inputs(space, known, table, recorded, manifest.get("references", []))
    evaluator = ExportedEvaluator(
        space, source.contents[EVALUATOR], dict(manifest["accuracy"]), dict(manifest["metrics"]["evaluator"])
    )
    return _generate_bundle(inputs, evaluator, job)


def read_inputs(sources: Sources) -> Inputs:
    """Read, check and restrict to what was measured; raises as `train_bundle` does."""
    whole_space = load_space(sources.space)
    if isinstance(whole_space, TableSpace):
        inputs = read_table_inputs(whole_space, sources.records, sources.latency_table, sources.choices)
    else:
        inputs = _read_inputs(whole_space, sources)
    if sources.references is None:
        return inputs
    return inputs.with_references(read_references(sources.references, inputs.space, inputs.network_costs.allowed))


def _read_inputs(whole_space: SearchSpace, sources: Sources) -> Inputs:
    """Inputs of a space with layers."""
    if sources.latency_table is None or sources.choices != Choices():
        raise TrainingError(
            f"{whole_space.name} has layers: give it a --latency-table (`pnag latency measure` makes one); "
            "--candidates, --only-recorded and --device are for spaces without layers, from a YAML file"
        )
    records = read_records(sources.records, whole_space)
    space = whole_space.restrict(options_seen(whole_space, records.tokens_ND))
    inputs = Inputs(space, records.within(space), LatencyTable.load(sources.latency_table))
    inputs.check_cost_spread()
    return inputs


def _fit_evaluator(inputs: Inputs, job: Job) -> ExportedEvaluator:
    space, records, seed = inputs.space, inputs.records, job.config.seed
    use_one_thread(seed)
    # Of a table-only space no MACs are known: there the evaluator is compared with the cost alone.
    cost_N = inputs.network_costs.latency_ms(records.tokens_ND) if isinstance(space, TableSpace) else None
    fitted = train_evaluator(space, records, job.config.evaluator, seed, job.progress, cost_N)
    interval = {"coverage": fitted.interval_coverage, "half_width": fitted.interval_half_width}
    accuracy = {
        "dataset": job.ref.dataset,
        "metric": _metric(space),
        "source": records.source,
        "interval": interval if math.isfinite(fitted.interval_half_width) else None,
    }
    exported = ExportedEvaluator(space, fitted.model.to_onnx(), accuracy, fitted.metrics)
    probes_ND = space.sample(256, np.random.default_rng(seed))
    worst = float(np.max(np.abs(exported.predictor()(probes_ND) - fitted.accuracy(probes_ND))))
    if worst > 1e-6:
        raise TrainingError(f"the exported evaluator differs from the fitted one by {worst:.2g}; no bundle was written")
    return exported


def _generate_bundle(inputs: Inputs, evaluator: ExportedEvaluator, job: Job) -> Bundle:
    space, config, costs = inputs.space, job.config, inputs.network_costs
    slack = SlackTable.build(space, costs.lower_bounds())
    assert len(COSTS) == len(slack.base_K)
    objective = search_objective(space, costs, evaluator.predictor())
    score, ranking = _ranking(inputs, objective, job)
    trained = train_generator(GeneratorTask(space, slack, objective, config, score), job.progress, job.checkpoint)
    exported = export_generator(trained.policy)
    num_compared = verify_generator(trained.policy, exported, config.seed)
    manifest: dict[str, Any] = {
        "name": job.ref.name,
        "version": job.ref.version,
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "git_commit": _git_commit(),
        "search_space": space.to_dict(),
        "device": asdict(inputs.table.device),
        "accuracy": evaluator.accuracy,
        "generator": {"costs": list(COSTS), "seed": config.seed, "num_candidates": DEFAULT_NUM_CANDIDATES},
        "metrics": {
            "evaluator": {**evaluator.metrics, **ranking},
            "generator": _measure_generator(trained, config.seed),
            "latency_table": dict(inputs.table.check) if inputs.table.check else None,
        },
        "training": {
            "config": asdict(config),
            "seed": config.seed,
            "evaluator_calls": objective.calls,
            "tokens_compared": num_compared,
            "versions": _versions(),
        },
    }
    if inputs.references:
        manifest["references"] = inputs.references
    contents = {
        GENERATOR: exported,
        EVALUATOR: evaluator.model,
        LATENCY_TABLE: to_json(inputs.table.to_dict()).encode(),
        PARETO_FRONT: to_json({"points": _front_points(trained.archive), "known": inputs.records.points()}).encode(),
    }
    if inputs.costs is not None:
        contents[TABLE_COSTS] = to_json(inputs.costs.to_dict(space), indent=None).encode()
    manifest["self_test"] = _self_test(Bundle.assemble(manifest, contents))
    manifest["training"]["wall_seconds"] = round(time.monotonic() - job.started, 1)
    return write_bundle(job.out, manifest, contents)


def _versions() -> dict[str, str]:
    names = ("pnag", "numpy", "torch", "gpytorch", "scikit-learn", "onnx", "onnxruntime")
    return {"python": platform.python_version()} | {name: version(name) for name in names}


def _metric(space: SearchSpace) -> str | dict[str, Any]:
    """The manifest's word for the accuracies: of a space with layers always top-1."""
    if not isinstance(space, TableSpace):
        return "top-1"
    return space.metric.to_dict() if space.metric else "accuracy"


def _ranking(inputs: Inputs, objective: Objective, job: Job) -> tuple[Score | None, dict[str, Any]]:
    """The paper's learned score where the configuration asks for it, with how well it ranks held-out records."""
    config = job.config
    if config.evaluator.score != "ranking":
        return None, {}
    tokens_ND, accuracy_N = inputs.records.tokens_ND, inputs.records.require_accuracy()
    cost_N = objective.cost(tokens_ND)
    order = np.random.default_rng(config.seed).permutation(len(tokens_ND))
    held_out, fitted = np.split(order, [max(2, round(config.evaluator.held_out_fraction * len(order)))])
    evaluator = train_ranking_evaluator(
        inputs.space, tokens_ND[fitted], cost_N[fitted], accuracy_N[fitted], config.ranking, config.seed, job.progress
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


def _measure_generator(trained: TrainedGenerator, seed: int) -> dict[str, Any]:
    """Compare the policy alone, without the front's help, with the archive at budgets between those of its training."""
    archive = trained.archive
    rng = np.random.default_rng([seed, 3])
    low, high = float(archive.budgets_J[0]), float(archive.budgets_J[-1])
    budgets = np.linspace(low, high, NUM_HELD_OUT_BUDGETS + 2)[1:-1]
    front = archive.front_indices()
    front_cost, front_accuracy = archive.cost_N[front], archive.accuracy_N[front]
    regrets, costs, accuracies, over_budget = [], [], [], 0
    for budget in budgets:
        tokens_SD = sample(trained.policy, np.full(64, budget), rng)
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


def _git_commit() -> str | None:
    """The commit that trained the bundle, with "+" when files were changed; None outside a repository."""
    folder = Path(__file__).parent

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
