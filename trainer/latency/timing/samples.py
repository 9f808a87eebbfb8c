"""Rounds of one graph, and the time they come down to.

A processor changes its clock by 10-25 % within a second, and rare fast moments spoil a minimum as slow ones spoil a
mean. A small fixed matrix product (the *clock probe*) timed before and after each visit says how fast the clock was,
and a layer's time is scaled to the median clock. Of a round's runs the fastest counts, of all rounds the lower
quartile. Measured twice on the build machine, layers repeat to 1.2 %; by the plain minimum they move by 3.7 %
(docs/latency.md).
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Sample = tuple[float, float]
"""A round's time in ms, and the clock probe's in ms then; 0 where the clock changed meanwhile or was not probed."""

QUANTILE = 0.25
CLOCK_AGREEMENT = 0.03
"""Probes before and after a visit that differ by more say nothing of the clock in between."""


def at_clock(samples: Sequence[Sample], clock_ms: float) -> list[float]:
    """Times scaled to the clock at which the probe takes `clock_ms`; unscaled where too few rounds know their clock."""
    scaled = [ms * clock_ms / clock for ms, clock in samples if clock > 0]
    return scaled if 3 * len(scaled) >= len(samples) else [ms for ms, _ in samples]


def lower_quartile(values: Sequence[float]) -> float:
    """The value that a quarter of the values are below; linear in between."""
    return float(np.quantile(np.asarray(values, dtype=np.float64), QUANTILE))


def median_clock(samples: Mapping[str, Sequence[Sample]]) -> float:
    """The probe's median time in ms over all rounds that know it; 0 if none does."""
    clocks = [clock for times in samples.values() for _, clock in times if clock > 0]
    return statistics.median(clocks) if clocks else 0.0


def agreed_clock(before: float, after: float) -> float:
    """The probe's time in ms between two probes, 0 if they disagree."""
    return round((before + after) / 2, 6) if abs(before - after) <= CLOCK_AGREEMENT * min(before, after) else 0.0


def spread(values: Sequence[float]) -> float:
    """(median - lower quartile) / lower quartile."""
    low = lower_quartile(values)
    return (statistics.median(values) - low) / low


def spread_report(samples: Mapping[str, Sequence[Sample]]) -> dict[str, Any]:
    """The part of the host's report that the rounds themselves tell."""
    clock = median_clock(samples)
    spreads = [spread(at_clock(times, clock)) for times in samples.values() if times]
    report = {"median_spread": round(statistics.median(spreads), 4)} if spreads else {}
    if clock:
        report["clock_probe_ms"] = round(clock, 6)
    return report
