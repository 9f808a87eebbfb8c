"""Whole networks to measure, spread evenly over cost, ends included.

Axis letters: B = architectures, D = decisions, E = the two ends.
"""

from collections.abc import Callable, Collection

import numpy as np
from numpy.typing import NDArray

from pnag.models.errors import LatencyTableError
from pnag.models.space.search_space import INACTIVE, SearchSpace, Tokens

Cost = Callable[[Tokens], NDArray[np.float64]]

POOL = 4000
NEAREST = 8
"""Each place on the cost axis is filled from this many candidates."""


def extreme(space: SearchSpace, cost: Cost) -> Tokens:
    """The cheapest architecture, shape [D]: one decision changed at a time until no change helps.

    Exact where costs of decisions add up, given those that switch others on; a local optimum elsewhere. For the
    costliest pass a negated cost.
    """
    best_D: Tokens = space.canonical(np.zeros((1, len(space.decisions)), dtype=np.int64))[0]
    best = float(cost(best_D[np.newaxis])[0])
    while True:
        trials: list[Tokens] = []
        for index, decision in enumerate(space.decisions):
            for option in range(len(decision.options)):
                trial_D = np.where(best_D == INACTIVE, 0, best_D)
                trial_D[index] = option
                trials.append(trial_D)
        trials_BD = space.canonical(np.stack(trials))
        costs_B = cost(trials_BD)
        winner = int(np.argmin(costs_B))
        if costs_B[winner] >= best:
            return best_D
        best_D, best = trials_BD[winner], float(costs_B[winner])


def spread_pool(space: SearchSpace, cost: Cost, count: int, rng: np.random.Generator) -> Tokens:
    """Random architectures from one end of the cost axis to the other, shape [count, D].

    Uniform samples crowd round the middle; here each takes a share of its decisions, drawn per architecture, from the
    cheapest or the costliest network.
    """
    uniform_BD = space.sample(count, rng)
    ends_ED = np.stack([extreme(space, cost), extreme(space, lambda tokens_BD: -cost(tokens_BD))])
    end_BD = ends_ED[rng.integers(0, 2, count)]
    share_B1 = rng.random((count, 1))
    mixed_BD = np.where(rng.random(uniform_BD.shape) < share_B1, end_BD, uniform_BD)
    fresh_BD = rng.integers(0, space.num_options_D, size=mixed_BD.shape)
    return space.canonical(np.where(mixed_BD == INACTIVE, fresh_BD, mixed_BD))


def stratified(
    space: SearchSpace,
    cost: Cost,
    count: int,
    rng: np.random.Generator,
    *,
    exclude: Collection[str] = (),
    with_cheapest: bool = False,
    prefer: Cost | None = None,
) -> list[str]:
    """Encodings of `count` different architectures, evenly spread over cost.

    Args:
        exclude: encodings not to take.
        with_cheapest: let the first be the cheapest there is.
        prefer: of the candidates near a place on the cost axis take the one where this is largest, else any.

    Raises:
        LatencyTableError: if the space does not hold that many besides the excluded ones.
    """
    pool_BD = np.unique(np.concatenate([spread_pool(space, cost, POOL, rng), space.sample(POOL, rng)]), axis=0)
    pool_BD = rng.permutation(pool_BD)
    taken = set(exclude)
    chosen: list[str] = []

    def take(tokens_D: Tokens) -> bool:
        encoding = space.encode(tokens_D)
        if encoding in taken:
            return False
        taken.add(encoding)
        chosen.append(encoding)
        return True

    if with_cheapest and count:
        take(extreme(space, cost))
    cost_B = cost(pool_BD)
    preferred_B = prefer(pool_BD) if prefer else rng.random(len(pool_BD))
    for place in np.linspace(cost_B.min(), cost_B.max(), count - len(chosen) + 1)[1:] if count > len(chosen) else ():
        by_distance = np.argsort(np.abs(cost_B - place), kind="stable")
        near = sorted(by_distance[:NEAREST], key=lambda i: -preferred_B[i])
        if not any(take(pool_BD[i]) for i in [*near, *by_distance[NEAREST:]]):
            raise LatencyTableError(
                f"{space.name} has no {count} networks besides the {len(exclude)} already measured; ask for fewer"
            )
    return chosen
