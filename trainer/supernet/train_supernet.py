"""Train the weights that all architectures of a space share.

Every draw (order, augmentation, paths) follows from the seed and the step's number alone, so a run that was stopped
goes on to the same bits without any random state being kept.

Axis letters: N = images, C = channels, H, W = rows and columns, K = classes, P = paths of a step, D = decisions.
"""

import math
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pnag.models.errors import TrainingError
from pnag.models.space.search_space import SearchSpace, Tokens
from pnag.trainer.checkpoint import Checkpoint, digest
from pnag.trainer.data.images import Images, Normalise, augment
from pnag.trainer.progress import SILENT, Progress
from pnag.trainer.supernet.distributed import Group
from pnag.trainer.supernet.elastic import ElasticSupernet
from pnag.trainer.supernet.precision import check_precision, quickest_precision
from pnag.trainer.supernet.sandwich import path_losses, sandwich_paths
from pnag.trainer.supernet.weights_file import SupernetWeights, build_supernet

WEIGHTS = "supernet.pt"
CURVE_EVERY = 20
"""Steps."""
MAX_SHIFT = 2
"""Pixels by which augmentation moves an image."""
PROGRESSIVE = ((0.0, 0.5), (0.45, 0.75), (0.75, 1.0))


@dataclass(frozen=True)
class SupernetConfig:
    """Settings of a supernet's training."""

    epochs: float = 30.0
    """Images seen, in units of the training images."""
    max_minutes: float | None = None
    """End the schedule by then, however few images were seen; what comes out then depends on the machine's speed."""
    batch_size: int = 64
    optimizer: str = "sgd"
    """sgd (Nesterov) or adamw."""
    lr: float = 0.05
    """At its highest: after a warm-up over 3 % of the training; then it falls to 0 along a cosine."""
    weight_decay: float = 3e-4
    label_smoothing: float = 0.0
    ema_decay: float = 0.0
    """Of the averaged weights that are kept instead of the last ones; 0 keeps the last."""
    paths: str | None = None
    """fair (each step trains every option of every decision once), uniform (one random path) or sandwich (widest,
    narrowest, two random); None: sandwich for an elastic supernet, else fair."""
    sizes: tuple[tuple[float, float], ...] = PROGRESSIVE
    """(from which share of the training on, share of the resolution): small images first."""
    precision: str | None = None
    """fp32 or bf16, of activations and gradients; None: the quicker one on this processor."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.optimizer not in ("sgd", "adamw"):
            raise TrainingError(f"optimizer is {self.optimizer!r}; choose from sgd, adamw")
        if self.precision is not None:
            check_precision(self.precision)
        if self.paths is not None and self.paths not in _PATHS:
            raise TrainingError(f"paths is {self.paths!r}; choose from {', '.join(_PATHS)}")


def fair_paths(space: SearchSpace, rng: np.random.Generator) -> Tokens:
    """Architectures, as many as the widest decision has options, that together use each option equally, [P, D].

    FairNAS's strict fairness: no option is trained more often than another (arXiv 1907.01845).
    """
    count = int(space.num_options_D.max())
    columns = [np.resize(rng.permutation(options), count) for options in space.num_options_D]
    return space.canonical(np.stack(columns, axis=1))


def uniform_path(space: SearchSpace, rng: np.random.Generator) -> Tokens:
    """One random architecture, [1, D]."""
    return space.sample(1, rng)


_PATHS = {"fair": fair_paths, "uniform": uniform_path, "sandwich": sandwich_paths}


def train_supernet(
    space: SearchSpace,
    images: Images,
    config: SupernetConfig,
    out: Path,
    *,
    num_held_out: int,
    checkpoint_every_s: float = 120.0,
    progress: Progress = SILENT,
) -> SupernetWeights:
    """Train, or go on where a run in `out` stopped, and write `out`/supernet.pt.

    Raises:
        TrainingError: if the images do not fit the network, or `out` holds another run.
    """
    layers = space.layers(space.encode(space.sample(1, np.random.default_rng(0))[0]))
    images.check_classes(layers[-1].out_channels)
    if images.pixels_NCHW.shape[1:] != (layers[0].in_channels, layers[0].input_size, layers[0].input_size):
        raise TrainingError(
            f"images have shape {list(images.pixels_NCHW.shape[1:])}; {space.name} takes "
            f"{[layers[0].in_channels, layers[0].input_size, layers[0].input_size]}"
        )
    training, _ = images.split(num_held_out)
    config = replace(config, precision=config.precision or quickest_precision())
    group = Group.join()
    identity = {
        "space": space.name,
        "images": images.sha256[:16],
        "held_out": str(num_held_out),
        "processes": str(group.size),
        # How long it goes on is not what it is: either may be raised later.
        "config": digest({k: v for k, v in asdict(config).items() if k not in ("epochs", "max_minutes")}),
    }
    checkpoint = Checkpoint(out, identity, checkpoint_every_s, is_writer=group.is_first)
    run = _Run(space, training, config, group, checkpoint)
    run.resume()
    run.train(progress)
    mean, std = training.normalisation()
    report = {
        "config": asdict(config),
        "images_seen": run.step * config.batch_size,
        "wall_seconds": round(run.elapsed_s, 1),
        "processes": group.size,
    }
    weights = SupernetWeights(space.name, run.weights(), mean, std, images.sha256, num_held_out, report)
    if group.is_first:
        weights.save(out / WEIGHTS)
    return weights


class _Run:
    """One training: weights, optimiser, and how far it is."""

    def __init__(
        self, space: SearchSpace, images: Images, config: SupernetConfig, group: Group, checkpoint: Checkpoint
    ) -> None:
        torch.manual_seed(config.seed)
        self.images, self.config, self.group, self.checkpoint = images, config, group, checkpoint
        self.supernet = build_supernet(space)
        self.paths = config.paths or ("sandwich" if isinstance(self.supernet, ElasticSupernet) else "fair")
        self.supernet.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = _optimizer(self.supernet, config)
        self.averaged: dict[str, Tensor] | None = None
        if config.ema_decay:
            self.averaged = {name: tensor.clone() for name, tensor in self.supernet.state_dict().items()}
        self.normalise = Normalise(*images.normalisation())
        self.step, self.elapsed_s, self.share = 0, 0.0, 0.0
        self._epoch, self._order_N = -1, np.zeros(0, dtype=np.int64)

    def resume(self) -> None:
        """Go on where the checkpoint stopped, if there is one."""
        saved = self.checkpoint.load()
        if saved is not None:
            self.supernet.load_state_dict(saved["supernet"])
            self.optimizer.load_state_dict(saved["optimizer"])
            self.averaged = saved["averaged"]
            self.step, self.elapsed_s = saved["step"], saved["elapsed_s"]
        (step,) = self.group.from_first(self.step)
        if step != self.step:
            raise TrainingError(
                f"process {self.group.rank} goes on from step {self.step}, process 0 from step {step:.0f}; is another "
                "run writing to the folder, or is it not shared? Stop the other one, or share the folder, and go on"
            )

    def weights(self) -> dict[str, Tensor]:
        """The learned weights: the averages if they are kept, else the last."""
        return self.averaged or {name: tensor.detach() for name, tensor in self.supernet.state_dict().items()}

    def state(self) -> dict[str, Any]:
        """The content of a checkpoint."""
        return {
            "supernet": self.supernet.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "averaged": self.averaged,
            "step": self.step,
            "elapsed_s": self.elapsed_s,
        }

    def train(self, progress: Progress) -> None:
        """Steps until the schedule ends."""
        config = self.config
        started = time.monotonic() - self.elapsed_s
        self.supernet.train()
        with self.checkpoint.interruptible(), progress.stage("training the supernet", 1000) as stage:
            while True:
                self.elapsed_s = time.monotonic() - started
                share = self.step * config.batch_size / (config.epochs * len(self.images))
                if config.max_minutes is not None:
                    share = max(share, self.elapsed_s / 60 / config.max_minutes)
                (share,) = self.group.from_first(share)
                if share >= 1:
                    break
                loss, accuracy = self._step(share)
                stage.step(int(share * 1000) - int(self.share * 1000), f"loss {loss:.3f} accuracy {accuracy:.3f}")
                self.share = share
                is_due = self.checkpoint.step_done(
                    **{"step": self.step, "share": share, "seconds": self.elapsed_s, "loss": loss, "accuracy": accuracy}
                    if self.step % CURVE_EVERY == 0
                    else {}
                )
                (due,) = self.group.from_first(is_due)
                if due:
                    self.checkpoint.save(self.state())
        self.checkpoint.save(self.state())

    def _step(self, share: float) -> tuple[float, float]:
        """One batch through the step's paths, one update; returns the first process's mean loss and accuracy."""
        config, space = self.config, self.supernet.space
        rng = np.random.default_rng([config.seed, self.step])
        paths_PD = _PATHS[self.paths](space, rng)
        mine = self._batch(self.step)[self.group.rank :: self.group.size]
        own_rng = np.random.default_rng([config.seed, self.step, self.group.rank])
        pixels_NCHW = augment(self.images.pixels_NCHW[mine], own_rng, MAX_SHIFT)
        size = round(self.images.pixels_NCHW.shape[-1] * [s for start, s in config.sizes if share >= start][-1])
        inputs_NCHW, labels_N = self.normalise(pixels_NCHW, size), torch.from_numpy(self.images.labels_N[mine])
        for settings in self.optimizer.param_groups:
            settings["lr"] = config.lr * _schedule(share)
        self.optimizer.zero_grad(set_to_none=True)
        losses, hits = [], []
        for loss, logits_NK in path_losses(
            self._forward, inputs_NCHW, labels_N, paths_PD, config.label_smoothing,
            first_teaches=self.paths == "sandwich",
        ):  # fmt: skip
            loss.backward()  # type: ignore[no-untyped-call]
            losses.append(loss.item())
            hits.append((logits_NK.argmax(1) == labels_N).float().mean().item())
        self.group.average_gradients(self.supernet)
        self.optimizer.step()
        self.step += 1
        if self.averaged is not None:
            _average(self.averaged, self.supernet.state_dict(), config.ema_decay, self.step)
        return float(np.mean(losses)), float(np.mean(hits))

    def _forward(self, inputs_NCHW: Tensor, tokens_D: Tokens) -> Tensor:  # noqa: N803
        """Logits in float32, whatever precision they were reached in."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.config.precision == "bf16"):
            logits_NK: Tensor = self.supernet(inputs_NCHW, tokens_D)
        return logits_NK.float()

    def _batch(self, step: int) -> NDArray[np.int64]:
        """The images that a step sees: each epoch goes through all of them in an order of its own."""
        start = step * self.config.batch_size
        picked: list[int] = []
        while len(picked) < self.config.batch_size:
            epoch, place = divmod(start + len(picked), len(self.images))
            picked.extend(self._order(epoch)[place : place + self.config.batch_size - len(picked)])
        return np.array(picked)

    def _order(self, epoch: int) -> NDArray[np.int64]:
        if self._epoch != epoch:
            self._epoch = epoch
            self._order_N = np.random.default_rng([self.config.seed, 1, epoch]).permutation(len(self.images))
        return self._order_N


def _optimizer(module: nn.Module, config: SupernetConfig) -> torch.optim.Optimizer:
    """Biases and batch norm are not decayed."""
    decayed = [p for p in module.parameters() if p.ndim > 1]
    rest = [p for p in module.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr)
    return torch.optim.SGD(groups, lr=config.lr, momentum=0.9, nesterov=True)


def _schedule(share: float) -> float:
    """Learning rate as a share of its highest: up in a straight line, down along a cosine."""
    warm_up = 0.03
    if share < warm_up:
        return (share + 0.001) / (warm_up + 0.001)
    return 0.5 * (1 + math.cos(math.pi * (share - warm_up) / (1 - warm_up)))


def _average(averaged: dict[str, Tensor], state: dict[str, Tensor], decay: float, step: int) -> None:
    """Move the averages on; early ones follow quickly, or they would remember the start."""
    decay = min(decay, (1 + step) / (10 + step))
    for name, tensor in state.items():
        if tensor.is_floating_point():
            averaged[name].lerp_(tensor, 1 - decay)
        else:
            averaged[name].copy_(tensor)
