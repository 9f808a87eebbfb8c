"""Choose the architectures to measure next, given what is known: worth 3 to 10 times the records (docs/decisions/0019).

The first 40 are stratified over cost. After that each round draws budgets, half of them where the current front has its
points and half anywhere, and takes for each budget the architecture that maximises mean + kappa * deviation of a
Gaussian process among those that fit and are not known yet; kappa goes round {0, 0.5, 1, 2}, so that a round both
refines the front and looks where nothing is known.

Axis letters: N = architectures, D = decisions, B = budgets.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pnag.models.accuracy.evaluator import GaussianProcess, to_log_error
from pnag.models.accuracy.features import ArchitectureFeatures
from pnag.models.cost.additive import GroupedCost
from pnag.models.cost.slack import SlackTable
from pnag.models.errors import TrainingError
from pnag.models.pareto import pareto_front
from pnag.models.space.search_space import SearchSpace, Tokens
from pnag.trainer.config import ArchiveConfig, EvaluatorConfig
from pnag.trainer.evaluator.gaussian_process import fit_gaussian_process
from pnag.trainer.generator.archive import ends, search_archive
from pnag.trainer.generator.objective import Objective
from pnag.trainer.progress import SILENT
from pnag.trainer.repeatable import use_one_thread

Floats = NDArray[np.float64]

STRATEGIES = ("active", "stratified", "random")
KAPPAS = (0.0, 0.5, 1.0, 2.0)
NUM_STRATIFIED = 40
ENUMERABLE = 50_000
_POOL = 4000
_SEARCH = ArchiveConfig(cells=64, elites=16, initial=600, generations=12, children=300, local_search_rounds=3)
_BLOCK = 4096


@dataclass(frozen=True)
class Proposal:
    """One architecture worth measuring.

    Attributes:
        reason: for people: where it came from.
    """

    tokens_D: Tokens
    reason: str


class Labeller:
    """Proposes architectures of one space under one cost; the same records and seed give the same proposals.

    Args:
        listed_ND: the only architectures that may be proposed; None = any, and the cost is a `GroupedCost`.
    """

    def __init__(
        self,
        space: SearchSpace,
        cost: Callable[[Tokens], Floats],
        seed: int = 0,
        listed_ND: Tokens | None = None,
    ) -> None:
        self.space, self.cost, self.seed, self._listed_ND = space, cost, seed, listed_ND
        if listed_ND is None:
            assert isinstance(cost, GroupedCost)
            self._slack = SlackTable.build(space, [cost])
            ends_ND = ends(space, self._slack)
        else:
            cost_N = cost(listed_ND)
            ends_ND = listed_ND[[np.argmin(cost_N), np.argmax(cost_N)]]
        self._ends_ND = ends_ND
        self.low, self.high = (float(c) for c in cost(ends_ND))
        if not self.high > self.low * (1 + 1e-9):
            raise TrainingError(
                f"{space.name}: every architecture costs {self.low:.4g}; a front needs architectures of different cost"
            )

    def propose(self, strategy: str, count: int, known_ND: Tokens, accuracy_N: Floats) -> list[Proposal]:
        """The next `count` architectures, none of them known; fewer only when the space has no more.

        Raises:
            TrainingError: if the strategy is not one of STRATEGIES.
        """
        if strategy not in STRATEGIES:
            raise TrainingError(f"strategy is {strategy!r}; choose from {list(STRATEGIES)}")
        rng = np.random.default_rng([self.seed, len(known_ND)])
        taken = set(map(bytes, known_ND.astype(np.int8)))
        proposals: list[Proposal] = []
        if strategy == "random":
            self._add(proposals, taken, self._pool(rng, spread=False), "random", count)
        elif strategy == "stratified" or len(known_ND) < NUM_STRATIFIED:
            wanted = count if strategy == "stratified" else min(count, NUM_STRATIFIED - len(known_ND))
            self._stratified(proposals, taken, wanted, rng)
        if strategy == "active" and len(known_ND) >= NUM_STRATIFIED:
            self._active(proposals, taken, count, known_ND, accuracy_N, rng)
        return proposals

    def _stratified(self, proposals: list[Proposal], taken: set[bytes], count: int, rng: np.random.Generator) -> None:
        """One architecture near each of `count` costs, even over the range; the two ends first of all."""
        self._add(proposals, taken, self._ends_ND, "an end of the range", count)
        pool_ND = self._pool(rng, spread=True)
        cost_N = self.cost(pool_ND)
        targets = np.linspace(self.low, self.high, max(2, count))
        for target in rng.permutation(targets):
            if len(proposals) >= count:
                return
            nearest = np.argsort(np.abs(cost_N - target), kind="stable")
            self._add(proposals, taken, pool_ND[nearest], "stratified over cost", len(proposals) + 1)

    def _active(
        self, proposals: list[Proposal], taken: set[bytes], count: int, known_ND: Tokens, accuracy_N: Floats,
        rng: np.random.Generator,
    ) -> None:  # fmt: skip
        use_one_thread(self.seed)
        features = ArchitectureFeatures(self.space)
        model, _ = fit_gaussian_process(
            features(known_ND), accuracy_N, EvaluatorConfig(), self.seed, SILENT, features.coupled
        )
        candidates = {kappa: self._candidates(model, features, kappa, rng) for kappa in KAPPAS}
        _, mean_cost_N, mean_N = candidates[0.0]
        front = pareto_front(mean_cost_N, mean_N)
        for number in range(_POOL):
            if len(proposals) >= count:
                return
            kappa = KAPPAS[number % len(KAPPAS)]
            on_front = number // len(KAPPAS) % 2 == 0
            budget = float(rng.choice(mean_cost_N[front])) if on_front else float(rng.uniform(self.low, self.high))
            tokens_ND, cost_N, score_N = candidates[kappa]
            order = np.argsort(-score_N, kind="stable")
            fitting = order[cost_N[order] <= budget * (1 + 1e-12)]
            where = "the front" if on_front else "any budget"
            reason = f"mean + {kappa:g} deviations within {budget:.4g}, {where}"
            self._add(proposals, taken, tokens_ND[fitting], reason, len(proposals) + 1)

    def _candidates(
        self, model: GaussianProcess, features: ArchitectureFeatures, kappa: float, rng: np.random.Generator
    ) -> tuple[Tokens, Floats, Floats]:
        """Architectures worth a look at some budget, with cost and mean + kappa * deviation of y."""

        def optimism(tokens_ND: Tokens) -> Floats:
            blocks = []
            for start in range(0, len(tokens_ND), _BLOCK):
                x_NF = features(tokens_ND[start : start + _BLOCK])
                bonus = kappa * model.deviation(x_NF) if kappa else 0.0
                blocks.append(to_log_error(model(x_NF), model.ceiling) + bonus)
            return np.concatenate(blocks)

        if self._listed_ND is not None:
            return self._listed_ND, self.cost(self._listed_ND), optimism(self._listed_ND)
        if self.space.num_architectures <= ENUMERABLE:
            tokens_ND = self.space.assignments([d.name for d in self.space.decisions])
            return tokens_ND, self.cost(tokens_ND), optimism(tokens_ND)
        archive = search_archive(self.space, self._slack, Objective(self.cost, optimism), _SEARCH, rng, SILENT)
        assert archive.tokens_ND is not None
        return archive.tokens_ND, archive.cost_N, archive.accuracy_N

    def _pool(self, rng: np.random.Generator, *, spread: bool) -> Tokens:
        """Random architectures; with `spread`, some from each part of the range, which uniform samples rarely reach."""
        if self._listed_ND is not None:
            return rng.permutation(self._listed_ND)
        uniform_ND = self.space.sample(_POOL, rng)
        if not spread:
            return uniform_ND
        toward = np.where(rng.random((_POOL, 1)) < 0.5, self._ends_ND[0], self._ends_ND[1])
        share = rng.random((_POOL, 1))
        pulled_ND = np.where(rng.random(uniform_ND.shape) < share, toward, uniform_ND)
        fresh_ND = rng.integers(0, self.space.num_options_D, size=uniform_ND.shape)
        pulled_ND = self.space.canonical(np.where(pulled_ND < 0, fresh_ND, pulled_ND))
        return np.concatenate([uniform_ND, pulled_ND])

    @staticmethod
    def _add(proposals: list[Proposal], taken: set[bytes], tokens_ND: Tokens, reason: str, until: int) -> None:
        """The first of `tokens_ND` that are new, until there are `until` proposals."""
        for tokens_D in tokens_ND:
            if len(proposals) >= until:
                return
            key = bytes(tokens_D.astype(np.int8))
            if key not in taken:
                taken.add(key)
                proposals.append(Proposal(tokens_D, reason))


def label_all(
    labeller: Labeller, strategy: str, total: int, measure: Callable[[Tokens], Floats], round_size: int = 20
) -> tuple[Tokens, Floats]:
    """Propose and measure in turns until `total` architectures are known, in the order they were measured."""
    tokens_ND = np.zeros((0, len(labeller.space.decisions)), dtype=np.int64)
    accuracy_N = np.zeros(0)
    while len(tokens_ND) < total:
        first = NUM_STRATIFIED if strategy == "active" and not len(tokens_ND) else round_size
        asked = labeller.propose(strategy, min(first, total - len(tokens_ND)), tokens_ND, accuracy_N)
        if not asked:
            break
        new_ND = np.stack([proposal.tokens_D for proposal in asked])
        tokens_ND = np.concatenate([tokens_ND, new_ND])
        accuracy_N = np.append(accuracy_N, measure(new_ND))
    return tokens_ND, accuracy_N
