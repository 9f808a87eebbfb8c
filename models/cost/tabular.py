"""Costs of a space without layers, from records alone: looked up where measured, learned where not.

    cost(a) = c + sum over decisions i of s_i(a_i) + sum over pairs i < j of p_ij(a_i, a_j)     unless a was measured

Beside it stands which architectures may be answered at all, and a *lower bound* of the cost for the slack mask
(models/cost/slack.py). Up to MAX_JOINT combinations the bound is the cost itself.

Axis letters: N = architectures, D = decisions, R = measured rows.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pnag.models.cost.additive import GroupedCost, macs_cost, params_cost, peak_activations_cost
from pnag.models.cost.latency_table import LatencyTable
from pnag.models.errors import BundleError
from pnag.models.files import Number, check_version, parse_object, read_json_object
from pnag.models.space.search_space import INACTIVE, SearchSpace, Tokens

Floats = NDArray[np.float64]
Cost = Callable[[Tokens], Floats]

FORMAT_VERSION = 1
MAX_JOINT = 130_000
"""Places of a table over all decisions together, up to which the slack mask is exact; 4 bytes each in the generator."""
MAX_CONTEXT = 20_000
"""Combinations of earlier decisions that the mask of one decision may depend on, in larger spaces."""
COLUMNS = ("latency_ms", "macs", "params")


class Rows:
    """Architectures to find again: tokens [R, D] as sorted whole numbers."""

    def __init__(self, space: SearchSpace, tokens_RD: Tokens) -> None:
        radices = [int(n) + 1 for n in space.num_options_D]
        self._is_small = math.prod(radices) < 2**62
        strides = [math.prod(radices[i + 1 :]) for i in range(len(radices))] if self._is_small else []
        self._strides_D = np.array(strides, dtype=np.int64)
        keys_R = self._keys(tokens_RD)
        self._order_R = np.argsort(keys_R, kind="stable")
        self._keys_R = keys_R[self._order_R]

    def find(self, tokens_ND: Tokens) -> NDArray[np.int64]:
        """Row of each architecture, shape [N]; -1 where there is none."""
        if not len(self._keys_R):
            return np.full(len(tokens_ND), -1, dtype=np.int64)
        keys_N = self._keys(tokens_ND)
        places_N = np.minimum(np.searchsorted(self._keys_R, keys_N), len(self._keys_R) - 1)
        return np.where(self._keys_R[places_N] == keys_N, self._order_R[places_N], -1)

    def _keys(self, tokens_ND: Tokens) -> NDArray[Any]:
        if self._is_small:
            keys: NDArray[Any] = (tokens_ND + 1) @ self._strides_D
            return keys
        # Too many combinations for one number each: the bytes of the tokens are the key.
        rows = np.ascontiguousarray((tokens_ND + 1).astype(np.uint8))
        return rows.view(f"S{rows.shape[1]}")[:, 0] if len(rows) else np.zeros(0, dtype="S1")


@dataclass(frozen=True)
class TableCosts:
    """Costs of a table-only space that its bundle adds to the latency table (`table_costs.json`).

    Attributes:
        encodings, tokens_RD: the listed architectures.
        measured: per column of COLUMNS, and `accuracy`, the measured value of each listed one, NaN where it has none.
        learned: per column of COLUMNS the model for the rest; a column that is missing here is unknown.
        is_restricted: whether only listed architectures may be answered.
    """

    encodings: tuple[str, ...]
    tokens_RD: Tokens
    measured: Mapping[str, Floats]
    learned: Mapping[str, GroupedCost]
    is_restricted: bool = False

    def without_latency(self) -> "TableCosts":
        """Copy for a device with a latency table of its own."""
        measured = {c: v for c, v in self.measured.items() if c != "latency_ms"}
        return replace(self, measured=measured, learned={c: v for c, v in self.learned.items() if c != "latency_ms"})

    def to_dict(self, space: SearchSpace) -> dict[str, Any]:
        """Plain JSON values."""
        columns = list(self.measured)
        values = [[None if math.isnan(v) else v for v in self.measured[c].tolist()] for c in columns]
        return {
            "format_version": FORMAT_VERSION,
            "is_restricted": self.is_restricted,
            "learned": {column: _cost_to_dict(space, cost) for column, cost in self.learned.items()},
            "columns": ["architecture", *columns],
            "rows": [list(row) for row in zip(self.encodings, *values, strict=True)],
        }

    @classmethod
    def parse(cls, data: bytes, space: SearchSpace, where: str) -> "TableCosts":
        """Read the file's content.

        Raises:
            BundleError: naming what does not fit the space.
        """
        document = read_json_object(data, where, BundleError)
        check_version(document, FORMAT_VERSION, where, BundleError)
        stored = parse_object(_Document, document, where, BundleError)
        columns = stored.columns[1:]
        try:
            learned = {column: _restored(space, cost) for column, cost in stored.learned.items()}
            encodings = tuple(str(row[0]) for row in stored.rows)
            tokens = [space.decode(encoding) for encoding in encodings]
            values = np.array([row[1:] for row in stored.rows], dtype=np.float64).reshape(len(tokens), len(columns))
        except (TypeError, IndexError, ValueError) as exc:
            raise BundleError(f"{where}: does not fit the search space ({exc}); train the bundle again") from None
        tokens_RD = np.stack(tokens) if tokens else np.zeros((0, len(space.decisions)), dtype=np.int64)
        measured = {c: values[:, i] for i, c in enumerate(columns)}
        return cls(encodings, tokens_RD, measured, learned, stored.is_restricted)


@dataclass(frozen=True)
class _Group:
    decisions: tuple[str, ...]
    values: list[Any]


@dataclass(frozen=True)
class _Cost:
    constant: Number
    groups: tuple[_Group, ...]


@dataclass(frozen=True)
class _Document:
    """The content of `table_costs.json`."""

    learned: dict[str, _Cost]
    columns: list[str]
    rows: list[list[Any]]
    is_restricted: bool = False


@dataclass(frozen=True)
class NetworkCosts:
    """Costs that an architecture is limited by, whatever they are known from; None where unknown.

    Attributes:
        latency_ms, macs, params, peak_activations: tokens [N, D] -> [N].
        allowed: which architectures may be answered, [N].
        measured_accuracy: accuracy where it is looked up instead of predicted, NaN elsewhere; None = always predicted.
        listed_ND: the only architectures that may be answered, shape [R, D]; None = any that is allowed.
        lower_bounds: makes, of each column of COLUMNS, a lower bound that adds up over groups of decisions, infinite
            where forbidden; only training needs it.
    """

    latency_ms: Cost
    macs: Cost | None
    params: Cost | None
    peak_activations: Cost | None
    allowed: Callable[[Tokens], NDArray[np.bool_]]
    measured_accuracy: Cost | None
    listed_ND: Tokens | None
    lower_bounds: Callable[[], tuple[GroupedCost, ...]]

    @classmethod
    def of(cls, space: SearchSpace, table: LatencyTable, recorded: TableCosts | None) -> "NetworkCosts":
        """From a latency table, and from records where the space has no layers.

        Raises:
            LatencyTableError: if the table does not fit the space.
        """
        if space.has_layers and recorded is None:
            macs, params = macs_cost(space), params_cost(space)
            peak = peak_activations_cost(space)
            latency_ms = table.predictor(space)
            return cls(
                latency_ms, macs, params, peak, space.allowed, None, None, lambda: (table.cost(space), macs, params)
            )
        return _Recorded(space, table, recorded).costs()


class _Recorded:
    def __init__(self, space: SearchSpace, table: LatencyTable, recorded: TableCosts | None) -> None:
        empty = np.zeros((0, len(space.decisions)), dtype=np.int64)
        self.space = space
        self.recorded = recorded or TableCosts((), empty, {}, {})
        self.rows = Rows(space, self.recorded.tokens_RD)
        self.learned: dict[str, Cost] = dict(self.recorded.learned)
        self.additive: dict[str, GroupedCost] = {c: _additive(cost) for c, cost in self.recorded.learned.items()}
        if "latency_ms" not in self.learned:
            self.learned["latency_ms"] = table.predictor(space)
            self.additive["latency_ms"] = table.cost(space)
        if space.has_layers:
            for column, cost in (("macs", macs_cost(space)), ("params", params_cost(space))):
                self.learned[column] = self.additive[column] = cost

    def costs(self) -> NetworkCosts:
        space, recorded = self.space, self.recorded
        cost = {column: self._bounded(column) for column in COLUMNS if column in self.learned}
        accuracy_R = recorded.measured.get("accuracy") if recorded.is_restricted else None
        return NetworkCosts(
            latency_ms=cost["latency_ms"],
            macs=cost.get("macs"),
            params=cost.get("params"),
            peak_activations=peak_activations_cost(space) if space.has_layers else None,
            allowed=self._allowed,
            measured_accuracy=None if accuracy_R is None else lambda tokens_ND: self._look_up(accuracy_R, tokens_ND),
            listed_ND=recorded.tokens_RD if recorded.is_restricted else None,
            lower_bounds=lambda: tuple(self._lower_bound(column) for column in COLUMNS),
        )

    def _allowed(self, tokens_ND: Tokens) -> NDArray[np.bool_]:
        allowed_N = self.space.allowed(tokens_ND)
        return allowed_N & (self.rows.find(tokens_ND) >= 0) if self.recorded.is_restricted else allowed_N

    def _look_up(self, values_R: Floats, tokens_ND: Tokens) -> Floats:
        places_N = self.rows.find(tokens_ND)
        if not len(values_R):
            return np.full(len(tokens_ND), np.nan)
        return np.where(places_N >= 0, values_R[places_N], np.nan)

    def _cost(self, column: str, tokens_ND: Tokens) -> Floats:
        learned_N = np.maximum(self.learned[column](tokens_ND), 0.0)
        values_R = self.recorded.measured.get(column)
        if values_R is None:
            return learned_N
        # Below everything that was measured a regression is guessing, and a budget must not rest on a guess.
        learned_N = np.maximum(learned_N, np.nanmin(values_R, initial=np.inf))
        measured_N = self._look_up(values_R, tokens_ND)
        return np.where(np.isnan(measured_N), learned_N, measured_N)

    def _bounded(self, column: str) -> Cost:
        if self._is_joint:
            return lambda tokens_ND: self._cost(column, tokens_ND)
        bound = self._lower_bound(column)
        # The mask lets nothing through below its bound; so that it never hides a network, no cost may lie below either.
        plain = GroupedCost([g for g in bound.groups if np.isfinite(g[1]).all()], constant=bound.constant)
        return lambda tokens_ND: np.maximum(self._cost(column, tokens_ND), plain(tokens_ND))

    @cached_property
    def _is_joint(self) -> bool:
        return math.prod(int(n) + 1 for n in self.space.num_options_D) <= MAX_JOINT

    def _lower_bound(self, column: str) -> GroupedCost:
        is_primary, is_known = column == COLUMNS[0], column in self.learned
        if self._is_joint:
            if not is_known and not is_primary:
                return GroupedCost([])
            tokens_ND = self.space.assignments([d.name for d in self.space.decisions])
            values = np.full([int(n) + 1 for n in self.space.num_options_D], np.inf)
            allowed_ND = tokens_ND[self._allowed(tokens_ND)] if is_primary else tokens_ND
            values[tuple(allowed_ND.T)] = self._cost(column, allowed_ND)
            return GroupedCost([(tuple(range(len(self.space.decisions))), values)])
        rules = forbidden_groups(self.space) if is_primary else []
        if not is_known:
            return GroupedCost(rules)
        additive = self.additive[column]
        probes_ND = np.concatenate([self.recorded.tokens_RD, self.space.sample(4096, np.random.default_rng(0))])
        margin = max(0.0, float(np.max(additive(probes_ND) - self._cost(column, probes_ND))))
        return GroupedCost([*additive.groups, *rules], constant=additive.constant - margin)


def forbidden_groups(space: SearchSpace) -> list[tuple[tuple[int, ...], Floats]]:
    """The forbidden combinations of a space as cost groups: infinite where forbidden, 0 elsewhere.

    A rule whose decisions would make the mask look back over too many combinations is left out: answers are checked
    against all rules anyway.
    """
    groups = []
    contexts: dict[int, frozenset[int]] = {}
    for rule in getattr(space, "forbidden", ()):
        names = sorted(rule, key=space.index)
        indices = tuple(space.index(name) for name in names)
        closure = space.ancestors(indices)
        wider = {t: contexts.get(t, frozenset()) | {i for i in closure if i < t} for t in closure}
        if any(math.prod(int(space.num_options_D[i]) + 1 for i in context) > MAX_CONTEXT for context in wider.values()):
            continue
        contexts |= wider
        values = np.zeros([int(space.num_options_D[i]) + 1 for i in indices])
        values[np.ix_(*([space.decisions[space.index(n)].options.index(o) for o in rule[n]] for n in names))] = np.inf
        groups.append((indices, values))
    return groups


def additive_layers(space: SearchSpace, cost: GroupedCost) -> tuple[float, dict[str, float]]:
    """An additive view of a learned cost for a latency table: (constant, ms by `decision=option`), all above 0."""
    additive = _additive(cost)
    constant, layers = additive.constant, dict[str, float]()
    for (index,), values in additive.groups:
        decision = space.decisions[index]
        # What every network pays is no option's; a conditional decision that is inactive costs nothing.
        least = float(values[:-1].min()) if not decision.active_if else min(float(values.min()), float(values[-1]))
        constant += least
        layers |= {
            f"{decision.name}={option}": max(round(float(value) - least, 9), 1e-6)
            for option, value in zip(decision.options, values, strict=False)
        }
    return max(constant, 0.0), layers


def _additive(cost: GroupedCost) -> GroupedCost:
    """Single-decision groups only: half of each pair's marginal mean goes to either side."""
    constant, singles = cost.constant, dict[int, Floats]()
    for indices, values in cost.groups:
        if len(indices) == 1:
            singles[indices[0]] = singles.get(indices[0], 0.0) + values
            continue
        assert len(indices) == 2
        mean = float(values[:-1, :-1].mean())
        constant += mean
        for axis, index in enumerate(indices):
            other = values.take(range(values.shape[1 - axis] - 1), axis=1 - axis)
            singles[index] = singles.get(index, 0.0) + other.mean(axis=1 - axis) - mean
    return GroupedCost([((index,), values) for index, values in sorted(singles.items())], constant=constant)


def _cost_to_dict(space: SearchSpace, cost: GroupedCost) -> dict[str, Any]:
    return {
        "constant": cost.constant,
        "groups": [
            {"decisions": [space.decisions[i].name for i in indices], "values": np.round(values, 9).tolist()}
            for indices, values in cost.groups
        ],
    }


def _restored(space: SearchSpace, cost: _Cost) -> GroupedCost:
    groups = []
    for group in cost.groups:
        indices = tuple(space.index(name) for name in group.decisions)
        values = np.array(group.values, dtype=np.float64)
        shape = tuple(int(space.num_options_D[i]) + 1 for i in indices)
        if values.shape != shape or len(indices) not in (1, 2) or not np.isfinite(values).all():
            raise ValueError(f"values of {group.decisions} have shape {values.shape}, not {shape}, or are not finite")
        groups.append((indices, values))
    return GroupedCost(groups, constant=cost.constant)


assert INACTIVE == -1, "Rows and GroupedCost count on token -1 being the place before the first, or the last"
