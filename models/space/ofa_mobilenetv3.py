"""The paper's space: OFA's MobileNetV3 family, 5 units of 2-4 layers, kernel 3/5/7, expand ratio 3/4/6.

Encoding (the form of the official PNAG code): `d,d,d,d,d:k x20:e x20`, 0 for inactive layers, then `@R` when the
resolution is not 224. Layer j (0-based) of a unit is active iff j < depth.
"""

import re
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pnag.models.errors import EncodingError
from pnag.models.space.layers import Layer, make_divisible
from pnag.models.space.search_space import Architecture, CostGroup, Decision, Option, SearchSpace, Tokens

NUM_UNITS, MAX_DEPTH = 5, 4
NUM_LAYERS = NUM_UNITS * MAX_DEPTH
DEPTHS, KERNEL_SIZES, EXPAND_RATIOS = (2, 3, 4), (3, 5, 7), (3, 4, 6)
RESOLUTIONS = tuple(range(128, 225, 4))
DEFAULT_RESOLUTION = 224

UNIT_STRIDES = (2, 2, 2, 1, 2)
UNIT_HAS_SQUEEZE_EXCITE = (False, True, False, True, True)
UNIT_ACTIVATIONS = ("relu", "relu", "h_swish", "h_swish", "h_swish")
CHANNELS = {
    # stem, first block, units 1-5, final expand, feature mix
    "1.0": (16, 16, 24, 40, 80, 112, 160, 960, 1280),
    "1.2": (24, 24, 32, 48, 96, 136, 192, 1152, 1536),
}
NUM_CLASSES = 1000

_ENCODING = re.compile(r"(?P<depths>[^:@]*):(?P<kernels>[^:@]*):(?P<expands>[^:@]*)(?:@(?P<resolution>.*))?")


class OfaMobileNetV3(SearchSpace):
    """`ofa-mobilenetv3-w1.0` or `-w1.2`; 46 decisions: the resolution, then per unit its depth and its layers."""

    def __init__(self, width: str) -> None:
        self.width = width
        self.channels = CHANNELS[width]
        super().__init__(f"ofa-mobilenetv3-w{width}", _decisions(), _cost_groups(self.channels))

    def format_values(self, values: Sequence[Option | None]) -> str:
        resolution, depths, kernels, expands = _split(values)
        text = ":".join(",".join(str(v or 0) for v in part) for part in (depths, kernels, expands))
        return text if resolution == DEFAULT_RESOLUTION else f"{text}@{resolution}"

    def parse_values(self, encoding: str) -> list[Option | None]:
        match = _ENCODING.fullmatch(encoding.strip())
        if match is None:
            raise EncodingError(
                f"{self.name}: {encoding!r} is not `depths:kernel_sizes:expand_ratios`, e.g. "
                "2,3,3,3,3:3,3,0,0,…:3,3,0,0,… with 5, 20 and 20 numbers and 0 for inactive layers"
            )
        depths = self._numbers(match["depths"], "depths", NUM_UNITS)
        kernels = self._numbers(match["kernels"], "kernel_sizes", NUM_LAYERS)
        expands = self._numbers(match["expands"], "expand_ratios", NUM_LAYERS)
        text = match["resolution"]
        resolution = DEFAULT_RESOLUTION if text is None else self._numbers(text, "resolution", 1)[0]
        values: list[Option | None] = [resolution]
        for unit in range(NUM_UNITS):
            values.append(depths[unit])
            for j in range(unit * MAX_DEPTH, (unit + 1) * MAX_DEPTH):
                values += [kernels[j] or None, expands[j] or None]
        return values

    def describe(self, architecture: Architecture) -> dict[str, Any]:
        """Depth per unit; kernel size and expand ratio of each active layer, per unit; resolution in pixels."""
        resolution, depths, kernels, expands = _split(self.parse_values(architecture.encoding))
        return {
            "depths": depths,
            "kernel_sizes": [[k for k in unit if k] for unit in _units(kernels)],
            "expand_ratios": [[e for e in unit if e] for unit in _units(expands)],
            "resolution": resolution,
        }

    def depth_features(self, tokens_BD: Tokens) -> NDArray[np.float64]:
        """Depth of each unit and in all, shape [B, 6]."""
        units = [self.index(f"unit{u}.depth") for u in range(1, NUM_UNITS + 1)]
        depths_BU = np.stack([np.array(self.decisions[i].options)[tokens_BD[:, i]] for i in units], axis=1)
        return np.concatenate([depths_BU, depths_BU.sum(axis=1, keepdims=True)], axis=1).astype(np.float64)

    def _numbers(self, text: str, field: str, count: int) -> list[int]:
        parts = text.split(",")
        if len(parts) != count:
            raise EncodingError(f"{self.name}: {field} has {len(parts)} numbers; expected {count}")
        for position, part in enumerate(parts, start=1):
            if not part.strip().isascii() or not part.strip().isdigit() or len(part) > 9:
                raise EncodingError(f"{self.name}: {field} number {position} is {part[:20]!r}; expected a whole number")
        return [int(part) for part in parts]


