"""Train the policy by policy gradient against the evaluator's score: the paper's way (PNAG, eq. 2).

    max over theta of  1/K sum over k of  E[ R(a | B_k) ]  +  lambda * H(policy)          a ~ policy(. | B_k)

Each step draws K budgets over the whole range, samples architectures for each under the slack mask, and weighs their
log-probabilities with how much better they score than the mean of their own budget: rewards at a large budget are
higher whatever the policy does, and without a baseline per budget that difference drowns the one to learn from.

Axis letters: K = budgets, M = architectures per budget, N = K M, D = decisions.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pnag.models.errors import TrainingError
from pnag.models.policy.generator import Generator
from pnag.models.space.search_space import INACTIVE, Tokens
from pnag.trainer.config import ReinforceConfig
from pnag.trainer.evaluator.dominance import composite_score
from pnag.trainer.generator.objective import Objective
from pnag.trainer.generator.policy_run import PolicyRun, Step, limits_of

Floats = NDArray[np.float64]

Score = Callable[[Tokens, Floats, Floats, Floats], Floats]
"""(tokens [N, D], cost [N], accuracy [N], budget [N]) -> R(a | B) [N]; higher is better."""

_ASKED_TIMES = 4
"""An allowance counts different architectures; a policy that repeats itself still stops, after so many times that."""


def composite(cost_range: float) -> Score:
    """`composite_score` as a reward."""
    return lambda _tokens, cost, accuracy, budget: composite_score(cost, accuracy, budget, cost_range)


def advantages(reward_KM: Floats) -> Floats:
    """Distance of each sample's reward from its budget's mean, in units of their deviation; shape [K, M].

    Raises:
        TrainingError: if a reward is not finite.
    """
    if not np.isfinite(reward_KM).all():
        raise TrainingError(
            "the evaluator's score is not finite for a sampled architecture; check your records or score"
        )
    centred_KM = reward_KM - reward_KM.mean(axis=1, keepdims=True)  # the baseline b(B_k) of eq. 2's estimator
    return np.asarray(centred_KM / (centred_KM.std() + 1e-12))


def log_prob_and_entropy(
    generator: Generator, tokens_ND: Tokens, limits_NK: NDArray[np.float32]
) -> tuple[Tensor, Tensor]:
    """Log-probability of each architecture, and the mean entropy of its active decisions; both shape [N]."""
    log_NDC = torch.log_softmax(generator.masked_logits(tokens_ND, limits_NK), dim=2)
    active_ND = torch.from_numpy(tokens_ND != INACTIVE)
    chosen_ND = log_NDC.gather(2, torch.from_numpy(np.maximum(tokens_ND, 0)).unsqueeze(2)).squeeze(2)
    log_prob_N = torch.where(active_ND, chosen_ND, 0.0).sum(dim=1)
    finite_NDC = torch.where(log_NDC.isinf(), 0.0, log_NDC)
    entropy_ND = torch.where(active_ND, -(finite_NDC.exp() * finite_NDC * ~log_NDC.isinf()).sum(dim=2), 0.0)
    return log_prob_N, entropy_ND.sum(dim=1) / active_ND.sum(dim=1)


def draw_budgets(low: float, high: float, count: int, rng: np.random.Generator) -> Floats:
    """One budget from each of `count` equal parts of the range, shape [count]."""
    return low + (high - low) * (np.arange(count) + rng.random(count)) / count


def reinforce(
    run: PolicyRun, objective: Objective, score: Score, config: ReinforceConfig, budgets_K: Floats | None = None
) -> None:
    """Train in place; the run's archive is shown every architecture sampled.

    Args:
        score: what is maximised.
        budgets_K: train for these alone instead of drawing budgets anew at each step.
    """
    generator, rng = run.generator, run.rng
    left = objective.remaining * _ASKED_TIMES

    def step_at(step: int) -> Step | None:
        nonlocal left
        budgets = budgets_K
        if budgets is None:
            budgets = draw_budgets(generator.low, generator.high, config.budgets, rng)
        budget_N = np.repeat(budgets, config.samples)
        limits_NK = limits_of(generator, budget_N)
        noise = rng.gumbel(size=(len(budget_N), len(generator.space.decisions), generator.width))
        tokens_ND = generator.sample(limits_NK, noise.astype(np.float32))
        if objective.remaining < len(tokens_ND) or left < len(tokens_ND):
            return None
        left -= len(tokens_ND)
        cost_N, accuracy_N = objective(tokens_ND)
        reward_KM = score(tokens_ND, cost_N, accuracy_N, budget_N).reshape(len(budgets), config.samples)
        advantage_N = torch.from_numpy(advantages(reward_KM).astype(np.float32)).reshape(-1)
        log_prob_N, entropy_N = log_prob_and_entropy(generator, tokens_ND, limits_NK)
        done = step / max(1, config.steps - 1)
        entropy_weight = config.entropy_start + (config.entropy_end - config.entropy_start) * done
        loss = -(advantage_N * log_prob_N).mean() - entropy_weight * entropy_N.mean()
        if run.archive is not None:
            run.archive.add_evaluated(tokens_ND, cost_N, accuracy_N)
        entropy = float(entropy_N.mean().item())
        return Step(loss, f"entropy {entropy:.2f}", {"reward": float(reward_KM.mean()), "entropy": entropy})

    run.descend("reinforce", config.steps, config.learning_rate, step_at)
