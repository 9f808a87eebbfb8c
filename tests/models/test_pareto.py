import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pymoo.indicators.hv import HV

from pnag.models.pareto import best_within, hypervolume, hypervolume_nd, kendall_tau, pareto_front

UP_TO_12 = st.integers(0, 12)


def small_grid(rows=UP_TO_12, columns=2):
    """Few values, so that ties and twins are common."""
    return rows.flatmap(lambda n: arrays(np.float64, (n, columns), elements=st.integers(0, 6).map(float)))


def beats(one, other):
    """The definition, in words: costs no more, no less accurate, and one of the two strictly."""
    return one[0] <= other[0] and one[1] >= other[1] and tuple(one) != tuple(other)


@given(small_grid())
def test_the_front_is_what_nobody_beats(points):
    front = pareto_front(points[:, 0], points[:, 1])
    unbeaten = {tuple(p) for p in points if not any(beats(q, p) for q in points)}
    assert [tuple(p) for p in points[front]] == sorted(unbeaten)


def test_of_exact_twins_the_first_stays():
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


@given(st.integers(1, 4).flatmap(lambda m: small_grid(st.integers(0, 9), m)))
@settings(max_examples=60)
def test_hypervolume_in_any_dimension_agrees_with_pymoo(points):
    reference = np.full(points.shape[1], 5.0)
    expected = HV(ref_point=reference)(points) if len(points) else 0.0
    assert hypervolume_nd(points, reference) == pytest.approx(expected)


@given(st.integers(2, 3).flatmap(lambda m: small_grid(st.integers(0, 6), m)))
@settings(max_examples=40)
def test_hypervolume_in_any_dimension_counts_the_cells_that_a_point_dominates(points):
    cells = np.stack(np.meshgrid(*[np.arange(5)] * points.shape[1], indexing="ij"), -1).reshape(-1, points.shape[1])
    dominated = [any((p <= cell).all() for p in points) for cell in cells]
    assert hypervolume_nd(points, np.full(points.shape[1], 5.0)) == pytest.approx(sum(dominated))


@given(small_grid())
def test_hypervolume_in_two_dimensions_is_the_same_either_way(points):
    flipped = points * [1, -1]
    assert hypervolume_nd(flipped, np.array([5.0, -1.0])) == pytest.approx(
        hypervolume(points[:, 0], points[:, 1], 5.0, 1.0)
    )


def test_hypervolume_names_the_shapes_that_do_not_match():
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(2,\)"):
        hypervolume_nd(np.zeros((2, 3)), np.ones(2))


@given(small_grid(st.integers(1, 12)), st.integers(-1, 7))
def test_on_a_front_the_dearest_that_fits_is_the_most_accurate(points, budget):
    front = points[pareto_front(points[:, 0], points[:, 1])]
    place = int(best_within(front[:, 0], np.array([budget]))[0])
    fits = points[points[:, 0] <= budget]
    if len(fits):
        assert front[place, 1] == fits[:, 1].max()
    else:
        assert place == -1


@given(small_grid(st.integers(2, 10)))
def test_kendall_tau_counts_pairs(points):
    first, second = points.T
    pairs = [(i, j) for i in range(len(points)) for j in range(i)]
    signs = [(np.sign(first[i] - first[j]), np.sign(second[i] - second[j])) for i, j in pairs]
    untied = sum(a != 0 for a, _ in signs) * sum(b != 0 for _, b in signs)
    expected = sum(a * b for a, b in signs) / untied**0.5 if untied else float("nan")
    assert kendall_tau(first, second) == pytest.approx(expected, nan_ok=True)
