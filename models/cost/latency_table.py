"""Per-layer latency on one device, and the latency of whole networks that follows from it.

    latency_ms       = c_overhead * overhead_ms + sum over layers of c_family * layer_ms     (c = 1 before calibration)
    latency_upper_ms = factor(coverage) * latency_ms

The factor is one-sided split-conformal: the ceil((n + 1) * coverage)-th smallest of n measured/predicted ratios on
networks that had no part in the calibration (Vovk et al., 2005).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pnag.models.cost.additive import GroupedCost, LayerCost
from pnag.models.cost.learned_latency import LearnedLatency
from pnag.models.errors import BudgetError, LatencyTableError, MissingLayerError
from pnag.models.files import is_number, read_json_object, to_json, write_atomic
from pnag.models.space.layers import Layer
from pnag.models.space.search_space import Option, SearchSpace, Tokens

FORMAT_VERSION = 1
PLAIN_COVERAGE = 0.5
"""Asking for this coverage means the plain prediction, without a bound."""


@dataclass(frozen=True)
class Device:
    """Hardware and how it was used; None where an imported table does not say."""

    name: str
    processor: str | None = None
    runtime: str | None = None
    execution_provider: str | None = None
    threads: int | None = None
    batch_size: int | None = None
    precision: str | None = None
    os: str | None = None


@dataclass(frozen=True)
class LayerLatency:
    """One layer's latency, the empty session's overhead already taken off.

    Attributes:
        ms: > 0.
        rounds: how many rounds the statistic was taken over.
        spread: (median - min) / min over the rounds; 0 where the source does not say.
    """

    ms: float
    rounds: int = 1
    spread: float = 0.0


@dataclass(frozen=True)
class NetworkLatency:
    """A whole network that was measured.

    Attributes:
        ms: in a good round, what predictions aim at.
        slow_ms: in the median round, at the host's slowest quarter of the time: what the bound is to cover.
    """

    architecture: str
    ms: float
    slow_ms: float


@dataclass(frozen=True)
class Calibration:
    """Factors per layer family (and "overhead"), fitted on measured whole networks; all >= 0."""

    method: str
    num_networks: int
    coefficients: Mapping[str, float]


@dataclass(frozen=True)
class UpperBound:
    """What turns a prediction into a bound.

    Attributes:
        coverage: promised by default.
        ratios: measured / predicted of each bounding network, rising.
    """

    coverage: float
    ratios: tuple[float, ...]

    def factor(self, coverage: float) -> float:
        """The factor whose bound holds for a new network with probability >= coverage.

        Raises:
            BudgetError: if so few networks were measured that no finite factor can promise it.
        """
        count = len(self.ratios)
        rank = math.ceil(round((count + 1) * coverage, 9))
        if rank > count:
            needed = math.ceil(round(coverage / (1 - coverage), 9))
            raise BudgetError(
                f"coverage {coverage:g} needs a bound from at least {needed} measured networks; the table has {count}: "
                f"ask for at most {count / (count + 1):.3f}, or run `pnag latency fit` with more networks"
            )
        return max(1.0, self.ratios[max(rank, 1) - 1])


@dataclass(frozen=True)
class LatencyTable:
    """`latency_table.json`; see docs and `Device` for the fields."""

    space: str
    device: Device
    statistic: str
    layers: Mapping[str, LayerLatency]
    overhead_ms: float = 0.0
    calibration: Calibration | None = None
    check: Mapping[str, Any] | None = None
    drift: Mapping[str, Any] | None = None
    """What `pnag latency drift` last found."""
    upper_bound: UpperBound | None = None
    learned: LearnedLatency | None = None
    """A device learnt from whole networks; predicts in the layers' stead where it is there."""
    networks: tuple[NetworkLatency, ...] = ()
    """Those that calibration and bound were fitted on: a check must use others."""
    measured_at: str | None = None
    host_load: Mapping[str, Any] | None = None
    source: str | None = None
    """Where an imported table came from."""

    def layer_ms(self, layer: Layer) -> float:
        """Calibrated latency of one layer.

        Raises:
            MissingLayerError: if it was never measured; a gap is an error, never a zero.
        """
        if layer.key not in self.layers:
            raise MissingLayerError(
                f"latency table of {self.device.name} for {self.space} has no layer {layer.key}; measure it "
                "(`pnag latency measure` keeps what is there and adds what is missing)"
            )
        return self.layers[layer.key].ms * self._coefficient(layer.family)

    def cost(self, space: SearchSpace) -> GroupedCost:
        """Predicted latency in ms of architectures of `space`, as a sum over groups of decisions.

        The prediction itself where latency adds up; for a learnt device that does not, its closest additive stand-in.

        Raises:
            LatencyTableError: if the table is for another space.
            MissingLayerError: if an architecture of the space uses a layer that was never measured.
        """
        self.check_space(space)
        if self.learned is not None:
            return self.learned.cost(space)
        return LayerCost(space, self.layer_ms, constant=self.overhead_ms * self._coefficient("overhead"))

    def predictor(self, space: SearchSpace) -> Callable[[Tokens], NDArray[np.float64]]:
        """Predicted latency in ms of a batch of canonical tokens, shape [B]: what answers are checked against.

        Equals `cost(space)` wherever latency adds up over layers; raises as `cost` does.
        """
        if self.learned is not None:
            self.check_space(space)
            return self.learned.predictor(space)
        return self.cost(space)

    def measured_space(self, space: SearchSpace) -> SearchSpace:
        """`space` without the options that no measured layer stands for, e.g. resolutions left out by `--only`.

        Raises:
            LatencyTableError: if the table is for another space, or covers no network of it.
        """
        self.check_space(space)
        if self.learned is not None:
            return space.restrict({name: list(options) for name, options in self.learned.options.items()})
        kept: dict[str, list[Option]] = {}
        for group in space.cost_groups:
            options = [space.decisions[space.index(name)].options for name in group.decisions]
            seen: list[set[Option]] = [set() for _ in options]
            whole: list[set[Option]] = [set() for _ in options]
            for tokens in space.assignments(group.decisions):
                values = [None if t < 0 else o[t] for o, t in zip(options, tokens, strict=True)]
                is_measured = all(layer.key in self.layers for layer in group.build(*values))
                for place, value in enumerate(values):
                    if value is not None:
                        seen[place].add(value)
                        if is_measured:
                            whole[place].add(value)
            for name, all_options, measured in zip(group.decisions, seen, whole, strict=True):
                if measured != all_options:
                    before = kept.get(name, list(space.decisions[space.index(name)].options))
                    kept[name] = [option for option in before if option in measured or option not in all_options]
        empty = [name for name, options in kept.items() if not options]
        if empty:
            raise MissingLayerError(
                f"latency table of {self.device.name} covers no option of {empty[0]}; measure more of {self.space}"
            )
        return space.restrict(kept) if kept else space

    def check_space(self, space: SearchSpace) -> None:
        """Raises LatencyTableError if the table was made for another space."""
        if space.name != self.space:
            raise LatencyTableError(
                f"latency table is for search space {self.space!r}, not {space.name!r}; measure or import one for it"
            )

    @property
    def default_coverage(self) -> float:
        """Promised when a caller names none; the plain prediction where no bound was fitted."""
        return self.upper_bound.coverage if self.upper_bound else PLAIN_COVERAGE

    def bound_factor(self, coverage: float) -> float:
        """What a prediction is multiplied with to hold at `coverage`; 1 at 0.5.

        Raises:
            BudgetError: if coverage is not in [0.5, 1), or the table has no bound for it.
        """
        if not PLAIN_COVERAGE <= coverage < 1:
            raise BudgetError(f"coverage is {coverage}; it must be at least 0.5 (the plain prediction) and below 1")
        if coverage == PLAIN_COVERAGE:
            return 1.0
        if self.upper_bound is None:
            raise BudgetError(
                f"coverage {coverage:g} was asked, but the table of {self.device.name} has no fitted bound; "
                "ask for 0.5 (the plain prediction) or run `pnag latency fit`"
            )
        return self.upper_bound.factor(coverage)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        document: dict[str, Any] = {
            "format_version": FORMAT_VERSION,
            "space": self.space,
            "device": asdict(self.device),
            "statistic": self.statistic,
            "unit": "ms",
            "layers": {k: {"ms": v.ms, "rounds": v.rounds, "spread": v.spread} for k, v in self.layers.items()},
            "overhead_ms": self.overhead_ms,
            "calibration": None,
            "learned": self.learned.to_dict() if self.learned else None,
            "check": dict(self.check) if self.check is not None else None,
            "drift": dict(self.drift) if self.drift is not None else None,
            "upper_bound": None,
            "networks": [asdict(network) for network in self.networks],
            "measured_at": self.measured_at,
            "host_load": dict(self.host_load) if self.host_load is not None else None,
        }
        if self.calibration:
            document["calibration"] = {**asdict(self.calibration), "coefficients": dict(self.calibration.coefficients)}
        if self.upper_bound:
            document["upper_bound"] = {
                "coverage": self.upper_bound.coverage,
                "factor": self.upper_bound.factor(self.upper_bound.coverage),
                "num_networks": len(self.upper_bound.ratios),
                "ratios": list(self.upper_bound.ratios),
            }
        if self.source:
            document["source"] = self.source
        return document

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        write_atomic(path, to_json(self.to_dict()))

    @classmethod
    def load(cls, path: Path) -> "LatencyTable":
        """Read a table from a file.

        Raises:
            LatencyTableError: naming the field that is missing or out of range.
        """
        try:
            return cls.parse(path.read_bytes(), path.name)
        except OSError as exc:
            raise LatencyTableError(f"{path}: cannot read the latency table ({exc.strerror})") from None

    @classmethod
    def parse(cls, data: bytes, name: str = "latency_table.json") -> "LatencyTable":
        """Read a table from a file's content; raises as `load` does."""
        document = read_json_object(data, name, LatencyTableError)
        version = document.get("format_version")
        if version != FORMAT_VERSION:
            raise LatencyTableError(
                f"{name}: format_version is {version!r}; this version of pnag reads {FORMAT_VERSION}"
            )
        if document.get("unit") != "ms":
            raise LatencyTableError(
                f"{name}: unit is {document.get('unit')!r}; expected 'ms'. Convert the values first"
            )
        for required in ("space", "statistic"):
            if not isinstance(document.get(required), str):
                raise LatencyTableError(f"{name}: {required} is {document.get(required)!r}; expected a text")
        raw_device = document.get("device")
        if not isinstance(raw_device, dict) or not isinstance(raw_device.get("name"), str):
            raise LatencyTableError(f"{name}: device must be an object with at least a name")
        known = Device.__dataclass_fields__
        return cls(
            space=document["space"],
            device=Device(**{k: v for k, v in raw_device.items() if k in known}),
            statistic=document["statistic"],
            layers=_parse_layers(document.get("layers"), name, is_learned=document.get("learned") is not None),
            learned=LearnedLatency.from_dict(document["learned"], name)
            if document.get("learned") is not None
            else None,
            overhead_ms=_non_negative(document.get("overhead_ms", 0.0), f"{name}: overhead_ms"),
            calibration=_parse_calibration(document.get("calibration"), name),
            check=document.get("check"),
            drift=document.get("drift"),
            upper_bound=_parse_upper_bound(document.get("upper_bound"), name),
            networks=_parse_networks(document.get("networks", []), name),
            measured_at=document.get("measured_at"),
            host_load=document.get("host_load"),
            source=document.get("source"),
        )

    def _coefficient(self, family: str) -> float:
        return self.calibration.coefficients.get(family, 1.0) if self.calibration else 1.0


