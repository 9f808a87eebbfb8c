"""The comparison: every method under the same counted evaluator, scored against what brute force knows."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pnag.bench.search import front
from pnag.bench.search.front import Answers, Reference, find_reference, regret, run_methods, scaled_config, score
from pnag.bench.search.methods.registry import METHODS
from pnag.bench.search.methods.run import MethodRun
from pnag.bench.search.problem import Problem, best_of
from pnag.bench.search.report import markdown, summarise
from pnag.models.cost.additive import LayerCost
from pnag.models.cost.slack import SlackTable
from pnag.models.space.registry import get_space
from pnag.trainer.config import GeneratorConfig, ReinforceConfig, TrainConfig
from pnag.trainer.data.records import Records
from pnag.trainer.progress import SILENT

SPACE = get_space("nas-bench-macro").restrict({f"layer{i}": ("identity", "mbconv_k3_e3") for i in (2, 4, 5, 7, 8)})
COST = LayerCost(SPACE, lambda layer: layer.macs / 1e6)
SLACK = SlackTable.build(SPACE, [COST])
EVERYTHING = SPACE.assignments([d.name for d in SPACE.decisions])
WEIGHTS = np.random.default_rng(5).uniform(0.5, 1.5, 8)
ALLOWANCE = 150
CONFIG = TrainConfig(generator=GeneratorConfig(embedding=8, hidden=16, steps=60), reinforce=ReinforceConfig())


def _accuracy(tokens_ND: np.ndarray) -> np.ndarray:
    return 0.9 - 0.3 * np.exp(-0.2 * ((tokens_ND > 0) * WEIGHTS + 0.5 * (tokens_ND > 1) * WEIGHTS).sum(axis=1))


@pytest.fixture(scope="module")
def problem() -> Problem:
    low, high = COST(EVERYTHING).min(), COST(EVERYTHING).max()
    records = Records(EVERYTHING[:4], tuple(SPACE.encode(t) for t in EVERYTHING[:4]), None, None, "invented.csv")
    figures = {"kendall_tau": 1.0, "macs_only_kendall_tau": 0.5, "mae_percent": 0.0}
    return Problem(
        "tiny", SPACE, "no device", "M MACs", COST, SLACK, _accuracy, lambda t: _accuracy(t) - 0.01, records,
        float(low), float(high), np.linspace(low, high, 12)[1:-1], figures,
    )  # fmt: skip


@pytest.fixture(scope="module")
def runs(problem: Problem, tmp_path_factory: pytest.TempPathFactory) -> list[Answers]:
    return run_methods(problem, list(METHODS), [0], ALLOWANCE, 8, tmp_path_factory.mktemp("runs"), SILENT, CONFIG)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_keeps_to_its_allowance_and_its_answers_to_their_budgets(
    name: str, problem: Problem, runs: list[Answers]
) -> None:
    (answers,) = [a for a in runs if a.method == name]
    assert answers.fit_calls <= (len(EVERYTHING) if name == "exhaustive" else ALLOWANCE)
    known = np.isfinite(answers.cost_B)
    assert (answers.cost_B[known] <= problem.budgets_B[known]).all()
    for encoding, cost, accuracy in zip(answers.encodings, answers.cost_B, answers.accuracy_B, strict=True):
        if encoding is not None:
            tokens = SPACE.decode(encoding)[np.newaxis]
            assert (cost, accuracy) == pytest.approx((COST(tokens)[0], _accuracy(tokens)[0]))


def test_exhaustive_search_has_no_regret_and_nobody_has_less(
    problem: Problem, runs: list[Answers], tmp_path: Path
) -> None:
    reference = find_reference(problem, runs, tmp_path, SILENT)
    figures = {a.method: score(problem, reference, a) for a in runs}
    assert figures["exhaustive"]["max_regret"] == 0
    assert figures["exhaustive"]["hypervolume_percent"] == pytest.approx(100)
    assert figures["exhaustive"]["true_max_regret"] == pytest.approx(0)
    assert all(f["mean_regret"] >= 0 and f["hypervolume_percent"] <= 100 + 1e-9 for f in figures.values())
    assert figures["elite-imitation+front"]["mean_regret"] <= figures["elite-imitation"]["mean_regret"]
    assert figures["elite-imitation"]["mean_regret"] < figures["random"]["mean_regret"]
    assert figures["macs-only"]["fit_calls"] == 0


def test_a_run_that_is_on_disk_is_not_run_again(
    problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (first,) = run_methods(problem, ["random"], [0], ALLOWANCE, 8, tmp_path, SILENT, CONFIG)
    monkeypatch.setattr(front, "run_method", lambda *_: pytest.fail("ran again"))
    (again,) = run_methods(problem, ["random"], [0], ALLOWANCE, 8, tmp_path, SILENT, CONFIG)
    assert again.encodings == first.encodings
    np.testing.assert_array_equal(again.accuracy_B, first.accuracy_B)


def test_runs_of_another_setting_are_not_mixed_in(
    problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_methods(problem, ["random"], [0], ALLOWANCE, 8, tmp_path, SILENT, CONFIG)
    ran: list[str] = []
    original = front.run_method

    def watched(run: MethodRun, name: str) -> Answers:
        ran.append(name)
        return original(run, name)

    monkeypatch.setattr(front, "run_method", watched)
    other = replace(problem, accuracy=lambda t: _accuracy(t) / 2)
    run_methods(other, ["random"], [0], ALLOWANCE, 8, tmp_path, SILENT, CONFIG)
    run_methods(problem, ["random"], [0], ALLOWANCE + 1, 8, tmp_path, SILENT, CONFIG)
    assert ran == ["random", "random"]


def test_regret_is_what_an_answer_lacks_and_an_answer_over_budget_is_worth_the_cheapest() -> None:
    best = np.array([0.8, 0.8, 0.8])
    found = regret(best, np.array([0.8, 0.75, 0.95]), np.array([True, True, False]), cheapest_accuracy=0.6)
    np.testing.assert_allclose(found, [0.0, 0.05, 0.2])


def test_the_best_within_a_budget_is_found_as_by_looking_at_all() -> None:
    rng = np.random.default_rng(0)
    cost, accuracy = rng.integers(0, 9, 30).astype(float), rng.integers(0, 9, 30) / 10
    for budget, place in zip(budgets := np.arange(-1.0, 10.0), best_of(cost, accuracy, budgets), strict=True):
        fits = [i for i in range(30) if cost[i] <= budget]
        if not fits:
            assert place == -1
        else:
            top = max(accuracy[i] for i in fits)
            assert accuracy[place] == top
            assert cost[place] == min(cost[i] for i in fits if accuracy[i] == top)


def test_an_unanswered_budget_counts_as_the_cheapest_network_and_adds_no_hypervolume(problem: Problem) -> None:
    nothing = np.full(len(problem.budgets_B), np.nan)
    silent = Answers("random", 0, (None,) * len(nothing), nothing, nothing, None, 0, 0, 0.0, 0.0)
    front_cost, front_accuracy = COST(EVERYTHING), _accuracy(EVERYTHING)
    reference = Reference("all", front_cost, front_accuracy, float(_accuracy(EVERYTHING).min()), None, None)
    figures = score(problem, reference, silent)
    assert figures["unanswered"] == len(nothing)
    assert figures["hypervolume_percent"] == 0
    assert figures["violations"] == 0
    expected = 100 * np.mean(reference.best(problem.budgets_B) - reference.cheapest_accuracy)
    assert figures["mean_regret"] == pytest.approx(expected)


def test_the_table_lists_every_method_best_first(problem: Problem, runs: list[Answers], tmp_path: Path) -> None:
    summary = summarise(problem, find_reference(problem, runs, tmp_path, SILENT), runs)
    rows = [line.split(" | ") for line in markdown(summary).splitlines()[2:]]
    assert len(rows) == len(METHODS)
    regrets = [float(row[1]) for row in rows]
    assert regrets == sorted(regrets)


@pytest.mark.parametrize("allowance", [100, 1_000, 50_000, 1_000_000])
def test_evolution_leaves_calls_for_the_rest_of_our_training(allowance: int) -> None:
    archive = scaled_config(TrainConfig(), allowance).archive
    assert archive.initial + archive.generations * archive.children <= 0.8 * allowance


def test_an_answer_for_other_budgets_is_refused_by_methods_that_search_per_budget(problem: Problem) -> None:
    run = MethodRun(problem, ALLOWANCE, 8, 0, scaled_config(CONFIG, ALLOWANCE), SILENT)
    answerer = METHODS["evo"].fit(run, problem.objective(ALLOWANCE))
    with pytest.raises(AssertionError, match="test budgets alone"):
        answerer(problem.budgets_B + 0.1, problem.objective())
