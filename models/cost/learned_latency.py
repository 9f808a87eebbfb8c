"""A device learned from whole networks' latencies, for predictions where no layer was ever timed.

    physical(x)   = constant + sum over layers of a few physical quantities
    additive(x)   = intercept_ms + physical(x) + sum of small tables over decisions
    correction(x) = sum over learned networks j of weight_j * kernel(x, network_j)
    latency_ms(x) = max(floor_ms, additive(x) + physical(x) * correction(x))

The tables sum over layers like a latency table does; the correction is what does not add up, e.g. where a GPU waits for
the next kernel's launch. `surrogate` is the best additive stand-in for the whole, for masks that need additive costs.

Axis letters: B = architectures, D = decisions, N = learned networks, P = physical quantities, S = shape features.
"""

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import PlainValidator

from pnag.models.cost.additive import GroupedCost, tabulate
from pnag.models.errors import LatencyTableError
from pnag.models.files import Number, Positive
from pnag.models.space.layers import Layer
from pnag.models.space.search_space import INACTIVE, Option, SearchSpace, Tokens

Floats = NDArray[np.float64]

BATCH = 4096
"""Architectures predicted at once, so that the kernel matrix stays small."""


def _depthwise_macs(layer: Layer) -> float:
    return layer.output_size**2 * layer.kernel_size**2 * layer.expanded_channels if layer.kind == "mbconv" else 0.0


PHYSICAL: dict[str, Callable[[Layer], float]] = {
    "layers": lambda _: 1.0,
    "squeeze_excites": lambda layer: float(layer.squeeze_channels > 0),
    "h_swishes": lambda layer: float(layer.activation == "h_swish"),
    "depthwise_mmacs": lambda layer: _depthwise_macs(layer) / 1e6,
    "other_mmacs": lambda layer: (layer.macs - _depthwise_macs(layer)) / 1e6,
    "mactivations": lambda layer: (
        (
            layer.input_size**2 * (layer.in_channels + layer.expanded_channels)
            + layer.output_size**2 * (layer.out_channels + layer.expanded_channels)
        )
        / 1e6
    ),
    "mparams": lambda layer: layer.params / 1e6,
}
"""Per-layer quantities that latency grows with on any device; a latency is never less for more of one."""


class Features:
    """A space's physical quantities, tabulated once for predictions and fits."""

    def __init__(self, space: SearchSpace) -> None:
        self.space = space

        def sums(layers: Sequence[Layer]) -> list[float]:
            return [sum(quantity(layer) for layer in layers) for quantity in PHYSICAL.values()]

        self.groups = tabulate(space, sums, len(PHYSICAL))

    def physical(self, tokens_BD: Tokens) -> Floats:
        """Each quantity of `PHYSICAL` summed over layers, shape [B, P]."""
        total_BP = np.zeros((len(tokens_BD), len(PHYSICAL)))
        for indices, table in self.groups:
            total_BP += table[tuple(tokens_BD[:, i] for i in indices)]
        return total_BP

    def shape(self, tokens_BD: Tokens) -> Floats:
        """Features of a whole network, shape [B, S]: logs of the physical sums, numbers chosen, depths."""
        shared = [self.space.index(name) for name in shared_numbers(self.space)]
        numbers = [
            np.array(self.space.decisions[i].options, dtype=np.float64)[tokens_BD[:, i], np.newaxis] for i in shared
        ]
        depths = self.space.depth_features(tokens_BD)
        return np.concatenate([np.log1p(self.physical(tokens_BD)), *numbers, depths], axis=1)


