"""Questions to a bundle and its answers: budget and limits in, networks with their predictions out."""

import math
from dataclasses import dataclass, field
from typing import Any

from pnag.models.errors import BudgetError
from pnag.models.space.metric import MetricValue
from pnag.models.space.search_space import Architecture


@dataclass(frozen=True)
class Limits:
    """Limits that a network must keep beside the latency budget; None = no limit."""

    macs_m: float | None = None
    """Millions of multiply-accumulates."""
    params_m: float | None = None
    """Millions of parameters."""
    size_mb: float | None = None
    """Megabytes (1e6 bytes) of weights at the table's precision."""
    peak_memory_mb: float | None = None
    """Megabytes of activations alive at the worst moment, batch 1, at the table's precision."""

    def __post_init__(self) -> None:
        for name, value in self.items():
            _check_positive(name, value)

    def items(self) -> list[tuple[str, float]]:
        """The limits that are set."""
        return [(name, value) for name, value in vars(self).items() if value is not None]


@dataclass(frozen=True)
class Query:
    """One question.

    Attributes:
        budget_ms: rounded down to 3 decimals, and answered for that.
        coverage: with which probability the answer keeps the budget when measured; None = the bundle's default.
        num_alternatives: further networks that fit, the next most accurate first.
    """

    budget_ms: float
    limits: Limits = field(default_factory=Limits)
    coverage: float | None = None
    num_alternatives: int = 0

    def __post_init__(self) -> None:
        _check_positive("budget_ms", self.budget_ms)
        rounded = math.floor(min(self.budget_ms, 1e12) * 1000 + 1e-6) / 1000
        if rounded <= 0:
            raise BudgetError(f"budget_ms is {self.budget_ms!r}; the smallest budget told apart is 0.001 ms")
        object.__setattr__(self, "budget_ms", rounded)


@dataclass(frozen=True)
class Prediction:
    """Predictions of the bundle for one network. Accuracies are fractions; latencies ms on the bundle's device.

    Sizes are None where nothing is known of them: a table-only space whose records have no such column. `metric` is
    what stands for accuracy there, None where it is accuracy itself.
    """

    accuracy: float
    accuracy_interval: tuple[float, float] | None
    interval_coverage: float | None
    latency_ms: float
    latency_upper_ms: float
    latency_coverage: float
    macs: int | None
    params: int | None
    size_bytes: int | None
    peak_memory_bytes: int | None
    metric: MetricValue | None = None


@dataclass(frozen=True)
class Candidate:
    """One network with its prediction."""

    architecture: Architecture
    predicted: Prediction


@dataclass(frozen=True)
class Answer:
    """The best network found within a query's limits.

    Attributes:
        budget_ms: the budget answered for.
        source: "generator" if a sample is the answer, "front" if only the bundle's front holds a network as good.
        binding: the limit that is nearest to being reached: "latency", "macs", "params", "size", "peak_memory", or
            "none" if the answer is the most accurate network of the whole front.
    """

    budget_ms: float
    best: Candidate
    binding: str
    source: str
    alternatives: tuple[Candidate, ...] = ()


def _check_positive(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value) or value <= 0:
        raise BudgetError(f"{name} is {value!r}; it must be a number above 0")
    if math.isinf(value):
        raise BudgetError(f"{name} is infinite; it must be a finite number above 0")
