"""The elite archive: the best architectures known for each of many budgets, and the search that fills it.

Keeping elites per cell of a grid is that of MAP-Elites (Mouret and Clune, 2015, arXiv:1504.04909); here the cells are
budgets, and an architecture is an elite of every budget it fits. The archive searches, the generator amortises
(docs/decisions/0005). Search is evolution over all budgets at once, then a local search that tries every one-decision
neighbour of the front until none is better.

Axis letters: N = architectures, D = decisions, J = budgets of the grid, M = elites per budget.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pnag.models.cost.slack import SlackTable
from pnag.models.errors import TrainingError
from pnag.models.pareto import pareto_front
from pnag.models.space.search_space import INACTIVE, SearchSpace, Tokens
from pnag.trainer.checkpoint import as_tensors
from pnag.trainer.config import ArchiveConfig
from pnag.trainer.generator.objective import Objective
from pnag.trainer.generator.variation import crossover, mutate
from pnag.trainer.progress import Progress

Floats = NDArray[np.float64]

_BLOCK = 4096
"""Listed architectures asked for at once."""


class Archive:
    """Every architecture that is among the elites of some budget of the grid."""

    def __init__(self, space: SearchSpace, objective: Objective, budgets_J: Floats, elites: int) -> None:
        self.space = space
        self.objective = objective
        self.budgets_J = budgets_J
        self.elites = elites
        self.tokens_ND: Tokens | None = None
        self.cost_N: Floats = np.zeros(0)
        self.accuracy_N: Floats = np.zeros(0)
        self._seen: set[bytes] = set()

    def add(self, tokens_ND: Tokens) -> None:
        """Evaluate what is new among canonical tokens, as far as the objective allows, and keep what is an elite."""
        fresh = self._fresh(tokens_ND, self.objective.remaining)
        if fresh:
            self._keep(tokens_ND[fresh], *self.objective(tokens_ND[fresh]))

    def add_evaluated(self, tokens_ND: Tokens, cost_N: Floats, accuracy_N: Floats) -> None:
        """Keep architectures that were evaluated elsewhere where they are elites."""
        fresh = self._fresh(tokens_ND, len(tokens_ND))
        if fresh:
            self._keep(tokens_ND[fresh], cost_N[fresh], accuracy_N[fresh])

    def _fresh(self, tokens_ND: Tokens, most: int) -> list[int]:
        """Rows that were never seen, the first `most` of them; they are seen then."""
        fresh: list[int] = []
        for row, key in enumerate(map(bytes, tokens_ND.astype(np.int8))):
            if len(fresh) == most:
                break
            if key not in self._seen:
                self._seen.add(key)
                fresh.append(row)
        return fresh

    def state(self) -> dict[str, torch.Tensor | int]:
        """Everything the archive knows, for a checkpoint."""
        assert self.tokens_ND is not None
        seen = np.frombuffer(b"".join(sorted(self._seen)), dtype=np.int8).reshape(len(self._seen), -1)
        names = ("tokens", "cost", "accuracy", "seen")
        tensors = as_tensors([self.tokens_ND, self.cost_N, self.accuracy_N, seen])
        return {**dict(zip(names, tensors, strict=True)), "calls": self.objective.calls}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Undo `state`."""
        self.tokens_ND = state["tokens"].numpy()
        self.cost_N, self.accuracy_N = state["cost"].numpy(), state["accuracy"].numpy()
        self._seen = set(map(bytes, state["seen"].numpy()))
        self.objective.calls = state["calls"]

    def _keep(self, new_ND: Tokens, cost: Floats, accuracy: Floats) -> None:
        self.tokens_ND = new_ND if self.tokens_ND is None else np.concatenate([self.tokens_ND, new_ND])
        self.cost_N, self.accuracy_N = np.append(self.cost_N, cost), np.append(self.accuracy_N, accuracy)
        elite_JM = self.elite_indices(self.budgets_J)
        keep = np.union1d(elite_JM[elite_JM >= 0], self.front_indices())
        self.tokens_ND = self.tokens_ND[keep]
        self.cost_N, self.accuracy_N = self.cost_N[keep], self.accuracy_N[keep]

    def elite_indices(self, budgets_J: Floats) -> NDArray[np.int64]:
        """The most accurate architectures within each budget, best first, shape [J, M]; -1 where there are fewer."""
        order = np.lexsort((self.cost_N, -self.accuracy_N))
        fits_JN = self.cost_N[order] <= budgets_J[:, np.newaxis]
        rank_JN = np.cumsum(fits_JN, axis=1)
        elite_JM = np.full((len(budgets_J), self.elites), -1, dtype=np.int64)
        j, n = np.nonzero(fits_JN & (rank_JN <= self.elites))
        elite_JM[j, rank_JN[j, n] - 1] = order[n]
        return elite_JM

    def front_indices(self) -> NDArray[np.int64]:
        """The Pareto front, by rising cost."""
        return pareto_front(self.cost_N, self.accuracy_N)


def budget_grid(low: float, high: float, count: int) -> Floats:
    """Budgets from `low` to `high`, denser at the cheap end, where the front is steep; shape [count]."""
    return low + (high - low) * np.linspace(0.0, 1.0, count) ** 1.5


