"""The accuracy of an architecture with its supernet's weights, batch norm recalibrated for it.

A supernet's own batch norm statistics are a mixture over all paths, and right for none. Here each batch norm takes its
mean and variance from some training images, which go through as in training; the held-out images are scored with those.
What an architecture scores depends on weights and images alone: not on what was scored before it, nor on who does it.

Axis letters: N = images, C = channels, H, W = rows and columns, D = decisions of the space.
"""

from copy import deepcopy
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from pnag.models.space.layers import Layer
from pnag.models.space.search_space import Tokens
from pnag.trainer.data.images import Images, Normalise
from pnag.trainer.supernet.plain_network import ConvUnit, LayerState, PlainNetwork, layer_module
from pnag.trainer.supernet.precision import check_precision
from pnag.trainer.supernet.supernet import Supernet

_PART = 50
"""Held-out images that go through a layer at a time: 1.1 s an architecture of nas-bench-macro; 1.8 s with 500."""


@dataclass(frozen=True)
class ScoreConfig:
    """The images that an architecture is scored with."""

    recalibration_images: int = 256
    """Of those trained on."""
    validation_images: int = 5000
    """At most, of those held out."""
    precision: str = "fp32"
    """Of what is scored, fp32 or bf16; recalibration is fp32."""

    def __post_init__(self) -> None:
        check_precision(self.precision)


class _Step(NamedTuple):
    """A layer that was run: with which weights, and what came out for the training and the held-out images."""

    state: LayerState
    block: nn.Module
    seen_NCHW: Tensor
    scored_NCHW: Tensor


class Scorer:
    """Scores architectures one after the other.

    Layers that an architecture shares with the one before, from the input on, are not run again: in the order of their
    tokens, the 6561 architectures of nas-bench-macro cost a fraction of running each whole.
    """

    def __init__(
        self, supernet: Supernet, images: Images, num_held_out: int, normalise: Normalise, config: ScoreConfig
    ) -> None:
        self.supernet = supernet
        self._is_half = config.precision == "bf16"
        training, held_out = images.split(num_held_out)
        rng = np.random.default_rng(1)
        seen_N = rng.permutation(len(training))[: config.recalibration_images]
        scored_N = rng.permutation(len(held_out))[: config.validation_images]
        self._labels_N = torch.from_numpy(held_out.labels_N[scored_N])
        self._seen_NCHW = normalise(training.pixels_NCHW[seen_N])
        self._scored_NCHW = normalise(held_out.pixels_NCHW[scored_N])
        self._steps: list[_Step] = []

    def __call__(self, tokens_D: Tokens) -> float:  # noqa: N803 (the suffix is the shape)
        """Top-1 of one architecture on the held-out images, in [0, 1]."""
        self._run(tokens_D)
        logits_NK = self._steps[-1].scored_NCHW
        return float((logits_NK.argmax(1) == self._labels_N).double().mean())

    def recalibrated(self, tokens_D: Tokens) -> PlainNetwork:  # noqa: N803
        """The network that is scored, with the batch norm statistics it is scored with."""
        self._run(tokens_D)
        network = PlainNetwork(self.supernet.space.layers(self.supernet.space.encode(tokens_D)))
        network.load_layer_states([step.block.state_dict() for step in self._steps])
        return network.eval()

    @torch.no_grad()
    def _run(self, tokens_D: Tokens) -> None:  # noqa: N803
        layers = self.supernet.space.layers(self.supernet.space.encode(tokens_D))
        states = self.supernet.layer_states(tokens_D)
        same = [_is_same(step.state, state) for step, state in zip(self._steps, states, strict=False)]
        del self._steps[(same + [False]).index(False) :]
        for layer, state in list(zip(layers, states, strict=True))[len(self._steps) :]:
            seen_NCHW, scored_NCHW = (
                self._steps[-1][2:] if self._steps else (self._seen_NCHW, self._scored_NCHW)
            )  # fmt: skip
            block = _fresh_block(layer, state)
            seen_NCHW = _recalibrated(block, seen_NCHW)
            folded = _without_batch_norm(block)
            with torch.autocast("cpu", torch.bfloat16, enabled=self._is_half):
                scored_NCHW = torch.cat([folded(part) for part in scored_NCHW.split(_PART)])
            self._steps.append(_Step(state, block, seen_NCHW, scored_NCHW))


def _fresh_block(layer: Layer, state: LayerState) -> nn.Module:
    """A layer with its own copy of the weights; no time is lost on drawing any."""
    with torch.device("meta"):
        block = layer_module(layer)
    block.load_state_dict({name: tensor.clone() for name, tensor in state.items()}, assign=True)
    return block.eval()


def _without_batch_norm(block: nn.Module) -> nn.Module:
    """A copy whose convolutions do what their batch norm did: a third of a pass less."""
    folded = deepcopy(block)
    for unit in folded.modules():
        if isinstance(unit, ConvUnit) and unit.bn is not None:
            unit.conv, unit.bn = fuse_conv_bn_eval(unit.conv, unit.bn), None
    return folded


def _recalibrated(block: nn.Module, images_NCHW: Tensor) -> Tensor:  # noqa: N803
    """A layer's output for the images whose statistics become those of each batch norm."""
    norms = [module for module in block.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0  # nothing is left of what was there
        norm.train()
    output_NCHW: Tensor = block(images_NCHW)
    for norm in norms:
        norm.eval()
    return output_NCHW


def _is_same(left: LayerState, right: LayerState) -> bool:
    """True if two layers are the same one, by their weights."""
    return left.keys() == right.keys() and all(
        left[name].shape == right[name].shape
        and (left[name].data_ptr() == right[name].data_ptr() or torch.equal(left[name], right[name]))
        for name in left
        if "running_" not in name
    )
