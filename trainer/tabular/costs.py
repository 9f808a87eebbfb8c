"""Learn what a table-only space's architectures cost from measured ones, and how far to trust it.

    cost(a) = c + sum over i of s_i(a_i) + sum over i < j of p_ij(a_i, a_j)

Ridge regression of relative errors, so that a cheap network counts as much as an expensive one. Which pairs count, and
how strongly they are pulled to zero, is chosen by cross-validation; its errors, of networks that had no part in their
own prediction, make the one-sided bound (models/cost/latency_table.py).

Axis letters: N = records, D = decisions, P = parameters of the regression, F = folds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from pnag.models.cost.additive import GroupedCost
from pnag.models.space.search_space import SearchSpace, Tokens

Floats = NDArray[np.float64]

FOLDS = 5
SINGLE_PENALTY = 1e-3
PAIR_PENALTIES = (0.3, 10.0)
MUST_IMPROVE = 0.98
MAX_TRIED_PAIRS = 15
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
    # Hundreds of small systems: a second BLAS thread costs more than it brings, most of all on a busy machine.
    with threadpool_limits(1):
        return _learn_cost(space, tokens_ND, measured_N)


def _learn_cost(space: SearchSpace, tokens_ND: Tokens, measured_N: Floats) -> LearnedCost:
    free = [i for i in range(len(space.decisions)) if _is_free(space, i)]
    groups: list[tuple[int, ...]] = [(i,) for i in free]
    pairs: list[tuple[int, ...]] = list(combinations(free, 2))
    if _num_parameters(space, groups + pairs) > MAX_PARAMETERS:
        pairs = []
    design = _Design(space, [*groups, *pairs])
    num_single = 1 + _num_parameters(space, groups)
    folds_N = np.random.default_rng(0).permutation(len(tokens_ND)) % FOLDS
    places_NG = design.places(tokens_ND)
    normal_F = [design.normal_equations(places_NG[folds_N == f], measured_N[folds_N == f]) for f in range(FOLDS)]
    matrix_PP, target_P = sum(m for m, _ in normal_F), sum(t for _, t in normal_F)
    assert isinstance(matrix_PP, np.ndarray)
    assert isinstance(target_P, np.ndarray)
    rest_F = [(matrix_PP - matrix, target_P - target) for matrix, target in normal_F]

    def cross_validated(kept: frozenset[int], penalty: float) -> tuple[float, Floats]:
        """Mean relative error and predictions of every record by the fold that had not seen it."""
        columns = design.columns_of([*range(len(groups)), *kept])
        predicted_N = np.zeros(len(tokens_ND))
        for fold, (matrix, target) in enumerate(rest_F):
            weights_P = _solve(matrix, target, columns, num_single, penalty)
            predicted_N[folds_N == fold] = weights_P[places_NG[folds_N == fold]].sum(axis=1)
        predicted_N = np.maximum(predicted_N, measured_N.min())
        return float(np.mean(np.abs(predicted_N / measured_N - 1))), predicted_N

    kept: frozenset[int] = frozenset()
    penalty = PAIR_PENALTIES[0]
    error, predicted_N = cross_validated(kept, penalty)
    left = set(range(len(groups), len(groups) + len(pairs)))
    while left:
        # Pairs join one by one, the most helpful first; each must earn its place. Of many, all are tried at once.
        steps = [frozenset(left)] if len(pairs) > MAX_TRIED_PAIRS else [kept | {pair} for pair in sorted(left)]
        tried = [(*cross_validated(step, p), step, p) for step in steps for p in PAIR_PENALTIES]
        best = min(tried, key=lambda one: one[0])
        if best[0] > MUST_IMPROVE * error:
            break
        error, predicted_N, kept, penalty = best
        left -= kept
    columns = design.columns_of([*range(len(groups)), *kept])
    weights_P = _solve(matrix_PP, target_P, columns, num_single, penalty)
    ratios_N = np.sort(measured_N / predicted_N)
    if len(ratios_N) > MAX_RATIOS:
        # Of each block the largest: a bound made from the sample is never below that from all.
        ratios_N = np.array([part[-1] for part in np.array_split(ratios_N, MAX_RATIOS)])
    ratios = tuple(round(float(r), 6) for r in ratios_N)
    return LearnedCost(design.cost(weights_P), bool(kept), error * 100, ratios)


class _Design:
    """One column for the constant, then one per place of each group's table."""

    def __init__(self, space: SearchSpace, groups: Sequence[tuple[int, ...]]) -> None:
        self.space = space
        self.groups = [(group, tuple(int(space.num_options_D[i]) + 1 for i in group)) for group in groups]
        sizes = [int(np.prod(shape)) for _, shape in self.groups]
        self.starts = np.concatenate([[1], 1 + np.cumsum(sizes)]).astype(np.int64)

    def columns_of(self, groups: Sequence[int]) -> NDArray[np.int64]:
        """The constant's column, and those of some groups."""
        parts = [np.arange(self.starts[g], self.starts[g + 1]) for g in sorted(groups)]
        return np.concatenate([[0], *parts]).astype(np.int64)

    def places(self, tokens_ND: Tokens) -> NDArray[np.int64]:
        """The columns that are 1 for each architecture, one per group and the constant's, shape [N, 1 + groups]."""
        columns = [np.zeros(len(tokens_ND), dtype=np.int64)]
        for (group, shape), start in zip(self.groups, self.starts, strict=False):
            places = tuple(
                np.where(tokens_ND[:, i] < 0, n - 1, tokens_ND[:, i]) for i, n in zip(group, shape, strict=True)
            )
            columns.append(start + np.ravel_multi_index(places, shape))
        return np.stack(columns, axis=1)

    def normal_equations(self, places_NG: NDArray[np.int64], measured_N: Floats) -> tuple[Floats, Floats]:
        """X' W X and X' W y with W = 1 / measured^2."""
        matrix_PP = np.zeros((self.starts[-1], self.starts[-1]))
        target_P = np.zeros(self.starts[-1])
        for first in range(0, len(places_NG), _BLOCK):
            block_NG, inverse_N = places_NG[first : first + _BLOCK], 1 / measured_N[first : first + _BLOCK]
            x_NP = np.zeros((len(block_NG), self.starts[-1]))
            np.put_along_axis(x_NP, block_NG, inverse_N[:, np.newaxis], axis=1)
            matrix_PP += x_NP.T @ x_NP
            target_P += x_NP.sum(axis=0)
        return matrix_PP, target_P

    def cost(self, weights_P: Floats) -> GroupedCost:
        """Turn weights into look-ups."""
        tables = [
            (group, weights_P[start : start + int(np.prod(shape))].reshape(shape))
            for (group, shape), start in zip(self.groups, self.starts, strict=False)
        ]
        return GroupedCost([(g, t) for g, t in tables if np.any(t)], constant=float(weights_P[0]))


def _solve(
    matrix_PP: Floats, target_P: Floats, columns: NDArray[np.int64], num_single: int, pair_penalty: float
) -> Floats:
    """Ridge weights of some columns; the others are zero."""
    # Scaled by the mean weight of a record, so that penalties mean the same in milliseconds and in parameters.
    scale = matrix_PP[0, 0] / 1000
    penalty = np.where(columns < num_single, SINGLE_PENALTY, pair_penalty)
    penalty[columns == 0] = 1e-9
    weights_P = np.zeros(len(target_P))
    regular = matrix_PP[np.ix_(columns, columns)] + np.diag(penalty * scale)
    weights_P[columns] = np.linalg.solve(regular, target_P[columns])
    return weights_P


def _is_free(space: SearchSpace, index: int) -> bool:
    return len(space.decisions[index].options) > 1 or bool(space.decisions[index].active_if)


def _num_parameters(space: SearchSpace, groups: Sequence[tuple[int, ...]]) -> int:
    return sum(int(np.prod([space.num_options_D[i] + 1 for i in group])) for group in groups)
