import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pnag.models.cost.latency_table import Calibration, Device, LatencyTable, LayerLatency, NetworkLatency, UpperBound
from pnag.models.errors import BudgetError, LatencyTableError, MissingLayerError
from pnag.models.space.registry import get_space
from pnag.models.space.search_space import SearchSpace

SPACE = get_space("nas-bench-macro")
COEFFICIENTS = {"overhead": 2.0, "conv": 0.5, "linear": 0.25, "mbconv": 1.5}


def _table(**changes: Any) -> LatencyTable:
    layers = {layer.key: LayerLatency(0.1 + i / 10, 7, 0.02) for i, layer in enumerate(SPACE.distinct_layers())}
    fields: dict[str, Any] = {
        "space": SPACE.name,
        "device": Device("a device", threads=1),
        "statistic": "invented",
        "layers": layers,
        "overhead_ms": 0.05,
        "calibration": Calibration("by hand", 5, COEFFICIENTS),
        "upper_bound": UpperBound(0.9, tuple(np.linspace(0.95, 1.1, 30))),
        "networks": (NetworkLatency("02012100", 3.5, 3.6),),
        "check": {"mape_percent": 1.0},
        "drift": {"holds": True},
        "host_load": {"wall_s": 3.0},
        "measured_at": "2026-11-24T00:00:00Z",
        "source": "by hand",
    }
    return LatencyTable(**(fields | changes))


def test_a_networks_latency_is_the_calibrated_sum_of_its_layers() -> None:
    table = _table()
    tokens = SPACE.sample(40, np.random.default_rng(0))
    expected = [
        COEFFICIENTS["overhead"] * 0.05
        + sum(COEFFICIENTS[layer.family] * table.layers[layer.key].ms for layer in SPACE.layers(SPACE.encode(t)))
        for t in tokens
    ]
    np.testing.assert_allclose(table.predictor(SPACE)(tokens), expected)
    np.testing.assert_array_equal(table.cost(SPACE)(tokens), table.predictor(SPACE)(tokens))


def test_a_saved_table_reads_back_equal(tmp_path: Path) -> None:
    table = _table()
    table.save(tmp_path / "table.json")
    again = LatencyTable.load(tmp_path / "table.json")
    assert again.to_dict() == table.to_dict()
    assert again == table


def _without(document: dict[str, Any], key: str) -> dict[str, Any]:
    return {k: v for k, v in document.items() if k != key}


def _layer(document: dict[str, Any], entry: Any) -> dict[str, Any]:
    first = next(iter(document["layers"]))
    return document | {"layers": document["layers"] | {first: entry}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: _without(d, "format_version"), "format_version is None"),
        (lambda d: d | {"format_version": 2}, "format_version is 2"),
        (lambda d: d | {"unit": "s"}, "unit is 's'; expected 'ms'"),
        (lambda d: _without(d, "unit"), "unit is None"),
        (lambda d: d | {"space": None}, "space is None"),
        (lambda d: d | {"device": {}}, r"device\.name is missing"),
        (lambda d: d | {"device": "a phone"}, "device is 'a phone'; it should be an object"),
        (lambda d: d | {"layers": {}}, "layers is empty; expected an object of layer key"),
        (lambda d: d | {"layers": [1]}, r"layers is \[1\]; it should be an object"),
        (lambda d: _layer(d, {"ms": -1.0}), r"layers\.conv\S+\.ms is -1\.0; it should be greater than 0"),
        (lambda d: _layer(d, {"ms": 0}), r"\.ms is 0; it should be greater than 0"),
        (lambda d: _layer(d, {"ms": True}), r"\.ms is True; it should be a number"),
        (lambda d: _layer(d, {"ms": "fast"}), r"\.ms is 'fast'; it should be a number"),
        (lambda d: _layer(d, {}), r"layers\.conv\S+\.ms is missing"),
        (lambda d: _layer(d, 1.0), r"layers\.conv\S+ is 1\.0; it should be an object"),
        (lambda d: d | {"overhead_ms": -0.1}, "overhead_ms is -0.1"),
        (lambda d: d | {"calibration": {"method": "x"}}, r"calibration\.num_networks is missing"),
        (
            lambda d: d | {"calibration": d["calibration"] | {"coefficients": {"conv": -2}}},
            r"coefficients\.conv is -2; it should be greater than or equal to 0",
        ),
        (lambda d: d | {"upper_bound": {"coverage": 0.9}}, r"upper_bound\.ratios is missing"),
        (
            lambda d: d | {"upper_bound": {"coverage": 0.9, "ratios": []}},
            r"upper_bound\.ratios is \(?\[?\S+; it should have at least 1 item",
        ),
        (lambda d: d | {"upper_bound": {"coverage": 0.9, "ratios": [1.0, -1.0]}}, r"upper_bound\.ratios\[1\] is -1\.0"),
        (lambda d: d | {"networks": {}}, "networks is {}; it should be a list"),
        (lambda d: d | {"networks": [{"ms": 1}]}, r"networks\[0\]\.architecture is missing"),
        (lambda d: d | {"networks": [{"architecture": "x", "ms": 1.0}]}, r"networks\[0\]\.slow_ms is missing"),
        (lambda d: d | {"learned": {}}, "learned lacks .*'candidates'.*; learn the device again"),
        (lambda d: d | {"learned": 7}, "learned is 7; it should be an object"),
    ],
)
def test_a_table_that_cannot_be_relied_on_is_refused_with_the_place(
    change: Callable[[dict[str, Any]], dict[str, Any]], message: str
) -> None:
    document = change(json.loads(json.dumps(_table().to_dict())))
    with pytest.raises(LatencyTableError, match=message):
        LatencyTable.parse(json.dumps(document).encode(), "t.json")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"{", "cut off"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[]", "expected a JSON object"),
        (b'{"a": NaN}', "holds NaN"),
    ],
)
def test_a_file_that_is_no_table_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(LatencyTableError, match=message):
        LatencyTable.parse(data)


