"""Train the budget-conditioned policy for any budget in the range, by one of two methods behind one interface.

`elite-imitation`: each step draws budgets over the whole range (PNAG's joint training over diverse budgets), draws one
elite of the archive per budget with weight exp((accuracy - best) / temperature), and raises its log-probability under
that budget's slack mask. A round ends by asking the policy; its answers join the archive, so the next round imitates
what this one found.

`reinforce`: the paper's policy gradient (trainer/generator/reinforce.py); the archive keeps what it samples on the way.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pnag.models.answer.limits import NO_LIMIT
from pnag.models.cost.slack import SlackTable
from pnag.models.errors import TrainingError
from pnag.models.policy.generator import Generator
from pnag.models.space.search_space import SearchSpace, Tokens
from pnag.trainer.checkpoint import Checkpoint, digest, random_state, restore_random_state
from pnag.trainer.config import GeneratorConfig, TrainConfig
from pnag.trainer.generator.archive import (
    Archive,
    budget_grid,
    cheapest,
    dearest,
    empty_archive,
    local_search,
    search_archive,
)
from pnag.trainer.generator.objective import Objective
from pnag.trainer.generator.reinforce import Score, composite, reinforce
from pnag.trainer.progress import Progress

Floats = NDArray[np.float64]

_IMITATED_BUDGETS = 512
_NUM_PROBES = 32


@dataclass(frozen=True)
class _Lessons:
    """Elites of a fine grid of budgets: shape [J], [J, M], [J, M]."""

    budgets_J: Floats
    elite_JM: NDArray[np.int64]
    weight_JM: Floats


def train_generator(
    space: SearchSpace,
    slack: SlackTable,
    objective: Objective,
    config: TrainConfig,
    progress: Progress,
    checkpoint_folder: Path | None = None,
    score: Score | None = None,
) -> tuple[Archive, Generator]:
    """Search, then train: the archive of the best architectures seen, and a policy over its range of budgets.

    Args:
        checkpoint_folder: where the state is kept; a run that was broken off goes on from there and ends the same.
        score: what `reinforce` maximises at a budget; None = the composite score.

    Raises:
        TrainingError: if there is nothing to choose from, a reward is not finite, or the checkpoint is another run's.
    """
    torch.set_num_threads(1)  # at these sizes a second thread costs more than it brings
    checkpoint = Checkpoint(checkpoint_folder, _identity(space, slack, objective, config, score))
    resumed = checkpoint.load()
    if config.generator.method == "reinforce":
        return _train_by_reinforce(space, slack, objective, config, progress, checkpoint, resumed, score)
    return _train_by_imitation(space, slack, objective, config, progress, checkpoint, resumed)


def sample(generator: Generator, budgets_N: Floats, num_costs: int, rng: np.random.Generator) -> Tokens:
    """One architecture per budget: greedy for the first, drawn from the policy for the rest."""
    limits_NK = np.full((len(budgets_N), num_costs), NO_LIMIT, dtype=np.float32)
    limits_NK[:, 0] = budgets_N
    noise_NDC = rng.gumbel(size=(len(budgets_N), len(generator.space.decisions), generator.width)).astype(np.float32)
    noise_NDC[0] = 0.0
    return generator.sample(limits_NK, noise_NDC)


def new_generator(
    space: SearchSpace, slack: SlackTable, archive: Archive, config: GeneratorConfig, seed: int
) -> Generator:
    """An untrained policy over the archive's range of budgets."""
    torch.manual_seed(seed)
    low, high = float(archive.budgets_J[0]), float(archive.budgets_J[-1])
    return Generator(space, slack, low, high, config.embedding, config.hidden)


def _identity(
    space: SearchSpace, slack: SlackTable, objective: Objective, config: TrainConfig, score: Score | None
) -> dict[str, str]:
    """What a run is made of, to be compared with a checkpoint's."""
    probes_ND = space.sample(_NUM_PROBES, np.random.default_rng(0))
    cost_N, accuracy_N = objective.cost(probes_ND), objective.accuracy(probes_ND)
    scores = (
        [] if score is None else score(probes_ND, cost_N, accuracy_N, np.full(_NUM_PROBES, np.median(cost_N))).tolist()
    )
    return {
        "search space": f"{space.name} {digest(space.to_dict())}",
        "costs": digest(slack.base_K, slack.steps_RK),
        "evaluator": digest(accuracy_N, scores),
        "configuration": digest(asdict(config.archive), asdict(config.generator), asdict(config.reinforce)),
        "method": config.generator.method,
        "seed": str(config.seed),
    }


