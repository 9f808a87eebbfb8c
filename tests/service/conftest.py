"""A tiny honest bundle for nas-bench-macro: real files, real ONNX, made by hand in a tenth of a second.

The generator leans towards larger options as the budget grows, and follows the noise. The evaluator is linear.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from starlette.testclient import TestClient

from pnag.models.bundle import EVALUATOR, GENERATOR, LATENCY_TABLE, PARETO_FRONT, WEIGHTS, Bundle, write_bundle
from pnag.models.features import ArchitectureFeatures
from pnag.models.files import to_json
from pnag.models.latency_table import Device, LatencyTable, LayerLatency, UpperBound
from pnag.models.layers import Layer
from pnag.models.network_weights import Operator, StoredNetwork, pack_weights
from pnag.models.pareto import pareto_front
from pnag.models.runtime import OnnxGenerator, Query
from pnag.models.search_space import SearchSpace
from pnag.models.spaces.registry import get_space
from pnag.service.app import create_app
from pnag.service.logs import configure_logs
from pnag.service.settings import Settings
from pnag.trainer.latency.graphs import layer_graph


def write_tiny_bundle(
    folder: Path,
    *,
    name: str = "tiny",
    version: str = "1",
    speed: float = 1.0,
    recorded: str | None = None,
    with_weights: bool = False,
) -> Bundle:
    """A bundle that loads, tests itself and answers.

    `speed` divides its latencies, so that two differ; `recorded` stands for all its recorded answers, which is wrong.
    With weights, the networks of its front can be handed out, but for the last.
    """
    space = get_space("nas-bench-macro")
    table = LatencyTable(
        space=space.name,
        device=Device("test device", runtime="none", threads=1, batch_size=1, precision="fp32"),
        statistic="invented",
        layers={layer.key: LayerLatency((0.05 + layer.macs * 1e-7) / speed) for layer in space.distinct_layers()},
        overhead_ms=0.1,
        upper_bound=UpperBound(0.95, tuple(np.linspace(0.95, 1.1, 40))),
        measured_at="2026-01-02T03:04:05+00:00",
    )
    tokens_ND = space.assignments([decision.name for decision in space.decisions])
    features_NF = ArchitectureFeatures(space)(tokens_ND)
    gains_DC = np.outer(np.linspace(0.7, 1.3, len(space.decisions)), [0.0, 0.01, 0.015])
    weights_F = np.concatenate([gains_DC.ravel(), np.zeros(6)])
    latency_N, accuracy_N = table.cost(space)(tokens_ND), 0.8 + features_NF @ weights_F
    front = [
        {"encoding": space.encode(tokens_ND[i]), "latency_ms": latency_N[i], "accuracy": accuracy_N[i]}
        for i in pareto_front(latency_N, accuracy_N)
    ]
    manifest: dict[str, Any] = {
        "name": name,
        "version": version,
        "created_at": "2026-01-02T03:04:05+00:00",
        "search_space": space.to_dict(),
        "device": {"name": table.device.name},
        "accuracy": {"dataset": "none", "metric": "top1", "source": "invented"},
        "generator": {"seed": 7},
        "metrics": {"kendall_tau": 1.0},
    }
    contents = {
        GENERATOR: _generator(space, float(latency_N.min()), float(latency_N.max())),
        EVALUATOR: _evaluator(weights_F),
        LATENCY_TABLE: to_json(table.to_dict()).encode(),
        PARETO_FRONT: to_json({"points": front}).encode(),
    }
    generator = OnnxGenerator(write_bundle(folder, manifest, contents))
    low, high = generator.smallest_feasible_ms(), generator.range_ms[1]
    answers = [generator.generate(Query(float(budget))) for budget in np.linspace(low, high, 5)]
    manifest["self_test"] = [
        {"budget_ms": answer.budget_ms, "encoding": recorded or answer.best.architecture.encoding} for answer in answers
    ]
    if with_weights:
        contents[WEIGHTS] = _weights(space, [str(point["encoding"]) for point in front[:-1]])
    return write_bundle(folder, manifest, contents)


def _weights(space: SearchSpace, encodings: list[str]) -> bytes:
    """Random weights; equal layers of two networks share them, as in a single-path supernet."""
    weights: dict[str, list[Operator]] = {}

    def operators(layer: Layer) -> list[Operator]:
        if layer.key not in weights:
            arrays = [numpy_helper.to_array(tensor) for tensor in layer_graph(layer).graph.initializer]
            weights[layer.key] = [Operator(w, b) for w, b in zip(arrays[::2], arrays[1::2], strict=True)]
        return weights[layer.key]

    networks = (
        StoredNetwork(encoding, [o for layer in space.layers(encoding) for o in operators(layer)], accuracy=0.5)
        for encoding in encodings
    )
    return pack_weights(space, networks, {"source": "invented"})


def _generator(space: SearchSpace, low_ms: float, high_ms: float) -> bytes:
    """tokens = argmax over options of noise + lean * option, lean rising with the budget."""
    num_decisions, width = len(space.decisions), int(space.num_options_D.max())
    constants = {
        "latency_column": np.array([0]),
        "low": np.array([low_ms], dtype=np.float32),
        "range": np.array([high_ms - low_ms], dtype=np.float32),
        "lean": np.array([-3.0, 0.0, 3.0], dtype=np.float32),
        "axes": np.array([1, 2]),
        "half": np.array([0.5], dtype=np.float32),
    }
    nodes = [
        helper.make_node("Gather", ["limits", "latency_column"], ["budget"], axis=1),
        helper.make_node("Sub", ["budget", "low"], ["above"]),
        helper.make_node("Div", ["above", "range"], ["share"]),
        helper.make_node("Sub", ["share", "half"], ["centred"]),
        helper.make_node("Unsqueeze", ["centred", "axes"], ["spread"]),
        helper.make_node("Mul", ["spread", "lean"], ["preference"]),
        helper.make_node("Add", ["noise", "preference"], ["scores"]),
        helper.make_node("ArgMax", ["scores"], ["tokens"], axis=3, keepdims=0),
    ]
    return _model(
        nodes,
        constants,
        {"limits": (TensorProto.FLOAT, ["B", 3]), "noise": (TensorProto.FLOAT, ["B", "S", num_decisions, width])},
        {"tokens": (TensorProto.INT64, ["B", "S", num_decisions])},
    )


def _evaluator(weights_F: np.ndarray) -> bytes:
    nodes = [
        helper.make_node("MatMul", ["features", "weights"], ["gain"]),
        helper.make_node("Add", ["gain", "base"], ["accuracy"]),
    ]
    constants = {"weights": weights_F, "base": np.array(0.8)}
    features = {"features": (TensorProto.DOUBLE, ["N", len(weights_F)])}
    return _model(nodes, constants, features, {"accuracy": (TensorProto.DOUBLE, ["N"])})


def _model(
    nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], inputs: dict[str, Any], outputs: dict[str, Any]
) -> bytes:
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(name, *value) for name, value in inputs.items()],
        [helper.make_tensor_value_info(name, *value) for name, value in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return model.SerializeToString()


@pytest.fixture(scope="session", autouse=True)
def _logs_as_in_production() -> None:
    configure_logs(Settings(log_level="warning", log_format="json"))


@pytest.fixture(scope="session", name="write_tiny_bundle")
def _write_tiny_bundle() -> Callable[..., Bundle]:
    """`write_tiny_bundle(folder, name=, version=, speed=, recorded=)`, for tests that need more than one."""
    return write_tiny_bundle


@pytest.fixture(scope="session")
def bundle_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny bundle; shared, so read only."""
    folder = tmp_path_factory.mktemp("bundles") / "tiny"
    write_tiny_bundle(folder)
    return folder


