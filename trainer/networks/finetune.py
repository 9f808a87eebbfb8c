"""Train one network further on somebody's images, with the widest network of its supernet as the teacher.

Every draw follows from the seed and the step's number, so a run that was stopped goes on to the same bits.

Axis letters: N = images, C = channels, H, W = rows and columns, K = classes.
"""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pnag.models.errors import TrainingError
from pnag.trainer.checkpoint import Checkpoint, digest
from pnag.trainer.data.images import Images, Normalise, augment
from pnag.trainer.networks.export import Source, top1
from pnag.trainer.progress import SILENT, Progress
from pnag.trainer.supernet.plain_network import PlainNetwork
from pnag.trainer.supernet.sandwich import distillation_loss

CURVE_EVERY = 20


@dataclass(frozen=True)
class FinetuneConfig:
    """Settings of a network's further training."""

    epochs: float = 5.0
    """Images seen, in units of the training images."""
    batch_size: int = 64
    lr: float = 0.01
    """At the start; then it falls to 0 along a cosine."""
    weight_decay: float = 3e-4
    distillation: float = 0.5
    """Weight of the teacher's word against the labels'."""
    shift: int = 2
    """Pixels by which images are moved at random."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.distillation <= 1:
            raise TrainingError(f"distillation is {self.distillation}; it must be from 0 to 1")
        if self.batch_size < 2 or self.epochs < 0 or self.lr <= 0:
            raise TrainingError("batch_size must be 2 or more, epochs not below 0, and lr above 0")


@dataclass(frozen=True)
class Finetuned:
    """A network trained further; accuracies are fractions, on the images held out."""

    network: PlainNetwork
    accuracy: float
    accuracy_before: float
    teacher_accuracy: float


def finetune(
    source: Source,
    encoding: str,
    images: Images,
    config: FinetuneConfig,
    folder: Path,
    *,
    checkpoint_every_s: float = 120.0,
    progress: Progress = SILENT,
) -> Finetuned:
    """Train the network of an encoding, or go on where a run in `folder` stopped.

    Raises:
        TrainingError: if the images do not fit the network, or the folder holds another run.
    """
    space = source.supernet.space
    images.check_classes(space.layers(encoding)[-1].out_channels)
    training, held_out = source.split(images)
    if len(training) < config.batch_size:
        raise TrainingError(f"{len(training)} images to train on, fewer than a batch of {config.batch_size}; add some")
    scorer = source.scorer(images)
    widest_D = space.canonical((space.num_options_D - 1)[np.newaxis])[0]  # noqa: N806 (the suffix is the shape)
    teacher, network = scorer.recalibrated(widest_D), scorer.recalibrated(space.decode(encoding))
    normalise = source.normalise()
    before, teacher_accuracy = (accuracy(n, held_out, normalise) for n in (network, teacher))
    identity = {
        "space": space.name,
        "architecture": encoding,
        "weights": digest(*(tensor.numpy() for state in network.layer_states() for tensor in state.values())),
        "images": images.sha256[:16],
        "config": digest(asdict(config)),
    }
    checkpoint = Checkpoint(folder, identity, checkpoint_every_s)
    _train(network, teacher, training, normalise, config, checkpoint, progress)
    return Finetuned(network.eval(), accuracy(network, held_out, normalise), before, teacher_accuracy)


@torch.inference_mode()
def accuracy(network: nn.Module, images: Images, normalise: Normalise) -> float:
    """Top-1 in [0, 1]."""
    return top1(network.eval(), images, normalise)


def _train(
    network: PlainNetwork,
    teacher: PlainNetwork,
    images: Images,
    normalise: Normalise,
    config: FinetuneConfig,
    checkpoint: Checkpoint,
    progress: Progress,
) -> None:
    optimizer = torch.optim.SGD(
        network.parameters(), lr=config.lr, momentum=0.9, nesterov=True, weight_decay=config.weight_decay
    )
    total, step = math.ceil(config.epochs * len(images) / config.batch_size), 0
    saved = checkpoint.load()
    if saved is not None:
        network.load_state_dict(saved["network"])
        optimizer.load_state_dict(saved["optimizer"])
        step = saved["step"]

    def state() -> dict[str, Any]:
        return {"network": network.state_dict(), "optimizer": optimizer.state_dict(), "step": step}

    network.train()
    with checkpoint.interruptible(), progress.stage("fine-tuning", total) as stage:
        stage.step(step)
        done = step
        for step, (inputs_NCHW, labels_N) in _batches(images, normalise, config, done, total):  # noqa: N806
            for settings in optimizer.param_groups:
                settings["lr"] = config.lr * 0.5 * (1 + math.cos(math.pi * (step - 1) / total))
            logits_NK = network(inputs_NCHW)  # noqa: N806
            loss = (1 - config.distillation) * nn.functional.cross_entropy(logits_NK, labels_N)
            if config.distillation:
                with torch.no_grad():
                    taught_NK = teacher(inputs_NCHW)  # noqa: N806
                loss = loss + config.distillation * distillation_loss(logits_NK, taught_NK)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            stage.step(1, f"loss {loss.item():.3f}")
            if checkpoint.step_done(**({"step": step, "loss": loss.item()} if step % CURVE_EVERY == 0 else {})):
                checkpoint.save(state())
    checkpoint.save(state())


def _batches(
    images: Images, normalise: Normalise, config: FinetuneConfig, done: int, total: int
) -> Iterator[tuple[int, tuple[Tensor, Tensor]]]:
    """(steps done with it, batch) from step `done` on; each epoch in an order of its own, its ragged end left out."""
    per_epoch = len(images) // config.batch_size
    for step in range(done, total):
        epoch, place = divmod(step, per_epoch)
        order_N = np.random.default_rng([config.seed, 1, epoch]).permutation(len(images))  # noqa: N806
        chosen_N = order_N[place * config.batch_size : (place + 1) * config.batch_size]  # noqa: N806
        pixels_NCHW = augment(  # noqa: N806
            images.pixels_NCHW[chosen_N], np.random.default_rng([config.seed, 2, step]), config.shift
        )
        yield step + 1, (normalise(pixels_NCHW), torch.from_numpy(images.labels_N[chosen_N]))
