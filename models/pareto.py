"""Comparing networks by cost (lower is better) and accuracy (higher is better): fronts and hypervolume.

Axis letters: N = networks, F = networks on a front.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def pareto_front(cost_N: Floats, accuracy_N: Floats) -> NDArray[np.int64]:  # noqa: N803 (N names the axis)
    """Indices of the networks that no other beats, by rising cost, shape [F].

    A network is beaten if another costs no more and is no less accurate, and one of the two strictly. Of exact copies
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
