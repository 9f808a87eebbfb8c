"""Pareto dominance at a budget (PNAG, eq. 5), the loss that teaches it (eq. 4), and a score's agreement with it.

Axis letters: N = architectures, K = budgets.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Floats = NDArray[np.float64]


def dominance(cost_N: Floats, accuracy_N: Floats, budgets_K: Floats) -> NDArray[np.int8]:
    """d[k, i, j] = 1 if architecture i is better than j at budget k, -1 if worse, 0 if neither; eq. 5.

    Both within the budget: higher accuracy first. Otherwise lower cost first, so what fits comes before what does not.
    """
    fits_KN = cost_N <= budgets_K[:, np.newaxis]
    both_fit_KNN = fits_KN[:, :, np.newaxis] & fits_KN[:, np.newaxis, :]
    by_accuracy_NN = np.sign(accuracy_N[:, np.newaxis] - accuracy_N[np.newaxis, :])
    by_cost_NN = np.sign(cost_N[np.newaxis, :] - cost_N[:, np.newaxis])
    return np.where(both_fit_KNN, by_accuracy_NN, by_cost_NN).astype(np.int8)


def composite_score(cost_N: Floats, accuracy_N: Floats, budget_N: Floats, cost_range: float) -> Floats:
    """R(a | B) = accuracy if the cost fits, else -(cost - B) / range: it orders every pair as eq. 5 does, exactly.

    Accuracies are at least 0 and what does not fit is below 0.
    """
    return np.where(cost_N <= budget_N, accuracy_N, -(cost_N - budget_N) / cost_range)


def ranking_loss(score_KN: "Tensor", dominance_KNN: "Tensor", margin: float) -> "Tensor":
    """Mean hinge over K budgets and the M (M - 1) ordered pairs of each; eq. 4.

        L = 1 / (K M (M - 1)) * sum over k, i != j of max(0, margin - d(i, j, B_k) (R(i | B_k) - R(j | B_k)))

    A pair of equals (d = 0) has no order to learn and adds nothing. Scalar, >= 0; 0 when M < 2.
    """
    count = score_KN.shape[1]
    if count < 2:
        return score_KN.sum() * 0.0
    gap_KNN = score_KN.unsqueeze(2) - score_KN.unsqueeze(1)
    hinge_KNN = (margin - dominance_KNN * gap_KNN).clamp(min=0.0) * dominance_KNN.abs()
    return hinge_KNN.sum() / (score_KN.shape[0] * count * (count - 1))


@dataclass(frozen=True)
class PairAgreement:
    """Shares of pairs that a score orders as eq. 5 does; NaN where there are no such pairs.

    Attributes:
        accuracy: share of pairs in the right order, all of them.
        kendall_tau: right minus wrong, over all pairs with an order.
        feasible_accuracy, feasible_tau: pairs in which both fit the budget.
        infeasible_accuracy, infeasible_tau: pairs in which at least one does not.
        misjudged_budget: share of (architecture that does not fit, architecture that does) pairs in the wrong order.
    """

    accuracy: float
    kendall_tau: float
    feasible_accuracy: float
    feasible_tau: float
    infeasible_accuracy: float
    infeasible_tau: float
    misjudged_budget: float


def pair_agreement(score_KN: Floats, cost_N: Floats, accuracy_N: Floats, budgets_K: Floats) -> PairAgreement:
    """Compare the order of scores with the order of eq. 5 over all pairs and budgets."""
    order_KNN = dominance(cost_N, accuracy_N, budgets_K)
    agreement_KNN = order_KNN * np.sign(score_KN[:, :, np.newaxis] - score_KN[:, np.newaxis, :])
    fits_KN = cost_N <= budgets_K[:, np.newaxis]
    both_KNN = fits_KN[:, :, np.newaxis] & fits_KN[:, np.newaxis, :]
    mixed_KNN = fits_KN[:, :, np.newaxis] & ~fits_KN[:, np.newaxis, :]
    ordered_KNN = order_KNN != 0

    def share(chosen_KNN: NDArray[np.bool_]) -> tuple[float, float]:
        values = agreement_KNN[chosen_KNN & ordered_KNN]
        if not len(values):
            return float("nan"), float("nan")
        return float(np.mean(values > 0)), float(np.mean(values))

    everything, feasible, infeasible = share(np.ones_like(both_KNN)), share(both_KNN), share(~both_KNN)
    return PairAgreement(*everything, *feasible, *infeasible, 1.0 - share(mixed_KNN)[0])
