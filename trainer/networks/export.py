"""From a supernet's weights to ONNX files that run: slice, recalibrate, fold, write, compare with torch.

Axis letters: N = images, C = channels, H, W = rows and columns, D = decisions of the space.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pnag.models.answer.question import Query
from pnag.models.answer.runtime import OnnxGenerator
from pnag.models.answer.sessions import open_session
from pnag.models.bundle.bundle import Bundle, write_weights
from pnag.models.bundle.weights import Operator, StoredNetwork, pack_weights
from pnag.models.errors import TrainingError, WeightsError
from pnag.models.onnx.network_graph import IMAGES, LOGITS, network_model
from pnag.models.space.ofa_mobilenetv3 import OfaMobileNetV3
from pnag.models.space.search_space import SearchSpace, Tokens
from pnag.trainer.data.images import Images, Normalise, read_images
from pnag.trainer.latency.quantize import quantize
from pnag.trainer.supernet.elastic import ElasticSupernet
from pnag.trainer.supernet.plain_network import ConvUnit, LinearLayer, PlainNetwork, SqueezeExcite
from pnag.trainer.supernet.score import ScoreConfig, Scorer
from pnag.trainer.supernet.supernet import Supernet, subnet
from pnag.trainer.supernet.weights_file import SupernetWeights

logger = logging.getLogger(__name__)

IMAGENET_MEAN, IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
"""The normalisation that the official OFA checkpoints were trained with."""

TOLERANCE = 1e-4
"""By which ONNX may differ from torch, as a share of the largest logit."""
BATCH = 250
LARGE_IMAGE = 64
"""Pixels; from there on fewer images measure accuracy, for memory's sake."""
NUM_BUDGETS = 100
NUM_CALIBRATION = 128
"""Images that set the ranges of int8 activations."""


