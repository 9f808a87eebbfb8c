"""What `pnag train` needs of a table-only space, made from its records: latencies, sizes, what may be answered.

Latency comes from the first of these that is there: --latency-table, the records' latency_ms (looked up where an
architecture was measured, learned elsewhere), the space file's latency_ms per option.
"""

from collections.abc import Callable
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
from pnag.trainer.data.records import Floats, Records, options_seen
from pnag.trainer.generator.objective import Objective
from pnag.trainer.tabular.costs import LearnedCost, learn_cost
from pnag.trainer.tabular.records import TableReading, read_table, refuse_problems

COVERAGE = 0.95
_EXACT_RATIOS = (1.0,) * 199
"""A bound for costs that are looked up: the recorded latency is the latency."""


@dataclass(frozen=True)
class TableInputs:
    """A table-only space as its records restrict it, with everything but accuracy settled."""

    space: TableSpace
    records: Records
    table: LatencyTable
    costs: TableCosts


def read_table_inputs(
    space: TableSpace,
    records_path: Path,
    table_path: Path | None,
    *,
    candidates_path: Path | None = None,
    only_recorded: bool = False,
    device: str | None = None,
) -> TableInputs:
    """Read, restrict to what was measured, and learn the costs.

    Args:
        candidates_path: a file of the only architectures that may be answered, with what is known of their costs.
        only_recorded: the records themselves are those.

    Raises:
        RecordsError, LatencyTableError, TrainingError: naming the row or column that stands in the way.
    """
    if only_recorded and candidates_path is not None:
        raise TrainingError(
            "--only-recorded and --candidates exclude each other: the candidates are what may be answered"
        )
    reading = refuse_problems(read_table(records_path, space))
    restricted = space.restrict(options_seen(space, reading.tokens_ND))
    reading = _within(reading, space, restricted)
    if reading.metric is not None:
        restricted.metric = reading.metric
    assert reading.accuracy_N is not None
    records = Records(
        reading.tokens_ND, reading.encodings, reading.accuracy_N, reading.latency_ms_N, records_path.name,
        macs_N=reading.macs_N, params_N=reading.params_N,
    )  # fmt: skip
    listed = reading
    if candidates_path is not None:
        listed = _within(refuse_problems(read_table(candidates_path, space, needs_accuracy=False)), space, restricted)
        if not len(listed.tokens_ND):
            raise TrainingError(
                f"{candidates_path.name}: every architecture has an option that no record has; measure more"
            )
        _fill_in(listed, reading, restricted)
    is_restricted = only_recorded or candidates_path is not None
    learned = {
        column: learn_cost(restricted, source.tokens_ND[known_N], values_N[known_N])
        for column in ("latency_ms", "macs", "params")
        for source in (listed if _count(listed, column) >= _count(reading, column) else reading,)
        for values_N in (_column(source, column),)
        if values_N is not None
        for known_N in (~np.isnan(values_N),)
    }
    table = _latency_table(restricted, records, listed, learned, table_path, is_restricted, device)
    measured = {c: v for c in ("latency_ms", "macs", "params") if (v := _column(listed, c)) is not None}
    if table_path is not None:
        measured.pop("latency_ms", None)
        learned.pop("latency_ms", None)
    if only_recorded:
        measured["accuracy"] = reading.accuracy_N
    given = set(restricted.option_costs) - {"latency_ms"}
    by_option: dict[str, GroupedCost] = {column: _by_option(restricted, column) for column in sorted(given)}
    costs = TableCosts(
        listed.encodings if measured or is_restricted else (),
        listed.tokens_ND if measured or is_restricted else listed.tokens_ND[:0],
        measured,
        {**by_option, **{column: fit.cost for column, fit in learned.items()}},
        is_restricted,
    )
    _check_spread(NetworkCosts.of(restricted, table, costs), records)
    return TableInputs(restricted, records, table, costs)


def search_objective(space: SearchSpace, costs: NetworkCosts, accuracy: Callable[[Tokens], Floats]) -> Objective:
    """What the search asks: what may not be answered is worth nothing, and of a small table everything is asked."""

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
    listed: TableReading,
    learned: dict[str, LearnedCost],
    table_path: Path | None,
    is_restricted: bool,
    device: str | None,
) -> LatencyTable:
    if table_path is not None:
        table = LatencyTable.load(table_path)
        table.predictor(space)
        return table
    named = Device(device or f"the device of {records.source}")
    fit = learned.get("latency_ms")
    if fit is not None:
        constant, layers = additive_layers(space, fit.cost)
        count = _count(listed, "latency_ms")
        is_exact = is_restricted and count == len(listed.tokens_ND)
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


def _within(reading: TableReading, space: TableSpace, restricted: TableSpace) -> TableReading:
    """The reading with tokens of a space that has fewer options; rows that need others are left out."""
    tokens_ND = np.empty_like(reading.tokens_ND)
    is_kept_N = np.ones(len(tokens_ND), dtype=np.bool_)
    for index, (before, after) in enumerate(zip(space.decisions, restricted.decisions, strict=True)):
        new = [after.options.index(o) if o in after.options else -2 for o in before.options]
        tokens_ND[:, index] = np.array([*new, INACTIVE])[reading.tokens_ND[:, index]]
        is_kept_N &= tokens_ND[:, index] != -2
    keep: NDArray[np.int64] = np.flatnonzero(is_kept_N)
    columns = {c: _column(reading, c) for c in ("accuracy", "latency_ms", "params", "macs")}
    return replace(
        reading,
        tokens_ND=tokens_ND[keep],
        encodings=tuple(reading.encodings[i] for i in keep),
        **{f"{c}_N": None if v is None else v[keep] for c, v in columns.items()},  # type: ignore[arg-type]
    )


def _fill_in(listed: TableReading, records: TableReading, space: TableSpace) -> None:
    """Costs that only the records know of a candidate."""
    places_N = Rows(space, records.tokens_ND).find(listed.tokens_ND)
    for column in ("latency_ms", "params", "macs"):
        known = _column(records, column)
        if known is None:
            continue
        own = _column(listed, column)
        own = np.full(len(places_N), np.nan) if own is None else own
        setattr(listed, f"{column}_N", np.where(np.isnan(own) & (places_N >= 0), known[places_N], own))


def _column(reading: TableReading, column: str) -> Floats | None:
    values: Floats | None = getattr(reading, f"{column}_N")
    return values


def _count(reading: TableReading, column: str) -> int:
    values_N = _column(reading, column)
    return 0 if values_N is None else int(np.sum(~np.isnan(values_N)))


def _by_option(space: TableSpace, column: str) -> GroupedCost:
    costs = space.option_costs[column]
    groups = [
        ((i,), np.array([*(costs[f"{d.name}={o}"] for o in d.options), 0.0])) for i, d in enumerate(space.decisions)
    ]
    return GroupedCost(groups, constant=costs.get("", 0.0))


def _check_spread(costs: NetworkCosts, records: Records) -> None:
    latency_N = costs.latency_ms(records.tokens_ND)
    if np.ptp(latency_N) < 1e-9 * latency_N.max():
        raise TrainingError(
            f"{records.source}: every architecture costs {latency_N[0]:.4g} ms; a trade-off needs architectures of "
            "different cost. Is latency_ms the right column?"
        )