def test_a_missing_layer_is_an_error_that_names_it_never_a_zero() -> None:
    table = _table()
    gone = SPACE.distinct_layers()[5].key
    holed = _table(layers={key: entry for key, entry in table.layers.items() if key != gone})
    with pytest.raises(MissingLayerError, match=gone):
        holed.predictor(SPACE)
    with pytest.raises(LatencyTableError, match="is for search space 'nas-bench-macro', not 'ofa-mobilenetv3-w1.0'"):
        table.predictor(get_space("ofa-mobilenetv3-w1.0"))


def test_the_measured_space_leaves_out_what_was_not_measured_and_only_that() -> None:
    space: SearchSpace = get_space("ofa-mobilenetv3-w1.0")
    part = space.restrict({"resolution": [160, 224], "unit3.layer2.kernel_size": [3, 7]})
    layers = {layer.key: LayerLatency(1.0) for layer in part.distinct_layers()}
    table = LatencyTable(space.name, Device("x"), "invented", layers)
    covered = table.measured_space(space)
    assert covered.decisions[0].options == (160, 224)
    # Layers 3 and 4 of the unit have the same shapes as layer 2, so kernel 5 was measured after all.
    assert covered.decisions[covered.index("unit3.layer2.kernel_size")].options == (3, 5, 7)
    table.predictor(covered)
    assert _table().measured_space(SPACE) is SPACE
    with pytest.raises(MissingLayerError, match="covers no option of"):
        LatencyTable(space.name, Device("x"), "invented", {"nothing": LayerLatency(1.0)}).measured_space(space)


def test_coverage_half_is_the_plain_prediction_and_more_is_never_less() -> None:
    table = _table()
    assert table.bound_factor(0.5) == 1.0
    factors = [table.bound_factor(c) for c in (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)]
    assert factors == sorted(factors)
    assert table.default_coverage == 0.9
    unbounded = _table(upper_bound=None)
    assert unbounded.default_coverage == 0.5
    with pytest.raises(BudgetError, match="no fitted bound"):
        unbounded.bound_factor(0.9)


@pytest.mark.parametrize("coverage", [0.49, 0.0, 1.0, 1.5, -1.0, float("nan")])
def test_coverages_outside_their_range_are_refused(coverage: float) -> None:
    with pytest.raises(BudgetError, match="coverage is"):
        _table().bound_factor(coverage)


@given(count=st.integers(1, 200), coverage=st.sampled_from([0.8, 0.9, 0.95, 0.99]))
def test_a_bound_needs_as_many_networks_as_it_says(count: int, coverage: float) -> None:
    ratios = tuple(np.linspace(1.01, 1.5, count))
    needed = {0.8: 4, 0.9: 9, 0.95: 19, 0.99: 99}[coverage]
    bound = UpperBound(coverage, ratios)
    if count >= needed:
        # The ceil((n + 1) coverage)-th smallest, by definition.
        rank = int(np.ceil(np.round((count + 1) * coverage, 9)))
        assert bound.factor(coverage) == ratios[rank - 1]
    else:
        with pytest.raises(BudgetError, match=f"at least {needed} measured networks; the table has {count}"):
            bound.factor(coverage)


def test_a_bound_never_promises_less_than_the_prediction() -> None:
    assert UpperBound(0.9, (0.5,) * 20).factor(0.9) == 1.0
