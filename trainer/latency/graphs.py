"""ONNX graphs of a layer, of a chain of layers and of a whole architecture, for timing; no torch.

Shapes, operators and data types are those of a deployed network (models/onnx/network_graph.py). Weights are random but
scaled so that activations neither vanish (denormal numbers are slow) nor saturate; latency does not depend on them
otherwise.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from pnag.models.errors import SearchSpaceError
from pnag.models.onnx.network_graph import IR_VERSION, OPSET, NetworkBuilder
from pnag.models.space.layers import Layer
from pnag.models.space.search_space import SearchSpace

CLOCK_SIZE = 96
NUM_EXPONENTS = 8
"""Weights have a standard deviation of 2^0 to 2^-7, so that graphs can share one file of them."""
INPUT, OUTPUT = "input", "output"


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
    """One file of random numbers for the weights of many graphs, so that a device kit carries none.

    Section k of the file holds counts[k] float32 numbers of standard deviation 2^-k. Within a graph no two weights
    overlap: they would share the processor's cache as no real network's do.
    """

    file: str
    counts: list[int]

    @classmethod
    def for_chains(cls, file: str, chains: Iterable[Sequence[Layer]]) -> "SharedWeights":
        """A file as large as the largest of some chains of layers needs it."""
        needed = [0] * NUM_EXPONENTS
        for chain in chains:
            places = _Places(cls(file, [1 << 40] * NUM_EXPONENTS))
            chain_graph(chain, weights=places)
            needed = [max(pair) for pair in zip(needed, places.used, strict=True)]
        return cls(file, needed)


class _Places:
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
    layers: Sequence[Layer], *, batch_size: int = 1, seed: int = 0, weights: "SharedWeights | _Places | None" = None
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
    places = _Places(weights) if isinstance(weights, SharedWeights) else weights
    builder = _Builder((batch_size, first.in_channels, first.input_size, first.input_size), seed, places)
    builder.append_all(layers)
    return builder.model()


@cache
def _normal_pool() -> NDArray[np.float32]:
    """Random numbers that all weights are cut from: drawing each anew would take most of a graph's building time."""
    return np.random.default_rng(0).standard_normal(1 << 20, dtype=np.float32)


class _Builder(NetworkBuilder):
    """A graph with random weights, or with references to shared ones."""

    def __init__(self, shape: tuple[int, ...], seed: int, places: _Places | None = None) -> None:
        super().__init__(INPUT, shape)
        self._places = places
        self._excess = 0.0
        self._input_shape = shape
        self._weights: list[onnx.TensorProto] = []
        self._rng = np.random.default_rng(seed)

    def weight(self, shape: tuple[int, ...], scale: float) -> str:
        """Add random weights of a standard deviation near `scale`: a power of two, the next making up for rounding."""
        wanted = -float(np.log2(scale)) + self._excess
        exponent = min(max(round(wanted), 0), NUM_EXPONENTS - 1)
        if len(shape) > 1:  # a bias does not multiply
            self._excess = wanted - exponent if abs(wanted - exponent) <= 0.5 else 0.0
        name = f"weight{len(self._weights)}"
        if self._places is not None:
            self._weights.append(self._places.tensor(name, shape, exponent))
            return name
        pool = _normal_pool()
        start = int(self._rng.integers(len(pool)))
        values = np.resize(np.roll(pool, -start), shape) * np.float32(2.0**-exponent)
        self._weights.append(helper.make_tensor(name, TensorProto.FLOAT, shape, values.tobytes(), raw=True))
        return name

    def model(self) -> onnx.ModelProto:
        nodes = [
            helper.make_node(node.operator, node.inputs, [node.output], name=node.output, **node.attributes)
            for node in self.finished_nodes(OUTPUT)
        ]
        graph = helper.make_graph(
            nodes,
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
