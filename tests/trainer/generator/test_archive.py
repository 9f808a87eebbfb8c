import numpy as np
import pytest

from pnag.models.cost.additive import LayerCost, macs_cost, params_cost
from pnag.models.cost.slack import SlackTable
from pnag.models.pareto import pareto_front
from pnag.models.space.registry import get_space
from pnag.models.space.search_space import INACTIVE
from pnag.trainer.config import ArchiveConfig
from pnag.trainer.generator.archive import (
    Archive,
    budget_grid,
    ends,
    neighbours,
    search_archive,
)
from pnag.trainer.generator.objective import Objective
from pnag.trainer.progress import show_progress

SPACE = get_space("nas-bench-macro")
EVERYTHING = SPACE.assignments([d.name for d in SPACE.decisions])
COST = LayerCost(SPACE, lambda layer: layer.macs / 1e6)


def _accuracy(tokens_ND: np.ndarray) -> np.ndarray:
    """Rugged on purpose: pairs of layers interact, so one decision at a time is not enough."""
    weights = np.random.default_rng(3).normal(size=(8, 8))
    deep = (tokens_ND == 2) + 0.6 * (tokens_ND == 1)
    return 0.7 + 0.01 * deep.sum(axis=1) + 0.004 * np.einsum("ni,ij,nj->n", deep, weights, deep)


def test_the_search_finds_nearly_the_whole_front_and_counts_its_calls() -> None:
    objective = Objective(COST, _accuracy)
    slack = SlackTable.build(SPACE, [COST, macs_cost(SPACE), params_cost(SPACE)])
    config = ArchiveConfig(cells=64, initial=200, generations=15, children=150)
    with show_progress() as progress:
        archive = search_archive(SPACE, slack, objective, config, np.random.default_rng(0), progress)
    assert archive.tokens_ND is not None
    found = {SPACE.encode(archive.tokens_ND[i]) for i in archive.front_indices()}
    cost, accuracy = COST(EVERYTHING), _accuracy(EVERYTHING)
    true = {SPACE.encode(EVERYTHING[i]) for i in pareto_front(cost, accuracy)}
    assert len(found & true) / len(true) > 0.95
    assert 200 < objective.calls < 6561


def test_elites_are_the_best_that_fit_by_brute_force() -> None:
    rng = np.random.default_rng(1)
    archive = Archive(SPACE, Objective(COST, _accuracy), budget_grid(0.0, 200.0, 12), elites=3)
    added = SPACE.sample(400, rng)
    for part in np.array_split(added, 4):
        archive.add(part)
    distinct = np.unique(added, axis=0)
    cost, accuracy = COST(distinct), _accuracy(distinct)
    for budget, row in zip(archive.budgets_J, archive.elite_indices(archive.budgets_J), strict=True):
        expected = np.sort(accuracy[cost <= budget])[::-1][:3]
        kept = row[row >= 0]
        np.testing.assert_allclose(archive.accuracy_N[kept], expected)
        assert (archive.cost_N[kept] <= budget).all()


def test_nothing_is_evaluated_twice() -> None:
    objective = Objective(COST, _accuracy)
    archive = Archive(SPACE, objective, budget_grid(0.0, 200.0, 4), elites=2)
    for _ in range(3):
        archive.add(EVERYTHING[:100])
    assert objective.calls == 100


@pytest.mark.parametrize("name", ["nas-bench-macro", "ofa-mobilenetv3-w1.0"])
def test_neighbours_differ_in_one_active_decision_and_are_all_there(name: str) -> None:
    space = get_space(name).restrict({"resolution": (192, 224)} if "ofa" in name else {})
    tokens_D = space.sample(1, np.random.default_rng(2))[0]
    around = neighbours(space, tokens_D[np.newaxis])
    space.validate(around)
    both_active = (around != INACTIVE) & (tokens_D != INACTIVE)
    assert (((around != tokens_D) & both_active).sum(axis=1) == 1).all()
    active = tokens_D != INACTIVE
    assert len(around) == int((space.num_options_D[active] - 1).sum())


def test_the_ends_are_the_cheapest_and_the_most_expensive_of_all() -> None:
    slack = SlackTable.build(SPACE, [COST])
    cost = COST(EVERYTHING)
    assert COST(ends(SPACE, slack)).tolist() == [cost.min(), cost.max()]
