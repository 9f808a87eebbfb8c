"""The hand-written ONNX file is ONNX, and it is the network that the layers describe."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from pnag.models.errors import SearchSpaceError, WeightsError
from pnag.models.onnx.network_graph import IMAGES, LOGITS, OPSET, network_model
from pnag.models.space.layers import Layer
from pnag.models.space.registry import get_space
from pnag.trainer.latency.graphs import network_graph

Network = tuple[list[Layer], onnx.ModelProto, list[np.ndarray]]

SPACES = {
    "nas-bench-macro": "02012100",
    "ofa-mobilenetv3-w1.0": (
        "2,2,2,2,2:3,3,0,0,5,7,0,0,3,3,0,0,3,3,0,0,7,3,0,0:3,4,0,0,6,3,0,0,3,3,0,0,3,3,0,0,6,6,0,0@128"
    ),
}


@pytest.fixture(params=SPACES)
def random_network(request: pytest.FixtureRequest) -> Network:
    """Layers, the graph that onnx's own helpers make of them, and that graph's weights."""
    space = get_space(request.param)
    model = network_graph(space, SPACES[request.param], batch_size=3)
    arrays = [np.array(numpy_helper.to_array(tensor)) for tensor in model.graph.initializer]
    return space.layers(SPACES[request.param]), model, arrays


def _run(model: bytes, images: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {session.get_inputs()[0].name: images})
    assert isinstance(logits, np.ndarray)
    return logits


def test_it_passes_the_checker_and_holds_what_the_helpers_would_write(random_network: Network) -> None:
    layers, helped, arrays = random_network
    written = onnx.ModelProto.FromString(network_model(layers, arrays, {"encoding": "ä"}))
    onnx.checker.check_model(written, full_check=True)
    assert [(n.op_type, list(n.input)[1:], list(n.attribute)) for n in written.graph.node] == [
        (n.op_type, list(n.input)[1:], list(n.attribute)) for n in helped.graph.node
    ]
    assert [(t.name, list(t.dims), t.raw_data) for t in written.graph.initializer] == [
        (t.name, list(t.dims), t.raw_data) for t in helped.graph.initializer
    ]
    assert (written.ir_version, written.opset_import[0].version) == (helped.ir_version, OPSET)
    assert {p.key: p.value for p in written.metadata_props}["encoding"] == "ä"


def test_it_computes_what_the_helpers_graph_does(random_network: Network) -> None:
    layers, helped, arrays = random_network
    images = np.random.default_rng(0).standard_normal((3, 3, layers[0].input_size, layers[0].input_size), np.float32)
    expected = _run(helped.SerializeToString(), images)
    np.testing.assert_allclose(_run(network_model(layers, arrays, {}), images), expected, rtol=1e-5, atol=1e-5)


def test_the_batch_is_open_and_the_ends_are_named() -> None:
    space = get_space("nas-bench-macro")
    helped = network_graph(space, "00000000")
    arrays = [numpy_helper.to_array(tensor) for tensor in helped.graph.initializer]
    model = network_model(space.layers("00000000"), arrays, {})
    for batch in (1, 5):
        assert _run(model, np.zeros((batch, 3, 32, 32), np.float32)).shape == (batch, 10)
    graph = onnx.ModelProto.FromString(model).graph
    assert [graph.input[0].name, graph.output[0].name] == [IMAGES, LOGITS] == ["images", "logits"]
    assert [d.dim_param or d.dim_value for d in graph.input[0].type.tensor_type.shape.dim] == ["batch", 3, 32, 32]


def test_other_weights_than_the_layers_need_are_refused() -> None:
    space = get_space("nas-bench-macro")
    layers = space.layers("00000000")
    arrays = [numpy_helper.to_array(tensor) for tensor in network_graph(space, "00000000").graph.initializer]
    with pytest.raises(WeightsError, match=r"weight 0 of the network should have shape \[32, 3, 3, 3\], but it has"):
        network_model(layers, arrays[1:], {})
    with pytest.raises(WeightsError, match="none is left"):
        network_model(layers, arrays[:-1], {})
    with pytest.raises(WeightsError, match=f"{len(arrays) + 1} weights were given, and the network has {len(arrays)}"):
        network_model(layers, [*arrays, arrays[0]], {})
    with pytest.raises(SearchSpaceError, match="no layers"):
        network_model([], [], {})
