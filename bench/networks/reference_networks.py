"""Networks everybody knows, built from their papers: parameters and multiply-accumulates counted, ONNX graphs to time.

Written apart from the search spaces, so that the counts can be checked against published figures and against ours. As
in a deployed network, batch norm is folded into its convolution; as in the papers, its scale and shift are parameters.
Weights are random: latency does not depend on them. What is counted is what `models/space/layers.py` counts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper

from pnag.models.onnx.network_graph import IR_VERSION, OPSET
from pnag.models.space.layers import make_divisible
from pnag.models.space.registry import get_space
from pnag.trainer.latency.graphs import network_graph

Activation = Literal["none", "relu", "h_swish", "swish"]

RESOLUTION, NUM_CLASSES = 224, 1000


@dataclass(frozen=True)
class Built:
    """A network's graph and size."""

    model: bytes
    params: int
    macs: int


@dataclass(frozen=True)
class ReferenceNetwork:
    """One row of the paper's table, with what its authors published.

    Attributes:
        source: where the layers were taken from.
        remark: why a count differs from the published one, where it does.
    """

    name: str
    top1_percent: float
    published_params_m: float
    published_macs_m: float
    source: str
    build: Callable[[], Built]
    remark: str = ""


class _Network:
    """Appends operators to a graph and counts; tensors are (name, channels, side)."""

    def __init__(self) -> None:
        self.params = self.macs = 0
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []
        self._rng = np.random.default_rng(0)
        self.image = _Tensor("input", 3, RESOLUTION)

    def conv(
        self, x: "_Tensor", out: int, kernel: int = 1, stride: int = 1, activation: Activation = "none", *,
        depthwise: bool = False, dilation: int = 1, batch_norm: bool = True, bias: bool = False,
    ) -> "_Tensor":  # fmt: skip
        per_group = 1 if depthwise else x.channels
        side = -(-x.side // stride)
        weights = out * per_group * kernel**2
        self.params += weights + (2 * out if batch_norm else 0) + (out if bias else 0)
        self.macs += weights * side**2
        scale = (2 / (per_group * kernel**2)) ** 0.5
        name = self._add(
            "Conv", [x.name, self._weight((out, per_group, kernel, kernel), scale), self._weight((out,), 0.1)],
            kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[dilation * (kernel // 2)] * 4,
            dilations=[dilation] * 2, group=x.channels if depthwise else 1,
        )  # fmt: skip
        return self.act(_Tensor(name, out, side), activation)

    def act(self, x: "_Tensor", activation: Activation) -> "_Tensor":
        if activation == "none":
            return x
        if activation == "swish":
            return x.named(self._add("Mul", [x.name, self._add("Sigmoid", [x.name])]))
        return x.named(self._add({"relu": "Relu", "h_swish": "HardSwish"}[activation], [x.name]))

    def squeeze_excite(self, x: "_Tensor", squeezed: int) -> "_Tensor":
        gate = self.conv(self.pool(x), squeezed, activation="relu", batch_norm=False, bias=True)
        gate = self.conv(gate, x.channels, batch_norm=False, bias=True)
        gate_name = self._add("HardSigmoid", [gate.name], alpha=1 / 6, beta=0.5)
        return x.named(self._add("Mul", [x.name, gate_name]))

    def mbconv(
        self, x: "_Tensor", out: int, kernel: int, stride: int, expanded: int, activation: Activation, *,
        squeezed: int = 0, always_expands: bool = False,
    ) -> "_Tensor":  # fmt: skip
        y = x if expanded == x.channels and not always_expands else self.conv(x, expanded, activation=activation)
        y = self.conv(y, expanded, kernel, stride, activation, depthwise=True)
        if squeezed:
            y = self.squeeze_excite(y, squeezed)
        y = self.conv(y, out)
        return self.add(x, y) if stride == 1 and out == x.channels else y

    def add(self, x: "_Tensor", y: "_Tensor") -> "_Tensor":
        return y.named(self._add("Add", [x.name, y.name]))

    def concat(self, parts: "Sequence[_Tensor]") -> "_Tensor":
        name = self._add("Concat", [p.name for p in parts], axis=1)
        return _Tensor(name, sum(p.channels for p in parts), parts[0].side)

    def pool(self, x: "_Tensor") -> "_Tensor":
        return _Tensor(self._add("GlobalAveragePool", [x.name]), x.channels, 1)

    def pool_3x3(self, x: "_Tensor", stride: int, kind: Literal["AveragePool", "MaxPool"]) -> "_Tensor":
        name = self._add(kind, [x.name], kernel_shape=[3, 3], strides=[stride] * 2, pads=[1] * 4)
        return _Tensor(name, x.channels, -(-x.side // stride))

    def without_first_row_and_column(self, x: "_Tensor") -> "_Tensor":
        starts, ends, axes = (self._ints(v) for v in ([1, 1], [x.side, x.side], [2, 3]))
        return _Tensor(self._add("Slice", [x.name, starts, ends, axes]), x.channels, x.side - 1)

    def finish(self, x: "_Tensor") -> Built:
        """Classify, and close the graph."""
        self.params += x.channels * NUM_CLASSES + NUM_CLASSES
        self.macs += x.channels * NUM_CLASSES
        flat = self._add("Flatten", [x.name])
        self._add(
            "Gemm", [flat, self._weight((NUM_CLASSES, x.channels), 0.02), self._weight((NUM_CLASSES,), 0.1)], transB=1
        )
        self._nodes[-1].output[0] = "output"
        graph = helper.make_graph(
            self._nodes, "reference",
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, RESOLUTION, RESOLUTION])],
            [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, NUM_CLASSES])],
            self._weights,
        )  # fmt: skip
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
        return Built(model.SerializeToString(), self.params, self.macs)

    def _add(self, operator: str, inputs: list[str], **attributes: Any) -> str:
        name = f"{operator.lower()}{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def _weight(self, shape: tuple[int, ...], scale: float) -> str:
        values = self._rng.standard_normal(shape, dtype=np.float32) * np.float32(scale)
        return self._store(values.tobytes(), shape, TensorProto.FLOAT)

    def _ints(self, values: list[int]) -> str:
        return self._store(np.array(values, dtype=np.int64).tobytes(), (len(values),), TensorProto.INT64)

    def _store(self, data: bytes, shape: tuple[int, ...], kind: int) -> str:
        name = f"weight{len(self._weights)}"
        self._weights.append(helper.make_tensor(name, kind, shape, data, raw=True))
        return name


