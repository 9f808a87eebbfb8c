"""Costs that add up over a network's layers, tabulated so that a batch is a few array look-ups.

Axis letters: B = architectures, D = decisions. Knows nothing of what is being added: ms, MACs, parameters.
"""

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from pnag.models.space.layers import Layer
from pnag.models.space.search_space import SearchSpace, Tokens

Floats = NDArray[np.float64]


class GroupedCost:
    """`constant` plus one look-up per group of decisions; with `reduce=np.maximum`, the largest instead of the sum.

    A group is (indices of decisions, dense array indexed by their tokens); the last place along an axis stands for
    "inactive", which is where the token -1 points, so a decision's axis is as long in every group.
    """

    def __init__(
        self,
        groups: Iterable[tuple[tuple[int, ...], Floats]],
        *,
        constant: float = 0.0,
        reduce: np.ufunc = np.add,
    ) -> None:
        self.constant = constant
        self._reduce = reduce
        self.groups = tuple(groups)
        # Places in all tables end to end, found by one product. Indexing table by table takes two times or more as
        # long for up to a hundred architectures, what the service asks for; for thousands it would be a fifth faster.
        self._values = np.concatenate([np.zeros(0), *(table.ravel() for _, table in self.groups)])
        width = max((i for indices, _ in self.groups for i in indices), default=-1) + 1
        self._inactive_D = np.zeros(width)
        self._stride_DG = np.zeros((width, len(self.groups)))
        for column, (indices, table) in enumerate(self.groups):
            for axis, index in enumerate(indices):
                self._inactive_D[index] = table.shape[axis] - 1
                self._stride_DG[index, column] = math.prod(table.shape[axis + 1 :])
        sizes = [0, *(table.size for _, table in self.groups)]
        self._start_G = np.cumsum(sizes, dtype=np.int64)[:-1]

    def __call__(self, tokens_BD: Tokens) -> Floats:
        """Cost of each architecture, shape [B]; tokens must be canonical."""
        tokens_BD = tokens_BD[:, : len(self._inactive_D)]
        # In float64, which is exact here, because BLAS multiplies it.
        places_BG = (np.where(tokens_BD < 0, self._inactive_D, tokens_BD) @ self._stride_DG).astype(np.int64)
        values_BG = self._values[places_BG + self._start_G]
        total_B = np.full(len(tokens_BD), self.constant)
        for values_B in values_BG.T:  # in this order: how a sum over an axis rounds depends on the number of rows
            total_B = self._reduce(total_B, values_B)
        return total_B


class LayerCost(GroupedCost):
    """`constant` plus the sum over layers of `cost_of(layer)`: each cost group of the space becomes one look-up."""

    def __init__(
        self,
        space: SearchSpace,
        cost_of: Callable[[Layer], float],
        *,
        constant: float = 0.0,
        reduce: np.ufunc = np.add,
    ) -> None:
        def total(layers: Sequence[Layer]) -> float:
            return float(reduce.reduce([cost_of(layer) for layer in layers])) if layers else 0.0

        super().__init__(tabulate(space, total), constant=constant, reduce=reduce)


def macs_cost(space: SearchSpace) -> LayerCost:
    """Multiply-accumulates for one image."""
    return LayerCost(space, lambda layer: layer.macs)


def params_cost(space: SearchSpace) -> LayerCost:
    """Stored parameters."""
    return LayerCost(space, lambda layer: layer.params)


def peak_activations_cost(space: SearchSpace) -> LayerCost:
    """Numbers alive at the network's worst moment for one image."""
    return LayerCost(space, lambda layer: layer.peak_activations, reduce=np.maximum)


def tabulate(
    space: SearchSpace, value_of: Callable[[Sequence[Layer]], float | Sequence[float]], *widths: int
) -> list[tuple[tuple[int, ...], Floats]]:
    """A value of the layers of every cost group: (decisions' indices, table by their tokens, the last for inactive).

    Combinations that no network has are NaN; `widths` are the shape of a value that is not one number.
    """
    groups = []
    for group in space.cost_groups:
        indices = tuple(space.index(name) for name in group.decisions)
        table = np.full([*(len(space.decisions[i].options) + 1 for i in indices), *widths], np.nan)
        for tokens, _, layers in space.group_layers(group):
            table[tuple(tokens)] = value_of(layers)
        groups.append((indices, table))
    return groups
