"""ONNX graphs of networks made of `Layer`s, without torch and without onnx: the service writes them too.

A `NetworkBuilder` knows which operators a layer is, with batch norm folded into each convolution's weight and bias, as
every inference export does. Where weights come from is for its sub-classes: trained ones (here), random ones
(trainer/latency/graphs.py). `serialize` writes ONNX's protobuf by hand; only the handful of fields that graphs like
these need.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pnag.models.errors import SearchSpaceError, WeightsError
from pnag.models.space.layers import Activation, Layer

Floats = NDArray[np.float32]
Shape = tuple[int | str, ...]
"""A name in place of a number is a dimension that is left open."""

OPSET = 17
IR_VERSION = 8
"""Both old enough for the onnxruntime wheels of Python 3.9."""
IMAGES, LOGITS = "images", "logits"
"""Input and output of a network with weights."""


@dataclass(frozen=True)
class Node:
    """One operator; its only output bears its name."""

    operator: str
    inputs: tuple[str, ...]
    output: str
    attributes: Mapping[str, Any] = field(default_factory=dict)


class NetworkBuilder(ABC):
    """Appends nodes to a graph; `tensor` names the current end, `shape` is its shape."""

    def __init__(self, input_name: str, shape: Shape) -> None:
        self.tensor = input_name
        self.shape: tuple[Any, ...] = shape
        self.nodes: list[Node] = []

    @abstractmethod
    def weight(self, shape: tuple[int, ...], scale: float) -> str:
        """Add a weight and return its name; its numbers, if they are to be drawn, deviate by `scale`."""

    def append_all(self, layers: Sequence[Layer]) -> None:
        """Add layers, each fed by the one before.

        Raises:
            SearchSpaceError: if there are none, or one cannot take what the one before it gives.
        """
        if not layers:
            raise SearchSpaceError("no layers to build a graph from; an architecture has at least one")
        size, channels = layers[0].input_size, layers[0].in_channels
        for layer in layers:
            if (layer.input_size, layer.in_channels) != (size, channels):
                raise SearchSpaceError(
                    f"layer {layer.key} follows a feature map of {size}x{size}x{channels}; its input must have that "
                    "shape"
                )
            self.append(layer)
            size, channels = layer.output_size, layer.out_channels

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
            self.go_to(self.add("GlobalAveragePool", [self.tensor]), (*self.shape[:2], 1, 1))
        if layer.kind == "conv":
            self.conv(layer.out_channels, layer.kernel_size, layer.stride, layer.activation)
        else:
            self._linear(layer.out_channels)

    def go_to(self, tensor: str, shape: tuple[Any, ...]) -> None:
        """Make a tensor the current end, e.g. an earlier one to branch off it."""
        self.tensor, self.shape = tensor, shape

    def add(self, operator: str, inputs: list[str], **attributes: Any) -> str:
        """Add an operator and return the name of its output."""
        name = f"{operator.lower()}{len(self.nodes)}"
        self.nodes.append(Node(operator, tuple(inputs), name, attributes))
        return name

    def finished_nodes(self, output_name: str) -> list[Node]:
        """All nodes, the last of which writes the output itself: an Identity would be one more operator to run."""
        last = self.nodes[-1]
        return [*self.nodes[:-1], Node(last.operator, last.inputs, output_name, last.attributes)]

    def _mbconv(self, layer: Layer) -> None:
        shortcut = self.tensor
        if layer.expanded_channels != layer.in_channels:
            self.conv(layer.expanded_channels, 1, 1, layer.activation)
        self.conv(layer.expanded_channels, layer.kernel_size, layer.stride, layer.activation, depthwise=True)
        if layer.squeeze_channels:
            self._squeeze_excite(layer.squeeze_channels)
        self.conv(layer.out_channels, 1)
        if layer.has_residual:
            self.tensor = self.add("Add", [self.tensor, shortcut])

    def _squeeze_excite(self, squeeze_channels: int) -> None:
        features, shape = self.tensor, self.shape
        self.go_to(self.add("GlobalAveragePool", [features]), (*shape[:2], 1, 1))
        self.conv(squeeze_channels, 1, 1, "relu")
        self.conv(shape[1], 1)
        # MobileNetV3's gate is relu6(x + 3) / 6; ONNX's default slope is 0.2.
        gate = self.add("HardSigmoid", [self.tensor], alpha=1 / 6, beta=0.5)
        self.go_to(self.add("Mul", [features, gate]), shape)

    def conv(
        self,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        activation: Activation = "none",
        *,
        depthwise: bool = False,
    ) -> None:
        """Append a convolution, batch norm folded, and its activation."""
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
        self.go_to(output, (batch, out_channels, out_size, out_size))
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
        self.go_to(output, (batch, out_features))


class _TrainedBuilder(NetworkBuilder):
    """Takes its weights from a list, in the order in which they are asked for."""

    def __init__(self, shape: Shape, arrays: Iterator[Floats]) -> None:
        super().__init__(IMAGES, shape)
        self.weights: dict[str, Floats] = {}
        self._arrays = arrays

    def weight(self, shape: tuple[int, ...], scale: float) -> str:  # noqa: ARG002
        array = next(self._arrays, None)
        if array is None or array.shape != shape:
            got = "none is left" if array is None else f"it has shape {list(array.shape)}"
            raise WeightsError(f"weight {len(self.weights)} of the network should have shape {list(shape)}, but {got}")
        name = f"weight{len(self.weights)}"
        self.weights[name] = array
        return name


def network_model(layers: Sequence[Layer], arrays: Sequence[Floats], metadata: Mapping[str, str]) -> bytes:
    """The ONNX file of a network: `images` [batch, channels, size, size] float32 in, `logits` [batch, classes] out.

    Args:
        arrays: weight and bias of each convolution and linear layer, batch norm folded, in the order they run.
        metadata: text for the model's own properties; `opset` and `weights_sha256` are added.

    Raises:
        WeightsError: if the arrays are not those of the layers.
        SearchSpaceError: if the layers do not fit together.
    """
    first = layers[0] if layers else None
    shape: Shape = ("batch", first.in_channels, first.input_size, first.input_size) if first else ()
    rest = iter(arrays)
    builder = _TrainedBuilder(shape, rest)
    builder.append_all(layers)
    left = sum(1 for _ in rest)
    if left:
        raise WeightsError(f"{len(arrays)} weights were given, and the network has {len(builder.weights)}")
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array, dtype="<f4").tobytes())
    properties = {**metadata, "opset": str(OPSET), "weights_sha256": digest.hexdigest()}
    nodes = builder.finished_nodes(LOGITS)
    return serialize(nodes, builder.weights, (IMAGES, shape), (LOGITS, builder.shape), properties)


# -- ONNX's protobuf (onnx/onnx.proto); the numbers are its field numbers ----------------------------------------------


def serialize(
    nodes: Sequence[Node],
    weights: Mapping[str, Floats],
    graph_input: tuple[str, Shape],
    graph_output: tuple[str, Shape],
    metadata: Mapping[str, str],
) -> bytes:
    """A whole ONNX model of float32 tensors."""
    graph = b"".join(
        [
            *(_bytes(1, _node(node)) for node in nodes),
            _bytes(2, b"pnag"),
            *(_bytes(5, _tensor(name, array)) for name, array in weights.items()),
            _bytes(11, _value(*graph_input)),
            _bytes(12, _value(*graph_output)),
        ]
    )
    properties = (_bytes(14, _bytes(1, key.encode()) + _bytes(2, text.encode())) for key, text in metadata.items())
    opset = _bytes(8, _bytes(1, b"") + _integer(2, OPSET))
    return b"".join([_integer(1, IR_VERSION), _bytes(2, b"pnag"), _bytes(7, graph), opset, *properties])


def _node(node: Node) -> bytes:
    fields = [_bytes(1, name.encode()) for name in node.inputs]
    fields += [_bytes(2, node.output.encode()), _bytes(3, node.output.encode()), _bytes(4, node.operator.encode())]
    return b"".join([*fields, *(_bytes(5, _attribute(name, value)) for name, value in sorted(node.attributes.items()))])


def _attribute(name: str, value: Any) -> bytes:
    head = _bytes(1, name.encode())
    if isinstance(value, float):
        return head + _tag(2, 5) + np.float32(value).tobytes() + _integer(20, 1)
    if isinstance(value, int):
        return head + _integer(3, value) + _integer(20, 2)
    return head + b"".join(_integer(8, item) for item in value) + _integer(20, 7)


def _tensor(name: str, array: Floats) -> bytes:
    dims = b"".join(_integer(1, size) for size in array.shape)
    raw = np.ascontiguousarray(array, dtype="<f4").tobytes()
    return dims + _integer(2, 1) + _bytes(8, name.encode()) + _bytes(9, raw)


def _value(name: str, shape: Shape) -> bytes:
    dims = (_bytes(2, size.encode()) if isinstance(size, str) else _integer(1, size) for size in shape)
    tensor_type = _integer(1, 1) + _bytes(2, b"".join(_bytes(1, dim) for dim in dims))
    return _bytes(1, name.encode()) + _bytes(2, _bytes(1, tensor_type))


def _bytes(number: int, content: bytes) -> bytes:
    return _tag(number, 2) + _varint(len(content)) + content


def _integer(number: int, value: int) -> bytes:
    return _tag(number, 0) + _varint(value)


def _tag(number: int, wire_type: int) -> bytes:
    return _varint(number << 3 | wire_type)


def _varint(value: int) -> bytes:
    assert value >= 0
    groups = bytearray()
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    groups.append(value)
    return bytes(groups)
