"""The learned section of a latency table: what is written reads back, and what is damaged is refused by name."""

import copy
import json
from typing import Any

import numpy as np
import pytest

from pnag.models.cost.latency_table import Device, LatencyTable
from pnag.models.cost.learned_latency import Correction, Features, Kernel, LearnedLatency, Term
from pnag.models.errors import LatencyTableError
from pnag.models.space.registry import get_space

SPACE = get_space("nas-bench-macro")


def _table() -> LatencyTable:
    rng = np.random.default_rng(0)
    tokens_ND = SPACE.sample(3, rng)
    shape_NS = Features(SPACE).shape(tokens_ND).astype(np.float32).astype(np.float64)
    width = shape_NS.shape[1]
    correction = Correction(
        (Kernel("shape", 2.0, 0.1), Kernel("tokens", 0.5, 0.2)),
        np.zeros(width), np.ones(width), shape_NS, tokens_ND.astype(np.int16), rng.normal(size=3),
    )  # fmt: skip
    learned = LearnedLatency(
        "by hand", 3, {"by hand": {"mape_percent": 1.0}}, {d.name: d.options for d in SPACE.decisions},
        {"constant": 0.5, "layers": 0.1}, (Term(("layer1",), np.array([0.0, 1.0, 2.0, 0.0])),), correction,
    )  # fmt: skip
    return LatencyTable(SPACE.name, Device("a device"), "learned", {}, learned=learned)


def test_what_is_written_reads_back_and_predicts_the_same() -> None:
    table = _table()
    again = LatencyTable.parse(json.dumps(table.to_dict()).encode())
    assert again.to_dict() == table.to_dict()
    tokens_BD = SPACE.sample(20, np.random.default_rng(1))
    np.testing.assert_array_equal(again.predictor(SPACE)(tokens_BD), table.predictor(SPACE)(tokens_BD))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("method", 7, r"learned\.method is 7; it should be a string"),
        ("coefficients", {"layers": "fast"}, r"learned\.coefficients\.layers is 'fast'; it should be a number"),
        ("coefficients", {"photons": 1.0}, "learned.coefficients has 'photons'"),
        ("terms.0.values", "much", r"learned\.terms\[0\]\.values: .*'much'"),
        ("terms.0.values", [1.0, 2.0], r"term over \['layer1'\] must hold \(4,\) finite numbers"),
        ("terms.0.decisions", ["layer9"], "names decision 'layer9'"),
        ("terms.0.times", 3, r"learned\.terms\[0\]\.times is 3; it should be a string"),
        ("correction.kernels.0.features", "colour", "'colour'; it should be 'shape' or 'tokens'"),
        ("correction.kernels.1.length", 0, r"kernels\[1\]\.length is 0; it should be greater than 0"),
        ("correction.weight_N", [1.0], r"learned\.correction\.weight_N: expected an object of dtype, shape and base64"),
        ("correction.weight_N.dtype", "int8", "dtype is 'int8'; expected 'float64'"),
        ("correction.weight_N.base64", "????", r"learned\.correction\.weight_N: "),
        ("correction.weight_N.shape", "all", r"weight_N: expected an object of dtype, shape"),
        ("correction.tokens_ND.shape", [8, 3], "arrays that do not fit together"),
        ("floor_ms", None, r"learned\.floor_ms is None; it should be a number"),
    ],
)
def test_a_damaged_section_is_refused_with_the_place(path: str, value: Any, message: str) -> None:
    document = copy.deepcopy(_table().to_dict())
    *parents, last = (int(part) if part.isdigit() else part for part in path.split("."))
    entry = document["learned"]
    for part in parents:
        entry = entry[part]
    entry[last] = value
    with pytest.raises(LatencyTableError, match=message):
        LatencyTable.parse(json.dumps(document).encode(), "t.json")


def test_a_section_that_lost_a_part_is_refused() -> None:
    document = _table().to_dict()
    del document["learned"]["correction"]
    with pytest.raises(LatencyTableError, match=r"learned lacks \['correction'\]; learn the device again"):
        LatencyTable.parse(json.dumps(document).encode())
