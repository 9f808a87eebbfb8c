"""ONNX graphs of a layer, of a chain of layers and of a whole architecture, for timing; no torch.

Shapes, operators and data types are those of a deployed network: batch norm is folded into each convolution's weights
and bias, as every inference export does. Weights are random but scaled so that activations neither vanish (denormal
numbers are slow) nor saturate; latency does not depend on them otherwise.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from models.errors import SearchSpaceError
from models.layers import Activation, Layer
from models.search_space import SearchSpace

OPSET = 17
IR_VERSION = 8
"""Both old enough for the onnxruntime wheels of Python 3.9."""

CLOCK_SIZE = 96
NUM_EXPONENTS = 8
"""Weights have a standard deviation of 2^0 to 2^-7, so that graphs can share one file of them."""
INPUT, OUTPUT = "input", "output"


def layer_graph(layer: Layer, *, batch_size: int = 1, seed: int = 0) -> onnx.ModelProto:
    """One layer alone, at its own input shape [batch, channels, size, size]."""
    return chain_graph([layer], batch_size=batch_size, seed=seed)


def network_graph(space: SearchSpace, encoding: str, *, batch_size: int = 1, seed: int = 0) -> onnx.ModelProto:
    """A whole architecture, image in, logits out.

    Raises:
        EncodingError: if `encoding` is no architecture of `space`.
    """
    return chain_graph(space.layers(encoding), batch_size=batch_size, seed=seed)


def empty_graph() -> onnx.ModelProto:
    """A graph that does nothing: what it takes to run is the session's own overhead."""
    builder = _Builder((1, 1, 1, 1), seed=0)
    builder.tensor = builder.add("Identity", [builder.tensor])
    return builder.model()


def clock_graph() -> onnx.ModelProto:
    """A matrix product that stays in the first-level cache: its time tells the processor's clock and nothing else."""
    builder = _Builder((CLOCK_SIZE, CLOCK_SIZE), seed=0)
    builder.tensor = builder.add("MatMul", [builder.tensor, builder.weight((CLOCK_SIZE, CLOCK_SIZE), 0.1)])
    return builder.model()


@dataclass
class SharedWeights:
    """One file of random numbers for the weights of many graphs, so that a kit carries none.

    Section k of the file holds counts[k] float32 numbers of standard deviation 2^-k. Within a graph no two weights
    overlap: they would share the processor's cache as no real network's do.
    """

    file: str
    counts: list[int]

    @classmethod
    def for_chains(cls, file: str, chains: Iterable[Sequence[Layer]]) -> "SharedWeights":
        """As large as the hungriest of some chains of layers needs it."""
        needed = [0] * NUM_EXPONENTS
        for chain in chains:
            taker = _Taker(cls(file, [1 << 40] * NUM_EXPONENTS))
            chain_graph(chain, weights=taker)
            needed = [max(pair) for pair in zip(needed, taker.used, strict=True)]
        return cls(file, needed)


class _Taker:
    """Hands out places in a SharedWeights file for one graph."""

    def __init__(self, shared: SharedWeights) -> None:
        self._shared = shared
        self.used = [0] * NUM_EXPONENTS

    def tensor(self, name: str, shape: tuple[int, ...], exponent: int) -> onnx.TensorProto:
        start = sum(self._shared.counts[:exponent]) + self.used[exponent]
        count = int(np.prod(shape))
        # Whole cache lines, as an allocator would place it.
        self.used[exponent] += -(-count // 16) * 16
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape)
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", self._shared.file), ("offset", 4 * start), ("length", 4 * count)):
            tensor.external_data.add(key=key, value=str(value))
        return tensor


def chain_graph(
    layers: Sequence[Layer], *, batch_size: int = 1, seed: int = 0, weights: "SharedWeights | _Taker | None" = None
) -> onnx.ModelProto:
    """Layers in a row, each fed by the one before.

    Args:
        weights: where the graph finds its weights instead of carrying them.

    Raises:
        SearchSpaceError: if there are none, or one cannot take what the one before it gives.
    """
    if not layers:
        raise SearchSpaceError("no layers to build a graph from; an architecture has at least one")
    first = layers[0]
    taker = _Taker(weights) if isinstance(weights, SharedWeights) else weights
    builder = _Builder((batch_size, first.in_channels, first.input_size, first.input_size), seed, taker)
    size, channels = first.input_size, first.in_channels
    for layer in layers:
        if (layer.input_size, layer.in_channels) != (size, channels):
            raise SearchSpaceError(
                f"layer {layer.key} follows a feature map of {size}x{size}x{channels}; its input must have that shape"
            )
        builder.append(layer)
        size, channels = layer.output_size, layer.out_channels
    return builder.model()


@cache
def _normal_pool() -> NDArray[np.float32]:
    """Random numbers that all weights are cut from: drawing each anew would take most of a graph's building time."""
    return np.random.default_rng(0).standard_normal(1 << 20, dtype=np.float32)


