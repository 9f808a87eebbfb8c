"""Weights of a bundle's networks (`weights.npz`), to build networks that run, without torch.

Networks of a supernet share most of their weights, but each has batch-norm statistics of its own. So the file holds
every distinct convolution once, in half precision, and per network the factor and the bias of each output channel that
its batch norm comes down to. A convolution that is the leading block of a larger one (fewer channels of an elastic
layer) is stored as part of it: no supernet has to tell which weights it shares.

    index                  JSON as uint8: format_version, space, metadata, and per encoding its accuracy and operators,
                           each [number of its weight, shape, whether it has a factor]
    weight0, weight1, …    float16
    channels0, …           float16, per network: factor (where there is one) and bias of each operator, in a row

Knows nothing of torch, of ONNX, or of where the file lies.
"""

import io
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pnag.models.errors import WeightsError
from pnag.models.files import Number, check_version, parse_object, read_json_object, to_json
from pnag.models.space.search_space import SearchSpace

FORMAT_VERSION = 1
Floats = NDArray[np.float32]
_Halves = NDArray[np.float16]


@dataclass(frozen=True)
class Operator:
    """A convolution or a matrix product with the batch norm behind it: factor * (weight x input) + bias."""

    weight: Floats
    """[out, in / groups, kernel, kernel] or [out, in]."""
    bias: Floats
    """[out]."""
    factor: Floats | None = None
    """[out]; None is 1."""

    @property
    def folded(self) -> tuple[Floats, Floats]:
        """Weight and bias with the factor in the weight."""
        if self.factor is None:
            return self.weight, self.bias
        return self.weight * self.factor.reshape(-1, *[1] * (self.weight.ndim - 1)), self.bias


@dataclass(frozen=True)
class StoredNetwork:
    """One network of a bundle, its operators in the order they run (models/onnx/network_graph.py)."""

    encoding: str
    operators: Sequence[Operator]
    accuracy: float | None = None
    """As a fraction, measured with these weights; None if nobody did."""


@dataclass(frozen=True)
class WeightsIndex:
    """Content of a weights file, without the weights."""

    space: str
    metadata: Mapping[str, str]
    accuracies: Mapping[str, float | None]
    """By encoding; a network that is not here cannot be built."""


@dataclass(frozen=True)
class _Entry:
    """A network in the index; an operator is the number of its weight, its shape, and whether it has a factor."""

    accuracy: Number | None
    operators: tuple[tuple[int, list[int], bool], ...]


@dataclass(frozen=True)
class _Index:
    space: str
    metadata: dict[str, str]
    networks: dict[str, _Entry]


def pack_weights(space: SearchSpace, networks: Iterable[StoredNetwork], metadata: Mapping[str, str]) -> bytes:
    """The content of a weights file.

    Args:
        networks: read one at a time, so they may be made on demand.
        metadata: text that goes into every ONNX file: where the weights come from, how images are prepared.

    Raises:
        EncodingError: if an encoding is not of the space.
        WeightsError: if there are no networks, one comes twice, or a number is too large for half precision.
    """
    pool, channels, entries = _Pool(), [], {}
    for network in networks:
        encoding = space.architecture(network.encoding).encoding
        if encoding in entries:
            raise WeightsError(f"{encoding} comes twice; give each network once")
        operators = [
            [pool.place(_halves(o.weight, encoding)), list(o.weight.shape), o.factor is not None]
            for o in network.operators
        ]
        vectors = [v for o in network.operators for v in (o.factor, o.bias) if v is not None]
        channels.append(_halves(np.concatenate(vectors), encoding))
        entries[encoding] = {"accuracy": network.accuracy, "operators": operators}
    if not entries:
        raise WeightsError("no networks to store weights of; name at least one")
    index = {"format_version": FORMAT_VERSION, "space": space.name, "metadata": dict(metadata), "networks": entries}
    arrays: dict[str, NDArray[Any]] = {"index": np.frombuffer(to_json(index, None).encode(), np.uint8)}
    arrays |= {f"weight{i}": weight for i, weight in enumerate(pool.weights)}
    arrays |= {f"channels{i}": vector for i, vector in enumerate(channels)}
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **arrays)
    return file.getvalue()


