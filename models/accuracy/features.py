"""Features of an architecture for the evaluator: its options one by one, its depths, and its size.

The same numbers in training and in serving; device-independent, so that a new device keeps the evaluator.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pnag.models.cost.additive import macs_cost, params_cost
from pnag.models.space.search_space import SearchSpace, Tokens

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class CoupledDecisions:
    """Features that an evaluator of few records should treat alike, in a space without layers.

    Attributes:
        groups_F: the decision, the kind of count or the depth that a feature belongs to, numbered from 0.
        options_F: which option a feature stands for: the same number for an option of that name of any decision that
            chooses from the same list. -1 for counts and depths.
        places_F: place of that option in its list.
    """

    groups_F: NDArray[np.int64]
    options_F: NDArray[np.int64]
    places_F: NDArray[np.int64]


class ArchitectureFeatures:
    """Features of canonical tokens: one-hot tokens, depths and sizes.

    An inactive decision is all zeros; depths are per part and in all. Sizes are natural logs of MACs and of parameters
    where the space has layers to count them by, otherwise how often decisions with alike options take each of them.
    Columns that are the same for every architecture of the space (a decision with one option) are left out.

    Attributes:
        coupled: None where the space has layers.
    """

    def __init__(self, space: SearchSpace) -> None:
        self._space = space
        # Position of each decision's first column; a decision with one option that is always active says nothing.
        self._informative = [
            i for i, d in enumerate(space.decisions) if len(d.options) > 1 or len(space.ancestors([i])) > 1
        ]
        widths = space.num_options_D[self._informative]
        self._starts = np.concatenate([[0], np.cumsum(widths)[:-1]]).astype(np.int64)
        self._num_one_hot = int(widths.sum())
        self._sizes = (macs_cost(space), params_cost(space)) if space.has_layers else ()
        alike = [] if space.has_layers else _alike(space, self._informative)
        self._counted = [(members, tables) for members, tables in alike if len(members) > 1]
        self.coupled = None if space.has_layers else self._coupled(alike)

    def __call__(self, tokens_BD: Tokens) -> Floats:
        """Features of each architecture, shape [B, F]."""
        tokens = tokens_BD[:, self._informative]
        one_hot = np.zeros((len(tokens), self._num_one_hot + 1))
        # Inactive decisions write to a spare last column.
        columns = np.where(tokens >= 0, self._starts + tokens, self._num_one_hot)
        np.put_along_axis(one_hot, columns, 1.0, axis=1)
        # Of a decision's counts table the last row is that of an inactive one: it counts for nothing.
        counts = [
            np.sum([table[rows] for rows, table in zip(tokens_BD[:, members].T, tables, strict=True)], axis=0)
            for members, tables in self._counted
        ]
        depths = self._space.depth_features(tokens_BD)
        log_sizes = [np.log(size(tokens_BD))[:, np.newaxis] for size in self._sizes]
        return np.concatenate([one_hot[:, :-1], *counts, depths, *log_sizes], axis=1)

    def _coupled(self, alike: Sequence[tuple[list[int], list[Floats]]]) -> CoupledDecisions:
        num_depths = self._space.depth_features(np.zeros((1, len(self._space.decisions)), dtype=np.int64)).shape[1]
        num_counts = [tables[0].shape[1] for _, tables in self._counted]
        lengths = [*self._space.num_options_D[self._informative], *num_counts, *[1] * num_depths]
        options_F, places_F = np.full((2, sum(lengths)), -1)
        first = 0
        for members, tables in alike:
            for index, table in zip(members, tables, strict=True):
                start = self._starts[self._informative.index(index)]
                places = table[:-1].argmax(axis=1)
                places_F[start : start + len(places)], options_F[start : start + len(places)] = places, first + places
            first += tables[0].shape[1]
        return CoupledDecisions(np.repeat(np.arange(len(lengths)), lengths), options_F, places_F)


def _alike(space: SearchSpace, indices: Sequence[int]) -> list[tuple[list[int], list[Floats]]]:
    """Decisions that choose from the same list, or nearly (records may lack an option here or there).

    Returns:
        Per list its decisions, and per decision a table [options + 1, names in the list]: 1 where the option has the
        name; the last row, of an inactive decision, is zero.
    """
    families: list[list[int]] = []
    for index in indices:
        options = set(map(str, space.decisions[index].options))
        for members in families:
            first = set(map(str, space.decisions[members[0]].options))
            if 2 * len(options & first) > len(options | first):
                members.append(index)
                break
        else:
            families.append([index])
    found = []
    for members in families:
        names = list(dict.fromkeys(str(o) for i in members for o in space.decisions[i].options))
        tables = [np.zeros((len(space.decisions[i].options) + 1, len(names))) for i in members]
        for i, table in zip(members, tables, strict=True):
            for row, option in enumerate(space.decisions[i].options):
                table[row, names.index(str(option))] = 1.0
        found.append((members, tables))
    return found
