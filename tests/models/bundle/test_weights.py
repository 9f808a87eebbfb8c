"""What goes into a weights file comes out of it, to half precision; shared weights are stored once."""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from pnag.models.bundle.weights import Operator, StoredNetwork, pack_weights, read_index, read_network
from pnag.models.errors import EncodingError, WeightsError
from pnag.models.space.registry import get_space

SPACE = get_space("nas-bench-macro")
RNG = np.random.default_rng(0)
SHARED = RNG.standard_normal((8, 4, 1, 1), dtype=np.float32)


def _network(encoding: str, *weights: np.ndarray, accuracy: float | None = None) -> StoredNetwork:
    def channels(weight: np.ndarray) -> np.ndarray:
        return RNG.standard_normal(len(weight), dtype=np.float32)

    operators = [Operator(w, channels(w), None if w.ndim == 2 else channels(w)) for w in weights]
    return StoredNetwork(encoding, operators, accuracy)


def _arrays(data: bytes) -> Mapping[str, Any]:
    return dict(np.load(io.BytesIO(data)))


def test_a_network_comes_back_to_half_precision() -> None:
    networks = [
        _network("00000000", SHARED, RNG.standard_normal((5, 8), dtype=np.float32), accuracy=0.75),
        _network("22222222", RNG.standard_normal((2, 3, 5, 5), dtype=np.float32)),
    ]
    data = pack_weights(SPACE, networks, {"source": "a test"})
    for stored in networks:
        read, metadata = read_network(data, stored.encoding, "w")
        assert (read.accuracy, metadata) == (stored.accuracy, {"source": "a test"})
        for before, after in zip(stored.operators, read.operators, strict=True):
            np.testing.assert_allclose(after.weight, before.weight, rtol=1e-3, atol=1e-7)
            np.testing.assert_allclose(after.bias, before.bias, rtol=1e-3, atol=1e-7)
            assert (after.factor is None) == (before.factor is None)
            np.testing.assert_allclose(after.folded[0], before.folded[0], rtol=2e-3, atol=1e-7)
    index = read_index(data, "w")
    assert (index.space, dict(index.accuracies)) == (SPACE.name, {"00000000": 0.75, "22222222": None})


def test_the_factor_scales_output_channels() -> None:
    operator = Operator(SHARED, np.zeros(8, np.float32), np.arange(8, dtype=np.float32))
    np.testing.assert_array_equal(operator.folded[0][3], 3 * SHARED[3])


@pytest.mark.parametrize("larger_first", [True, False])
def test_the_leading_block_of_a_weight_is_not_stored_again(larger_first: bool) -> None:
    networks = [_network("00000000", SHARED), _network("11111111", SHARED[:6, :3]), _network("22222222", SHARED)]
    data = pack_weights(SPACE, networks if larger_first else [networks[1], networks[0], networks[2]], {})
    assert [name for name in _arrays(data) if name.startswith("weight")] == ["weight0"]
    part, _ = read_network(data, "11111111", "w")
    np.testing.assert_array_equal(part.operators[0].weight, SHARED[:6, :3].astype(np.float16))


def test_a_block_that_differs_in_one_number_is_stored() -> None:
    other = SHARED[:6, :3].copy()
    other[-1, -1] += 1
    data = pack_weights(SPACE, [_network("00000000", SHARED), _network("11111111", other)], {})
    assert {"weight0", "weight1"} <= set(_arrays(data))


def test_the_same_networks_give_the_same_bytes() -> None:
    network = _network("00000000", SHARED)
    assert pack_weights(SPACE, [network], {}) == pack_weights(SPACE, [network], {})


@pytest.mark.parametrize(
    ("networks", "error", "message"),
    [
        ([], WeightsError, "no networks"),
        ([_network("00000000", SHARED)] * 2, WeightsError, "00000000 comes twice"),
        ([_network("00000000", SHARED * 1e6)], WeightsError, "00000000: .* does not fit half precision"),
        ([_network("00000000", SHARED * np.nan)], WeightsError, "does not fit half precision"),
        ([_network("0000000", SHARED)], EncodingError, "7 digits"),
    ],
)
def test_what_cannot_be_stored_is_refused(networks: list[StoredNetwork], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        pack_weights(SPACE, networks, {})


def _changed(**arrays: np.ndarray | None) -> bytes:
    kept = {**_arrays(pack_weights(SPACE, [_network("00000000", SHARED)], {})), **arrays}
    file = io.BytesIO()
    np.savez(file, **{name: array for name, array in kept.items() if array is not None})
    return file.getvalue()


def _text(text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), np.uint8)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "w: not a weights file"),
        (b"PK\x03\x04 and then nothing", "w: not a weights file"),
        (_changed(index=None), "w: has no index"),
        (_changed(index=_text("{")), "w/index: not valid JSON"),
        (_changed(index=_text('{"format_version": 2}')), "format_version is 2.*upgrade pnag"),
        (
            _changed(index=_text('{"format_version": 1, "space": "s", "metadata": {}, "networks": []}')),
            "networks is .*; it should be an object",
        ),
        (_changed(index=_text('{"format_version": 1, "networks": {}}')), "w/index: space is missing"),
        (_changed(weight0=None), "the entry of 00000000 is not usable"),
        (_changed(weight0=SHARED[:, :2]), r"weight0 has shape \[8, 2, 1, 1\], \[8, 4, 1, 1\] is expected"),
        (_changed(channels0=np.zeros(3, np.float16)), "00000000 is not usable|is expected"),
    ],
)
def test_a_file_that_is_not_right_is_refused_by_name(data: bytes, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        read_network(data, "00000000", "w")


def test_a_network_that_is_not_there_is_named() -> None:
    data = pack_weights(SPACE, [_network("00000000", SHARED)], {})
    with pytest.raises(WeightsError, match="w has no weights for 11111111; it has those of 1 networks"):
        read_network(data, "11111111", "w")
