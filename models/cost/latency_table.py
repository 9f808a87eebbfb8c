"""Per-layer latency on one device, and the latency of whole networks that follows from it.

    latency_ms       = c_overhead * overhead_ms + sum over layers of c_family * layer_ms     (c = 1 before calibration)
    latency_upper_ms = factor(coverage) * latency_ms

The factor is one-sided split-conformal: the ceil((n + 1) * coverage)-th smallest of n measured/predicted ratios on
networks that had no part in the calibration (Vovk et al., 2005).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, Field

from pnag.models.cost.additive import GroupedCost, LayerCost
from pnag.models.cost.learned_latency import LearnedLatency
from pnag.models.errors import BudgetError, LatencyTableError, MissingLayerError
from pnag.models.files import (
    NonNegative,
    Number,
    Positive,
    check_version,
    parse_object,
    read_json_object,
    to_json,
    write_atomic,
)  # fmt: skip
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
        rounds: how many rounds the statistic was taken over.
        spread: (median - min) / min over the rounds; 0 where the source does not say.
    """

    ms: Positive
    rounds: int = 1
    spread: Number = 0.0


@dataclass(frozen=True)
class NetworkLatency:
    """A whole network that was measured.

    Attributes:
        ms: in a good round, what predictions aim at.
        slow_ms: in the median round, at the host's slowest quarter of the time: what the bound is to cover.
    """

    architecture: str
    ms: NonNegative
    slow_ms: NonNegative


@dataclass(frozen=True)
class Calibration:
    """Factors per layer family (and "overhead"), fitted on measured whole networks."""

    method: str
    num_networks: int
    coefficients: Mapping[str, NonNegative]


@dataclass(frozen=True)
class UpperBound:
    """Ratios that turn a prediction into an upper bound.

    Attributes:
        coverage: promised by default.
        ratios: measured / predicted of each bounding network, rising.
    """

    coverage: Number
    ratios: Annotated[
        tuple[NonNegative, ...], Field(min_length=1), AfterValidator(lambda ratios: tuple(sorted(ratios)))
    ]

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
    overhead_ms: NonNegative = 0.0
    calibration: Calibration | None = None
    check: Mapping[str, Any] | None = None
    drift: Mapping[str, Any] | None = None
    """Last finding of `pnag latency drift`."""
    upper_bound: UpperBound | None = None
    learned: LearnedLatency | None = None
    """A device learned from whole networks; predicts in the layers' stead where it is there."""
    networks: tuple[NetworkLatency, ...] = ()
    """Networks that calibration and bound were fitted on: a check must use others."""
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

        The prediction itself where latency adds up; for a learned device that does not, its closest additive stand-in.

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
        unmeasured: set[tuple[str, Option]] = set()
        for group in space.cost_groups:
            used, measured = set[tuple[str, Option]](), set[tuple[str, Option]]()
            for _, values, layers in space.group_layers(group):
                chosen = {(name, v) for name, v in zip(group.decisions, values, strict=True) if v is not None}
                used |= chosen
                if all(layer.key in self.layers for layer in layers):
                    measured |= chosen
            unmeasured |= used - measured
        kept = {
            d.name: [o for o in d.options if (d.name, o) not in unmeasured]
            for d in space.decisions
            if any(name == d.name for name, _ in unmeasured)
        }
        empty = [name for name, options in kept.items() if not options]
        if empty:
            raise MissingLayerError(
                f"latency table of {self.device.name} covers no option of {empty[0]}; measure more of {self.space}"
            )
        return space.restrict(kept) if kept else space

    def check_space(self, space: SearchSpace) -> None:
        """Refuse another space than the table was made for.

        Raises:
            LatencyTableError: naming both.
        """
        if space.name != self.space:
            raise LatencyTableError(
                f"latency table is for search space {self.space!r}, not {space.name!r}; measure or import one for it"
            )

    @property
    def default_coverage(self) -> float:
        """Promised when a caller names none; the plain prediction where no bound was fitted."""
        return self.upper_bound.coverage if self.upper_bound else PLAIN_COVERAGE

    def bound_factor(self, coverage: float) -> float:
        """Factor that a prediction is multiplied with to hold at `coverage`; 1 at 0.5.

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
            "layers": {key: asdict(layer) for key, layer in self.layers.items()},
            "overhead_ms": self.overhead_ms,
            "calibration": asdict(self.calibration) if self.calibration else None,
            "learned": self.learned.to_dict() if self.learned else None,
            "check": self.check,
            "drift": self.drift,
            "upper_bound": None,
            "networks": [asdict(network) for network in self.networks],
            "measured_at": self.measured_at,
            "host_load": self.host_load,
        }
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
        check_version(document, FORMAT_VERSION, name, LatencyTableError)
        if document.get("unit") != "ms":
            raise LatencyTableError(
                f"{name}: unit is {document.get('unit')!r}; expected 'ms'. Convert the values first"
            )
        learned = document.get("learned")
        if isinstance(learned, dict) and (missing := sorted({f.name for f in fields(LearnedLatency)} - learned.keys())):
            raise LatencyTableError(f"{name}: learned lacks {missing}; learn the device again")
        table = parse_object(cls, document, name, LatencyTableError)
        if not table.layers and table.learned is None:
            raise LatencyTableError(
                f"{name}: layers is empty; expected an object of layer key -> {{ms, rounds, spread}}"
            )
        if table.learned is not None:
            table.learned.check(f"{name}: learned")
        return table

    def _coefficient(self, family: str) -> float:
        return self.calibration.coefficients.get(family, 1.0) if self.calibration else 1.0
