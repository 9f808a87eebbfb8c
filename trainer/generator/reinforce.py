"""Train the policy by policy gradient against the evaluator's score: the paper's way (PNAG, eq. 2).

    max over theta of  1/K sum over k of  E[ R(a | B_k) ]  +  lambda * H(policy)          a ~ policy(. | B_k)

Each step draws K budgets over the whole range, samples architectures for each under the slack mask, and weighs their
log-probabilities with how much better they score than the mean of their own budget: rewards at a large budget are
higher whatever the policy does, and without a baseline per budget that difference drowns the one to learn from.

Axis letters: K = budgets, M = architectures per budget, N = K M, D = decisions.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pnag.models.answer.limits import NO_LIMIT
from pnag.models.errors import TrainingError
from pnag.models.policy.generator import Generator
from pnag.models.space.search_space import INACTIVE, Tokens
from pnag.trainer.checkpoint import Checkpoint, random_state, restore_random_state
from pnag.trainer.config import ReinforceConfig
from pnag.trainer.evaluator.dominance import composite_score
from pnag.trainer.generator.objective import Objective
from pnag.trainer.progress import Progress

Floats = NDArray[np.float64]

Score = Callable[[Tokens, Floats, Floats, Floats], Floats]
"""(tokens [N, D], cost [N], accuracy [N], budget [N]) -> R(a | B) [N]; higher is better."""

_ASKED_TIMES = 4
"""An allowance counts different architectures; a policy that repeats itself still stops, after so many times that."""


def composite(cost_range: float) -> Score:
    """`composite_score` as a reward."""
    return lambda _tokens, cost, accuracy, budget: composite_score(cost, accuracy, budget, cost_range)


def advantages(reward_KM: Floats) -> Floats:
    """How much better each sample is than its budget's mean, in units of their deviation; shape [K, M].

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
    generator: Generator,
    objective: Objective,
    score: Score,
    config: ReinforceConfig,
    rng: np.random.Generator,
    progress: Progress,
    checkpoint: Checkpoint,
    resumed: dict[str, Any] | None = None,
    budgets_K: Floats | None = None,
    keep: Callable[[Tokens, Floats, Floats], None] | None = None,
    extra_state: Callable[[], dict[str, Any]] = dict,
) -> None:
    """Train in place.

    Args:
        budgets_K: train for these alone instead of drawing budgets anew at each step.
        keep: is shown every architecture sampled, with its cost and accuracy.
        extra_state: what the caller wants in the checkpoint too.
    """
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
            "step": step,
            "generator": generator.state_dict(),
            "optimizer": optimizer.state_dict(),
            "schedule": schedule.state_dict(),
            "random": random_state(rng),
            **extra_state(),
        }

    stopped_at = start
    asked_left = objective.remaining * _ASKED_TIMES
    with progress.stage("reinforce", config.steps) as bar, checkpoint.interruptible():
        bar.step(start)
        for step in range(start, config.steps):
            budgets = (
                budgets_K if budgets_K is not None else draw_budgets(generator.low, generator.high, config.budgets, rng)
            )
            shape = (len(budgets), config.samples)
            budget_N = np.repeat(budgets, config.samples)
            limits_NK = np.full((len(budget_N), generator.slack.base_K.shape[0]), NO_LIMIT, dtype=np.float32)
            limits_NK[:, 0] = budget_N
            noise = rng.gumbel(size=(len(budget_N), len(generator.space.decisions), generator.width))
            tokens_ND = generator.sample(limits_NK, noise.astype(np.float32))
            if objective.remaining < len(tokens_ND) or asked_left < len(tokens_ND):
                break
            asked_left -= len(tokens_ND)
            cost_N, accuracy_N = objective(tokens_ND)
            reward_KM = score(tokens_ND, cost_N, accuracy_N, budget_N).reshape(shape)
            advantage_N = torch.from_numpy(advantages(reward_KM).astype(np.float32)).reshape(-1)
            log_prob_N, entropy_N = log_prob_and_entropy(generator, tokens_ND, limits_NK)
            done = step / max(1, config.steps - 1)
            entropy_weight = config.entropy_start + (config.entropy_end - config.entropy_start) * done
            loss = -(advantage_N * log_prob_N).mean() - entropy_weight * entropy_N.mean()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            schedule.step()
            if keep is not None:
                keep(tokens_ND, cost_N, accuracy_N)
            entropy = float(entropy_N.mean().item())
            bar.step(note=f"entropy {entropy:.2f}")
            due = checkpoint.step_done(
                round=1, step=step + 1, loss=float(loss.item()), reward=float(reward_KM.mean()), entropy=entropy,
                learning_rate=float(schedule.get_last_lr()[0]),
            )  # fmt: skip
            if due:
                checkpoint.save(state(step + 1))
            stopped_at = step + 1
    checkpoint.save(state(stopped_at))
