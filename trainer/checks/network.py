"""Count what a built network really does, node by node, and run it once: an opinion independent of its formulas."""

from collections.abc import Sequence

import numpy as np
import onnx

from pnag.models.answer.sessions import open_session
from pnag.models.space.layers import Layer
from pnag.trainer.latency.graphs import INPUT, chain_graph


def count_and_run(layers: Sequence[Layer]) -> tuple[int, int]:
    """Build layers in a row; returns (multiply-accumulates, stored numbers) of the graph's convolutions and products.

    Raises:
        AssertionError: if it does not run, or gives numbers that are not finite.
    """
    model = chain_graph(layers)
    onnx.checker.check_model(model)
    shapes = {v.name: _shape(v) for v in onnx.shape_inference.infer_shapes(model).graph.value_info}
    shapes |= {v.name: _shape(v) for v in [*model.graph.input, *model.graph.output]}
    weights = {w.name: tuple(w.dims) for w in model.graph.initializer}
    macs = 0
    for node in model.graph.node:
        output = shapes.get(node.output[0])
        if node.op_type == "Conv":
            assert output is not None, f"the shape of {node.name} is unknown"
            macs += int(np.prod(output[2:])) * int(np.prod(weights[node.input[1]]))
        elif node.op_type in ("Gemm", "MatMul"):
            macs += int(np.prod(weights[node.input[1]]))
    session = open_session(model.SerializeToString())
    (logits,) = session.run(None, {INPUT: np.zeros(shapes[INPUT], dtype=np.float32)})
    assert np.isfinite(logits).all(), "the built network gives numbers that are not finite"
    return macs, sum(int(np.prod(dims)) for dims in weights.values())


def _shape(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    return tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
