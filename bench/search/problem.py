"""Setting that every method is given: a space, a cost, one fitted evaluator, and budgets that nobody trains on.

Axis letters: N = architectures, D = decisions, B = budgets.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pnag.models.cost.additive import GroupedCost, LayerCost, macs_cost
from pnag.models.cost.latency_table import LatencyTable
from pnag.models.cost.slack import SlackTable
from pnag.models.errors import RecordsError, TrainingError
from pnag.models.space.registry import get_space
from pnag.models.space.search_space import SearchSpace, Tokens
from pnag.trainer.checkpoint import digest
from pnag.trainer.config import EvaluatorConfig
from pnag.trainer.data.records import Records, options_seen, read_records
from pnag.trainer.evaluator.train import train_evaluator
from pnag.trainer.generator.archive import ends
from pnag.trainer.generator.objective import RememberingObjective
from pnag.trainer.progress import Progress
from pnag.trainer.repeatable import use_one_thread

Floats = NDArray[np.float64]

ENUMERABLE = 200_000
"""Spaces with at most this many architectures are searched exhaustively."""
_BLOCK = 2048


@dataclass(frozen=True)
class Problem:
    """One benchmark setting.

    Attributes:
        name: for file names and headings.
        device: what the cost is measured on.
        unit: of the cost.
        accuracy: the evaluator, tokens [N, D] -> predicted accuracy [N].
        truth: true accuracy of architectures, where it is known for all of them.
        budgets_B: even over the range, ends left out.
        evaluator_figures: how good the evaluator is on records it never saw.
    """

    name: str
    space: SearchSpace
    device: str
    unit: str
    cost: GroupedCost
    slack: SlackTable
    accuracy: Callable[[Tokens], Floats]
    truth: Callable[[Tokens], Floats] | None
    records: Records
    low: float
    high: float
    budgets_B: Floats
    evaluator_figures: dict[str, Any]

    @property
    def is_enumerable(self) -> bool:
        """True where the front is found by looking at everything."""
        return self.space.num_architectures <= ENUMERABLE

    def objective(self, limit: int | None = None) -> RememberingObjective:
        """Make a fresh counter over the same cost and evaluator."""
        return RememberingObjective(self.cost, self.accuracy, limit=limit)

    def everything(self) -> Tokens:
        """List all architectures, shape [N, D]."""
        assert self.is_enumerable
        return self.space.assignments([d.name for d in self.space.decisions])

    def digest(self) -> str:
        """Tell settings apart: results of another one are never mixed in."""
        probes_ND = self.space.sample(64, np.random.default_rng(0))
        return digest(
            self.space.to_dict(),
            self.cost(probes_ND).round(6),
            self.accuracy(probes_ND).round(6),
            self.budgets_B.round(6),
        )


def load_problem(
    name: str,
    space_name: str,
    records_path: Path,
    table_path: Path | None,
    progress: Progress,
    *,
    truth_path: Path | None = None,
    num_records: int | None = None,
    num_budgets: int = 50,
    seed: int = 0,
    fits: bool = True,
) -> Problem:
    """Read the files and fit the evaluator.

    Args:
        table_path: None = the cost is MACs, in millions.
        num_records: fit the evaluator on so many random records only.
        fits: False = leave the evaluator out; the problem's accuracy cannot be asked for then.

    Raises:
        RecordsError, LatencyTableError, TrainingError: naming what cannot be used.
    """
    whole_space = get_space(space_name)
    records = read_records(records_path, whole_space)
    space = whole_space.restrict(options_seen(whole_space, records.tokens_ND))
    records = records.within(space)
    if num_records is not None:
        if not 0 < num_records <= len(records):
            raise RecordsError(f"{records.source}: {num_records} records were asked for; the file has {len(records)}")
        records = take(records, np.random.default_rng([seed, 5]).permutation(len(records))[:num_records])
    if table_path is None:
        macs = macs_cost(space)
        cost: GroupedCost = LayerCost(space, lambda layer: layer.macs / 1e6, constant=macs.constant / 1e6)
        device, unit = "no device: multiply-accumulates", "M MACs"
    else:
        table = LatencyTable.load(table_path)
        cost, device, unit = table.cost(space), table.device.name, "ms"
    slack = SlackTable.build(space, [cost])
    low, high = (float(c) for c in cost(ends(space, slack)))
    if not high > low * (1 + 1e-9):
        raise TrainingError(f"every architecture of {space.name} costs {low:.4g} {unit}; there is nothing to trade off")
    use_one_thread()
    fitted = train_evaluator(space, records, EvaluatorConfig(), seed, progress) if fits else None

    def accuracy(tokens_ND: Tokens) -> Floats:
        assert fitted is not None, "the problem was loaded without an evaluator"
        blocks = [tokens_ND[i : i + _BLOCK] for i in range(0, len(tokens_ND), _BLOCK)]
        return np.concatenate([fitted.accuracy(block) for block in blocks]) if blocks else np.zeros(0)

    return Problem(
        name, space, device, unit, cost, slack, accuracy,
        None if truth_path is None else _truth(read_records(truth_path, whole_space).within(space)),
        records, low, high, np.linspace(low, high, num_budgets + 2)[1:-1], fitted.metrics if fitted else {},
    )  # fmt: skip


def take(records: Records, rows: NDArray[np.int64]) -> Records:
    """Select some of the records, in the order of `rows`."""
    columns: dict[str, Any] = {n: v[rows] for n, v in vars(records).items() if isinstance(v, np.ndarray)}
    return replace(records, encodings=tuple(records.encodings[row] for row in rows), **columns)


def _truth(records: Records) -> Callable[[Tokens], Floats]:
    known = dict(zip(map(bytes, records.tokens_ND.astype(np.int8)), records.require_accuracy(), strict=True))

    def look_up(tokens_ND: Tokens) -> Floats:
        try:
            return np.array([known[key] for key in map(bytes, tokens_ND.astype(np.int8))])
        except KeyError:
            raise RecordsError(f"{records.source}: has no truth for an architecture that was answered") from None

    return look_up


def best_of(cost_N: Floats, accuracy_N: Floats, budgets_B: Sequence[float] | Floats) -> NDArray[np.int64]:
    """Index of the most accurate architecture within each budget, the cheaper of two equals; -1 where none fits."""
    order = np.lexsort((cost_N, -accuracy_N))
    fits_BN = cost_N[order] <= np.asarray(budgets_B)[:, np.newaxis]
    if not len(order):
        return np.full(len(fits_BN), -1, dtype=np.int64)
    return np.where(fits_BN.any(axis=1), order[fits_BN.argmax(axis=1)], -1)
