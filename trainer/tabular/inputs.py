"""Inputs of a table-only space, made from its records: latencies, sizes, what may be answered.

Latency comes from the first of these that is there: --latency-table, the records' latency_ms (looked up where an
architecture was measured, learned elsewhere), the space file's latency_ms per option.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pnag.models.cost.additive import GroupedCost
from pnag.models.cost.latency_table import Device, LatencyTable, LayerLatency, UpperBound
from pnag.models.cost.tabular import NetworkCosts, Rows, TableCosts, additive_layers
from pnag.models.errors import LatencyTableError, TrainingError
from pnag.models.space.search_space import INACTIVE, SearchSpace, Tokens
from pnag.models.space.tabular import TableSpace
from pnag.trainer.data.inputs import Inputs
from pnag.trainer.data.records import Floats, Records, options_seen
from pnag.trainer.generator.objective import Objective
from pnag.trainer.tabular.costs import LearnedCost, learn_cost
from pnag.trainer.tabular.records import read_table

COVERAGE = 0.95
COST_COLUMNS = ("latency_ms", "macs", "params")
_EXACT_RATIOS = (1.0,) * 199
"""A bound for costs that are looked up: the recorded latency is the latency."""


@dataclass(frozen=True)
class Choices:
    """The architectures that may be answered in a table-only space, and the device of its records.

    Attributes:
        candidates: a file of the only architectures that may be answered, with what is known of their costs.
        only_recorded: the records themselves are those.
        device: for people; None = "the device of" the records.
    """

    candidates: Path | None = None
    only_recorded: bool = False
    device: str | None = None

    @property
    def is_restricted(self) -> bool:
        """True if only listed architectures may be answered."""
        return self.only_recorded or self.candidates is not None


def read_table_inputs(
    space: TableSpace, records_path: Path, table_path: Path | None, choices: Choices = Choices()
) -> Inputs:
    """Read, restrict to what was measured, and learn the costs.

    Raises:
        RecordsError, LatencyTableError, TrainingError: naming the row or column that stands in the way.
    """
    if choices.only_recorded and choices.candidates is not None:
        raise TrainingError(
            "--only-recorded and --candidates exclude each other: the candidates are what may be answered"
        )
    read = read_table(records_path, space).checked()
    restricted = space.restrict(options_seen(space, read.tokens_ND))
    records = _within(read, space, restricted)
    restricted.metric = records.metric
    listed = records
    if choices.candidates is not None:
        candidates = read_table(choices.candidates, space, needs_accuracy=False).checked()
        listed = _filled_in(_within(candidates, space, restricted), records, restricted)
        if not len(listed):
            raise TrainingError(
                f"{choices.candidates.name}: every architecture has an option that no record has; measure more"
            )
    learned = _learn_costs(restricted, records, listed)
    table = _latency_table(restricted, records, listed, learned, table_path, choices)
    measured = {c: v for c in COST_COLUMNS if (v := listed.column(c)) is not None}
    if table_path is not None:
        measured.pop("latency_ms", None)
        learned.pop("latency_ms", None)
    if choices.only_recorded:
        measured["accuracy"] = records.require_accuracy()
    by_option = {c: _by_option(restricted, c) for c in sorted(set(restricted.option_costs) - {"latency_ms"})}
    kept = (
        listed if measured or choices.is_restricted else replace(listed, encodings=(), tokens_ND=listed.tokens_ND[:0])
    )
    costs = TableCosts(
        kept.encodings, kept.tokens_ND, measured,
        {**by_option, **{column: fit.cost for column, fit in learned.items()}}, choices.is_restricted,
    )  # fmt: skip
    inputs = Inputs(restricted, records, table, costs)
    inputs.check_cost_spread()
    return inputs


def _learn_costs(space: TableSpace, records: Records, listed: Records) -> dict[str, LearnedCost]:
    """A model per measured cost, from the records or the listed architectures, whichever know more of it."""
    learned = {}
    for column in COST_COLUMNS:
        source = listed if _count(listed, column) >= _count(records, column) else records
        values_N = source.column(column)
        if values_N is not None:
            known_N = ~np.isnan(values_N)
            learned[column] = learn_cost(space, source.tokens_ND[known_N], values_N[known_N])
    return learned


def search_objective(space: SearchSpace, costs: NetworkCosts, accuracy: Callable[[Tokens], Floats]) -> Objective:
    """The objective of a search: what may not be answered is worth nothing, of a small table everything is asked."""

    def cost(tokens_ND: Tokens) -> Floats:
        return np.where(costs.allowed(tokens_ND), costs.latency_ms(tokens_ND), np.inf)

    def looked_up(tokens_ND: Tokens) -> Floats:
        predicted_N = np.where(costs.allowed(tokens_ND), accuracy(tokens_ND), 0.0)
        if costs.measured_accuracy is None:
            return predicted_N
        measured_N = costs.measured_accuracy(tokens_ND)
        return np.where(np.isnan(measured_N), predicted_N, measured_N)

    listed_ND = None
    if isinstance(space, TableSpace):
        listed_ND = costs.listed_ND if costs.listed_ND is not None else space.all_architectures()
    return Objective(cost, looked_up, listed_ND=listed_ND)


def _latency_table(
    space: TableSpace,
    records: Records,
    listed: Records,
    learned: Mapping[str, LearnedCost],
    table_path: Path | None,
    choices: Choices,
) -> LatencyTable:
    if table_path is not None:
        table = LatencyTable.load(table_path)
        table.predictor(space)
        return table
    named = Device(choices.device or f"the device of {records.source}")
    fit = learned.get("latency_ms")
    if fit is not None:
        constant, layers = additive_layers(space, fit.cost)
        count = _count(listed, "latency_ms")
        is_exact = choices.is_restricted and count == len(listed)
        ratios = _EXACT_RATIOS if is_exact else fit.ratios
        return LatencyTable(
            space=space.name,
            device=named,
            statistic="learned_from_records",
            layers={key: LayerLatency(ms) for key, ms in layers.items()},
            overhead_ms=constant,
            check={
                "method": "looked up" if is_exact else "5-fold cross-validation",
                "model": "pairwise" if fit.is_pairwise else "additive",
                "num_networks": count,
                "mape_percent": 0.0 if is_exact else round(fit.mape_percent, 3),
            },
            upper_bound=UpperBound(COVERAGE, ratios) if len(ratios) >= 1 / (1 - COVERAGE) - 1 else None,
            source=records.source,
        )
    by_option = space.option_costs.get("latency_ms")
    if by_option is None:
        raise LatencyTableError(
            f"{records.source}: no latency is known; add a column latency_ms to the records, latency_ms to every "
            "option of the space, or pass --latency-table"
        )
    layers = {f"{d.name}={o}": max(by_option[f"{d.name}={o}"], 1e-6) for d in space.decisions for o in d.options}
    return LatencyTable(
        space.name, named, "given_per_option", {key: LayerLatency(ms) for key, ms in layers.items()},
        by_option.get("", 0.0), source="the space file",
    )  # fmt: skip


def _within(records: Records, space: TableSpace, restricted: TableSpace) -> Records:
    """The records with tokens of a space that has fewer options; rows that need others are left out."""
    tokens_ND = np.empty_like(records.tokens_ND)
    is_kept_N = np.ones(len(tokens_ND), dtype=np.bool_)
    for index, (before, after) in enumerate(zip(space.decisions, restricted.decisions, strict=True)):
        new = [after.options.index(o) if o in after.options else -2 for o in before.options]
        tokens_ND[:, index] = np.array([*new, INACTIVE])[records.tokens_ND[:, index]]
        is_kept_N &= tokens_ND[:, index] != -2
    keep: NDArray[np.int64] = np.flatnonzero(is_kept_N)
    columns = {c: records.column(c) for c in ("accuracy", *COST_COLUMNS)}
    kept = replace(records, tokens_ND=tokens_ND[keep], encodings=tuple(records.encodings[i] for i in keep))
    return kept.with_columns({c: None if v is None else v[keep] for c, v in columns.items()})


def _filled_in(listed: Records, records: Records, space: TableSpace) -> Records:
    """The candidates with costs that only the records know of them."""
    places_N = Rows(space, records.tokens_ND).find(listed.tokens_ND)
    filled: dict[str, Floats] = {}
    for column in COST_COLUMNS:
        known, own = records.column(column), listed.column(column)
        if known is not None:
            own = np.full(len(places_N), np.nan) if own is None else own
            filled[column] = np.where(np.isnan(own) & (places_N >= 0), known[places_N], own)
    return listed.with_columns(filled)


def _count(records: Records, column: str) -> int:
    values_N = records.column(column)
    return 0 if values_N is None else int(np.sum(~np.isnan(values_N)))


def _by_option(space: TableSpace, column: str) -> GroupedCost:
    costs = space.option_costs[column]
    groups = [
        ((i,), np.array([*(costs[f"{d.name}={o}"] for o in d.options), 0.0])) for i, d in enumerate(space.decisions)
    ]
    return GroupedCost(groups, constant=costs.get("", 0.0))