def _decisions() -> list[Decision]:
    decisions = [Decision("resolution", RESOLUTIONS)]
    for unit in range(1, NUM_UNITS + 1):
        depth = f"unit{unit}.depth"
        decisions.append(Decision(depth, DEPTHS))
        for layer in range(1, MAX_DEPTH + 1):
            # Layer j counts iff j <= depth (1-based); the first two always do, so they carry no condition.
            enough = tuple(d for d in DEPTHS if d >= layer)
            active_if = {} if enough == DEPTHS else {depth: enough}
            decisions.append(Decision(f"unit{unit}.layer{layer}.kernel_size", KERNEL_SIZES, active_if))
            decisions.append(Decision(f"unit{unit}.layer{layer}.expand_ratio", EXPAND_RATIOS, active_if))
    return decisions


def _cost_groups(channels: tuple[int, ...]) -> list[CostGroup]:
    groups = [CostGroup(("resolution",), partial(_stem, channels))]
    for unit in range(NUM_UNITS):
        for layer in range(MAX_DEPTH):
            name = f"unit{unit + 1}.layer{layer + 1}"
            groups.append(
                CostGroup(
                    ("resolution", f"{name}.kernel_size", f"{name}.expand_ratio"),
                    partial(_unit_layer, channels, unit, layer == 0),
                )
            )
    return [*groups, CostGroup(("resolution",), partial(_head, channels))]


def _stem(channels: tuple[int, ...], resolution: int) -> tuple[Layer, ...]:
    size = -(-resolution // 2)
    return (
        Layer("conv", resolution, 3, channels[0], kernel_size=3, stride=2, activation="h_swish"),
        Layer(
            "mbconv", size, channels[0], channels[1], kernel_size=3, activation="relu",
            expanded_channels=channels[0], has_residual=channels[0] == channels[1],
        ),
    )  # fmt: skip


def _unit_layer(
    channels: tuple[int, ...], unit: int, is_first: bool, resolution: int, kernel_size: int | None, expand: int | None
) -> tuple[Layer, ...]:
    if kernel_size is None or expand is None:
        return ()
    size = _input_size(resolution, unit)
    if not is_first:
        size = -(-size // UNIT_STRIDES[unit])
    in_channels, out_channels = channels[1 + unit] if is_first else channels[2 + unit], channels[2 + unit]
    stride = UNIT_STRIDES[unit] if is_first else 1
    expanded = round(in_channels * expand)
    return (
        Layer(
            "mbconv", size, in_channels, out_channels, kernel_size=kernel_size, stride=stride,
            activation=UNIT_ACTIVATIONS[unit],  # type: ignore[arg-type]
            expanded_channels=expanded,
            squeeze_channels=make_divisible(expanded // 4) if UNIT_HAS_SQUEEZE_EXCITE[unit] else 0,
            has_residual=not is_first,
        ),
    )  # fmt: skip


def _head(channels: tuple[int, ...], resolution: int) -> tuple[Layer, ...]:
    size = _input_size(resolution, NUM_UNITS)
    return (
        Layer("conv", size, channels[6], channels[7], activation="h_swish"),
        Layer("conv", size, channels[7], channels[8], activation="h_swish", has_pool=True, has_batch_norm=False),
        Layer("linear", 1, channels[8], NUM_CLASSES),
    )


def _input_size(resolution: int, unit: int) -> int:
    """Side of the feature map that enters a unit (0-based; NUM_UNITS = the head)."""
    size = -(-resolution // 2)
    for stride in UNIT_STRIDES[:unit]:
        size = -(-size // stride)
    return size


def _split(values: Sequence[Option | None]) -> tuple[Any, list[Any], list[Any], list[Any]]:
    """Resolution, depths [5], kernel sizes [20], expand ratios [20], from values in decision order."""
    per_unit = 1 + 2 * MAX_DEPTH
    units = [list(values[1 + u * per_unit : 1 + (u + 1) * per_unit]) for u in range(NUM_UNITS)]
    return values[0], [u[0] for u in units], [k for u in units for k in u[1::2]], [e for u in units for e in u[2::2]]


def _units(per_layer: list[Any]) -> list[list[Any]]:
    return [per_layer[u * MAX_DEPTH : (u + 1) * MAX_DEPTH] for u in range(NUM_UNITS)]
