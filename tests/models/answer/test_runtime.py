"""Promises of the answers, held against the bundle that ships."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pnag.models.answer.question import Answer, Limits, Query
from pnag.models.answer.recent import Recent
from pnag.models.answer.runtime import OnnxGenerator
from pnag.models.answer.sessions import run_evaluator
from pnag.models.bundle.bundle import Bundle
from pnag.models.errors import BudgetError, EncodingError, InfeasibleBudgetError

SHIPPED = Path(__file__).parents[3] / "bundles" / "ofa-mobilenetv3-w1.0-imagenet"
NUM_BUDGETS = 200


@pytest.fixture(scope="module")
def runtime() -> OnnxGenerator:
    return OnnxGenerator(Bundle.load(SHIPPED))


@pytest.fixture(scope="module")
def budgets(runtime: OnnxGenerator) -> list[float]:
    highest = runtime.range_ms[1] * 1.3
    return [float(b) for b in np.linspace(runtime.smallest_feasible_ms(), highest, NUM_BUDGETS)]


@pytest.fixture(scope="module")
def answers(runtime: OnnxGenerator, budgets: list[float]) -> list[Answer]:
    found = runtime.generate_many([Query(b) for b in budgets])
    assert all(isinstance(answer, Answer) for answer in found)
    return found  # type: ignore[return-value]


def test_every_answer_fits_under_the_promised_bound_by_the_table(
    runtime: OnnxGenerator, budgets: list[float], answers: list[Answer]
) -> None:
    """Summed layer by layer from the table, not by the code that chose the answer."""
    table = runtime.bundle.latency_table
    factor = table.bound_factor(table.default_coverage)
    coefficients = table.calibration.coefficients if table.calibration else {}
    for budget, answer in zip(budgets, answers, strict=True):
        layers = runtime.bundle.space.layers(answer.best.architecture.encoding)
        plain = table.overhead_ms * coefficients.get("overhead", 1.0) + sum(table.layer_ms(x) for x in layers)
        assert plain == pytest.approx(answer.best.predicted.latency_ms, rel=1e-9)
        assert plain * factor <= budget * (1 + 1e-12)
        assert answer.best.predicted.latency_upper_ms == pytest.approx(plain * factor)


def test_no_answer_is_worse_than_the_front_at_its_budget(runtime: OnnxGenerator, answers: list[Answer]) -> None:
    front, table = runtime.bundle.front, runtime.bundle.latency_table
    plain = np.array([a.budget_ms for a in answers]) / table.bound_factor(table.default_coverage)
    places = np.searchsorted([p.latency_ms for p in front], plain, side="right") - 1
    for place, answer in zip(places, answers, strict=True):
        assert answer.best.predicted.accuracy >= front[place].accuracy - 1e-9


def test_a_fresh_process_gives_the_same_answers(budgets: list[float], answers: list[Answer]) -> None:
    code = (
        "import json, sys; from pathlib import Path; from pnag.models.bundle.bundle import Bundle; "
        "from pnag.models.answer.question import Query; from pnag.models.answer.runtime import OnnxGenerator; "
        f"r = OnnxGenerator(Bundle.load(Path({str(SHIPPED)!r}))); "
        "print(json.dumps([r.generate(Query(b)).best.architecture.encoding for b in json.load(sys.stdin)]))"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", code], input=json.dumps(budgets), capture_output=True, text=True, check=True, cwd=root
    )
    assert json.loads(done.stdout) == [answer.best.architecture.encoding for answer in answers]


def test_asking_together_or_alone_gives_the_same(runtime: OnnxGenerator, budgets: list[float]) -> None:
    queries = [Query(b, num_alternatives=i % 3) for i, b in enumerate(budgets[:40:5])]
    assert runtime.generate_many(queries) == [runtime.generate(q) for q in queries]
    assert runtime.generate_many(queries[::-1]) == [runtime.generate(q) for q in queries][::-1]
    assert runtime.generate_many([]) == []


def test_a_clone_answers_the_same_and_shares_what_is_remembered(runtime: OnnxGenerator, budgets: list[float]) -> None:
    queries = [Query(b) for b in budgets[:3]]
    clone = runtime.clone()
    assert clone.generate_many(queries) == runtime.generate_many(queries)
    assert clone._accuracies is runtime._accuracies
    assert clone._generator is not runtime._generator
    assert clone._evaluator is not runtime._evaluator


def test_a_network_is_predicted_once_while_it_is_remembered(
    runtime: OnnxGenerator, budgets: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def count(session: Any, features_NF: np.ndarray) -> np.ndarray:
        asked.append(len(features_NF))
        return run_evaluator(session, features_NF)

    monkeypatch.setattr("pnag.models.answer.runtime.run_evaluator", count)
    monkeypatch.setattr(runtime, "_accuracies", Recent(2000))
    query = Query(float(np.mean(budgets)))
    answer = runtime.generate(query)
    assert sum(asked) > 1
    asked.clear()
    assert runtime.generate(query) == answer
    assert asked == []
    monkeypatch.setattr(runtime, "_accuracies", Recent(2))  # nothing is remembered for long
    assert runtime.generate(query) == answer
    assert sum(asked) > 1


def test_what_was_asked_for_lately_is_kept_and_the_rest_is_bounded() -> None:
    recent = Recent[bytes, float](100)
    for number in range(1000):
        recent.put(b"%d" % number, float(number))
        assert recent.get(b"0") == 0.0
        assert recent.get(b"%d" % max(0, number - 15)) == max(0, number - 15)
    assert recent.get(b"500") is None
    assert len(recent._new) + len(recent._old) <= 100


def test_alternatives_differ_fit_and_fall_in_accuracy(runtime: OnnxGenerator) -> None:
    budget = float(np.mean(runtime.range_ms)) * 1.2
    answer = runtime.generate(Query(budget, num_alternatives=10))
    everyone = [answer.best, *answer.alternatives]
    assert len(everyone) == 11
    assert len({c.architecture.id for c in everyone}) == 11
    assert all(c.predicted.latency_upper_ms <= budget for c in everyone)
    accuracies = [c.predicted.accuracy for c in everyone]
    assert accuracies == sorted(accuracies, reverse=True)


@pytest.mark.parametrize(
    ("limits", "amount"),
    [
        (Limits(macs_m=200), lambda p: p.macs / 200e6),
        (Limits(params_m=4.6), lambda p: p.params / 4.6e6),
        (Limits(size_mb=18), lambda p: p.size_bytes / 18e6),
        (Limits(peak_memory_mb=3.5), lambda p: p.peak_memory_bytes / 3.5e6),
    ],
)
def test_a_limit_is_kept_and_named_as_binding(runtime: OnnxGenerator, limits: Limits, amount: object) -> None:
    budget = runtime.range_ms[1] * 2
    free, limited = runtime.generate(Query(budget)), runtime.generate(Query(budget, limits))
    share = amount(limited.best.predicted)  # type: ignore[operator]
    assert 0.9 < share <= 1
    assert limited.best.predicted.accuracy < free.best.predicted.accuracy
    assert limited.binding == limits.items()[0][0].rsplit("_", 1)[0]


def test_a_huge_budget_gives_the_most_accurate_network_and_nothing_binds(runtime: OnnxGenerator) -> None:
    answer = runtime.generate(Query(1e9))
    assert answer.binding == "none"
    assert answer.best.predicted.accuracy >= max(p.accuracy for p in runtime.bundle.front) - 1e-9


def test_the_smallest_feasible_budget_has_an_answer_and_anything_less_says_so(runtime: OnnxGenerator) -> None:
    smallest = runtime.smallest_feasible_ms()
    assert runtime.generate(Query(smallest)).best.architecture.encoding == runtime.bundle.front[0].encoding
    with pytest.raises(InfeasibleBudgetError, match=f"needs {smallest:g}") as caught:
        runtime.generate(Query(smallest - 0.001))
    assert caught.value.smallest_feasible_ms == smallest
    assert caught.value.encoding == runtime.bundle.front[0].encoding


def test_one_impossible_query_leaves_the_others_alone(runtime: OnnxGenerator) -> None:
    found = runtime.generate_many([Query(0.01), Query(1e4), Query(1e4, Limits(macs_m=1))])
    assert isinstance(found[0], InfeasibleBudgetError)
    assert isinstance(found[1], Answer)
    assert isinstance(found[2], InfeasibleBudgetError)
    assert "limits.macs_m is 1" in str(found[2])


def test_limits_at_the_fastest_network_leave_that_and_below_it_nothing(runtime: OnnxGenerator) -> None:
    fastest = runtime.generate(Query(runtime.smallest_feasible_ms())).best.predicted
    assert fastest.macs is not None
    tight = runtime.generate(Query(1e4, Limits(macs_m=fastest.macs / 1e6)))
    assert tight.best.predicted.macs == fastest.macs
    with pytest.raises(InfeasibleBudgetError, match=r"limits\.macs_m is .* raise that limit"):
        runtime.generate(Query(1e4, Limits(macs_m=fastest.macs / 1e6 * 0.99)))


@pytest.mark.parametrize("budget", [0, -1, math.nan, math.inf, -math.inf, True, "20", None, 1e-9])
def test_a_budget_that_is_no_positive_number_is_refused(budget: object) -> None:
    with pytest.raises(BudgetError, match="budget_ms is"):
        Query(budget)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["macs_m", "params_m", "size_mb", "peak_memory_mb"])
@pytest.mark.parametrize("value", [0, -5.0, math.nan, math.inf])
def test_a_limit_that_is_no_positive_number_is_refused(name: str, value: float) -> None:
    with pytest.raises(BudgetError, match=f"{name} is"):
        Limits(**{name: value})


def test_budgets_are_rounded_down_to_microseconds() -> None:
    assert Query(20.0009).budget_ms == 20.0
    assert Query(20.001).budget_ms == 20.001
    assert Query(0.3).budget_ms == 0.3


@pytest.mark.parametrize("coverage", [0.49, 1.0, -1, 2, math.nan])
def test_a_coverage_outside_its_range_is_refused(runtime: OnnxGenerator, coverage: float) -> None:
    with pytest.raises(BudgetError, match="coverage is"):
        runtime.generate(Query(20, coverage=coverage))


def test_the_plain_prediction_is_coverage_one_half(runtime: OnnxGenerator) -> None:
    predicted = runtime.generate(Query(20, coverage=0.5)).best.predicted
    assert predicted.latency_upper_ms == predicted.latency_ms


def test_the_front_can_be_cut_and_thinned(runtime: OnnxGenerator) -> None:
    whole = runtime.pareto_front()
    assert len(whole) == len(runtime.bundle.front)
    upper = [c.predicted.latency_upper_ms for c in whole]
    assert upper == sorted(upper)
    low, high = upper[len(upper) // 4], upper[len(upper) // 2]
    cut = runtime.pareto_front(min_ms=low, max_ms=high)
    assert [c.architecture for c in cut] == [
        c.architecture for c in whole if low <= c.predicted.latency_upper_ms <= high
    ]
    thin = runtime.pareto_front(points=10)
    assert len(thin) == 10
    assert (thin[0], thin[-1]) == (whole[0], whole[-1])
    assert runtime.pareto_front(min_ms=1e6) == []


def test_predict_refuses_the_first_bad_encoding(runtime: OnnxGenerator) -> None:
    with pytest.raises(EncodingError, match="expected 5"):
        runtime.predict([runtime.bundle.front[0].encoding, "1:2:3"])


def test_the_interval_holds_the_prediction(runtime: OnnxGenerator) -> None:
    for candidate in runtime.pareto_front(points=20):
        interval = candidate.predicted.accuracy_interval
        assert interval is not None
        assert 0 <= interval[0] < candidate.predicted.accuracy < interval[1] < 1