def read_index(data: bytes, name: str) -> WeightsIndex:
    """Index of a weights file.

    Raises:
        WeightsError: naming `name`, if it is no weights file, or from a newer version.
    """
    index = _read_index(_open(data, name), name)
    accuracies = {encoding: entry.accuracy for encoding, entry in index.networks.items()}
    return WeightsIndex(index.space, index.metadata, accuracies)


def read_network(data: bytes, encoding: str, name: str) -> tuple[StoredNetwork, Mapping[str, str]]:
    """One network and the file's metadata; of the arrays only its own are decoded.

    Raises:
        WeightsError: naming `name`, if the network is not there, or the file contradicts itself.
    """
    archive = _open(data, name)
    index = _read_index(archive, name)
    entry = index.networks.get(encoding)
    if entry is None:
        raise WeightsError(f"{name} has no weights for {encoding}; it has those of {len(index.networks)} networks")
    position = list(index.networks).index(encoding)
    try:
        channels, start, operators = _single(archive[f"channels{position}"]), 0, []
        for number, shape, has_factor in entry.operators:
            weight = _single(archive[f"weight{number}"][tuple(slice(size) for size in shape)])
            ends = [start + shape[0] * n for n in range(3)]
            factor = channels[ends[0] : ends[1]] if has_factor else None
            bias = channels[ends[1] : ends[2]] if has_factor else channels[ends[0] : ends[1]]
            start = ends[2] if has_factor else ends[1]
            if list(weight.shape) != shape or len(bias) != shape[0]:
                raise WeightsError(f"{name}: weight{number} has shape {list(weight.shape)}, {shape} is expected")
            operators.append(Operator(weight, bias, factor))
    except (KeyError, TypeError, ValueError, IndexError, zipfile.BadZipFile) as exc:
        if isinstance(exc, WeightsError):
            raise
        raise WeightsError(f"{name}: the entry of {encoding} is not usable ({exc}); export the weights again") from None
    return StoredNetwork(encoding, operators, entry.accuracy), index.metadata


class _Pool:
    """Weights, each stored once."""

    def __init__(self) -> None:
        self.weights: list[_Halves] = []
        self._by_kernel: dict[tuple[int, ...], list[int]] = {}

    def place(self, weight: _Halves) -> int:
        """The number of the weight that has this one as its leading block; an existing one may grow."""
        numbers = self._by_kernel.setdefault((weight.ndim, *weight.shape[2:]), [])
        for number in numbers:
            stored = self.weights[number]
            if _begins_with(stored, weight):
                return number
            if _begins_with(weight, stored):
                self.weights[number] = weight
                return number
        numbers.append(len(self.weights))
        self.weights.append(weight)
        return numbers[-1]


def _begins_with(whole: _Halves, part: _Halves) -> bool:
    if any(a < b for a, b in zip(whole.shape, part.shape, strict=True)) or whole.flat[0] != part.flat[0]:
        return False
    return np.array_equal(whole[tuple(slice(size) for size in part.shape)], part)


def _halves(array: Floats, encoding: str) -> _Halves:
    with np.errstate(over="ignore"):
        halves = np.asarray(array, np.float32).astype(np.float16)
    if not np.isfinite(halves).all():
        raise WeightsError(
            f"{encoding}: a weight or factor of {np.abs(array).max():g} does not fit half precision; were the "
            "batch-norm statistics recalibrated?"
        )
    return halves


def _single(array: NDArray[Any]) -> Floats:
    return array.astype(np.float32)


def _open(data: bytes, name: str) -> Mapping[str, NDArray[Any]]:
    try:
        archive: Mapping[str, NDArray[Any]] = np.load(io.BytesIO(data), allow_pickle=False)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as exc:
        raise WeightsError(f"{name}: not a weights file ({exc}); `pnag export --into-bundle` writes one") from None
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise WeightsError(f"{name}: not a weights file; `pnag export --into-bundle` writes one")
    return archive


def _read_index(archive: Mapping[str, NDArray[Any]], name: str) -> _Index:
    try:
        raw = archive["index"].tobytes()
    except (KeyError, ValueError, zipfile.BadZipFile) as exc:
        raise WeightsError(f"{name}: has no index ({exc}); export the weights again") from None
    document = read_json_object(raw, f"{name}/index", WeightsError)
    check_version(document, FORMAT_VERSION, f"{name}/index", WeightsError)
    return parse_object(_Index, document, f"{name}/index", WeightsError)
