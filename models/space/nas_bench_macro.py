"""NAS-Bench-Macro on CIFAR-10: 8 layers x {identity, MBConv k3 e3, MBConv k5 e6}, all 6561 networks known.

Encoding: the benchmark's own 8 digits, e.g. `02012100`.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pnag.models.errors import EncodingError
from pnag.models.space.layers import Layer
from pnag.models.space.search_space import Architecture, CostGroup, Decision, Option, SearchSpace, Tokens

STAGE_DEPTHS = (2, 3, 3)
NUM_LAYERS = sum(STAGE_DEPTHS)
CHOICES = ("identity", "mbconv_k3_e3", "mbconv_k5_e6")
STEM_CHANNELS, HEAD_CHANNELS, NUM_CLASSES = 32, 1280, 10
RESOLUTION = 32


class NasBenchMacro(SearchSpace):
    """`nas-bench-macro`: the first layer of each stage doubles the channels at stride 2."""

    def __init__(self) -> None:
        decisions = [Decision(f"layer{i}", CHOICES) for i in range(1, NUM_LAYERS + 1)]
        super().__init__("nas-bench-macro", decisions, _cost_groups())

    def format_values(self, values: Sequence[Option | None]) -> str:
        return "".join(str(CHOICES.index(str(value))) for value in values)

    def parse_values(self, encoding: str) -> list[Option | None]:
        encoding = encoding.strip()
        if len(encoding) != NUM_LAYERS:
            raise EncodingError(f"{self.name}: {encoding[:40]!r} has {len(encoding)} digits; expected {NUM_LAYERS}")
        for position, digit in enumerate(encoding, start=1):
            if digit not in "012":
                raise EncodingError(f"{self.name}: digit {position} is {digit!r}; choose from 0, 1, 2")
        return [CHOICES[int(digit)] for digit in encoding]

    def describe(self, architecture: Architecture) -> dict[str, Any]:
        """The choice of each layer, per stage."""
        values = self.parse_values(architecture.encoding)
        starts = np.cumsum((0, *STAGE_DEPTHS))
        return {"stages": [values[a:b] for a, b in zip(starts, starts[1:], strict=False)]}

    def depth_features(self, tokens_BD: Tokens) -> NDArray[np.float64]:
        """Blocks that are not the identity, per stage and in all, shape [B, 4]."""
        identity = np.array([d.options.index("identity") if "identity" in d.options else -1 for d in self.decisions])
        starts = np.cumsum((0, *STAGE_DEPTHS))[:-1]
        depths = np.add.reduceat((tokens_BD != identity).astype(np.float64), starts, axis=1)
        return np.concatenate([depths, depths.sum(axis=1, keepdims=True)], axis=1)


def _cost_groups() -> list[CostGroup]:
    def stem() -> tuple[Layer, ...]:
        return (Layer("conv", RESOLUTION, 3, STEM_CHANNELS, kernel_size=3, activation="relu"),)

    groups = [CostGroup((), stem)]
    size, channels = RESOLUTION, STEM_CHANNELS
    for depth in STAGE_DEPTHS:
        for j in range(depth):
            stride, out_channels = (2, channels * 2) if j == 0 else (1, channels)
            name = f"layer{len(groups)}"
            groups.append(CostGroup((name,), partial(_layer, size, channels, out_channels, stride)))
            size, channels = size // stride, out_channels
    head = partial(_head, size, channels)
    return [*groups, CostGroup((), head)]


def _layer(size: int, in_channels: int, out_channels: int, stride: int, choice: str) -> tuple[Layer, ...]:
    if choice == "identity":
        # Free where shapes agree; a 1x1 convolution with batch norm and no activation where they do not.
        return () if stride == 1 else (Layer("conv", size, in_channels, out_channels, stride=stride),)
    kernel_size, expand = (3, 3) if choice == "mbconv_k3_e3" else (5, 6)
    return (
        Layer(
            "mbconv", size, in_channels, out_channels, kernel_size=kernel_size, stride=stride, activation="relu",
            expanded_channels=in_channels * expand, has_residual=stride == 1,
        ),
    )  # fmt: skip


def _head(size: int, channels: int) -> tuple[Layer, ...]:
    return (
        Layer("conv", size, channels, HEAD_CHANNELS, activation="relu"),
        Layer("linear", size, HEAD_CHANNELS, NUM_CLASSES, has_pool=True),
    )
