"""Layers that a network is made of, with their MACs, parameters and activation memory.

A `Layer` is the unit of cost: the smallest piece that a latency table times on its own. Knows nothing of search spaces.

MACs are those of convolutions and linear layers, squeeze-excite's two 1x1 convolutions included; batch norm, pooling
and activations count nothing. Parameters are everything that is stored: weights, biases, batch norm's scale and shift.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

LayerKind = Literal["conv", "mbconv", "linear", "option"]
"""An option is one of a table-only space: named, without a shape (models/space/tabular.py)."""
Activation = Literal["none", "relu", "h_swish"]


def make_divisible(channels: int, divisor: int = 8) -> int:
    """Round channels to a multiple of `divisor`, never more than 10 % down (MobileNet's rule)."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


@dataclass(frozen=True)
class Layer:
    """One timed piece of a network, at a fixed input shape.

    `conv` is convolution, batch norm, activation; `mbconv` the inverted residual block; `linear` a matrix product.
    Sizes are square and in pixels.
    """

    kind: LayerKind
    input_size: int
    in_channels: int
    out_channels: int
    kernel_size: int = 1
    stride: int = 1
    activation: Activation = "none"
    expanded_channels: int = 0
    """Of an mbconv's depthwise convolution; equal to `in_channels` when there is no expansion."""
    squeeze_channels: int = 0
    """Of squeeze-excite's bottleneck; 0 means no squeeze-excite."""
    has_pool: bool = False
    """Global average pooling comes first."""
    has_batch_norm: bool = True
    has_residual: bool = False

    @property
    def output_size(self) -> int:
        """Side of the output in pixels; halves by ceiling."""
        return 1 if self.has_pool else -(-self.input_size // self.stride)

    @cached_property
    def key(self) -> str:
        """The layer's name in a latency table: everything that can change its latency."""
        text = (
            f"{self.kind}-in:{self.input_size}x{self.input_size}x{self.in_channels}"
            f"-out:{self.output_size}x{self.output_size}x{self.out_channels}"
        )
        if self.kind != "linear":
            text += f"-kernel:{self.kernel_size}-stride:{self.stride}-act:{self.activation}"
        if self.kind == "mbconv":
            text += f"-expanded:{self.expanded_channels}-squeeze:{self.squeeze_channels}-residual:{self.has_residual:d}"
        return text + ("-pool" if self.has_pool else "")

    @property
    def family(self) -> str:
        """Layers whose latency a calibration scales together."""
        return "mbconv-se" if self.squeeze_channels else self.kind

    @cached_property
    def macs(self) -> int:
        """Multiply-accumulates for one image."""
        pixels_out = self.output_size**2
        if self.kind == "linear":
            return self.in_channels * self.out_channels
        if self.kind == "conv":
            return pixels_out * self.kernel_size**2 * self.in_channels * self.out_channels
        expand = self.input_size**2 * self.in_channels * self.expanded_channels if self._has_expansion else 0
        depthwise = pixels_out * self.kernel_size**2 * self.expanded_channels
        squeeze_excite = 2 * self.expanded_channels * self.squeeze_channels
        return expand + depthwise + squeeze_excite + pixels_out * self.expanded_channels * self.out_channels

    @cached_property
    def params(self) -> int:
        """Stored numbers: weights, biases, and batch norm's scale and shift."""
        if self.kind == "linear":
            return self.in_channels * self.out_channels + self.out_channels
        batch_norm = 2 * self.out_channels if self.has_batch_norm else 0
        if self.kind == "conv":
            return self.kernel_size**2 * self.in_channels * self.out_channels + batch_norm
        expanded, squeeze = self.expanded_channels, self.squeeze_channels
        expand = self.in_channels * expanded + 2 * expanded if self._has_expansion else 0
        depthwise = self.kernel_size**2 * expanded + 2 * expanded
        squeeze_excite = 2 * expanded * squeeze + squeeze + expanded if squeeze else 0
        return expand + depthwise + squeeze_excite + expanded * self.out_channels + batch_norm

    @cached_property
    def peak_activations(self) -> int:
        """Numbers alive at the layer's worst moment for one image: an operator's input, its output, a kept residual."""
        pixels_in, pixels_out = self.input_size**2, self.output_size**2
        inputs, outputs = pixels_in * self.in_channels, pixels_out * self.out_channels
        if self.kind != "mbconv":
            return inputs + outputs
        kept = inputs if self.has_residual else 0
        expanded_in, expanded_out = pixels_in * self.expanded_channels, pixels_out * self.expanded_channels
        expand = inputs + expanded_in if self._has_expansion else 0
        return max(expand, kept + expanded_in + expanded_out, kept + expanded_out + outputs)

    @property
    def _has_expansion(self) -> bool:
        return self.expanded_channels != self.in_channels
