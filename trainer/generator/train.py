"""Train the budget-conditioned policy for any budget in the range, by one of METHODS: a new one is one more entry."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from pnag.models.cost.slack import SlackTable
from pnag.models.errors import TrainingError
from pnag.models.policy.generator import Generator
from pnag.models.space.search_space import SearchSpace
from pnag.trainer.checkpoint import Checkpoint, digest
from pnag.trainer.config import TrainConfig
from pnag.trainer.generator.archive import Archive, budget_grid, empty_archive, ends, local_search, search_archive
from pnag.trainer.generator.imitate import imitate
from pnag.trainer.generator.objective import Objective
from pnag.trainer.generator.policy_run import PolicyRun, sample
from pnag.trainer.generator.reinforce import Score, composite, reinforce
from pnag.trainer.progress import Progress
from pnag.trainer.repeatable import use_one_thread

Floats = NDArray[np.float64]

_NUM_PROBES = 32


class TrainedGenerator(NamedTuple):
    """The best architectures seen, and a policy over their range of budgets."""

    archive: Archive
    policy: Generator


@dataclass(frozen=True)
class GeneratorTask:
    """A search space, what its architectures cost and are worth, and how to train a policy for it.

    Attributes:
        score: what a method that maximises a score is given; None = the composite score.
    """

    space: SearchSpace
    slack: SlackTable
    objective: Objective
    config: TrainConfig
    score: Score | None = None

    def identity(self) -> dict[str, str]:
        """Digests of all that the result depends on, to be compared with a checkpoint's."""
        probes_ND = self.space.sample(_NUM_PROBES, np.random.default_rng(0))
        cost_N, accuracy_N = self.objective.cost(probes_ND), self.objective.accuracy(probes_ND)
        scores: list[float] = []
        if self.score is not None:
            scores = self.score(probes_ND, cost_N, accuracy_N, np.full(_NUM_PROBES, np.median(cost_N))).tolist()
        config = self.config
        return {
            "search space": f"{self.space.name} {digest(self.space.to_dict())}",
            "costs": digest(self.slack.base_K, self.slack.steps_RK),
            "evaluator": digest(accuracy_N, scores),
            "configuration": digest(asdict(config.archive), asdict(config.generator), asdict(config.reinforce)),
            "method": config.generator.method,
            "seed": str(config.seed),
        }

    def rng(self, stage: int) -> np.random.Generator:
        """Random numbers of a stage's own: 0 searches, 1 trains."""
        return np.random.default_rng([self.config.seed, stage])

    def empty_archive(self) -> Archive:
        """An archive over the range of the primary cost."""
        return empty_archive(self.space, self.slack, self.objective, self.config.archive)

    def new_policy(self, archive: Archive) -> Generator:
        """An untrained policy over the archive's range of budgets."""
        torch.manual_seed(self.config.seed)
        low, high = float(archive.budgets_J[0]), float(archive.budgets_J[-1])
        config = self.config.generator
        return Generator(self.space, self.slack, low, high, config.embedding, config.hidden)


def train_generator(task: GeneratorTask, progress: Progress, checkpoint_folder: Path | None = None) -> TrainedGenerator:
    """Search and train, as the method of the task's configuration does.

    Args:
        checkpoint_folder: where the state is kept; a run that was broken off goes on from there and ends the same.

    Raises:
        TrainingError: if there is nothing to choose from, a reward is not finite, or the checkpoint is another run's.
    """
    method = method_of(task.config)
    use_one_thread()
    checkpoint = Checkpoint(checkpoint_folder, task.identity())
    return method.train(task, progress, checkpoint, checkpoint.load())


def _train_by_imitation(
    task: GeneratorTask, progress: Progress, checkpoint: Checkpoint, resumed: dict[str, Any] | None
) -> TrainedGenerator:
    space, config = task.space, task.config.generator
    if resumed is None:
        archive = search_archive(space, task.slack, task.objective, task.config.archive, task.rng(0), progress)
    else:
        archive = task.empty_archive()
        archive.restore(resumed["archive"])
    policy = task.new_policy(archive)
    run = PolicyRun(policy, task.rng(1), progress, checkpoint, resumed, archive)
    first = 1 if resumed is None else int(resumed["round"])
    asked_N = np.repeat(budget_grid(policy.low, policy.high, config.ask_budgets), config.ask_candidates)
    for number in range(first, config.rounds + 1):
        imitate(run, archive, config, number)
        archive.add(sample(policy, asked_N, run.rng))
        local_search(space, archive, task.config.archive.local_search_rounds)
    return TrainedGenerator(archive, policy)


def _train_by_reinforce(
    task: GeneratorTask, progress: Progress, checkpoint: Checkpoint, resumed: dict[str, Any] | None
) -> TrainedGenerator:
    """The archive keeps what is sampled on the way."""
    archive = task.empty_archive()
    if resumed is None:
        archive.add(ends(task.space, task.slack))
    else:
        archive.restore(resumed["archive"])
    policy = task.new_policy(archive)
    run = PolicyRun(policy, task.rng(1), progress, checkpoint, resumed, archive)
    score = task.score or composite(policy.high - policy.low)
    reinforce(run, task.objective, score, task.config.reinforce)
    return TrainedGenerator(archive, policy)


@dataclass(frozen=True)
class Method:
    """A way to train a policy.

    Attributes:
        train: task, progress, checkpoint, and the state it holds (None at the start) -> what was trained.
        takes_score: whether it maximises a score, so that the paper's learned one can take the composite one's place.
    """

    train: Callable[[GeneratorTask, Progress, Checkpoint, dict[str, Any] | None], TrainedGenerator]
    takes_score: bool = False


METHODS = {
    "elite-imitation": Method(_train_by_imitation),
    "reinforce": Method(_train_by_reinforce, takes_score=True),
}


def method_of(config: TrainConfig) -> Method:
    """The method that a configuration names.

    Raises:
        TrainingError: if there is no such method, or it has no use for the evaluator's score.
    """
    name, score = config.generator.method, config.evaluator.score
    if name not in METHODS:
        raise TrainingError(f"generator method is {name!r}; choose from {list(METHODS)}")
    if score != "composite" and not METHODS[name].takes_score:
        fitting = [other for other, method in METHODS.items() if method.takes_score]
        raise TrainingError(
            f"evaluator score {score!r} guides method {', '.join(fitting)} only; {name!r} imitates elites by accuracy. "
            f"Choose --method {fitting[0]}, or the composite score"
        )
    return METHODS[name]