@dataclass(frozen=True)
class Source:
    """Weights of a space, and how its images are prepared.

    Attributes:
        num_held_out: images that were not trained on, None if the file does not say.
    """

    name: str
    supernet: Supernet
    mean: list[float]
    std: list[float]
    images_sha256: str | None = None
    num_held_out: int | None = None

    @classmethod
    def load(cls, space: SearchSpace, file: Path) -> "Source":
        """Read what `pnag supernet train` wrote or, for OFA's spaces, an official checkpoint.

        Raises:
            WeightsError: if the file is neither, or does not fit the space; entries are named.
        """
        try:
            weights = SupernetWeights.load(file)
        except WeightsError:
            if not isinstance(space, OfaMobileNetV3) or not file.is_file():
                raise
            supernet = ElasticSupernet(space)
            supernet.load_weights(file)
            return cls(file.name, supernet.eval(), IMAGENET_MEAN, IMAGENET_STD)
        return cls(
            file.name, weights.supernet(space), weights.mean, weights.std, weights.images_sha256, weights.num_held_out
        )

    @property
    def metadata(self) -> dict[str, str]:
        """For the ONNX file: where the weights come from, and what the network expects."""
        return {
            "source": self.name,
            "input": "float32 RGB images in [0, 1], NCHW, (image - mean) / std per channel",
            "mean": ",".join(map(str, self.mean)),
            "std": ",".join(map(str, self.std)),
        }

    def normalise(self) -> Normalise:
        return Normalise(self.mean, self.std)

    def scorer(self, images: Images) -> Scorer:
        """Recalibrates batch norm on some of the images and measures on others, none of which was trained on.

        Raises:
            TrainingError: if the images have labels that the network cannot give.
        """
        check_labels(images, self.supernet.space.layers(_any_encoding(self.supernet.space))[-1].out_channels)
        is_large = images.pixels_NCHW.shape[-1] > LARGE_IMAGE
        config = ScoreConfig(validation_images=500 if is_large else 5000)
        return Scorer(self.supernet, images, self._num_held_out(images), self.normalise(), config)

    def split(self, images: Images) -> tuple[Images, Images]:
        """The images the scorer recalibrates with, and those it measures on."""
        return images.split(self._num_held_out(images))

    def _num_held_out(self, images: Images) -> int:
        if self.num_held_out is not None and images.sha256 == self.images_sha256:
            return self.num_held_out
        return max(1, len(images) // 2)


def check_labels(images: Images, num_classes: int) -> None:
    """Raise TrainingError if a network of so many classes cannot give some label; classes may lack images."""
    if images.labels_N.min() < 0 or images.labels_N.max() >= num_classes:
        raise TrainingError(f"a label is outside 0 to {num_classes - 1}, the network's classes; repair the images")


def operators_of(network: PlainNetwork) -> list[Operator]:
    """Each convolution and linear layer in the order it runs, with what its batch norm comes down to in `eval` mode."""
    operators: list[Operator] = []
    for module in network.modules():
        if isinstance(module, ConvUnit):
            operators.append(_with_batch_norm(module.conv, module.bn))
        elif isinstance(module, SqueezeExcite):
            operators += [_biased(module.reduce), _biased(module.expand)]
        elif isinstance(module, LinearLayer):
            operators.append(_biased(module.linear))
    return operators


def export_network(network: PlainNetwork, metadata: Mapping[str, str], images_NCHW: Tensor | None = None) -> bytes:  # noqa: N803
    """The ONNX file of a network, batch norm folded, after ONNX Runtime gave the same logits as torch.

    Args:
        images_NCHW: to compare on; random ones if None.

    Raises:
        WeightsError: if the two differ.
    """
    arrays = [array for operator in operators_of(network) for array in operator.folded]
    content = network_model(network.layers, arrays, metadata)
    first = network.layers[0]
    if images_NCHW is None:
        generator = torch.Generator().manual_seed(0)
        images_NCHW = torch.randn(4, first.in_channels, first.input_size, first.input_size, generator=generator)  # noqa: N806
    check_against_torch(content, network, images_NCHW)
    return content


@torch.inference_mode()
def check_against_torch(content: bytes, network: PlainNetwork, images_NCHW: Tensor) -> None:  # noqa: N803
    """Compare the two on the same images, one alone and all together.

    Raises:
        WeightsError: if a logit differs by more than TOLERANCE.
    """
    expected = network.eval()(images_NCHW).numpy()
    scale = max(1e-3, float(np.abs(expected).max()))
    for count in (1, len(images_NCHW)):
        logits = run_onnx(content, images_NCHW[:count].numpy())
        difference = float(np.abs(logits - expected[:count]).max()) / scale
        if not difference <= TOLERANCE:  # NaN must not pass
            raise WeightsError(
                f"the ONNX file's logits differ from torch's by {difference:.2g} of the largest; at most {TOLERANCE} "
                "is allowed, so it is not kept. Are the weights finite, and batch norm recalibrated?"
            )


def run_onnx(content: bytes, images_NCHW: NDArray[np.float32]) -> NDArray[np.float32]:  # noqa: N803
    """Logits of an exported network, in parts that bound memory."""
    session = open_session(content)
    starts = range(0, len(images_NCHW), BATCH)
    parts = [session.run([LOGITS], {IMAGES: images_NCHW[start : start + BATCH]})[0] for start in starts]
    logits: NDArray[np.float32] = np.concatenate(parts)
    return logits


def accuracy_of(content: bytes, images: Images, normalise: Normalise) -> float:
    """Top-1 of an exported network on labelled images, in [0, 1]."""
    return top1(lambda inputs_NCHW: run_onnx(content, inputs_NCHW.contiguous().numpy()), images, normalise)


def top1(logits_of: Callable[[Tensor], NDArray[np.float32] | Tensor], images: Images, normalise: Normalise) -> float:
    """The share of labelled images that a network gets right, in [0, 1]; in batches, which bound memory."""
    hits = 0
    for start in range(0, len(images), BATCH):
        part = slice(start, start + BATCH)
        chosen_N = np.asarray(logits_of(normalise(images.pixels_NCHW[part]))).argmax(1)  # noqa: N806
        hits += int((chosen_N == images.labels_N[part]).sum())
    return hits / len(images)


def export_with(
    source: Source,
    encoding: str,
    describe: Callable[[float | None], Mapping[str, str]],
    images: Images | None,
    *,
    int8: bool = False,
) -> bytes:
    """The ONNX file of one network from a file of weights, recalibrated and measured if there are images.

    Args:
        describe: the file's properties, given the accuracy that was measured as a fraction.

    Raises:
        WeightsError: if ONNX Runtime and torch disagree.
        TrainingError: if int8 is asked for without images.
    """
    scorer = None if images is None else source.scorer(images)
    if scorer is None:
        logger.warning(
            "without --images batch norm keeps the supernet's own statistics, which are right for no network"
        )
    network, accuracy = network_of(source.supernet, source.supernet.space.decode(encoding), scorer)
    properties = {**source.metadata, **describe(accuracy), "precision": "fp32"}
    if images is None:
        if int8:
            raise TrainingError("int8 needs images: the ranges of activations come from them")
        return export_network(network, properties)
    training, held_out = source.split(images)
    calibration_NCHW = source.normalise()(training.pixels_NCHW[:NUM_CALIBRATION]).contiguous()  # noqa: N806
    content = export_network(network, properties, calibration_NCHW[:8])
    if not int8:
        return content
    quantized = quantize(onnx.ModelProto.FromString(content), calibration_NCHW.numpy())
    measured = accuracy_of(quantized, held_out, source.normalise())
    return with_metadata(quantized, {**properties, **describe(measured), "precision": "int8"})


def with_metadata(content: bytes, properties: Mapping[str, str]) -> bytes:
    """The file with other properties."""
    model = onnx.ModelProto.FromString(content)
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, dict(properties))
    return bytes(model.SerializeToString())


