"""Train the policy to propose what the archive's elites are.

Each step draws budgets over the whole range (PNAG's joint training over diverse budgets), draws one elite of the
archive per budget with weight exp((accuracy - best) / temperature), and raises its log-probability under that budget's
slack mask. A round ends by asking the policy; its answers join the archive, and the next round imitates those too.

Axis letters: N = architectures, D = decisions, J = budgets of the grid, M = elites per budget.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pnag.models.space.search_space import Tokens
from pnag.trainer.config import GeneratorConfig
from pnag.trainer.generator.archive import Archive, budget_grid
from pnag.trainer.generator.policy_run import PolicyRun, Step, limits_of

Floats = NDArray[np.float64]

_IMITATED_BUDGETS = 512


@dataclass(frozen=True)
class TrainingBatches:
    """Elites at a fine grid of budgets, to draw batches from; shape [J], [J, M], [J, M]."""

    archive: Archive
    budgets_J: Floats
    elite_JM: NDArray[np.int64]
    weight_JM: Floats

    @classmethod
    def of(cls, archive: Archive, temperature: float) -> "TrainingBatches":
        """From what an archive holds now."""
        low, high = float(archive.budgets_J[0]), float(archive.budgets_J[-1])
        budgets_J = budget_grid(low, high, _IMITATED_BUDGETS)
        elite_JM = archive.elite_indices(budgets_J)
        accuracy_JM = np.where(elite_JM >= 0, archive.accuracy_N[elite_JM], -np.inf)
        weight_JM = np.exp((accuracy_JM - accuracy_JM[:, :1]) / temperature)
        return cls(archive, budgets_J, elite_JM, weight_JM / weight_JM.sum(axis=1, keepdims=True))

    def draw(self, count: int, rng: np.random.Generator) -> tuple[Tokens, Floats]:
        """Elites and the budgets they are imitated at: anywhere between their grid budget and the next."""
        assert self.archive.tokens_ND is not None
        cells = rng.integers(0, len(self.budgets_J), count)
        chosen = (self.weight_JM[cells].cumsum(axis=1) < rng.random((count, 1))).sum(axis=1)
        elites = self.elite_JM[cells, np.minimum(chosen, self.elite_JM.shape[1] - 1)]
        upper = np.append(self.budgets_J[1:], self.budgets_J[-1])[cells]
        budgets_N = self.budgets_J[cells] + rng.random(count) * (upper - self.budgets_J[cells])
        # float32 rounding must not make an elite that costs exactly its budget look too expensive.
        above_N = np.nextafter(budgets_N.astype(np.float32), np.float32(np.inf)) * (1 + 1e-6)
        return self.archive.tokens_ND[elites], above_N


def imitate(run: PolicyRun, archive: Archive, config: GeneratorConfig, number: int) -> None:
    """Train in place for one round, the `number`-th from 1."""
    batches = TrainingBatches.of(archive, config.temperature)

    def step_at(_step: int) -> Step:
        tokens_ND, budgets_N = batches.draw(config.batch_size, run.rng)
        loss = -run.generator.log_prob(tokens_ND, limits_of(run.generator, budgets_N)).mean()
        return Step(loss, f"-log p {loss.item():.2f}", {})

    run.descend(f"generator {number}/{config.rounds}", config.steps, config.learning_rate, step_at, number)
