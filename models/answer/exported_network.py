"""ONNX files of a bundle's networks, with their properties."""

from collections.abc import Mapping

from pnag.models.answer.question import Candidate
from pnag.models.bundle.bundle import WEIGHTS, Bundle
from pnag.models.bundle.weights import read_network
from pnag.models.errors import WeightsError
from pnag.models.onnx.network_graph import network_model


def build_network(bundle: Bundle, candidate: Candidate) -> bytes:
    """The ONNX file of a network that the bundle has weights of; the same bytes each time.

    Raises:
        WeightsError: if the bundle has none, or they are not those of the network.
        BundleError: if the weights on disk are not those of the loaded bundle any more.
    """
    encoding = candidate.architecture.encoding
    if bundle.weights is None:
        raise WeightsError(f"bundle {bundle.name} has no weights; `pnag export` takes them from a file of yours")
    network, metadata = read_network(bundle.weights.read(), encoding, f"{bundle.name}/{WEIGHTS}")
    arrays = [array for operator in network.operators for array in operator.folded]
    properties = {**metadata, **describe_network(bundle, candidate, network.accuracy)}
    return network_model(bundle.space.layers(encoding), arrays, properties)


def describe_network(bundle: Bundle, candidate: Candidate, measured_accuracy: float | None) -> Mapping[str, str]:
    """Properties of the file: which network it is, and what is known of it. Accuracies in percent, times in ms.

    Args:
        measured_accuracy: a fraction, of these very weights; None if nobody measured it.
    """
    predicted = candidate.predicted
    measured = {} if measured_accuracy is None else {"measured_top1_percent": f"{measured_accuracy * 100:.2f}"}
    return {
        "space": candidate.architecture.space,
        "encoding": candidate.architecture.encoding,
        "architecture_id": candidate.architecture.id,
        "bundle": f"{bundle.name}@{bundle.version}",
        "device": bundle.latency_table.device.name,
        "predicted_top1_percent": f"{predicted.accuracy * 100:.2f}",
        **measured,
        "predicted_latency_ms": f"{predicted.latency_ms:.4f}",
        "latency_upper_ms": f"{predicted.latency_upper_ms:.4f}",
        "latency_coverage": f"{predicted.latency_coverage:g}",
    }
