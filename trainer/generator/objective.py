"""The cost and the predicted accuracy of architectures, as a search may ask for them: counted.

Axis letters: N = architectures, D = decisions.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pnag.models.errors import TrainingError
from pnag.models.space.search_space import Tokens

Floats = NDArray[np.float64]


@dataclass
class Objective:
    """Cost to stay within and accuracy to raise; counts every architecture it is asked for.

    Attributes:
        cost, accuracy: tokens [N, D] -> [N].
        calls: architectures whose accuracy was asked for; their cost, read from a table, is free.
        limit: `calls` must not pass it; None = no limit.
        listed_ND: every architecture there is, where they are few enough to ask for all: no search is needed then.
    """

    cost: Callable[[Tokens], Floats]
    accuracy: Callable[[Tokens], Floats]
    calls: int = 0
    limit: int | None = None
    listed_ND: Tokens | None = None

    def __call__(self, tokens_ND: Tokens) -> tuple[Floats, Floats]:
        """Cost and accuracy of each architecture.

        Raises:
            TrainingError: if the evaluator gives a number that is not finite.
        """
        self.calls += len(tokens_ND)
        assert self.limit is None or self.calls <= self.limit, "a search asked for more than it was allowed"
        return self.cost(tokens_ND), finite_accuracy(self.accuracy(tokens_ND))

    @property
    def remaining(self) -> int:
        """Architectures that may still be asked for."""
        return 2**62 if self.limit is None else self.limit - self.calls


@dataclass
class RememberingObjective(Objective):
    """An objective that answers a repeated question from memory, uncounted: what any method could do for itself."""

    _places: dict[bytes, int] = field(default_factory=dict, repr=False)
    _tokens: list[Tokens] = field(default_factory=list, repr=False)
    _costs: list[Floats] = field(default_factory=list, repr=False)
    _accuracies: list[Floats] = field(default_factory=list, repr=False)

    def __call__(self, tokens_ND: Tokens) -> tuple[Floats, Floats]:
        keys = list(map(bytes, tokens_ND.astype(np.int8)))
        fresh: list[int] = []
        known = len(self._places)
        for row, key in enumerate(keys):
            if key not in self._places:
                self._places[key] = known + len(fresh)
                fresh.append(row)
        if fresh:
            cost, accuracy = super().__call__(tokens_ND[fresh])
            self._tokens.append(tokens_ND[fresh])
            self._costs.append(cost)
            self._accuracies.append(accuracy)
        _, costs, accuracies = self.seen()
        places = [self._places[key] for key in keys]
        return costs[places], accuracies[places]

    def num_unseen(self, tokens_ND: Tokens) -> int:
        """Calls that the question would cost."""
        return len(set(map(bytes, tokens_ND.astype(np.int8))) - self._places.keys())

    def seen(self) -> tuple[Tokens, Floats, Floats]:
        """Every architecture asked for so far, once, with its cost and accuracy."""
        if not self._tokens:
            return np.zeros((0, 0), dtype=np.int64), np.zeros(0), np.zeros(0)
        if len(self._tokens) > 1:
            self._tokens = [np.concatenate(self._tokens)]
            self._costs = [np.concatenate(self._costs)]
            self._accuracies = [np.concatenate(self._accuracies)]
        return self._tokens[0], self._costs[0], self._accuracies[0]


def finite_accuracy(accuracy_N: Floats) -> Floats:
    """The accuracies as they came.

    Raises:
        TrainingError: if one is NaN or infinite: training on it would silently ruin the generator.
    """
    wrong = np.flatnonzero(~np.isfinite(accuracy_N))
    if len(wrong):
        raise TrainingError(
            f"the evaluator gave {accuracy_N[wrong[0]]} for {len(wrong)} of {len(accuracy_N)} architectures; "
            "accuracies must be finite. Look at the records it was fitted on, or at your own evaluator"
        )
    return accuracy_N
