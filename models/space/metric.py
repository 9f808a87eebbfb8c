"""Metrics that take the place of top-1 accuracy: any measured number, to raise or to lower.

The evaluator learns y = -log(1 - accuracy). A metric is mapped to a fraction so that y is linear in it: the worst
record gets y = 1, the best y = 3, and what lies outside stays in order.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pnag.models.errors import SearchSpaceError
from pnag.models.files import Number, parse_object

Floats = NDArray[np.float64]

_WORST, _BEST = 1.0, 3.0


@dataclass(frozen=True)
class MetricValue:
    """A predicted metric, in its own unit; `interval` is (lower, upper)."""

    name: str
    unit: str
    goal: str
    value: float
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Metric:
    """A column of the records that takes accuracy's place.

    Attributes:
        column: its name in the records.
        unit: for people; may be empty.
        worst, best: the range seen in training, None before.
    """

    column: str
    name: str
    goal: Literal["maximise", "minimise"] = "maximise"
    unit: str = ""
    worst: Number | None = None
    best: Number | None = None

    def fitted(self, values: Floats) -> "Metric":
        """Copy with the range of measured values."""
        low, high = float(values.min()), float(values.max())
        worst, best = (high, low) if self.goal == "minimise" else (low, high)
        return Metric(self.column, self.name, self.goal, self.unit, worst, best)

    def to_fraction(self, values: Floats) -> Floats:
        """Values as fractions in (0, 1) that rise as the metric gets better."""
        worst, best = self._range()
        y = _WORST + (_BEST - _WORST) * (values - worst) / (best - worst)
        fraction: Floats = -np.expm1(-np.maximum(y, 0.0))
        return fraction

    def value(self, fraction: float) -> float:
        """Undo `to_fraction`."""
        worst, best = self._range()
        y = -np.log1p(-min(fraction, 1 - 1e-12))
        return float(worst + (y - _WORST) / (_BEST - _WORST) * (best - worst))

    def describe(self, fraction: float, interval: tuple[float, float] | None) -> MetricValue:
        """A predicted fraction in the metric's own unit."""
        ends = sorted(self.value(end) for end in interval) if interval else None
        return MetricValue(self.name, self.unit, self.goal, self.value(fraction), (ends[0], ends[1]) if ends else None)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> "Metric":
        """Undo `to_dict`.

        Raises:
            SearchSpaceError: if a field is missing or of the wrong kind.
        """
        given = {key: value for key, value in document.items() if value not in (None, "")}
        return parse_object(cls, {"name": given.get("column"), **given}, "metric", SearchSpaceError)

    def _range(self) -> tuple[float, float]:
        assert self.worst is not None, "fitted on records first"
        assert self.best is not None
        return self.worst, self.best
