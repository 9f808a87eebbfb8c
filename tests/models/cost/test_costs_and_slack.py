"""Batched costs against layer-by-layer sums; floors against the cheapest completion found by enumeration."""

import numpy as np
import pytest

from pnag.models.cost.additive import LayerCost, macs_cost, params_cost, peak_activations_cost
from pnag.models.cost.slack import SlackTable
from pnag.models.space.registry import get_space
from pnag.models.space.search_space import INACTIVE, SearchSpace
from tests.models.space.test_search_space import Awkward


@pytest.fixture(params=["awkward", "nas-bench-macro", "ofa-mobilenetv3-w1.0"])
def space(request: pytest.FixtureRequest) -> SearchSpace:
    return Awkward() if request.param == "awkward" else get_space(request.param)


def test_batched_costs_equal_layer_by_layer_sums(space: SearchSpace) -> None:
    tokens_ND = space.sample(60, np.random.default_rng(0))
    layers = [space.layers(space.encode(row)) for row in tokens_ND]
    assert macs_cost(space)(tokens_ND).tolist() == [sum(x.macs for x in net) for net in layers]
    assert params_cost(space)(tokens_ND).tolist() == [sum(x.params for x in net) for net in layers]
    assert peak_activations_cost(space)(tokens_ND).tolist() == [max(x.peak_activations for x in net) for net in layers]
    assert LayerCost(space, lambda _: 1.0, constant=0.5)(tokens_ND).tolist() == [len(net) + 0.5 for net in layers]


def test_a_cost_does_not_depend_on_who_else_is_asked_for(space: SearchSpace) -> None:
    cost = LayerCost(space, lambda layer: layer.macs**0.37, constant=0.1)
    tokens_ND = space.sample(300, np.random.default_rng(2))
    together = cost(tokens_ND).tolist()
    assert together == [cost(row_D[np.newaxis])[0] for row_D in tokens_ND]
    assert together == cost(np.asfortranarray(tokens_ND)).tolist()


def test_the_last_floor_plus_the_last_step_is_the_cost(space: SearchSpace) -> None:
    costs = [macs_cost(space), LayerCost(space, lambda layer: layer.params**0.5, constant=3.0)]
    slack = SlackTable.build(space, costs)
    tokens_ND = space.sample(200, np.random.default_rng(1))
    last = slack.entries(tokens_ND)[:, -1] + np.maximum(tokens_ND[:, -1], 0)
    reached_NK = slack.lower_bounds(tokens_ND)[:, -1] + slack.steps_RK[last]
    for k, cost in enumerate(costs):
        np.testing.assert_allclose(reached_NK[:, k], cost(tokens_ND), rtol=2e-6)


def test_a_floor_is_the_cost_of_the_cheapest_completion() -> None:
    """By enumeration. The awkward space's groups overlap, so there the floor may only be a lower bound."""
    for space, exact in ((get_space("nas-bench-macro"), True), (Awkward(), False)):
        cost = LayerCost(space, lambda layer: layer.macs % 1009 + 1.0)
        slack = SlackTable.build(space, [cost])
        everything = space.assignments([d.name for d in space.decisions])
        total = cost(everything)
        for tokens_D in everything[:: max(1, len(everything) // 40)]:
            floors = slack.lower_bounds(tokens_D[np.newaxis])[0, :, 0]
            for t in range(len(tokens_D)):
                cheapest = total[(everything[:, :t] == tokens_D[:t]).all(axis=1)].min()
                if exact:
                    assert floors[t] == pytest.approx(cheapest, rel=1e-5)
                else:
                    assert floors[t] <= cheapest + 1e-3


def test_option_steps_exist_exactly_where_options_do(space: SearchSpace) -> None:
    slack = SlackTable.build(space, [macs_cost(space)])
    tokens_ND = space.sample(50, np.random.default_rng(2))
    finite_NDC = np.isfinite(slack.option_steps(tokens_ND)[..., 0])
    for row, tokens_D in enumerate(tokens_ND):
        for t, decision in enumerate(space.decisions):
            expected = 1 if tokens_D[t] == INACTIVE else len(decision.options)
            assert finite_NDC[row, t].sum() == expected


def test_inactive_entries_are_those_of_inactive_decisions(space: SearchSpace) -> None:
    slack = SlackTable.build(space, [macs_cost(space)])
    tokens_ND = space.sample(100, np.random.default_rng(3))
    assert np.array_equal(slack.inactive_R[slack.entries(tokens_ND)], tokens_ND == INACTIVE)
