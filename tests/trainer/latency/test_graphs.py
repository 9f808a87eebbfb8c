import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

from pnag.models.errors import SearchSpaceError
from pnag.models.space.layers import Layer
from pnag.models.space.search_space import SearchSpace
from pnag.trainer.latency import graphs
from pnag.trainer.latency.timing.rounds import make_weights


def _macs_and_stored(model: onnx.ModelProto) -> tuple[int, int]:
    """Counted from the graph's nodes and shapes alone: a second implementation of Layer.macs and Layer.params."""
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    shapes = {
        v.name: [d.dim_value for d in v.type.tensor_type.shape.dim]
        for v in (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output)
    }
    weights = {w.name: list(w.dims) for w in model.graph.initializer}
    macs = 0
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm"):
            per_output = int(np.prod(weights[node.input[1]][1:]))
            macs += per_output * int(np.prod(shapes[node.output[0]]))
    return macs, sum(int(np.prod(dims)) for dims in weights.values())


@pytest.mark.parametrize("name", ["macro", "ofa_224"])
def test_a_layers_graph_does_the_work_that_the_layer_counts(name: str, request: pytest.FixtureRequest) -> None:
    space: SearchSpace = request.getfixturevalue(name)
    for layer in space.distinct_layers()[::2]:
        model = graphs.chain_graph([layer])
        macs, stored = _macs_and_stored(model)
        assert macs == layer.macs, layer.key
        # Batch norm is folded: its scale and shift per channel become one bias.
        convolutions = [w for w in model.graph.initializer if len(w.dims) == 4]
        folded = sum(int(w.dims[0]) for w in convolutions)
        squeezes = layer.squeeze_channels + layer.expanded_channels if layer.squeeze_channels else 0
        if layer.kind == "mbconv" or (layer.kind == "conv" and layer.has_batch_norm):
            assert stored == layer.params - (folded - squeezes), layer.key


def _in_torch(layer: Layer, weights: list[np.ndarray], image: np.ndarray) -> np.ndarray:
    """The layer written out in torch, with the graph's weights in the graph's order."""
    import torch
    from torch.nn import functional

    taken = iter(torch.from_numpy(w.copy()) for w in weights)
    activate = {"relu": torch.relu, "h_swish": functional.hardswish, "none": lambda x: x}[layer.activation]

    def conv(x: torch.Tensor, stride: int = 1, depthwise: bool = False) -> torch.Tensor:
        weight, bias = next(taken), next(taken)
        groups = x.shape[1] if depthwise else 1
        return functional.conv2d(x, weight, bias, stride, weight.shape[-1] // 2, groups=groups)

    x = given = torch.from_numpy(image)
    if layer.has_pool:
        x = x.mean((2, 3), keepdim=True)
    if layer.kind == "linear":
        return functional.linear(x.flatten(1), next(taken), next(taken)).numpy()
    if layer.kind == "conv":
        return activate(conv(x, layer.stride)).numpy()
    if layer.expanded_channels != layer.in_channels:
        x = activate(conv(x))
    x = activate(conv(x, layer.stride, depthwise=True))
    if layer.squeeze_channels:
        x = x * functional.hardsigmoid(conv(torch.relu(conv(x.mean((2, 3), keepdim=True)))))
    x = conv(x)
    return (x + given if layer.has_residual else x).numpy()


def test_a_layers_graph_computes_what_the_layer_is(ofa_224: SearchSpace, macro: SearchSpace) -> None:
    kinds: dict[object, Layer] = {}
    for layer in (*ofa_224.distinct_layers(), *macro.distinct_layers()):
        shape = (
            layer.kind,
            layer.stride,
            layer.activation,
            layer.squeeze_channels > 0,
            layer.has_residual,
            layer.has_pool,
        )
        kinds.setdefault(shape, layer)
    assert len(kinds) > 12
    for layer in kinds.values():
        model = graphs.chain_graph([layer], batch_size=2)
        session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        rng = np.random.default_rng(0)
        image = rng.standard_normal((2, layer.in_channels, layer.input_size, layer.input_size), dtype=np.float32)
        weights = [numpy_helper.to_array(w) for w in model.graph.initializer]
        expected = _in_torch(layer, weights, image)
        found = session.run(None, {graphs.INPUT: image})[0]
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * expected.std())


def test_a_network_is_its_layers_in_a_row(ofa_224: SearchSpace) -> None:
    encoding = ofa_224.encode(ofa_224.sample(1, np.random.default_rng(3))[0])
    network = graphs.network_graph(ofa_224, encoding)
    alone = [graphs.chain_graph([layer]) for layer in ofa_224.layers(encoding)]
    assert [n.op_type for n in network.graph.node] == [n.op_type for model in alone for n in model.graph.node]
    assert [list(w.dims) for w in network.graph.initializer] == [
        list(w.dims) for model in alone for w in model.graph.initializer
    ]


@pytest.mark.parametrize("batch_size", [1, 3])
def test_deep_networks_neither_vanish_nor_blow_up(ofa_224: SearchSpace, batch_size: int) -> None:
    # Denormal numbers are slow and infinities fast: either would make the timing a lie.
    encoding = "4,4,4,4,4:" + ",".join(["7"] * 20) + ":" + ",".join(["6"] * 20)
    model = graphs.network_graph(ofa_224, encoding, batch_size=batch_size)
    onnx.checker.check_model(model, full_check=True)
    for node in model.graph.node:
        if node.op_type == "Conv":
            model.graph.output.append(onnx.helper.make_tensor_value_info(node.output[0], onnx.TensorProto.FLOAT, None))
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    image = np.random.default_rng(0).standard_normal((batch_size, 3, 224, 224), dtype=np.float32)
    outputs = session.run(None, {graphs.INPUT: image})
    assert outputs[0].shape == (batch_size, 1000)
    for output in outputs:
        assert np.isfinite(output).all()
        assert 1e-3 < output.std() < 1e5