def metadata_of(content: bytes) -> dict[str, str]:
    """The properties that an exported file says of itself."""
    return {prop.key: prop.value for prop in onnx.ModelProto.FromString(content).metadata_props}


def sizes_of(content: bytes) -> tuple[int, int]:
    """The side in pixels of an exported network's images, and how many classes it has."""
    graph = onnx.ModelProto.FromString(content).graph
    shapes = [value.type.tensor_type.shape.dim for value in (graph.input[0], graph.output[0])]
    return int(shapes[0][-1].dim_value), int(shapes[1][-1].dim_value)


def read_images_for(space: SearchSpace, encoding: str, path: Path | None) -> Images | None:
    """The images at a path, brought to the size that a network takes; None if no path is given."""
    return None if path is None else read_images(path, space.layers(encoding)[0].input_size)


def networks_to_store(bundle: Bundle) -> list[str]:
    """The front's networks, and what the generator answers to evenly spread budgets.

    In the order of their encodings: a scorer does not run again what a network shares with the one before.
    """
    generator = OnnxGenerator(bundle)
    low_ms, high_ms = generator.smallest_feasible_ms(), generator.range_ms[1] * 1.2
    queries = [Query(float(budget)) for budget in np.linspace(low_ms, max(low_ms, high_ms), NUM_BUDGETS)]
    answers = [answer for answer in generator.generate_many(queries) if not isinstance(answer, Exception)]
    return sorted({*(p.encoding for p in bundle.front), *(a.best.architecture.encoding for a in answers)})


def stored_networks(source: Source, encodings: Iterable[str], scorer: Scorer | None) -> Iterator[StoredNetwork]:
    """Networks for `pack_weights`; with a scorer recalibrated and measured, else with the supernet's own statistics."""
    space = source.supernet.space
    for encoding in encodings:
        network, accuracy = network_of(source.supernet, space.decode(encoding), scorer)
        yield StoredNetwork(encoding, operators_of(network), accuracy)


def network_of(supernet: Supernet, tokens_D: Tokens, scorer: Scorer | None) -> tuple[PlainNetwork, float | None]:  # noqa: N803
    """A subnet and its accuracy: recalibrated and measured with a scorer, as it is and unmeasured without."""
    if scorer is None:
        return subnet(supernet, tokens_D), None
    return scorer.recalibrated(tokens_D), scorer(tokens_D)


def add_weights(folder: Path, bundle: Bundle, networks: Iterable[StoredNetwork], metadata: Mapping[str, str]) -> Bundle:
    """Write the bundle again, with weights; killed at any point, the folder holds the one or the other.

    Raises:
        WeightsError: as `pack_weights` does.
    """
    return write_weights(folder, bundle, pack_weights(bundle.space, networks, metadata))


def _with_batch_norm(conv: nn.Conv2d, bn: nn.BatchNorm2d | None) -> Operator:
    weight = _array(conv.weight)
    if bn is None:
        return Operator(weight, np.zeros(len(weight), np.float32))
    assert bn.running_var is not None
    assert bn.running_mean is not None
    # In double: a variance near 0 next to eps loses digits otherwise.
    factor = bn.weight.detach().double() / (bn.running_var.double() + bn.eps).sqrt()
    bias = bn.bias.detach().double() - bn.running_mean.double() * factor
    return Operator(weight, _array(bias), _array(factor))


def _biased(module: nn.Conv2d | nn.Linear) -> Operator:
    assert module.bias is not None
    return Operator(_array(module.weight), _array(module.bias))


def _array(tensor: Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = tensor.detach().float().cpu().contiguous().numpy()
    return array


def _any_encoding(space: SearchSpace) -> str:
    return space.encode(space.sample(1, np.random.default_rng(0))[0])
