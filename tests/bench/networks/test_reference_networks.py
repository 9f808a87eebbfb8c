"""Known networks: what we count against what their authors published."""

import numpy as np
import onnxruntime
import pytest

from pnag.bench.networks.reference_networks import PNAG_ENCODINGS, REFERENCE_NETWORKS, ReferenceNetwork, _Network
from pnag.bench.networks.time_references import references_markdown
from pnag.models.space.layers import Layer
from pnag.models.space.registry import get_space

# Why a count may differ is said in each network's remark.
MACS_TOLERANCE = {"P-DARTS": 0.06, "Cream-L": 0.045, "FBNet-C": 0.03}


@pytest.mark.parametrize("network", REFERENCE_NETWORKS, ids=lambda n: n.name)
def test_sizes_are_the_published_ones(network: ReferenceNetwork) -> None:
    built = network.build()
    assert built.params / 1e6 == pytest.approx(network.published_params_m, rel=0.02)
    assert built.macs / 1e6 == pytest.approx(network.published_macs_m, rel=MACS_TOLERANCE.get(network.name, 0.012))
    assert bool(network.remark) == (network.name in MACS_TOLERANCE)


@pytest.mark.parametrize("network", REFERENCE_NETWORKS[:5], ids=lambda n: n.name)
def test_the_graph_runs_and_classifies(network: ReferenceNetwork) -> None:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(network.build().model, options, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"input": np.ones((1, 3, 224, 224), dtype=np.float32)})
    assert logits.shape == (1, 1000)
    assert np.isfinite(logits).all()


def test_a_block_counts_what_our_layers_count() -> None:
    layer = Layer(
        "mbconv", 28, 40, 40, kernel_size=5, activation="relu", expanded_channels=120, squeeze_channels=32,
        has_residual=True,
    )  # fmt: skip
    network = _Network()
    x = network.conv(network.image, 40, 3, 2)
    x = network.conv(network.conv(x, 40, 3, 2), 40, 3, 2)
    before = network.params, network.macs
    network.mbconv(x, 40, 5, 1, 120, "relu", squeezed=32)
    assert (network.params - before[0], network.macs - before[1]) == (layer.params, layer.macs)


def test_the_published_encodings_are_architectures_of_our_space() -> None:
    space = get_space("ofa-mobilenetv3-w1.2")
    assert [space.architecture(e).encoding for e in PNAG_ENCODINGS.values()] == list(PNAG_ENCODINGS.values())


def test_the_table_says_what_it_was_timed_on_and_when_predictions_are_for_another_device() -> None:
    rows = [{"name": "ours", "latency_ms": 2.0, "top1_percent": 70.0, "params_m": 1.0, "macs_m": 1.0, "remark": ""}]
    timed = {"device": {"name": "a phone"}}
    assert references_markdown(rows, timed).endswith("Timed on a phone.\n")
    assert references_markdown(rows, timed | {"predicted_for": "a phone"}).endswith("Timed on a phone.\n")
    assert "for another device, a laptop" in references_markdown(rows, timed | {"predicted_for": "a laptop"})
