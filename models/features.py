"""How the evaluator sees an architecture: its options one by one, its depths, and its size. Same numbers in training
and in serving; device-independent, so that a new device keeps the evaluator.
"""

import numpy as np
from numpy.typing import NDArray

from models.costs import macs_cost, params_cost
from models.search_space import SearchSpace, Tokens

Floats = NDArray[np.float64]


class ArchitectureFeatures:
    """Features of canonical tokens: one-hot tokens (an inactive decision is all zeros), depth per part and in all,
    natural logs of MACs and of parameters (left out where the space has no layers to count them by).

    Columns that are the same for every architecture of the space (a decision with one option) are left out.
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

    def __call__(self, tokens_BD: Tokens) -> Floats:
        """Features of each architecture, shape [B, F], float64."""
        tokens = tokens_BD[:, self._informative]
        one_hot = np.zeros((len(tokens), self._num_one_hot + 1))
        # Inactive decisions write to a spare last column.
        columns = np.where(tokens >= 0, self._starts + tokens, self._num_one_hot)
        np.put_along_axis(one_hot, columns, 1.0, axis=1)
        depths = self._space.depth_features(tokens_BD)
        log_sizes = [np.log(size(tokens_BD))[:, np.newaxis] for size in self._sizes]
        return np.concatenate([one_hot[:, :-1], depths, *log_sizes], axis=1)