def shared_numbers(space: SearchSpace) -> list[str]:
    """Numeric decisions that reach most layers, such as the resolution."""
    counts = {d.name: sum(d.name in group.decisions for group in space.cost_groups) for d in space.decisions}
    return [
        d.name
        for d in space.decisions
        if counts[d.name] > max(1, len(space.cost_groups) // 2)
        and not d.active_if
        and all(isinstance(option, int) for option in d.options)
    ]


def _pack(array: NDArray[Any], dtype: str) -> dict[str, Any]:
    data = array.astype(np.dtype(dtype).newbyteorder("<")).tobytes()
    return {"dtype": dtype, "shape": list(array.shape), "base64": base64.b64encode(data).decode()}


def _unpack(dtype: str, raw: Any) -> NDArray[Any]:
    try:
        if raw["dtype"] != dtype:
            raise ValueError(f"dtype is {raw['dtype']!r}; expected {dtype!r}")
        array = np.frombuffer(base64.b64decode(raw["base64"], validate=True), np.dtype(dtype).newbyteorder("<"))
        return array.reshape(raw["shape"]).astype(dtype)
    except (KeyError, TypeError) as exc:
        raise ValueError(f"expected an object of dtype, shape and base64, not {raw!r:.40} ({exc!r})") from None


def _numbers(raw: Any) -> Floats:
    try:
        return np.array(raw, dtype=np.float64)
    except TypeError as exc:
        raise ValueError(f"expected nested lists of numbers ({exc})") from None


_STORED = {
    "mean_S": "float64",
    "scale_S": "float64",
    "shape_NS": "float32",
    "tokens_ND": "int16",
    "weight_N": "float64",
}
"""Number format in which each array of a correction is stored."""


@dataclass(frozen=True)
class Term:
    """A table over a few decisions, in ms; the last place along an axis stands for "inactive".

    `times` names a numeric decision: the value is then multiplied by (option / largest option)^2.
    """

    decisions: tuple[str, ...]
    values: Annotated[Floats, PlainValidator(_numbers)]
    times: str | None = None


@dataclass(frozen=True)
class Kernel:
    """weight * exp(-d / (2 length^2)).

    d is the mean squared difference of standardised shape features, or the share of decisions that differ.
    """

    features: Literal["shape", "tokens"]
    length: Positive
    weight: Number


@dataclass(frozen=True)
class Correction:
    """Correction for what does not add up, as a share of the physical part."""

    kernels: tuple[Kernel, ...]
    mean_S: Annotated[Floats, PlainValidator(partial(_unpack, "float64"))]
    scale_S: Annotated[Floats, PlainValidator(partial(_unpack, "float64"))]
    shape_NS: Annotated[Floats, PlainValidator(lambda raw: _unpack("float32", raw).astype(np.float64))]
    tokens_ND: Annotated[NDArray[np.int16], PlainValidator(partial(_unpack, "int16"))]
    weight_N: Annotated[Floats, PlainValidator(partial(_unpack, "float64"))]


@dataclass(frozen=True)
class LearnedLatency:
    """The `learned` section of a latency table.

    Attributes:
        method: which of `candidates` it is.
        candidates: held-out figures of everything that was tried.
        options: each decision's options in the order that tables and tokens count them.
        coefficients: ms per unit of each physical quantity, and "constant".
    """

    method: str
    num_rows: int
    candidates: Mapping[str, Any]
    options: Mapping[str, tuple[Option, ...]]
    coefficients: Mapping[str, Number]
    terms: tuple[Term, ...] = ()
    correction: Correction | None = None
    surrogate: tuple[Term, ...] | None = None
    intercept_ms: Number = 0.0
    floor_ms: Number = 0.0

    def cost(self, space: SearchSpace) -> GroupedCost:
        """Additive stand-in for masks: the prediction itself, but for `floor_ms`, where only sums were learned."""
        return self._additive(Features(space), self.terms if self.surrogate is None else self.surrogate)

    def predictor(self, space: SearchSpace, features: Features | None = None) -> Callable[[Tokens], Floats]:
        """Latency in ms of canonical tokens, shape [B]; `features` of this very space save computing them anew."""
        features = features or Features(space)
        additive = self._additive(features, self.terms)
        to_learned = self._token_maps(space)

        def predict_batch(tokens_BD: Tokens) -> Floats:
            total_B = additive(tokens_BD)
            if self.correction is not None:
                share_B = correction_share(self.correction, features.shape(tokens_BD), tokens_BD, to_learned)
                total_B = total_B + self.physical_ms(features.physical(tokens_BD)) * share_B
            return np.maximum(total_B, self.floor_ms)

        def predict(tokens_BD: Tokens) -> Floats:
            batches = [predict_batch(tokens_BD[i : i + BATCH]) for i in range(0, len(tokens_BD), BATCH)]
            return np.concatenate([np.zeros(0), *batches])

        return predict

    def physical_ms(self, physical_BP: Floats) -> Floats:
        """The part that follows from physical sums alone, shape [B]."""
        per_unit_P = np.array([self.coefficients.get(name, 0.0) for name in PHYSICAL])
        physical_B: Floats = self.coefficients.get("constant", 0.0) + physical_BP @ per_unit_P
        return physical_B

    def _additive(self, features: Features, terms: Sequence[Term]) -> GroupedCost:
        per_unit_P = np.array([self.coefficients.get(name, 0.0) for name in PHYSICAL])
        groups = [(indices, table @ per_unit_P) for indices, table in features.groups]
        groups += [self._groups(features.space, term) for term in terms]
        constant = self.coefficients.get("constant", 0.0) + self.intercept_ms
        return GroupedCost(_merged(features.space, groups), constant=constant)

    def _token_maps(self, space: SearchSpace) -> list[NDArray[np.int64]]:
        """Per decision the learned token of each of this space's, which may be restricted; "inactive" last."""
        if [d.name for d in space.decisions] != list(self.options):
            raise LatencyTableError(
                f"learned.options does not list the decisions of {space.name}; learn the device again"
            )
        maps = []
        for decision in space.decisions:
            learned = self.options[decision.name]
            missing = [o for o in decision.options if o not in learned]
            if missing:
                raise LatencyTableError(
                    f"learned.options: {decision.name} has no {missing[0]!r}; learn the device again"
                )
            maps.append(np.array([*(learned.index(o) for o in decision.options), INACTIVE]))
        return maps

    def _groups(self, space: SearchSpace, term: Term) -> tuple[tuple[int, ...], Floats]:
        maps = self._token_maps(space)
        indices = tuple(space.index(name) for name in term.decisions)
        table = term.values[np.ix_(*(maps[i] for i in indices))]
        if term.times is None:
            return indices, table
        factor = np.array([float(o) for o in space.decisions[space.index(term.times)].options])
        largest = max(float(o) for o in self.options[term.times])
        factor = np.append((factor / largest) ** 2, 0.0)
        return (space.index(term.times), *indices), np.multiply.outer(factor, table)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; the correction's arrays as base64."""
        document: dict[str, Any] = {
            "method": self.method,
            "num_rows": self.num_rows,
            "candidates": dict(self.candidates),
            "options": {name: list(options) for name, options in self.options.items()},
            "coefficients": dict(self.coefficients),
            "terms": [_term_to_dict(term) for term in self.terms],
            "correction": None,
            "surrogate": None if self.surrogate is None else [_term_to_dict(term) for term in self.surrogate],
            "intercept_ms": self.intercept_ms,
            "floor_ms": self.floor_ms,
        }
        if self.correction is not None:
            document["correction"] = {
                "kernels": [vars(kernel) for kernel in self.correction.kernels],
                **{name: _pack(getattr(self.correction, name), dtype) for name, dtype in _STORED.items()},
            }
        return document

    def check(self, where: str) -> None:
        """Refuse parts that do not fit together.

        Raises:
            LatencyTableError: naming `where` and the part.
        """
        unknown = [k for k in self.coefficients if k not in PHYSICAL and k != "constant"]
        if unknown:
            raise LatencyTableError(f"{where}.coefficients has {unknown[0]!r}; this version knows {sorted(PHYSICAL)}")
        for term in (*self.terms, *(self.surrogate or ())):
            lost = [d for d in (*term.decisions, *filter(None, [term.times])) if d not in self.options]
            if lost:
                raise LatencyTableError(f"{where}: a term names decision {lost[0]!r}, which options does not list")
            shape = tuple(len(self.options[d]) + 1 for d in term.decisions)
            if term.values.shape != shape or not np.isfinite(term.values).all():
                raise LatencyTableError(
                    f"{where}: the term over {list(term.decisions)} must hold {shape} finite numbers"
                )
        if self.correction is not None:
            rows = len(self.correction.weight_N)
            arrays = [getattr(self.correction, n) for n in _STORED]
            if not all(np.isfinite(a).all() for a in arrays) or self.correction.tokens_ND.shape != (
                rows,
                len(self.options),
            ):
                raise LatencyTableError(f"{where}.correction holds arrays that do not fit together, or NaN")


def correction_share(
    correction: Correction, shape_BS: Floats, tokens_BD: Tokens, to_learned: Sequence[NDArray[np.int64]]
) -> Floats:
    """The correction as a share of the physical part, shape [B]."""
    standard_BS = (shape_BS - correction.mean_S) / correction.scale_S
    learned_BD = np.stack([table[tokens_BD[:, i]] for i, table in enumerate(to_learned)], axis=1)
    kernel_BN = kernel_matrix(correction.kernels, standard_BS, learned_BD, correction.shape_NS, correction.tokens_ND)
    result: Floats = kernel_BN @ correction.weight_N
    return result


def kernel_matrix(
    kernels: Sequence[Kernel],
    shape_BS: Floats,
    tokens_BD: Tokens,
    shape_NS: Floats,
    tokens_ND: NDArray[np.integer[Any]],
) -> Floats:
    """Sum of kernels between two sets of networks, shape [B, N]; shape features already standardised."""
    distances = {"shape": shape_distance(shape_BS, shape_NS), "tokens": token_distance(tokens_BD, tokens_ND)}
    total = np.zeros((len(shape_BS), len(shape_NS)))
    for kernel in kernels:
        total += kernel.weight * np.exp(distances[kernel.features] / (-2 * kernel.length**2))
    return total


def shape_distance(shape_BS: Floats, shape_NS: Floats) -> Floats:
    """Mean squared difference of shape features, shape [B, N]."""
    squares = np.sum(shape_BS**2, axis=1)[:, np.newaxis] + np.sum(shape_NS**2, axis=1) - 2 * shape_BS @ shape_NS.T
    distance: Floats = np.maximum(squares, 0.0) / shape_BS.shape[1]
    return distance


def token_distance(tokens_BD: NDArray[np.integer[Any]], tokens_ND: NDArray[np.integer[Any]]) -> Floats:
    """Share of decisions in which two networks differ, shape [B, N]."""
    width = int(max(tokens_BD.max(initial=0), tokens_ND.max(initial=0))) + 2
    hot_BX, hot_NX = ((t[:, :, np.newaxis] + 1 == np.arange(width)).reshape(len(t), -1) for t in (tokens_BD, tokens_ND))
    same = hot_BX.astype(np.float32) @ hot_NX.astype(np.float32).T
    distance: Floats = 1.0 - same.astype(np.float64) / tokens_BD.shape[1]
    return distance


def _merged(
    space: SearchSpace, groups: Sequence[tuple[tuple[int, ...], Floats]]
) -> tuple[tuple[tuple[int, ...], Floats], ...]:
    """One group per set of decisions; a group within another is added to it, so that masks tabulate few."""
    by_size = sorted(groups, key=lambda group: -len(group[0]))
    merged: dict[tuple[int, ...], Floats] = {}
    for indices, table in by_size:
        order = tuple(sorted(range(len(indices)), key=lambda place: indices[place]))
        indices, table = tuple(indices[place] for place in order), np.transpose(table, order)
        host = next((known for known in merged if set(indices) <= set(known)), None)
        if host is None:
            merged[indices] = table.copy()
            continue
        shape = [len(space.decisions[i].options) + 1 if i in indices else 1 for i in host]
        # NaN marks combinations that no network has; a smaller table knows nothing of them and must not undo that.
        merged[host] = merged[host] + table.reshape(shape)
    return tuple(merged.items())


def _term_to_dict(term: Term) -> dict[str, Any]:
    return {"decisions": list(term.decisions), "times": term.times, "values": term.values.tolist()}


def joint_terms(space: SearchSpace) -> list[tuple[tuple[str, ...], str | None]]:
    """The tables an additive model of `space` may have, as (decisions, times).

    Each decision alone, each layer's own decisions together, and those again times each shared number squared.
    """
    shared = shared_numbers(space)
    local = []
    for group in space.cost_groups:
        names = tuple(n for n in group.decisions if n not in shared)
        if names and names not in local:
            local.append(names)
    # A decision that is in no layer's group and switches others on shows in their "inactive" places already.
    in_groups = {name for group in space.cost_groups for name in group.decisions}
    switches = {name for decision in space.decisions for name in decision.active_if}
    singles: list[tuple[tuple[str, ...], str | None]] = [
        ((d.name,), None) for d in space.decisions if d.name in in_groups or d.name not in switches
    ]
    pairs: list[tuple[tuple[str, ...], str | None]] = [(names, None) for names in local if len(names) > 1]
    return singles + pairs + [(names, number) for number, names in product(shared, local)]