def test_the_same_seed_gives_the_same_bytes(macro: SearchSpace) -> None:
    first, again, other = (graphs.network_graph(macro, "21012102", seed=s).SerializeToString() for s in (0, 0, 1))
    assert first == again
    assert first != other


def test_layers_that_do_not_fit_together_are_refused() -> None:
    first = Layer("conv", 32, 3, 8, kernel_size=3, stride=2)
    with pytest.raises(SearchSpaceError, match=r"follows a feature map of 16x16x8"):
        graphs.chain_graph([first, Layer("conv", 16, 9, 8)])
    with pytest.raises(SearchSpaceError, match="no layers"):
        graphs.chain_graph([])


def test_graphs_without_weights_compute_with_those_of_the_shared_file(macro: SearchSpace, tmp_path) -> None:
    chains = [macro.layers("22222222"), macro.layers("10101010")]
    shared = graphs.SharedWeights.for_chains("weights.bin", chains)
    make_weights(tmp_path / "weights.bin", shared.counts)
    numbers = np.fromfile(tmp_path / "weights.bin", dtype="<f4")
    assert len(numbers) == sum(shared.counts)
    for exponent, section in enumerate(np.split(numbers, np.cumsum(shared.counts)[:-1])):
        if len(section) > 1000:
            assert section.std() == pytest.approx(2.0**-exponent, rel=0.1)
    for number, chain in enumerate(chains):
        path = tmp_path / f"{number}.onnx"
        onnx.save(graphs.chain_graph(chain, weights=shared), path)
        assert path.stat().st_size < 40_000
        model = onnx.load(path)  # loads the external data too
        image = np.random.default_rng(0).standard_normal((1, 3, 32, 32), dtype=np.float32)
        outputs = []
        for source in (str(path), model.SerializeToString()):
            session = ort.InferenceSession(source, providers=["CPUExecutionProvider"])
            outputs.append(session.run(None, {graphs.INPUT: image})[0])
        np.testing.assert_array_equal(*outputs)
        assert np.isfinite(outputs[0]).all()


def test_no_two_weights_of_a_graph_share_a_place_in_the_file(ofa_224: SearchSpace) -> None:
    # They would share the cache too, as no real network's weights do.
    chain = ofa_224.layers(
        "2,3,4,3,2:" + "3,5,0,0,7,3,5,0,3,5,7,3,5,5,5,0,7,7,0,0:" + "3,4,0,0,6,3,4,0,3,4,6,3,4,4,4,0,6,6,0,0"
    )
    shared = graphs.SharedWeights.for_chains("weights.bin", [chain])
    spans = []
    for tensor in graphs.chain_graph(chain, weights=shared).graph.initializer:
        entry = {e.key: e.value for e in tensor.external_data}
        spans.append((int(entry["offset"]), int(entry["offset"]) + int(entry["length"])))
        assert int(entry["length"]) == 4 * int(np.prod(tensor.dims))
    spans.sort()
    assert all(before[1] <= after[0] for before, after in zip(spans, spans[1:], strict=False))
    assert spans[-1][1] <= 4 * sum(shared.counts)


def test_weights_are_what_a_careful_initialisation_would_draw(macro: SearchSpace) -> None:
    model = graphs.network_graph(macro, "22222222")
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.ndim == 4:
            fan_in = int(np.prod(values.shape[1:]))
            assert 0.5 <= values.std() / (2 / fan_in) ** 0.5 <= 2.2


def test_rounding_to_powers_of_two_does_not_add_up_over_a_network(ofa_224: SearchSpace) -> None:
    model = graphs.network_graph(ofa_224, "4,4,4,4,4:" + ",".join(["5"] * 20) + ":" + ",".join(["4"] * 20))
    gain = 0.0
    for tensor in model.graph.initializer:
        if len(tensor.dims) == 4:
            wanted = (2 / int(np.prod(tensor.dims[1:]))) ** 0.5
            used = 2.0 ** round(np.log2(numpy_helper.to_array(tensor).std()))
            gain += np.log2(used / wanted)
            assert abs(gain) <= 0.51


def test_int8_graphs_hold_int8_weights_and_stay_close_to_fp32(macro: SearchSpace) -> None:
    from pnag.trainer.latency.quantize import quantize

    layer = next(x for x in macro.distinct_layers() if x.kind == "mbconv" and x.has_residual)
    model = graphs.chain_graph([layer])
    quantised = quantize(model)
    loaded = onnx.load_from_string(quantised)
    kinds = {node.op_type for node in loaded.graph.node}
    assert {"QuantizeLinear", "DequantizeLinear", "Conv"} <= kinds
    convolution_weights = [w for w in loaded.graph.initializer if len(w.dims) == 4]
    assert convolution_weights
    assert all(w.data_type == onnx.TensorProto.INT8 for w in convolution_weights)
    image = np.random.default_rng(0).standard_normal((1, layer.in_channels, layer.input_size, layer.input_size))
    outputs = []
    for source in (model.SerializeToString(), quantised):
        session = ort.InferenceSession(source, providers=["CPUExecutionProvider"])
        outputs.append(session.run(None, {graphs.INPUT: image.astype(np.float32)})[0])
    assert np.corrcoef(outputs[0].ravel(), outputs[1].ravel())[0, 1] > 0.99
