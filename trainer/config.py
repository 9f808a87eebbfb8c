"""Settings of each training stage; every number is checked when the config is built."""

from dataclasses import dataclass, field

from pnag.models.errors import TrainingError

SCORES = ("composite", "ranking")


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise TrainingError(message)


@dataclass(frozen=True)
class EvaluatorConfig:
    """Fit of the accuracy model, and the score that guides the generator."""

    score: str = "composite"
    """Maximised by the generator's training at a budget: `composite` (accuracy where the cost fits) or `ranking`
    (the paper's learned score, for method `reinforce`)."""
    min_records: int = 20
    """Fewer than this are refused."""
    held_out_fraction: float = 0.2
    """Share of the records kept back to measure the evaluator and set its interval."""
    interval_coverage: float = 0.9
    """Of the accuracy interval."""
    gp_max_records: int = 1500
    """Above this an MLP ensemble replaces the Gaussian process, whose fit grows with the cube of the records."""
    gp_hyperparameter_records: int = 800
    """At most this many records choose the kernel's lengthscales; all of them then determine the posterior."""
    gp_steps: int = 80
    """Adam steps on the marginal likelihood."""
    gp_learning_rate: float = 0.1
    """Of those steps."""
    mlp_members: int = 5
    """Networks in the ensemble."""
    mlp_hidden: tuple[int, ...] = (128, 128)
    """Widths of their hidden layers."""
    mlp_weight_decay: float = 1e-3
    """L2 penalty."""

    def __post_init__(self) -> None:
        _check(self.score in SCORES, f"evaluator score is {self.score!r}; choose from {list(SCORES)}")
        _check(self.min_records >= 4, f"min_records is {self.min_records}; at least 4")
        _check(0 < self.held_out_fraction < 1, f"held_out_fraction is {self.held_out_fraction}; between 0 and 1")
        _check(0 < self.interval_coverage < 1, f"interval_coverage is {self.interval_coverage}; between 0 and 1")
        _check(self.gp_steps > 0 and self.gp_learning_rate > 0, "gp_steps and gp_learning_rate must be above 0")
        _check(self.mlp_members > 0, f"mlp_members is {self.mlp_members}; at least 1")


@dataclass(frozen=True)
class RankingConfig:
    """Training of the paper's evaluator (eq. 4)."""

    budgets: int = 10
    """Budgets K with an embedding of their own, even over the range of costs."""
    embedding: int = 16
    """Width of a budget's embedding."""
    hidden: int = 128
    """Width of the two hidden layers."""
    margin: float = 1.0
    """Of the hinge."""
    steps: int = 600
    """Adam steps."""
    batch_size: int = 64
    """Architectures M per step; all M (M - 1) pairs are compared at every budget."""
    learning_rate: float = 2e-3
    """Peak of a cosine schedule."""
    weight_decay: float = 1e-3
    """L2 penalty."""

    def __post_init__(self) -> None:
        _check(self.budgets >= 2, f"budgets is {self.budgets}; at least 2")
        _check(self.steps > 0 and self.batch_size >= 2, "steps must be above 0, batch_size at least 2")
        _check(self.margin > 0, f"margin is {self.margin}; above 0")


@dataclass(frozen=True)
class ArchiveConfig:
    """Search of the elite archive."""

    cells: int = 128
    """Budgets that the archive keeps elites for, denser at the cheap end."""
    elites: int = 8
    """Architectures kept per budget."""
    initial: int = 2000
    """Architectures evaluated before evolution starts."""
    generations: int = 60
    """Rounds of children from the elites."""
    children: int = 1000
    """Children per round."""
    mutations: float = 1.5
    """Decisions redrawn per mutated child, on average."""
    crossover_fraction: float = 0.3
    """Share of the children that have two parents."""
    local_search_rounds: int = 20
    """At most this many passes over all one-decision neighbours of the front; stops when one finds nothing."""

    def __post_init__(self) -> None:
        _check(self.cells >= 2 and self.elites >= 1, "cells must be at least 2, elites at least 1")
        _check(self.initial > 0 and self.children > 0, "initial and children must be above 0")


@dataclass(frozen=True)
class ReinforceConfig:
    """Training of the policy by policy gradient (eq. 2)."""

    steps: int = 800
    """Gradient steps."""
    budgets: int = 8
    """Budgets K per step, drawn anew each time, one from each of K equal parts of the range."""
    samples: int = 16
    """Architectures per budget; their mean reward is that budget's baseline."""
    learning_rate: float = 2e-3
    """Peak of Adam's one-cycle schedule."""
    entropy_start: float = 0.05
    """Weight of the policy's entropy per decision at the first step, against rewards of deviation 1 ..."""
    entropy_end: float = 0.0
    """... falling linearly to this at the last."""

    def __post_init__(self) -> None:
        _check(self.steps > 0 and self.budgets > 0, "steps and budgets must be above 0")
        _check(self.samples >= 2, f"samples is {self.samples}; at least 2, or the baseline is the reward itself")
        _check(self.entropy_start >= 0 and self.entropy_end >= 0, "entropy weights must not be below 0")


@dataclass(frozen=True)
class GeneratorConfig:
    """Training of the policy; steps, rounds and the rest below `hidden` are those of elite imitation."""

    method: str = "elite-imitation"
    """One of `pnag.trainer.generator.train.METHODS`: `elite-imitation`, or the paper's `reinforce`."""
    embedding: int = 48
    """Width of the LSTM's input."""
    hidden: int = 32
    """Units of the LSTM."""
    steps: int = 900
    """Gradient steps per round."""
    rounds: int = 1
    """Times that the policy is trained, then asked, its answers joining the archive."""
    batch_size: int = 128
    """Architectures per step."""
    learning_rate: float = 4e-3
    """Peak of Adam's one-cycle schedule."""
    temperature: float = 3e-4
    """Accuracy (a fraction) by which an elite may trail the best at its budget and still be imitated e times less."""
    ask_budgets: int = 256
    """Budgets asked at the end of a round."""
    ask_candidates: int = 16
    """Samples per budget asked."""

    def __post_init__(self) -> None:
        _check(self.hidden > 0 and self.embedding > 0, "hidden and embedding must be above 0")
        _check(self.steps > 0 and self.rounds > 0 and self.batch_size > 0, "steps, rounds, batch_size must be above 0")
        _check(self.temperature > 0, f"temperature is {self.temperature}; above 0")


@dataclass(frozen=True)
class TrainConfig:
    """One `pnag train`."""

    seed: int = 0
    """Of every random choice: the same inputs and seed give the same bundle."""
    evaluator: EvaluatorConfig = field(default_factory=EvaluatorConfig)
    archive: ArchiveConfig = field(default_factory=ArchiveConfig)
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    reinforce: ReinforceConfig = field(default_factory=ReinforceConfig)
    ranking: RankingConfig = field(default_factory=RankingConfig)