def ends(space: SearchSpace, slack: SlackTable) -> Tokens:
    """The cheapest and the most expensive architecture, shape [2, D].

    Greedy: what adds least, or most, to the lower bound of the primary cost at each decision. The first is exact where
    the bound is.
    """
    tokens_2D = np.full((2, len(space.decisions)), INACTIVE, dtype=np.int64)
    for t in range(len(space.decisions)):
        for tokens_D, sign in zip(tokens_2D, (1, -1), strict=True):
            entry = int(slack.entries(tokens_D[np.newaxis])[0, t])
            if not slack.inactive_R[entry]:
                steps_C = slack.steps_RK[entry : entry + int(slack.width_D[t]), 0]
                tokens_D[t] = int(np.argmin(sign * steps_C))
    return tokens_2D


def empty_archive(space: SearchSpace, slack: SlackTable, objective: Objective, config: ArchiveConfig) -> Archive:
    """An archive over the range of the primary cost, before any search.

    Raises:
        TrainingError: if all architectures cost the same, so that there is no trade-off to learn.
    """
    cost_N = objective.cost(ends(space, slack) if objective.listed_ND is None else objective.listed_ND)
    low, high = cost_N.min(), cost_N.max()
    if not high > low * (1 + 1e-9):
        raise TrainingError(
            f"{space.name}: the cheapest and the most expensive network both cost {low:.4g}; budgets need networks of "
            "different cost. Look at the latency table, or allow more options"
        )
    return Archive(space, objective, budget_grid(low, high, config.cells), config.elites)


def search_archive(
    space: SearchSpace,
    slack: SlackTable,
    objective: Objective,
    config: ArchiveConfig,
    rng: np.random.Generator,
    progress: Progress,
) -> Archive:
    """Fill an archive over the whole range of the primary cost, until the generations or the allowed calls are over."""
    archive = empty_archive(space, slack, objective, config)
    if objective.listed_ND is not None:
        with progress.stage("search", len(objective.listed_ND)) as bar:
            for start in range(0, len(objective.listed_ND), _BLOCK):
                archive.add(objective.listed_ND[start : start + _BLOCK])
                bar.step(_BLOCK)
        return archive
    probability = min(1.0, config.mutations / len(space.decisions))
    with progress.stage("search", config.generations + config.local_search_rounds) as bar:
        archive.add(np.concatenate([ends(space, slack), space.sample(config.initial, rng)]))
        for _ in range(config.generations):
            if objective.remaining == 0:
                break
            archive.add(_children(space, archive, config, probability, rng))
            bar.step(note=f"{len(archive.cost_N)} elites, {objective.calls} evaluations")
        local_search(space, archive, config.local_search_rounds)
    return archive


def local_search(space: SearchSpace, archive: Archive, rounds: int) -> None:
    """Try every one-decision neighbour of the front, until a pass changes nothing or `rounds` are over."""
    for _ in range(rounds):
        assert archive.tokens_ND is not None
        front_FD = archive.tokens_ND[archive.front_indices()]
        archive.add(neighbours(space, front_FD))
        assert archive.tokens_ND is not None
        if np.array_equal(archive.tokens_ND[archive.front_indices()], front_FD):
            return


def neighbours(space: SearchSpace, tokens_ND: Tokens) -> Tokens:
    """All architectures that differ in one active decision, shape [neighbours, D].

    A decision that a change makes active is copied from the last active one with the same options, as a layer added at
    the end of a unit would be.
    """
    filled_ND = _fill_inactive(space, tokens_ND)
    changed = []
    for index, count in enumerate(space.num_options_D):
        for token in range(count):
            rows = (tokens_ND[:, index] != INACTIVE) & (tokens_ND[:, index] != token)
            if rows.any():
                moved = filled_ND[rows]
                moved[:, index] = token
                changed.append(moved)
    if not changed:
        return tokens_ND[:0]
    return np.unique(space.canonical(np.concatenate(changed)), axis=0)


def _fill_inactive(space: SearchSpace, tokens_ND: Tokens) -> Tokens:
    filled_ND = tokens_ND.copy()
    last: dict[tuple[object, ...], NDArray[np.int64]] = {}
    for index, decision in enumerate(space.decisions):
        inactive = filled_ND[:, index] == INACTIVE
        before = last.get(decision.options, np.zeros(len(tokens_ND), dtype=np.int64))
        filled_ND[inactive, index] = before[inactive]
        last[decision.options] = filled_ND[:, index]
    return filled_ND


def _children(
    space: SearchSpace, archive: Archive, config: ArchiveConfig, probability: float, rng: np.random.Generator
) -> Tokens:
    """Mutants of elites of random budgets; some are first crossed with an elite of a budget nearby."""
    assert archive.tokens_ND is not None
    elite_JM = archive.elite_indices(archive.budgets_J)
    cells = rng.integers(0, len(elite_JM), config.children)
    near = np.clip(cells + rng.integers(-3, 4, config.children), 0, len(elite_JM) - 1)
    parents_ND = archive.tokens_ND[_pick(elite_JM[cells], rng)]
    others_ND = archive.tokens_ND[_pick(elite_JM[near], rng)]
    crossed = rng.random(config.children) < config.crossover_fraction
    parents_ND[crossed] = crossover(space, parents_ND[crossed], others_ND[crossed], rng)
    return mutate(space, parents_ND, probability, rng)


def _pick(elite_NM: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """One elite of each row at random."""
    counts_N = np.maximum((elite_NM >= 0).sum(axis=1), 1)
    picked: NDArray[np.int64] = elite_NM[np.arange(len(elite_NM)), rng.integers(0, counts_N)]
    return picked
