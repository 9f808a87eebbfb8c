"""Answers against their budgets: ask a bundle random ones, build every answer as a network, time it on this device.

A latency table is checked on networks drawn over cost (`pnag latency check`). Answers are not such networks: a search
picks what the table takes for fast, so its errors add up against the user. This is the check that counts.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pnag.models.answer.question import Answer, Query
from pnag.models.answer.runtime import OnnxGenerator
from pnag.models.bundle.bundle import Bundle
from pnag.trainer.latency.check import accuracy_figures
from pnag.trainer.latency.fit import network_latency
from pnag.trainer.latency.measure import Run, measure_networks


@dataclass(frozen=True)
class MeasuredAnswer:
    """One answer and what it took.

    Attributes:
        ms: in a good round, what the plain prediction aims at.
        slow_ms: in the slowest quarter of the measurement, what the bound is to cover.
    """

    answer: Answer
    ms: float
    slow_ms: float


def ask(bundle: Bundle, count: int, seed: int) -> list[Answer]:
    """Answers at budgets drawn uniformly over the range where the budget binds, at the bundle's own coverage."""
    runtime = OnnxGenerator(bundle)
    low = runtime.smallest_feasible_ms()
    high = runtime.range_ms[1] * bundle.latency_table.bound_factor(bundle.latency_table.default_coverage)
    budgets = np.random.default_rng(seed).uniform(low, high, count)
    return [runtime.generate(Query(max(low, float(budget)))) for budget in budgets]


def measure_answers(bundle: Bundle, answers: list[Answer], run: Run, path: Path) -> tuple[list[MeasuredAnswer], Any]:
    """Time every answer's network; returns them with the host's load. A file beside `path`, the bundle's, resumes it.

    Raises:
        LatencyTableError: if this is not the bundle's device.
    """
    encodings = [answer.best.architecture.encoding for answer in answers]
    measurements = measure_networks(bundle.latency_table.device, bundle.space, encodings, run, path, "answers")
    measured = []
    for answer, encoding in zip(answers, encodings, strict=True):
        latency = network_latency(encoding, measurements.networks[encoding])
        measured.append(MeasuredAnswer(answer, latency.ms, latency.slow_ms))
    return measured, dict(measurements.host_load or {})


def figures(measured: list[MeasuredAnswer]) -> dict[str, Any]:
    """Shares of answers over their budget and their bound, and the error of predictions; percentages."""
    ms_N, slow_N = np.array([m.ms for m in measured]), np.array([m.slow_ms for m in measured])
    predicted_N = np.array([m.answer.best.predicted.latency_ms for m in measured])
    budget_N = np.array([m.answer.budget_ms for m in measured])
    return {
        "num_answers": len(measured),
        "coverage": measured[0].answer.best.predicted.latency_coverage,
        "over_budget_percent": round(float(np.mean(ms_N > budget_N)) * 100, 2),
        "over_budget_in_slow_stretches_percent": round(float(np.mean(slow_N > budget_N)) * 100, 2),
        "over_prediction_percent": round(float(np.mean(ms_N > predicted_N)) * 100, 2),
        "budget_used_percent": round(float(np.mean(ms_N / budget_N)) * 100, 2),
        "prediction": accuracy_figures(predicted_N, ms_N),
    }
