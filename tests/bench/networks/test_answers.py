"""Answers are built and timed for real; only the truth of the table is invented."""

from dataclasses import replace
from pathlib import Path

import pytest

from pnag.bench.networks.answers import MeasuredAnswer, ask, figures, measure_answers
from pnag.models.bundle.bundle import Bundle
from pnag.models.cost.latency_table import Device
from pnag.models.errors import LatencyTableError
from pnag.trainer.latency.measure import Run
from pnag.trainer.latency.timing.host import Setup, describe_device


@pytest.fixture(scope="module")
def here(trained: Bundle) -> Bundle:
    """The trained bundle, as if its table had been measured on this machine."""
    device = Device(**describe_device(Setup()))
    return replace(trained, latency_table=replace(trained.latency_table, device=device))


def test_every_answer_is_measured_once_and_a_break_loses_nothing(here: Bundle, tmp_path: Path) -> None:
    asked = ask(here, 6, seed=1)
    path, partial = tmp_path / "bundle", tmp_path / "bundle.answers.partial"
    done: list[int] = []

    def stop_early(_: object) -> None:
        done.append(1)
        if len(done) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure_answers(here, asked, Run(4, progress=stop_early), path)
    assert partial.exists()
    measured, _ = measure_answers(here, asked, Run(4), path)
    assert [m.answer for m in measured] == asked
    assert all(0 < m.ms <= m.slow_ms * 1.5 for m in measured)
    assert not partial.exists()


def test_another_devices_bundle_is_refused(trained: Bundle, tmp_path: Path) -> None:
    with pytest.raises(LatencyTableError, match="does not say how it was measured"):
        measure_answers(trained, ask(trained, 2, seed=0), Run(4), tmp_path / "p")


def test_figures_count_what_breaks_budget_and_prediction(trained: Bundle) -> None:
    asked = ask(trained, 4, seed=2)
    predicted = [a.best.predicted.latency_ms for a in asked]
    factors = [(0.5, 0.6), (1.01, 1.02), (1.01, 100.0), (100.0, 100.0)]
    measured = [MeasuredAnswer(a, ms * f, ms * s) for a, ms, (f, s) in zip(asked, predicted, factors, strict=True)]
    result = figures(measured)
    assert result["num_answers"] == 4
    assert result["over_budget_percent"] == 25.0
    assert result["over_budget_in_slow_stretches_percent"] == 50.0
    assert result["over_prediction_percent"] == 75.0
    assert result["coverage"] == 0.9


def test_budgets_are_drawn_where_they_bind(trained: Bundle) -> None:
    asked = ask(trained, 40, seed=3)
    highest = max(p.latency_ms for p in trained.front) * trained.latency_table.bound_factor(0.9)
    assert all(a.budget_ms <= highest for a in asked)
    assert len({a.budget_ms for a in asked}) == 40
