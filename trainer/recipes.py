"""Whole training configurations by name; each says what it costs and what to expect."""

from collections.abc import Callable

from pnag.trainer.config import (
    ArchiveConfig,
    EvaluatorConfig,
    GeneratorConfig,
    RankingConfig,
    ReinforceConfig,
    TrainConfig,
)


def default(seed: int = 0) -> TrainConfig:
    """About a minute on one core for 1357 records of the OFA space; mean regret about .001 points at 64 candidates."""
    return TrainConfig(seed=seed)


def quick(seed: int = 0) -> TrainConfig:
    """Seconds: every stage runs for real, nothing converges. For tests and first looks."""
    return TrainConfig(
        seed=seed,
        evaluator=EvaluatorConfig(gp_hyperparameter_records=200, gp_steps=25),
        archive=ArchiveConfig(cells=32, initial=300, generations=8, children=200, local_search_rounds=3),
        generator=GeneratorConfig(embedding=16, hidden=24, steps=60, rounds=1, ask_budgets=16, ask_candidates=8),
        reinforce=ReinforceConfig(steps=40, budgets=4, samples=8),
        ranking=RankingConfig(budgets=5, hidden=32, steps=40, batch_size=32),
    )


def thorough(seed: int = 0) -> TrainConfig:
    """About 6 minutes: a longer search and a longer imitation, when the last hundredth of a point counts."""
    return TrainConfig(
        seed=seed,
        archive=ArchiveConfig(cells=256, elites=12, generations=200),
        generator=GeneratorConfig(hidden=96, steps=1500, rounds=3),
        reinforce=ReinforceConfig(steps=4000),
    )


RECIPES: dict[str, Callable[[int], TrainConfig]] = {"default": default, "quick": quick, "thorough": thorough}
