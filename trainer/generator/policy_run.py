"""Gradient steps of a policy: the part that every training method shares."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pnag.models.answer.limits import NO_LIMIT
from pnag.models.errors import TrainingError
from pnag.models.policy.generator import Generator
from pnag.models.space.search_space import Tokens
from pnag.trainer.checkpoint import Checkpoint, random_state, restore_random_state
from pnag.trainer.generator.archive import Archive
from pnag.trainer.progress import Progress

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Step:
    """The loss of one gradient step, figures for the curves, and a note for the progress bar."""

    loss: Tensor
    note: str
    figures: dict[str, float]


@dataclass
class PolicyRun:
    """One policy in training, with everything that a run which is broken off needs to go on and end the same.

    Attributes:
        resumed: the state that an earlier run left in the checkpoint; used up by the first `descend`.
        archive: is part of the checkpoint, where there is one.
    """

    generator: Generator
    rng: np.random.Generator
    progress: Progress
    checkpoint: Checkpoint
    resumed: dict[str, Any] | None = None
    archive: Archive | None = None

    def descend(
        self, stage: str, steps: int, learning_rate: float, step_at: Callable[[int], Step | None], number: int = 1
    ) -> None:
        """Train in place by AdamW under a one-cycle schedule.

        Args:
            learning_rate: the schedule's peak.
            step_at: step, from 0 -> what to descend; None stops the run.
            number: of the round, for curves and checkpoint.

        Raises:
            TrainingError: if a loss is not finite.
        """
        trained = [p for p in self.generator.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=learning_rate, weight_decay=1e-4)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps, pct_start=0.1)
        parts: dict[str, Any] = {"generator": self.generator, "optimizer": optimizer, "schedule": schedule}
        done = self._resume(parts)

        def save() -> None:
            states = {name: part.state_dict() for name, part in parts.items()}
            archive = {} if self.archive is None else {"archive": self.archive.state()}
            self.checkpoint.save({"round": number, "step": done, "random": random_state(self.rng), **states, **archive})

        with self.progress.stage(stage, steps) as bar, self.checkpoint.interruptible():
            bar.step(done)
            while done < steps:
                step = step_at(done)
                if step is None:
                    break
                loss = step.loss.item()
                if not math.isfinite(loss):
                    raise TrainingError(
                        f"{stage}: the loss is {loss} at step {done + 1}: an architecture does not fit the budget it "
                        "was proposed for, or training diverged; lower learning_rate, and report this"
                    )
                optimizer.zero_grad()
                step.loss.backward()  # type: ignore[no-untyped-call]
                torch.nn.utils.clip_grad_norm_(trained, 1.0)
                optimizer.step()
                schedule.step()
                bar.step(note=step.note)
                done += 1
                rate = float(schedule.get_last_lr()[0])
                if self.checkpoint.step_done(round=number, step=done, loss=loss, **step.figures, learning_rate=rate):
                    save()
        save()

    def _resume(self, parts: dict[str, Any]) -> int:
        """Take up an earlier run's state; returns the steps it had done."""
        state, self.resumed = self.resumed, None
        if state is None:
            return 0
        for name, part in parts.items():
            part.load_state_dict(state[name])
        restore_random_state(self.rng, state["random"])
        return int(state["step"])


def limits_of(generator: Generator, budgets_N: Floats) -> NDArray[np.float32]:
    """Budgets as limits of the primary cost, the other costs free; shape [N, K]."""
    limits_NK = np.full((len(budgets_N), generator.slack.base_K.shape[0]), NO_LIMIT, dtype=np.float32)
    limits_NK[:, 0] = budgets_N
    return limits_NK


def sample(generator: Generator, budgets_N: Floats, rng: np.random.Generator) -> Tokens:
    """One architecture per budget: greedy for the first, drawn from the policy for the rest."""
    noise_NDC = rng.gumbel(size=(len(budgets_N), len(generator.space.decisions), generator.width)).astype(np.float32)
    noise_NDC[0] = 0.0
    return generator.sample(limits_of(generator, budgets_N), noise_NDC)
