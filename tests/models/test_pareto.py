import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pymoo.indicators.hv import HV

from pnag.models.pareto import hypervolume, pareto_front

UP_TO_12 = st.integers(0, 12)


def small_grid(rows=UP_TO_12):
    """Few values, so that ties and copies are common."""
    return rows.flatmap(lambda n: arrays(np.float64, (n, 2), elements=st.integers(0, 6).map(float)))


def beats(one, other):
    """The definition, in words: costs no more, no less accurate, and one of the two strictly."""
    return one[0] <= other[0] and one[1] >= other[1] and tuple(one) != tuple(other)


@given(small_grid())
def test_the_front_is_what_nobody_beats(points):
    front = pareto_front(points[:, 0], points[:, 1])
    unbeaten = {tuple(p) for p in points if not any(beats(q, p) for q in points)}
    assert [tuple(p) for p in points[front]] == sorted(unbeaten)


def test_of_exact_copies_the_first_stays():
    assert pareto_front(np.array([2.0, 1.0, 1.0]), np.array([0.5, 0.5, 0.5])).tolist() == [1]


def test_hypervolume_of_two_steps_is_the_area_under_them():
    # 1 x (10 - 2) at height 0.3, then 0.2 more from 6 to 10.
    assert hypervolume(np.array([2.0, 6.0]), np.array([0.8, 1.0]), 10.0, 0.5) == pytest.approx(8 * 0.3 + 4 * 0.2)


@given(small_grid())
def test_hypervolume_agrees_with_pymoo(points):
    expected = HV(ref_point=np.array([5.0, -1.0]))(points * [1, -1]) if len(points) else 0.0
    assert hypervolume(points[:, 0], points[:, 1], 5.0, 1.0) == pytest.approx(expected)


@given(small_grid(), st.integers(0, 6), st.integers(0, 6))
def test_adding_a_point_never_shrinks_hypervolume(points, cost, accuracy):
    more = np.concatenate([points, [[cost, accuracy]]])
    before = hypervolume(points[:, 0], points[:, 1], 6.0, 0.0)
    assert hypervolume(more[:, 0], more[:, 1], 6.0, 0.0) >= before - 1e-12
