"""Batches of sampled networks: the noise they are drawn with, each of them once, and what is known of them.

Axis letters: B = budgets in a run, S = candidates per budget, D = decisions, C = options of the widest decision,
N = architectures.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from pnag.models.space.search_space import Tokens

Floats = NDArray[np.float64]


class NetworkValues:
    """Predictions for N architectures: accuracy, latency_ms, macs, params, peak_activations; each of shape [N]."""

    def __init__(self, table_5N: Floats) -> None:
        self._table_5N = table_5N
        columns: Iterator[Floats] = iter(table_5N)
        self.accuracy, self.latency_ms, self.macs, self.params, self.peak_activations = columns

    def take(self, indices: NDArray[np.int64]) -> "NetworkValues":
        """Some of them, in the order of the indices."""
        return NetworkValues(self._table_5N[:, indices])

    def of(self, index: int) -> list[float]:
        """All five numbers of one architecture."""
        row: list[float] = self._table_5N[:, index].tolist()
        return row

    def best_first(self) -> NDArray[np.int64]:
        """Indices by falling accuracy, the faster of two equals first."""
        return np.lexsort((self.latency_ms, -self.accuracy))


def gumbel_noise(seed: int, budgets_ms: Sequence[float], shape: tuple[int, int, int]) -> NDArray[np.float32]:
    """Gumbel noise of shape [B, S, D, C]: by the seed and the budget alone; none for the first candidate."""
    noise_BSDC = np.empty((len(budgets_ms), *shape), dtype=np.float32)
    for budget_ms, noise_SDC in zip(budgets_ms, noise_BSDC, strict=True):
        np.random.default_rng([seed, round(budget_ms * 1e6)]).random(dtype=np.float32, out=noise_SDC)
    noise_BSDC *= np.float32(1 - 2e-7)
    noise_BSDC += np.float32(1e-7)
    for _ in range(2):
        np.log(noise_BSDC, out=noise_BSDC)
        np.negative(noise_BSDC, out=noise_BSDC)
    noise_BSDC[:, 0] = 0.0
    return noise_BSDC


def distinct(tokens_BSD: Tokens) -> tuple[Tokens, NDArray[np.int64]]:
    """Each sampled architecture once, shape [N, D], and where each sample went, shape [B, S]."""
    rows_ND = tokens_BSD.reshape(-1, tokens_BSD.shape[2])
    first_of: dict[bytes, int] = {}  # np.unique would sort, which takes longer
    firsts = [first_of.setdefault(key, row) for row, key in enumerate(row_keys(rows_ND))]
    place_of = {row: place for place, row in enumerate(first_of.values())}
    places_BS = np.array([place_of[row] for row in firsts], dtype=np.int64).reshape(tokens_BSD.shape[:2])
    return rows_ND[list(place_of)], places_BS


def row_keys(tokens_ND: Tokens) -> list[bytes]:
    """A hashable key of each row."""
    rows = np.ascontiguousarray(tokens_ND, dtype=np.int16)
    data, width = rows.tobytes(), rows.shape[1] * rows.itemsize
    return [data[start : start + width] for start in range(0, len(data), width)]