class _Builder:
    """Appends nodes to a graph; `tensor` names the current end, `shape` is its shape."""

    def __init__(self, shape: tuple[int, ...], seed: int, taker: _Taker | None = None) -> None:
        self._taker = taker
        self._excess = 0.0
        self.tensor = INPUT
        self.shape = shape
        self._input_shape = shape
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []
        self._rng = np.random.default_rng(seed)

    def append(self, layer: Layer) -> None:
        """Add a layer; one that is not of our kinds (a plug-in's) has `append_to(builder)` and adds itself."""
        append_to = getattr(layer, "append_to", None)
        if append_to is not None:
            append_to(self)
            return
        if layer.kind == "mbconv":
            self._mbconv(layer)
            return
        if layer.has_pool:
            self._set(self.add("GlobalAveragePool", [self.tensor]), (*self.shape[:2], 1, 1))
        if layer.kind == "conv":
            self._conv(layer.out_channels, layer.kernel_size, layer.stride, layer.activation)
        else:
            self._linear(layer.out_channels)

    def _mbconv(self, layer: Layer) -> None:
        shortcut = self.tensor
        if layer.expanded_channels != layer.in_channels:
            self._conv(layer.expanded_channels, 1, 1, layer.activation)
        self._conv(layer.expanded_channels, layer.kernel_size, layer.stride, layer.activation, depthwise=True)
        if layer.squeeze_channels:
            self._squeeze_excite(layer.squeeze_channels)
        self._conv(layer.out_channels, 1, 1, "none")
        if layer.has_residual:
            self.tensor = self.add("Add", [self.tensor, shortcut])

    def _squeeze_excite(self, squeeze_channels: int) -> None:
        features, shape = self.tensor, self.shape
        self._set(self.add("GlobalAveragePool", [features]), (*shape[:2], 1, 1))
        self._conv(squeeze_channels, 1, 1, "relu")
        self._conv(shape[1], 1, 1, "none")
        # MobileNetV3's gate is relu6(x + 3) / 6; ONNX's default slope is 0.2.
        gate = self.add("HardSigmoid", [self.tensor], alpha=1 / 6, beta=0.5)
        self._set(self.add("Mul", [features, gate]), shape)

    def _conv(
        self, out_channels: int, kernel_size: int, stride: int, activation: Activation, *, depthwise: bool = False
    ) -> None:
        batch, in_channels, size, _ = self.shape
        per_group = 1 if depthwise else in_channels
        fan_in = per_group * kernel_size**2
        weight = self.weight((out_channels, per_group, kernel_size, kernel_size), (2 / fan_in) ** 0.5)
        output = self.add(
            "Conv",
            [self.tensor, weight, self.weight((out_channels,), 0.1)],
            kernel_shape=[kernel_size, kernel_size],
            strides=[stride, stride],
            pads=[kernel_size // 2] * 4,
            group=in_channels if depthwise else 1,
        )
        out_size = -(-size // stride)
        self._set(output, (batch, out_channels, out_size, out_size))
        if activation == "relu":
            self.tensor = self.add("Relu", [self.tensor])
        elif activation == "h_swish":
            self.tensor = self.add("HardSwish", [self.tensor])

    def _linear(self, out_features: int) -> None:
        batch, in_features = self.shape[0], int(np.prod(self.shape[1:]))
        flat = self.add("Flatten", [self.tensor])
        weight = self.weight((out_features, in_features), (1 / in_features) ** 0.5)
        # transB: a linear layer stores its weight as [out, in], and so do the exporters.
        output = self.add("Gemm", [flat, weight, self.weight((out_features,), 0.1)], transB=1)
        self._set(output, (batch, out_features))

    def conv(self, out_channels: int, kernel_size: int, stride: int = 1, activation: Activation = "none") -> None:
        """Convolution (batch norm folded) and activation at the current end."""
        self._conv(out_channels, kernel_size, stride, activation)

    def go_to(self, tensor: str, shape: tuple[int, ...]) -> None:
        """Make an earlier tensor the current end, to branch off it."""
        self._set(tensor, shape)

    def _set(self, tensor: str, shape: tuple[int, ...]) -> None:
        self.tensor, self.shape = tensor, shape

    def add(self, operator: str, inputs: list[str], **attributes: Any) -> str:
        name = f"{operator.lower()}{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def weight(self, shape: tuple[int, ...], scale: float) -> str:
        """Add random weights of a standard deviation near `scale`: a power of two, the next making up for rounding."""
        wanted = -float(np.log2(scale)) + self._excess
        exponent = min(max(round(wanted), 0), NUM_EXPONENTS - 1)
        if len(shape) > 1:  # a bias does not multiply
            self._excess = wanted - exponent if abs(wanted - exponent) <= 0.5 else 0.0
        name = f"weight{len(self._weights)}"
        if self._taker is not None:
            self._weights.append(self._taker.tensor(name, shape, exponent))
            return name
        pool = _normal_pool()
        start = int(self._rng.integers(len(pool)))
        values = np.resize(np.roll(pool, -start), shape) * np.float32(2.0**-exponent)
        self._weights.append(helper.make_tensor(name, TensorProto.FLOAT, shape, values.tobytes(), raw=True))
        return name

    def model(self) -> onnx.ModelProto:
        # The last node writes the output itself: an extra Identity would be one more operator to time.
        self._nodes[-1].output[0] = OUTPUT
        graph = helper.make_graph(
            self._nodes,
            "pnag",
            [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, list(self._input_shape))],
            [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, list(self.shape))],
            self._weights,
        )
        return helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="pnag",
        )