# -- elite imitation ---------------------------------------------------------------------------------------------------


def _train_by_imitation(
    space: SearchSpace, slack: SlackTable, objective: Objective, config: TrainConfig, progress: Progress,
    checkpoint: Checkpoint, resumed: dict[str, Any] | None,
) -> tuple[Archive, Generator]:  # fmt: skip
    if resumed is None:
        archive = search_archive(
            space, slack, objective, config.archive, np.random.default_rng([config.seed, 0]), progress
        )
    else:
        archive = empty_archive(space, slack, objective, config.archive)
        archive.restore(resumed["archive"])
    rng = np.random.default_rng([config.seed, 1])
    generator = new_generator(space, slack, archive, config.generator, config.seed)
    low, high = generator.low, generator.high
    first = 1 if resumed is None else int(resumed["round"])
    for number in range(first, config.generator.rounds + 1):
        _imitate(generator, archive, config.generator, rng, number, progress, checkpoint, resumed)
        resumed = None
        budgets_N = np.repeat(budget_grid(low, high, config.generator.ask_budgets), config.generator.ask_candidates)
        archive.add(sample(generator, budgets_N, slack.base_K.shape[0], rng))
        local_search(space, archive, config.archive.local_search_rounds)
    return archive, generator


def _imitate(
    generator: Generator,
    archive: Archive,
    config: GeneratorConfig,
    rng: np.random.Generator,
    number: int,
    progress: Progress,
    checkpoint: Checkpoint,
    resumed: dict[str, Any] | None,
) -> None:
    lessons = _lessons(archive, config.temperature)
    trained = [p for p in generator.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=config.learning_rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.learning_rate, total_steps=config.steps, pct_start=0.1
    )
    start = 0
    if resumed is not None:
        start = int(resumed["step"])
        generator.load_state_dict(resumed["generator"])
        optimizer.load_state_dict(resumed["optimizer"])
        schedule.load_state_dict(resumed["schedule"])
        restore_random_state(rng, resumed["random"])

    def state(step: int) -> dict[str, Any]:
        return {
            "round": number,
            "step": step,
            "generator": generator.state_dict(),
            "optimizer": optimizer.state_dict(),
            "schedule": schedule.state_dict(),
            "random": random_state(rng),
            "archive": archive.state(),
        }

    with progress.stage(f"generator {number}/{config.rounds}", config.steps) as bar, checkpoint.interruptible():
        bar.step(start)
        for step in range(start, config.steps):
            tokens_ND, budgets_N = _draw(archive, lessons, config.batch_size, rng)
            limits_NK = np.full((len(budgets_N), generator.slack.base_K.shape[0]), NO_LIMIT, dtype=np.float32)
            limits_NK[:, 0] = budgets_N
            loss = -generator.log_prob(tokens_ND, limits_NK).mean()
            if not math.isfinite(loss.item()):
                raise TrainingError(
                    f"the imitation loss is {loss.item()} at step {step + 1} of round {number}: an elite does not fit "
                    "the budget of its imitation, or training diverged; lower learning_rate, and report this"
                )
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            schedule.step()
            bar.step(note=f"-log p {loss.item():.2f}")
            if checkpoint.step_done(
                round=number, step=step + 1, loss=loss.item(), learning_rate=float(schedule.get_last_lr()[0])
            ):
                checkpoint.save(state(step + 1))
    checkpoint.save(state(config.steps))


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


# -- policy gradient ---------------------------------------------------------------------------------------------------


def _train_by_reinforce(
    space: SearchSpace, slack: SlackTable, objective: Objective, config: TrainConfig, progress: Progress,
    checkpoint: Checkpoint, resumed: dict[str, Any] | None, score: Score | None,
) -> tuple[Archive, Generator]:  # fmt: skip
    archive = empty_archive(space, slack, objective, config.archive)
    if resumed is None:
        archive.add(np.stack([cheapest(space, slack), dearest(space, slack)]))
    else:
        archive.restore(resumed["archive"])
    generator = new_generator(space, slack, archive, config.generator, config.seed)
    extra: Callable[[], dict[str, Any]] = lambda: {"archive": archive.state()}  # noqa: E731
    reinforce(
        generator, objective, score or composite(generator.high - generator.low), config.reinforce,
        np.random.default_rng([config.seed, 1]), progress, checkpoint, resumed,
        keep=archive.add_evaluated, extra_state=extra,
    )  # fmt: skip
    return archive, generator