@dataclass(frozen=True)
class _Tensor:
    name: str
    channels: int
    side: int

    def named(self, name: str) -> "_Tensor":
        return _Tensor(name, self.channels, self.side)


# -- MobileNetV3-Large (Howard et al., 2019, table 1) ----------------------------------------------

_V3_LARGE: tuple[tuple[int, int, int, bool, Activation, int], ...] = (
    # kernel, expanded, out, squeeze-excite, activation, stride
    (3, 16, 16, False, "relu", 1),
    (3, 64, 24, False, "relu", 2),
    (3, 72, 24, False, "relu", 1),
    (5, 72, 40, True, "relu", 2),
    (5, 120, 40, True, "relu", 1),
    (5, 120, 40, True, "relu", 1),
    (3, 240, 80, False, "h_swish", 2),
    (3, 200, 80, False, "h_swish", 1),
    (3, 184, 80, False, "h_swish", 1),
    (3, 184, 80, False, "h_swish", 1),
    (3, 480, 112, True, "h_swish", 1),
    (3, 672, 112, True, "h_swish", 1),
    (5, 672, 160, True, "h_swish", 2),
    (5, 960, 160, True, "h_swish", 1),
    (5, 960, 160, True, "h_swish", 1),
)


def _mobilenet_v3_large(width: float) -> Built:
    network = _Network()
    x = network.conv(network.image, 16, 3, 2, "h_swish")  # the stem keeps its width
    unscaled = 16
    for kernel, expanded, out, has_squeeze_excite, activation, stride in _V3_LARGE:
        # The expansion is a ratio to the input, which is what a narrower network keeps.
        wide = make_divisible(round(expanded / unscaled * x.channels))
        unscaled = out
        squeezed = make_divisible(wide // 4) if has_squeeze_excite else 0
        x = network.mbconv(x, make_divisible(round(out * width)), kernel, stride, wide, activation, squeezed=squeezed)
    x = network.conv(x, make_divisible(round(960 * width)), activation="h_swish")
    x = network.conv(network.pool(x), 1280, activation="h_swish", batch_norm=False, bias=True)
    return network.finish(x)


# -- FBNet-C (Wu et al., 2018, figure 4) -----------------------------------------------------------

_FBNET_C: tuple[tuple[int, int, int, int], ...] = (
    # kernel, stride, expansion, out
    *((3, 1, 1, 16),),
    *((3, 2, 6, 24), (3, 1, 1, 24), (3, 1, 1, 24)),
    *((5, 2, 6, 32), (5, 1, 3, 32), (5, 1, 6, 32), (3, 1, 6, 32)),
    *((5, 2, 6, 64), (5, 1, 3, 64), (5, 1, 6, 64), (5, 1, 6, 64)),
    *((5, 1, 6, 112), (5, 1, 6, 112), (5, 1, 6, 112), (5, 1, 3, 112)),
    *((5, 2, 6, 184), (5, 1, 6, 184), (5, 1, 6, 184), (5, 1, 6, 184)),
    *((3, 1, 6, 352),),
)


def _fbnet_c() -> Built:
    network = _Network()
    x = network.conv(network.image, 16, 3, 2, "relu")
    for kernel, stride, expansion, out in _FBNET_C:
        x = network.mbconv(x, out, kernel, stride, expansion * x.channels, "relu", always_expands=True)
    x = network.conv(x, 1984, activation="relu")
    return network.finish(network.pool(x))


# -- Cream-L (Peng et al., 2020; the 604 M network of microsoft/Cream) -----------------------------

_CREAM_L: tuple[tuple[int, int, str], ...] = (
    # out, stride, choice per block: kernel and expansion out of (3, 5, 7) x (4, 6)
    (24, 2, "33233"),
    (40, 2, "32323"),
    (80, 2, "32323"),
    (96, 1, "332233"),
    (192, 2, "332333"),
)


def _cream_l() -> Built:
    network = _Network()
    x = network.conv(network.image, 16, 3, 2, "swish")
    x = network.mbconv(x, 16, 3, 1, 16, "swish", squeezed=make_divisible(16 // 4))
    for out, stride, choices in _CREAM_L:
        for number, choice in enumerate(choices):
            kernel, expansion = (3, 5, 7)[int(choice) // 2], (4, 6)[int(choice) % 2]
            expanded = expansion * x.channels
            squeezed = make_divisible(expanded // 4)
            x = network.mbconv(x, out, kernel, stride if number == 0 else 1, expanded, "swish", squeezed=squeezed)
    x = network.conv(x, 320, activation="swish")
    x = network.conv(network.pool(x), 1280, activation="swish", batch_norm=False, bias=True)
    return network.finish(x)


# -- P-DARTS (Chen et al., 2019; the ImageNet network of chenxin061/pdarts) ------------------------

_NORMAL = (
    ("skip", 0), ("dil3", 1), ("skip", 0), ("sep3", 1), ("sep3", 1), ("sep3", 3), ("sep3", 0), ("dil5", 4),
)  # fmt: skip
_REDUCE = (
    ("avg", 0), ("sep5", 1), ("sep3", 0), ("dil5", 2), ("max", 0), ("dil3", 1), ("dil3", 1), ("dil5", 3),
)  # fmt: skip


def _p_darts(channels: int = 48, num_cells: int = 14) -> Built:
    network = _Network()

    def relu_conv(x: _Tensor, out: int, kernel: int = 1, stride: int = 1) -> _Tensor:
        return network.conv(network.act(x, "relu"), out, kernel, stride)

    def halve(x: _Tensor, out: int) -> _Tensor:
        x = network.act(x, "relu")
        shifted = network.without_first_row_and_column(x)
        return network.concat([network.conv(part, out // 2, 1, 2) for part in (x, shifted)])

    def operation(kind: str, x: _Tensor, stride: int) -> _Tensor:
        if kind == "skip":
            return x if stride == 1 else halve(x, x.channels)
        if kind in ("avg", "max"):
            return network.pool_3x3(x, stride, "AveragePool" if kind == "avg" else "MaxPool")
        kernel, dilation = int(kind[3]), 2 if kind.startswith("dil") else 1
        for number in range(1 if dilation == 2 else 2):
            x = network.act(x, "relu")
            x = network.conv(
                x, x.channels, kernel, stride if number == 0 else 1, depthwise=True, dilation=dilation, batch_norm=False
            )
            x = network.conv(x, x.channels)
        return x

    def cell(before: _Tensor, last: _Tensor, out: int, reduces: bool, follows_reduction: bool) -> _Tensor:
        states = [halve(before, out) if follows_reduction else relu_conv(before, out), relu_conv(last, out)]
        edges = _REDUCE if reduces else _NORMAL
        for first, second in zip(edges[::2], edges[1::2], strict=True):
            parts = [
                operation(kind, states[index], 2 if reduces and index < 2 else 1) for kind, index in (first, second)
            ]
            states.append(network.add(*parts))
        return network.concat(states[2:])

    x = network.conv(network.image, channels // 2, 3, 2, "relu")
    before = network.conv(x, channels, 3, 2)
    last = relu_conv(before, channels, 3, 2)
    reduced = True
    for number in range(num_cells):
        reduces = number in (num_cells // 3, 2 * num_cells // 3)
        channels *= 2 if reduces else 1
        before, last = last, cell(before, last, channels, reduces, reduced)
        reduced = reduces
    return network.finish(network.pool(last))


# -- PNAG's published networks, from our own space -------------------------------------------------

PNAG_ENCODINGS = {
    "PNAG-80": "2,3,3,3,3:3,3,0,0,3,5,3,0,3,3,5,0,3,3,5,0,5,5,7,0:3,3,0,0,4,3,3,0,4,4,4,0,4,6,6,0,6,6,3,0",
    "PNAG-110": "2,3,3,4,4:5,3,0,0,5,3,3,0,3,5,5,0,5,5,5,3,7,5,7,5:3,4,0,0,3,4,4,0,3,3,6,0,4,6,6,6,6,6,6,6",
    "PNAG-140": "2,4,4,4,4:5,3,0,0,5,5,5,3,5,5,5,5,3,5,5,5,7,5,5,5:4,3,0,0,4,4,4,6,6,3,6,3,6,6,4,6,6,6,6,3",
    "PNAG-170": "3,4,4,4,4:5,3,7,0,5,5,5,5,5,5,5,5,3,5,5,3,7,5,5,5:4,4,6,0,4,4,6,6,6,4,6,6,6,6,4,6,6,6,6,6",
    "PNAG-200": "4,4,4,4,4:5,5,5,5,5,7,3,5,7,5,5,3,3,5,5,3,5,3,3,5:6,6,6,6,4,6,6,6,6,6,6,6,6,6,6,6,6,6,6,6",
}


def _pnag(name: str) -> Built:
    space = get_space("ofa-mobilenetv3-w1.2")
    layers = space.layers(PNAG_ENCODINGS[name])
    model = network_graph(space, PNAG_ENCODINGS[name]).SerializeToString()
    return Built(model, sum(x.params for x in layers), sum(x.macs for x in layers))


REFERENCE_NETWORKS = (
    ReferenceNetwork(
        "MobileNetV3-Large 0.75x", 73.3, 4.0, 155, "arXiv 1905.02244, table 1", partial(_mobilenet_v3_large, 0.75)
    ),
    ReferenceNetwork(
        "MobileNetV3-Large 1.0x", 75.2, 5.4, 219, "arXiv 1905.02244, table 1", partial(_mobilenet_v3_large, 1.0)
    ),
    ReferenceNetwork(
        "FBNet-C",
        74.9,
        5.5,
        375,
        "arXiv 1812.03443, figure 4, and timm's reading of it",
        _fbnet_c,
        "the paper does not fix the last layers; timm's reading of them is taken",
    ),
    ReferenceNetwork(
        "P-DARTS",
        75.6,
        4.9,
        577,
        "arXiv 1904.12760 and chenxin061/pdarts",
        _p_darts,
        "cells from its authors' code, parameters agree; we count neither pooling nor batch norm",
    ),
    ReferenceNetwork(
        "Cream-L",
        80.0,
        9.7,
        604,
        "arXiv 2010.15821 and microsoft/Cream",
        _cream_l,
        "its authors' counter adds two per number for batch norm, 21 M in all; ours does not",
    ),
    *(
        ReferenceNetwork(name, top1, params, macs, "guoyongcs/PNAG", partial(_pnag, name))
        for name, top1, params, macs in (
            ("PNAG-80", 78.3, 7.3, 349),
            ("PNAG-110", 79.4, 9.9, 451),
            ("PNAG-140", 79.8, 9.2, 492),
            ("PNAG-170", 80.3, 10.0, 606),
            ("PNAG-200", 80.5, 10.4, 724),
        )
    ),
)