@pytest.fixture(scope="session")
def weights_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny bundle with weights; shared, so read only."""
    folder = tmp_path_factory.mktemp("bundles") / "tiny"
    write_tiny_bundle(folder, with_weights=True)
    return folder


@pytest.fixture(scope="session", autouse=True)
def _no_settings_from_outside() -> Iterator[None]:
    """A developer's PNAG_ variables must not change what is tested."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        for name in list(os.environ):
            if name.startswith("PNAG_") and name != "PNAG_DATA":
                monkeypatch.delenv(name)
        yield


MakeClient = Callable[..., TestClient]


@pytest.fixture
def make_client(bundle_folder: Path) -> Iterator[MakeClient]:
    """Start the whole application in this process with some settings; it is stopped when the test ends."""
    with ExitStack() as stack:

        def make(**settings: Any) -> TestClient:
            app = create_app(Settings(**{"bundles": (bundle_folder,), "watch_interval_s": 0, **settings}))
            return stack.enter_context(TestClient(app, raise_server_exceptions=False))

        yield make


@pytest.fixture
def client(make_client: MakeClient) -> TestClient:
    """An application of one's own, with default settings."""
    return make_client()


@pytest.fixture(scope="session")
def shared_client(bundle_folder: Path) -> Iterator[TestClient]:
    """One application for all tests that only ask; what it remembers depends on who asked before."""
    with TestClient(create_app(Settings(bundles=(bundle_folder,))), raise_server_exceptions=False) as client:
        yield client
