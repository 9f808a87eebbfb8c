"""Train the budget-conditioned policy to imitate the archive's elites, at any budget in the range.

Each step draws budgets over the whole range (PNAG's joint training over diverse budgets), draws one elite per budget
with weight exp((accuracy - best) / temperature), and raises its log-probability under that budget's slack mask. A round
ends by asking the policy; its answers join the archive, so the next round imitates what this one found.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from models.generator import Generator
from models.runtime import NO_LIMIT
from models.search_space import SearchSpace, Tokens
from models.slack import SlackTable
from trainer.archive import Archive, budget_grid, local_search
from trainer.config import ArchiveConfig, GeneratorConfig
from trainer.progress import Progress

Floats = NDArray[np.float64]

_IMITATED_BUDGETS = 512


@dataclass(frozen=True)
class _Lessons:
    """Elites of a fine grid of budgets: shape [J], [J, M], [J, M]."""

    budgets_J: Floats
    elite_JM: NDArray[np.int64]
    weight_JM: Floats


def train_generator(
    space: SearchSpace,
    slack: SlackTable,
    archive: Archive,
    config: GeneratorConfig,
    archive_config: ArchiveConfig,
    seed: int,
    progress: Progress,
) -> Generator:
    """A policy over the archive's range of budgets; the archive gains what the policy finds."""
    torch.set_num_threads(1)  # at these sizes a second thread costs more than it brings
    torch.manual_seed(seed)
    rng = np.random.default_rng([seed, 1])
    low, high = float(archive.budgets_J[0]), float(archive.budgets_J[-1])
    generator = Generator(space, slack, low, high, config.embedding, config.hidden)
    for number in range(1, config.rounds + 1):
        _imitate(generator, archive, config, rng, f"generator {number}/{config.rounds}", progress)
        budgets_N = np.repeat(budget_grid(low, high, config.ask_budgets), config.ask_candidates)
        archive.add(sample(generator, budgets_N, slack.base_K.shape[0], rng))
        local_search(space, archive, archive_config.local_search_rounds)
    return generator


def sample(generator: Generator, budgets_N: Floats, num_costs: int, rng: np.random.Generator) -> Tokens:
    """One architecture per budget: greedy for the first, drawn from the policy for the rest."""
    limits_NK = np.full((len(budgets_N), num_costs), NO_LIMIT, dtype=np.float32)
    limits_NK[:, 0] = budgets_N
    noise_NDC = rng.gumbel(size=(len(budgets_N), len(generator.space.decisions), generator.width)).astype(np.float32)
    noise_NDC[0] = 0.0
    return generator.sample(limits_NK, noise_NDC)


def _imitate(
    generator: Generator,
    archive: Archive,
    config: GeneratorConfig,
    rng: np.random.Generator,
    name: str,
    progress: Progress,
) -> None:
    lessons = _lessons(archive, config.temperature)
    trained = [p for p in generator.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=config.learning_rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.learning_rate, total_steps=config.steps, pct_start=0.1
    )
    with progress.stage(name, config.steps) as bar:
        for _ in range(config.steps):
            tokens_ND, budgets_N = _draw(archive, lessons, config.batch_size, rng)
            limits_NK = np.full((len(budgets_N), generator.slack.base_K.shape[0]), NO_LIMIT, dtype=np.float32)
            limits_NK[:, 0] = budgets_N
            loss = -generator.log_prob(tokens_ND, limits_NK).mean()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            schedule.step()
            bar.step(note=f"-log p {loss.item():.2f}")


def _lessons(archive: Archive, temperature: float) -> _Lessons:
    low, high = float(archive.budgets_J[0]), float(archive.budgets_J[-1])
    budgets_J = budget_grid(low, high, _IMITATED_BUDGETS)
    elite_JM = archive.elite_indices(budgets_J)
    accuracy_JM = np.where(elite_JM >= 0, archive.accuracy_N[elite_JM], -np.inf)
    weight_JM = np.exp((accuracy_JM - accuracy_JM[:, :1]) / temperature)
    return _Lessons(budgets_J, elite_JM, weight_JM / weight_JM.sum(axis=1, keepdims=True))


def _draw(archive: Archive, lessons: _Lessons, count: int, rng: np.random.Generator) -> tuple[Tokens, Floats]:
    """Elites and the budgets they are imitated at: anywhere between their grid budget and the next."""
    assert archive.tokens_ND is not None
    cells = rng.integers(0, len(lessons.budgets_J), count)
    chosen = (lessons.weight_JM[cells].cumsum(axis=1) < rng.random((count, 1))).sum(axis=1)
    elites = lessons.elite_JM[cells, np.minimum(chosen, lessons.elite_JM.shape[1] - 1)]
    upper = np.append(lessons.budgets_J[1:], lessons.budgets_J[-1])[cells]
    budgets_N = lessons.budgets_J[cells] + rng.random(count) * (upper - lessons.budgets_J[cells])
    # float32 rounding must not make an elite that costs exactly its budget look too dear.
    return archive.tokens_ND[elites], np.nextafter(budgets_N.astype(np.float32), np.float32(np.inf)) * (1 + 1e-6)
