"""ONNX graphs of formulas, one line per node: small, quick to export, the same on every machine.

Needs `onnx`, so the service must not import it; graphs of networks are in `network_graph.py`, which does not.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from pnag.models.onnx.network_graph import IR_VERSION, OPSET


class GraphBuilder:
    """Appends operators, each call returning its output's name."""

    def __init__(self, prefix: str = "") -> None:
        self._prefix = prefix
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: list[onnx.TensorProto] = []

    def constant(self, value: NDArray[Any]) -> str:
        """A stored tensor."""
        name = f"{self._prefix}c{len(self._initializers)}"
        self._initializers.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def node(self, operator: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        """The one output of an operator."""
        return self.nodes(operator, *inputs, outputs=[output] if output else 1, **attributes)[0]

    def nodes(self, operator: str, *inputs: str, outputs: int | Sequence[str], **attributes: Any) -> list[str]:
        """Several outputs of an operator, named or just counted."""
        number = len(self._nodes)
        names = [f"{self._prefix}n{number}_{i}" for i in range(outputs)] if isinstance(outputs, int) else list(outputs)
        self._nodes.append(helper.make_node(operator, list(inputs), names, **attributes))
        return names

    def graph(
        self, name: str, inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[onnx.ValueInfoProto]
    ) -> onnx.GraphProto:
        """Close the graph."""
        return helper.make_graph(self._nodes, name, list(inputs), list(outputs), self._initializers)


def model_bytes(graph: onnx.GraphProto) -> bytes:
    """A checked model, serialised."""
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())