def _parse_layers(raw: Any, name: str, *, is_learned: bool) -> dict[str, LayerLatency]:
    if not isinstance(raw, dict) or not (raw or is_learned):
        raise LatencyTableError(f"{name}: layers must be a non-empty object of layer key -> {{ms, rounds, spread}}")
    layers = {}
    for key, entry in raw.items():
        ms = entry.get("ms") if isinstance(entry, dict) else None
        if not is_number(ms) or ms <= 0:
            raise LatencyTableError(f"{name}: layer {key} has ms = {ms!r}; expected a number above 0, in ms")
        layers[key] = LayerLatency(float(ms), int(entry.get("rounds", 1)), float(entry.get("spread", 0.0)))
    return layers


def _parse_calibration(raw: Any, name: str) -> Calibration | None:
    if raw is None:
        return None
    try:
        coefficients = {
            str(k): _non_negative(v, f"{name}: calibration coefficient {k}") for k, v in raw["coefficients"].items()
        }
        return Calibration(str(raw["method"]), int(raw["num_networks"]), coefficients)
    except (KeyError, TypeError, AttributeError):
        raise LatencyTableError(f"{name}: calibration must have method, num_networks and coefficients") from None


def _parse_upper_bound(raw: Any, name: str) -> UpperBound | None:
    if raw is None:
        return None
    if not isinstance(raw, dict) or not is_number(raw.get("coverage")) or not isinstance(raw.get("ratios"), list):
        raise LatencyTableError(f"{name}: upper_bound must have coverage and ratios")
    ratios = tuple(sorted(_non_negative(r, f"{name}: upper_bound ratio") for r in raw["ratios"]))
    if not ratios:
        raise LatencyTableError(f"{name}: upper_bound has no ratios; run `pnag latency fit` again")
    return UpperBound(float(raw["coverage"]), ratios)


def _parse_networks(raw: Any, name: str) -> tuple[NetworkLatency, ...]:
    if not isinstance(raw, list):
        raise LatencyTableError(f"{name}: networks must be a list of {{architecture, ms, slow_ms}}")
    networks = []
    for number, entry in enumerate(raw, start=1):
        if not isinstance(entry, dict) or not isinstance(entry.get("architecture"), str):
            raise LatencyTableError(f"{name}: networks entry {number} must have architecture, ms and slow_ms")
        ms, slow_ms = (_non_negative(entry.get(k), f"{name}: networks entry {number}, {k}") for k in ("ms", "slow_ms"))
        networks.append(NetworkLatency(entry["architecture"], ms, slow_ms))
    return tuple(networks)


def _non_negative(value: Any, what: str) -> float:
    if not is_number(value) or value < 0:
        raise LatencyTableError(f"{what} is {value!r}; expected a finite number >= 0")
    return float(value)
