"""Interface of the methods: what each is given and gives; one counted evaluator for all.

A method is fitted once, on an objective that counts; what comes out answers any budgets. Fitting may look at the space,
the cost and the objective; only methods that search anew for each budget may look at the test budgets, and they share
the allowance among them.

Axis letters: N = architectures, D = decisions, B = budgets.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pnag.bench.search.problem import Problem, best_of
from pnag.models.policy.generator import Generator
from pnag.models.space.search_space import Tokens
from pnag.trainer.config import TrainConfig
from pnag.trainer.generator.objective import RememberingObjective
from pnag.trainer.progress import Progress

Floats = NDArray[np.float64]

FittedMethod = Callable[[Floats, RememberingObjective], Tokens]
"""(budgets [B], an objective that counts what answering asks) -> one architecture per budget [B, D].

A row of `NO_ANSWER` means that the method has none.
"""
NO_ANSWER = -2


@dataclass(frozen=True)
class MethodRun:
    """Settings of one run of a method.

    Attributes:
        allowance: different architectures that fitting may ask the evaluator about.
        samples: that a policy draws per budget when answering.
    """

    problem: Problem
    allowance: int
    samples: int
    seed: int
    config: TrainConfig
    progress: Progress
    shared: dict[str, Any] = field(default_factory=dict)


def answer_from(tokens_ND: Tokens, cost_N: Floats, accuracy_N: Floats) -> FittedMethod:
    """Answers with the best of a fixed set of evaluated architectures."""

    def answer(budgets_B: Floats, _objective: RememberingObjective) -> Tokens:
        places_B = best_of(cost_N, accuracy_N, budgets_B)
        answers = tokens_ND[np.maximum(places_B, 0)].copy()
        answers[places_B < 0] = NO_ANSWER
        return answers

    return answer


def ask_what_is_left(objective: RememberingObjective, tokens_ND: Tokens) -> bool:
    """Ask about as many as the allowance still pays for; False when it is spent."""
    tokens_ND = np.unique(tokens_ND, axis=0)
    while len(tokens_ND) and objective.num_unseen(tokens_ND) > objective.remaining:
        tokens_ND = tokens_ND[: max(objective.remaining, len(tokens_ND) // 2)]
        if objective.remaining == 0:
            break
    if len(tokens_ND) and objective.num_unseen(tokens_ND) <= objective.remaining:
        objective(tokens_ND)
    return objective.remaining > 0


def new_policy(problem: Problem, embedding: int, hidden: int) -> Generator:
    return Generator(problem.space, problem.slack, problem.low, problem.high, embedding, hidden)


def uniform_policy(problem: Problem) -> Generator:
    """Each option that still fits with equal chance."""
    generator = new_policy(problem, 1, 1)
    torch.nn.init.zeros_(generator.head_DHC)
    return generator
