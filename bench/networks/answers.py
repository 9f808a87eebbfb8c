"""Do answers keep their budget? Ask a bundle random budgets, build every answer as a network, time it on this device.

A latency table is checked on networks drawn over cost (`pnag latency check`). Answers are not such networks: a search
picks what the table takes for fast, so its errors add up against the user. This is the check that counts.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pnag.models.answer.runtime import Answer, OnnxGenerator, Query
from pnag.models.bundle.bundle import Bundle
from pnag.models.errors import LatencyTableError
from pnag.trainer.latency.fit import accuracy_figures, network_latency
from pnag.trainer.latency.kit_script import Plan, Progress, Setup, describe_device
from pnag.trainer.latency.measure import Measurements, measure


@dataclass(frozen=True)
class MeasuredAnswer:
    """One answer and what it took.

    Attributes:
        ms: in a good round, what the plain prediction aims at.
        slow_ms: in the slowest stretch of the measurement, what the bound is to cover.
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


def measure_answers(
    bundle: Bundle, answers: list[Answer], rounds: int, partial: Path, progress: Callable[[Progress], None]
) -> tuple[list[MeasuredAnswer], dict[str, Any]]:
    """Time every answer's network; returns them with the host's load. Resumes from `partial` after a break.

    Raises:
        LatencyTableError: if this is not the bundle's device.
    """
    device = bundle.latency_table.device
    setup = Setup(
        device.threads or 1, device.batch_size or 1, device.execution_provider or "", device.precision or "fp32"
    )
    here = describe_device(setup, device.name)
    if device.processor != here["processor"]:
        raise LatencyTableError(f"the bundle is for {device.processor!r}, this is {here['processor']!r}; run it there")
    measurements = Measurements.load(partial) if partial.exists() else Measurements(bundle.space.name, here)
    networks = {a.best.architecture.encoding: bundle.space.layers(a.best.architecture.encoding) for a in answers}
    measure(
        measurements, setup, Plan(rounds=rounds, min_rounds=rounds // 2), networks=networks, save_to=partial,
        progress=progress,
    )  # fmt: skip
    partial.unlink(missing_ok=True)
    measured = []
    for answer in answers:
        encoding = answer.best.architecture.encoding
        latency = network_latency(encoding, measurements.networks[encoding])
        measured.append(MeasuredAnswer(answer, latency.ms, latency.slow_ms))
    return measured, dict(measurements.host_load or {})


def figures(measured: list[MeasuredAnswer]) -> dict[str, Any]:
    """Give the shares of answers that broke budget and bound, and the error of predictions; percentages."""
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
