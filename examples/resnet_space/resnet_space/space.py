"""`resnet-cifar`: three stages of residual blocks on 32x32 images; decisions, layers, and how a block is built.

Encoding: per stage `<kind><width>x<depth>`, joined by dashes, e.g. `b16x2-n64x3-b64x1` (b = basic, n = bottleneck).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

from pnag.models.errors import EncodingError
from pnag.models.space.layers import Layer
from pnag.models.space.search_space import CostGroup, Decision, Option, SearchSpace

KINDS = {"basic": "b", "bottleneck": "n"}
WIDTHS = ((16, 24, 32), (32, 48, 64), (64, 96, 128))
DEPTHS = (1, 2, 3)
RESOLUTION, STEM_CHANNELS, NUM_CLASSES = 32, 32, 10
_STAGE = re.compile(r"(?P<kind>[bn])(?P<width>\d+)x(?P<depth>\d)")


@dataclass(frozen=True)
class ResidualBlock(Layer):
    """Two 3x3 convolutions, or 1x1, 3x3, 1x1 through a quarter of the channels, and a shortcut around them.

    The shortcut is a 1x1 convolution where the shape changes. `kind` is "conv" to those who only ask for families.
    """

    is_bottleneck: bool = False

    @cached_property
    def convolutions(self) -> tuple[tuple[int, int, int, int], ...]:
        """(kernel size, stride, in channels, out channels) of the main path, then of the shortcut if it has one."""
        first, last, stride = self.in_channels, self.out_channels, self.stride
        main: tuple[tuple[int, int, int, int], ...]
        if self.is_bottleneck:
            inner = last // 4
            main = ((1, 1, first, inner), (3, stride, inner, inner), (1, 1, inner, last))
        else:
            main = ((3, stride, first, last), (3, 1, last, last))
        return (*main, (1, stride, first, last)) if self.has_projection else main

    @property
    def has_projection(self) -> bool:
        return self.stride != 1 or self.in_channels != self.out_channels

    @cached_property
    def key(self) -> str:
        kind = "bottleneck" if self.is_bottleneck else "basic"
        return f"{kind}-in:{self.input_size}x{self.in_channels}-out:{self.output_size}x{self.out_channels}"

    @property
    def family(self) -> str:
        return "bottleneck" if self.is_bottleneck else "basic"

    @cached_property
    def macs(self) -> int:
        total, size = 0, self.input_size
        main = self.convolutions[:-1] if self.has_projection else self.convolutions
        for kernel, stride, inputs, outputs in main:
            size = -(-size // stride)
            total += size**2 * kernel**2 * inputs * outputs
        if self.has_projection:
            _, _, inputs, outputs = self.convolutions[-1]
            total += self.output_size**2 * inputs * outputs
        return total

    @cached_property
    def params(self) -> int:
        return sum(kernel**2 * inputs * outputs + 2 * outputs for kernel, _, inputs, outputs in self.convolutions)

    @cached_property
    def peak_activations(self) -> int:
        inputs = self.input_size**2 * self.in_channels
        return inputs + 2 * self.output_size**2 * self.out_channels

    def append_to(self, builder: Any) -> None:
        """Add the block to an ONNX graph at `builder.tensor`; see models/onnx/network_graph.py for the builder."""
        start, shape = builder.tensor, builder.shape
        shortcut = start
        if self.has_projection:
            builder.conv(self.out_channels, 1, self.stride)
            shortcut = builder.tensor
            builder.go_to(start, shape)
        main = self.convolutions[:-1] if self.has_projection else self.convolutions
        for number, (kernel, stride, _, outputs) in enumerate(main, start=1):
            builder.conv(outputs, kernel, stride, "relu" if number < len(main) else "none")
        total = builder.add("Add", [builder.tensor, shortcut])
        builder.go_to(builder.add("Relu", [total]), builder.shape)


class ResNetCifar(SearchSpace):
    """Nine decisions: kind, width and depth of three stages."""

    def __init__(self) -> None:
        decisions, groups = [], [CostGroup((), _stem)]
        for stage, widths in enumerate(WIDTHS, start=1):
            names = tuple(f"stage{stage}.{what}" for what in ("kind", "width", "depth"))
            decisions += [Decision(names[0], tuple(KINDS)), Decision(names[1], widths), Decision(names[2], DEPTHS)]
            # What enters a stage is decided by the stage before it: its width is part of the group.
            before = () if stage == 1 else (f"stage{stage - 1}.width",)
            groups.append(CostGroup((*before, *names), partial(_stage, stage)))
        groups.append(CostGroup(("stage3.width",), _head))
        super().__init__("resnet-cifar", decisions, groups)

    def format_values(self, values: Sequence[Option | None]) -> str:
        stages = [values[i : i + 3] for i in range(0, len(values), 3)]
        return "-".join(f"{KINDS[str(kind)]}{width}x{depth}" for kind, width, depth in stages)

    def parse_values(self, encoding: str) -> list[Option | None]:
        parts = [_STAGE.fullmatch(part) for part in encoding.strip().split("-")]
        if len(parts) != len(WIDTHS) or None in parts:
            raise EncodingError(f"{self.name}: {encoding[:60]!r} is not three stages, as in b16x2-n64x3-b64x1")
        kinds = {letter: kind for kind, letter in KINDS.items()}
        values: list[Option | None] = []
        for match in parts:
            assert match is not None
            values += [kinds[match["kind"]], int(match["width"]), int(match["depth"])]
        return values


def _stem() -> tuple[Layer, ...]:
    return (Layer("conv", RESOLUTION, 3, STEM_CHANNELS, kernel_size=3, activation="relu"),)


def _stage(stage: int, *values: Any) -> tuple[Layer, ...]:
    *before, kind, width, depth = values
    in_channels = before[0] if before else STEM_CHANNELS
    size = RESOLUTION if stage == 1 else RESOLUTION // 2 ** (stage - 2)
    layers = []
    for number in range(depth):
        stride = 2 if number == 0 and stage > 1 else 1
        layers.append(
            ResidualBlock("conv", size, in_channels, width, stride=stride, is_bottleneck=kind == "bottleneck")
        )
        size, in_channels = size // stride, width
    return tuple(layers)


def _head(width: int) -> tuple[Layer, ...]:
    return (Layer("linear", RESOLUTION // 4, width, NUM_CLASSES, has_pool=True),)
