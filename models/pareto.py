"""Comparing networks by cost (lower is better) and accuracy (higher is better): fronts, hypervolume, rank correlation.

Axis letters: N = networks, F = networks on a front.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def pareto_front(cost_N: Floats, accuracy_N: Floats) -> NDArray[np.int64]:  # noqa: N803 (N names the axis)
    """Indices of the networks that no other beats, by rising cost, shape [F].

    A network is beaten if another costs no more and is no less accurate, and one of the two strictly. Of exact twins
    the first stays, so both columns rise strictly. Empty input gives an empty front.
    """
    order = np.lexsort((-accuracy_N, cost_N))
    best_before = np.maximum.accumulate(np.concatenate([[-np.inf], accuracy_N[order]]))[:-1]
    return order[accuracy_N[order] > best_before].astype(np.int64)


def hypervolume(cost_N: Floats, accuracy_N: Floats, reference_cost: float, reference_accuracy: float) -> float:
    """Area between the front and a reference point that is worse than all (Zitzler and Thiele, 1998); 2-D, exact.

    Networks that do not beat the reference point in both add nothing; no networks give 0.
    """
    inside = (cost_N < reference_cost) & (accuracy_N > reference_accuracy)
    cost, accuracy = cost_N[inside], accuracy_N[inside]
    front = pareto_front(cost, accuracy)
    right = np.append(cost[front][1:], reference_cost)
    return float(np.sum((right - cost[front]) * (accuracy[front] - reference_accuracy)))


def hypervolume_nd(points_NM: Floats, reference_M: Floats) -> float:  # noqa: N803
    """Volume dominated by points in M objectives, all to be lowered, up to a reference point that is worse than all.

    Exact, by the exclusive contributions of one point after the other (While et al., 2012); points that do not beat the
    reference in every objective add nothing, no points give 0. Meant for the hundred points of a front.

    Raises:
        ValueError: if the numbers of objectives differ.
    """
    if points_NM.ndim != 2 or points_NM.shape[1:] != reference_M.shape:
        raise ValueError(
            f"points have shape {points_NM.shape}, the reference {reference_M.shape}; expected [N, M], [M]"
        )
    return _dominated_volume(points_NM[np.all(points_NM < reference_M, axis=1)], reference_M)


def _dominated_volume(points_NM: Floats, reference_M: Floats) -> float:
    points_NM = np.unique(points_NM, axis=0)
    no_worse_NN = np.all(points_NM[:, np.newaxis] <= points_NM[np.newaxis], axis=2)
    np.fill_diagonal(no_worse_NN, False)
    front = points_NM[~no_worse_NN.any(axis=0)]
    total = 0.0
    for i, point_M in enumerate(front):
        # What later points dominate too is theirs: cut their boxes to this one's and take that volume off.
        shared = np.maximum(front[i + 1 :], point_M)
        total += float(np.prod(reference_M - point_M)) - (
            _dominated_volume(shared, reference_M) if len(shared) else 0.0
        )
    return total


def best_within(cost_F: Floats, budget_B: Floats) -> NDArray[np.int64]:  # noqa: N803
    """For each budget the index of the front's most expensive point that fits, -1 where none does.

    `cost_F` must rise, as `pareto_front` orders it; on a front the dearest that fits is also the most accurate.
    """
    return np.searchsorted(cost_F, budget_B, side="right").astype(np.int64) - 1


def kendall_tau(first_N: Floats, second_N: Floats) -> float:  # noqa: N803
    """Kendall's tau-b: agreement of two orderings in [-1, 1], ties counted as neither; NaN if one side is all ties.

    Pairs in O(N^2) memory-bounded blocks: exact, and fast enough for the few thousand networks of a held-out set.
    """
    concordant = ties_first = ties_second = 0.0
    count = len(first_N)
    for i in range(count - 1):
        sign_first = np.sign(first_N[i + 1 :] - first_N[i])
        sign_second = np.sign(second_N[i + 1 :] - second_N[i])
        concordant += float(sign_first @ sign_second)
        ties_first += float(np.sum(sign_first == 0))
        ties_second += float(np.sum(sign_second == 0))
    pairs = count * (count - 1) / 2
    untied = (pairs - ties_first) * (pairs - ties_second)
    return concordant / untied**0.5 if untied > 0 else float("nan")
