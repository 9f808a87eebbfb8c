"""Learn what a table-only space's architectures cost from measured ones, and how far to trust it.

    cost(a) = c + sum over i of s_i(a_i) + sum over i < j of p_ij(a_i, a_j)

Ridge regression of relative errors, so that a cheap network counts as much as a dear one. How strongly pairs are pulled
to zero, or that there are none, is chosen by cross-validation; its errors, of networks that had no part in their own
prediction, make the one-sided bound (models/latency_table.py).

Axis letters: N = records, D = decisions, P = parameters of the regression, F = folds.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from models.costs import GroupedCost
from models.search_space import SearchSpace, Tokens

Floats = NDArray[np.float64]

FOLDS = 5
SINGLE_PENALTY = 1e-3
PAIR_PENALTIES = (0.1, 1.0, 10.0, 100.0)
MAX_PARAMETERS = 3000
"""More than this, and only single decisions are fitted."""
MAX_RATIOS = 1000
_BLOCK = 4096


@dataclass(frozen=True)
class LearnedCost:
    """A fitted cost, and its errors by cross-validation.

    Attributes:
        cost: tokens -> cost, for the option order of the space it was fitted on.
        is_pairwise: whether pairs of decisions count.
        mape_percent: mean absolute relative error.
        ratios: measured / predicted of each record by the fold that had not seen it, rising; at most MAX_RATIOS.
    """

    cost: GroupedCost
    is_pairwise: bool
    mape_percent: float
    ratios: tuple[float, ...]


def learn_cost(space: SearchSpace, tokens_ND: Tokens, measured_N: Floats) -> LearnedCost:
    """Fit the cost of all architectures to those measured; values must be above 0."""
    free = [i for i in range(len(space.decisions)) if _is_free(space, i)]
    groups: list[tuple[int, ...]] = [(i,) for i in free]
    pairs: list[tuple[int, ...]] = list(combinations(free, 2))
    if _num_parameters(space, groups + pairs) > MAX_PARAMETERS:
        pairs = []
    design = _Design(space, [*groups, *pairs])
    num_single = 1 + _num_parameters(space, groups)
    folds_N = np.random.default_rng(0).permutation(len(tokens_ND)) % FOLDS
    normal_F = [design.normal_equations(tokens_ND[folds_N == f], measured_N[folds_N == f]) for f in range(FOLDS)]
    matrix_PP, target_P = sum(m for m, _ in normal_F), sum(t for _, t in normal_F)
    assert isinstance(matrix_PP, np.ndarray)
    assert isinstance(target_P, np.ndarray)
    best: tuple[float, float | None, Floats] | None = None
    for penalty in (None, *(PAIR_PENALTIES if pairs else ())):
        predicted_N = np.zeros(len(tokens_ND))
        for fold, (matrix, target) in enumerate(normal_F):
            weights_P = _solve(matrix_PP - matrix, target_P - target, num_single, penalty)
            predicted_N[folds_N == fold] = design.predict(tokens_ND[folds_N == fold], weights_P)
        predicted_N = np.maximum(predicted_N, 0.01 * measured_N.min())
        error = float(np.mean(np.abs(predicted_N / measured_N - 1)))
        # A richer model must earn its place: a tie goes to the additive one, which comes first.
        if best is None or error < 0.98 * best[0]:
            best = (error, penalty, predicted_N)
    assert best is not None
    error, penalty, predicted_N = best
    weights_P = _solve(matrix_PP, target_P, num_single, penalty)
    ratios_N = np.sort(measured_N / predicted_N)
    if len(ratios_N) > MAX_RATIOS:
        # Of each block the largest: a bound made from the sample is never below that from all.
        ratios_N = np.array([part[-1] for part in np.array_split(ratios_N, MAX_RATIOS)])
    ratios = tuple(round(float(r), 6) for r in ratios_N)
    return LearnedCost(design.cost(weights_P), penalty is not None, error * 100, ratios)


class _Design:
    """One column for the constant, then one per place of each group's table."""

    def __init__(self, space: SearchSpace, groups: Sequence[tuple[int, ...]]) -> None:
        self.space = space
        self.groups = [(group, tuple(int(space.num_options_D[i]) + 1 for i in group)) for group in groups]
        sizes = [int(np.prod(shape)) for _, shape in self.groups]
        self.starts = np.concatenate([[1], 1 + np.cumsum(sizes)]).astype(np.int64)

    def normal_equations(self, tokens_ND: Tokens, measured_N: Floats) -> tuple[Floats, Floats]:
        """X' W X and X' W y with W = 1 / measured^2."""
        matrix_PP = np.zeros((self.starts[-1], self.starts[-1]))
        target_P = np.zeros(self.starts[-1])
        for rows, columns_NG in self._columns(tokens_ND):
            x_NP = np.zeros((len(columns_NG), self.starts[-1]))
            np.put_along_axis(x_NP, columns_NG, (1 / measured_N[rows])[:, np.newaxis], axis=1)
            matrix_PP += x_NP.T @ x_NP
            target_P += x_NP.sum(axis=0)
        return matrix_PP, target_P

    def predict(self, tokens_ND: Tokens, weights_P: Floats) -> Floats:
        """Cost of each architecture, shape [N]."""
        parts = [weights_P[columns_NG].sum(axis=1) for _, columns_NG in self._columns(tokens_ND)]
        return np.concatenate(parts) if parts else np.zeros(0)

    def cost(self, weights_P: Floats) -> GroupedCost:
        """The same as look-ups."""
        tables = [
            (group, weights_P[start : start + int(np.prod(shape))].reshape(shape))
            for (group, shape), start in zip(self.groups, self.starts, strict=False)
        ]
        return GroupedCost([(g, t) for g, t in tables if np.any(t)], constant=float(weights_P[0]))

    def _columns(self, tokens_ND: Tokens) -> Iterator[tuple[slice, NDArray[np.int64]]]:
        for first in range(0, len(tokens_ND), _BLOCK):
            block = tokens_ND[first : first + _BLOCK]
            columns = [np.zeros(len(block), dtype=np.int64)]
            for (group, shape), start in zip(self.groups, self.starts, strict=False):
                places = tuple(np.where(block[:, i] < 0, n - 1, block[:, i]) for i, n in zip(group, shape, strict=True))
                columns.append(start + np.ravel_multi_index(places, shape))
            yield slice(first, first + len(block)), np.stack(columns, axis=1)


def _solve(matrix_PP: Floats, target_P: Floats, num_single: int, pair_penalty: float | None) -> Floats:
    """Ridge weights; without a pair penalty the pairs stay zero."""
    count = num_single if pair_penalty is None else len(target_P)
    # Scaled by the mean weight of a record, so that penalties mean the same in milliseconds and in parameters.
    scale = matrix_PP[0, 0] / max(len(target_P), 1)
    penalty_P = np.full(count, SINGLE_PENALTY)
    penalty_P[0] = 1e-9
    if pair_penalty is not None:
        penalty_P[num_single:] = pair_penalty
    weights_P = np.zeros(len(target_P))
    regular = matrix_PP[:count, :count] + np.diag(penalty_P * scale)
    weights_P[:count] = np.linalg.solve(regular, target_P[:count])
    return weights_P


def _is_free(space: SearchSpace, index: int) -> bool:
    return len(space.decisions[index].options) > 1 or bool(space.decisions[index].active_if)


def _num_parameters(space: SearchSpace, groups: Sequence[tuple[int, ...]]) -> int:
    return sum(int(np.prod([space.num_options_D[i] + 1 for i in group])) for group in groups)
