"""Properties of mutants and children, on the spaces that ship and on two made to be awkward."""

import numpy as np
import pytest

from pnag.models.space.registry import SPACES, get_space
from pnag.models.space.search_space import INACTIVE, SearchSpace
from pnag.trainer.generator.variation import crossover, mutate
from tests.fixtures.spaces import Awkward, small_space


@pytest.fixture(params=[*SPACES, "awkward", "small"])
def space(request: pytest.FixtureRequest) -> SearchSpace:
    made = {"awkward": Awkward, "small": small_space}
    return made[request.param]() if request.param in made else get_space(request.param)


def test_mutants_and_children_are_valid_and_never_forbidden(space: SearchSpace) -> None:
    rng = np.random.default_rng(1)
    parents, others = space.sample(300, rng), space.sample(300, rng)
    for batch in (mutate(space, parents, 0.7, rng), crossover(space, parents, others, rng)):
        assert len(batch) == 300
        space.validate(batch)


def test_mutation_at_zero_changes_nothing_and_at_one_moves_most(space: SearchSpace) -> None:
    rng = np.random.default_rng(3)
    parents = space.sample(100, rng)
    assert np.array_equal(mutate(space, parents, 0.0, rng), parents)
    assert (mutate(space, parents, 1.0, rng) != parents).any(axis=1).mean() > 0.5


def test_crossing_an_architecture_with_itself_gives_itself(space: SearchSpace) -> None:
    rng = np.random.default_rng(4)
    parents = space.sample(100, rng)
    assert np.array_equal(crossover(space, parents, parents, rng), parents)


def test_a_child_takes_each_active_decision_from_a_parent_that_has_it(space: SearchSpace) -> None:
    rng = np.random.default_rng(5)
    first, second = space.sample(200, rng), space.sample(200, rng)
    child = crossover(space, first, second, rng)
    orphaned = (child != first) & (child != second) & (child != INACTIVE)
    neither_had_it = (first == INACTIVE) & (second == INACTIVE)
    assert not (orphaned & ~neither_had_it).any()
