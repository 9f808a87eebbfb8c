import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pnag.trainer.evaluator.dominance import composite_score, dominance, pair_agreement, ranking_loss

UP_TO_8 = st.integers(0, 8)


def architectures(rows=UP_TO_8):
    """Columns: cost 0..8, accuracy 0, .1 ... 1; few values, so that ties are common."""
    return rows.flatmap(
        lambda n: st.tuples(
            arrays(np.float64, n, elements=st.integers(0, 8).map(float)),
            arrays(np.float64, n, elements=st.integers(0, 10).map(lambda v: v / 10)),
        )
    )


def better(cost_i, accuracy_i, cost_j, accuracy_j, budget):
    """Eq. 5 in words."""
    if cost_i <= budget and cost_j <= budget:
        return int(accuracy_i > accuracy_j) - int(accuracy_i < accuracy_j)
    return int(cost_i < cost_j) - int(cost_i > cost_j)


@given(architectures(), st.lists(st.integers(-1, 9).map(float), min_size=1, max_size=3))
def test_dominance_is_equation_5(columns, budgets):
    cost, accuracy = columns
    order = dominance(cost, accuracy, np.array(budgets))
    for k, budget in enumerate(budgets):
        for i in range(len(cost)):
            for j in range(len(cost)):
                assert order[k, i, j] == better(cost[i], accuracy[i], cost[j], accuracy[j], budget)


def test_what_fits_comes_before_what_does_not_however_accurate():
    order = dominance(np.array([10.0, 30.0]), np.array([0.5, 0.9]), np.array([20.0, 40.0]))
    assert order[:, 0, 1].tolist() == [1, -1]


@given(architectures(), st.integers(-1, 9).map(float))
def test_the_composite_score_orders_every_pair_as_equation_5_does(columns, budget):
    cost, accuracy = columns
    score = composite_score(cost, accuracy, np.full(len(cost), budget), 8.0)
    order = np.sign(score[:, np.newaxis] - score[np.newaxis, :])
    assert np.array_equal(order, dominance(cost, accuracy, np.array([budget]))[0])


@pytest.mark.parametrize(("gap", "loss"), [(0.0, 1.0), (0.25, 0.75), (1.0, 0.0), (3.0, 0.0), (-2.0, 3.0)])
def test_the_hinge_of_one_pair_is_what_its_gap_lacks_of_the_margin(gap, loss):
    order = torch.tensor([[[0.0, 1.0], [-1.0, 0.0]]])
    assert ranking_loss(torch.tensor([[gap, 0.0]]), order, margin=1.0).item() == pytest.approx(loss)


@given(architectures(st.integers(2, 6)), st.integers(0, 2**32 - 1))
def test_the_ranking_loss_is_equation_4(columns, seed):
    cost, accuracy = columns
    budgets = np.array([1.0, 4.0, 7.0])
    score = np.random.default_rng(seed).normal(size=(3, len(cost)))
    total = 0.0
    for k, budget in enumerate(budgets):
        for i in range(len(cost)):
            for j in range(len(cost)):
                d = better(cost[i], accuracy[i], cost[j], accuracy[j], budget)
                if i != j and d != 0:
                    total += max(0.0, 0.5 - d * (score[k, i] - score[k, j]))
    expected = total / (3 * len(cost) * (len(cost) - 1))
    order = torch.from_numpy(dominance(cost, accuracy, budgets).astype(np.float64))
    assert ranking_loss(torch.from_numpy(score), order, margin=0.5).item() == pytest.approx(expected)


def test_one_architecture_has_no_pairs_to_rank():
    assert ranking_loss(torch.ones(3, 1), torch.zeros(3, 1, 1), margin=1.0).item() == 0.0


def test_agreement_is_split_by_what_fits():
    cost, accuracy, budgets = np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.1, 0.2, 0.9, 0.8]), np.array([2.0])
    # Right among the two that fit, wrong between the two that do not, and 4.0 is believed to fit better than 1.0.
    score = np.array([[0.1, 0.2, -2.0, 0.15]])
    found = pair_agreement(score, cost, accuracy, budgets)
    assert (found.feasible_accuracy, found.feasible_tau) == (1.0, 1.0)
    assert found.infeasible_accuracy == pytest.approx(3 / 5)
    assert found.misjudged_budget == pytest.approx(1 / 4)
    assert found.accuracy == pytest.approx(4 / 6)
    assert found.kendall_tau == pytest.approx(2 / 6)


def test_agreement_of_pairs_that_do_not_exist_is_undefined():
    found = pair_agreement(np.zeros((1, 2)), np.array([1.0, 2.0]), np.array([0.1, 0.2]), np.array([9.0]))
    assert math.isnan(found.infeasible_tau)
