import csv
import json
import logging
from pathlib import Path

import numpy as np
import pytest
import yaml

from pnag.models.cost.latency_table import LatencyTable
from pnag.models.errors import LatencyTableError, MissingLayerError
from pnag.models.space.layers import Layer
from pnag.models.space.registry import get_space
from pnag.models.space.search_space import SearchSpace
from pnag.trainer.latency import importers
from pnag.trainer.latency.measure import to_table
from pnag.trainer.latency.timing.measurements import Measurements


@pytest.fixture(scope="session")
def lut(data_dir: Path) -> Path:
    return data_dir / "i7-8700K_lut.yaml"


@pytest.fixture(scope="session")
def lut_values(lut: Path) -> dict[str, float]:
    document = yaml.load(lut.read_bytes(), Loader=yaml.CSafeLoader)
    return {key: value["mean"] for key, value in document.items()}


@pytest.fixture(scope="session")
def i7(lut: Path, ofa_224: SearchSpace) -> LatencyTable:
    return importers.import_yaml(lut, ofa_224, "i7-8700K")


def _latency_as_nsganetv2_computes_it(
    values: dict[str, float], depths: list[int], ks: list[int], es: list[int]
) -> float:
    """Written from the look-up table's own keys, knowing nothing of our layers; width 1.0, 224 pixels."""
    total = values["first_conv-input:224x224x3-output:112x112x16"]
    total += values["MBConv-input:112x112x16-output:112x112x16-expand:1-kernel:3-stride:1-idskip:1-se:0"]
    channels, size = 16, 112
    stages = zip(depths, (24, 40, 80, 112, 160), (2, 2, 2, 1, 2), (0, 1, 0, 1, 1), strict=True)
    for unit, (depth, out, stride, se) in enumerate(stages):
        for j in range(depth):
            step = stride if j == 0 else 1
            after = size // step
            total += values[
                f"MBConv-input:{size}x{size}x{channels}-output:{after}x{after}x{out}-expand:{es[4 * unit + j]}"
                f"-kernel:{ks[4 * unit + j]}-stride:{step}-idskip:{int(j > 0)}-se:{se}"
            ]
            channels, size = out, after
    total += values["final_expand_layer-input:7x7x160-output:7x7x960"]
    total += values["feature_mix_layer-input:1x1x960-output:1x1x1280"]
    return total + values["classifier-input:1280-output:1000"]


def test_every_published_network_gets_the_sum_of_its_own_entries(
    i7: LatencyTable, lut_values: dict[str, float], ofa_224: SearchSpace, data_dir: Path
) -> None:
    with (data_dir / "ofa_mbv3_w1.0_r224_imagenet.csv").open() as file:
        encodings = [row["architecture"] for row in csv.DictReader(file)]
    assert len(encodings) == 1357
    predicted = i7.predictor(ofa_224)(np.stack([ofa_224.decode(e) for e in encodings]))
    expected = [
        _latency_as_nsganetv2_computes_it(lut_values, *([int(n) for n in part.split(",")] for part in e.split(":")))
        for e in encodings
    ]
    np.testing.assert_allclose(predicted, expected, rtol=1e-6)


def test_every_resolution_and_both_widths_are_covered(lut: Path) -> None:
    for name in ("ofa-mobilenetv3-w1.0", "ofa-mobilenetv3-w1.2"):
        space = get_space(name)
        assert set(importers.import_yaml(lut, space, "i7").layers) == {x.key for x in space.distinct_layers()}


def test_ofas_own_spelling_is_read_too_and_its_pooling_counts(tmp_path: Path, ofa_224: SearchSpace) -> None:
    document: dict[str, dict[str, float]] = {}

    def put(key: str, ms: float) -> None:
        document[key] = {"mean": ms}

    for layer in ofa_224.distinct_layers():
        shapes = (
            f"input:{layer.input_size}x{layer.input_size}x{layer.in_channels}"
            f"-output:{layer.output_size}x{layer.output_size}x{layer.out_channels}"
        )
        if layer.kind == "mbconv":
            put(
                f"expanded_conv-{shapes}-expand:{layer.expanded_channels}-kernel:{layer.kernel_size}"
                f"-stride:{layer.stride}-idskip:{int(layer.has_residual)}-se:{int(layer.squeeze_channels > 0)}"
                f"-hs:{int(layer.activation == 'h_swish')}",
                0.5,
            )
    put("Conv-input:224x224x3-output:112x112x16", 1.0)
    put("Conv_1-input:7x7x160-output:7x7x960", 2.0)
    put("AvgPool2D-input:7x7x960-output:1x1x960", 4.0)
    put("Conv_2-input:1x1x960-output:1x1x1280", 8.0)
    put("Logits-input:1x1x1280-output:1000", 16.0)
    path = tmp_path / "ofa.yaml"
    path.write_text(yaml.safe_dump(document))
    table = importers.import_yaml(path, ofa_224, "phone")
    encoding = "2,2,2,2,2:" + ",".join(["3,3,0,0"] * 5) + ":" + ",".join(["3,3,0,0"] * 5)
    assert table.predictor(ofa_224)(ofa_224.decode(encoding)[np.newaxis])[0] == pytest.approx(
        1 + 2 + 4 + 8 + 16 + 11 * 0.5
    )


def test_a_missing_layer_is_named_with_the_key_that_was_looked_for(lut: Path, ofa: SearchSpace, tmp_path: Path) -> None:
    text = lut.read_text()
    gone = "MBConv-input:28x28x40-output:28x28x40-expand:4-kernel:5-stride:1-idskip:1-se:1"
    path = tmp_path / "holed.yaml"
    path.write_text(text.replace(f"{gone}:", f"{gone}x:"))
    with pytest.raises(MissingLayerError, match=r"no latency for 1 of 95 layers.*" + gone) as caught:
        importers.import_yaml(path, ofa.restrict({"resolution": [224]}), "i7")
    assert "--only" in str(caught.value)
    assert importers.import_yaml(path, ofa.restrict({"resolution": [192]}), "i7").layers
    with pytest.raises(MissingLayerError, match="and 13 more"):
        importers.import_yaml(lut, get_space("nas-bench-macro"), "i7")


@pytest.mark.parametrize("value", ["-1.0", ".nan", ".inf", "0", "'fast'", "{var: 1}"])
def test_an_entry_that_is_no_latency_is_named(lut: Path, ofa_224: SearchSpace, tmp_path: Path, value: str) -> None:
    path = tmp_path / "bad.yaml"
    lines = lut.read_text().splitlines()
    start = lines.index("classifier-input:1280-output:1000:")
    lines[start + 1] = f"  mean: {value}"
    path.write_text("\n".join(lines))
    with pytest.raises(LatencyTableError, match=r"bad.yaml: classifier-input:1280-output:1000: mean is"):
        importers.import_yaml(path, ofa_224, "i7")


def test_a_table_in_seconds_is_refused(lut_values: dict[str, float], ofa_224: SearchSpace, tmp_path: Path) -> None:
    path = tmp_path / "seconds.yaml"
    path.write_text("\n".join(f"{k}: {{mean: {v / 1000:.9f}}}" for k, v in lut_values.items()))
    with pytest.raises(LatencyTableError, match="look like seconds"):
        importers.import_yaml(path, ofa_224, "i7")


@pytest.mark.parametrize(
    ("text", "message"), [("[1, 2]", "expected a mapping"), ("a: [", "not valid YAML"), ("\x00", "YAML")]
)
def test_files_of_another_kind_are_refused(tmp_path: Path, ofa_224: SearchSpace, text: str, message: str) -> None:
    path = tmp_path / "odd.yaml"
    path.write_text(text)
    with pytest.raises(LatencyTableError, match=message):
        importers.import_yaml(path, ofa_224, "i7")


# -- measurements of a kit -------------------------------------------------------------------------------------------


def _measurements(space: SearchSpace, table: LatencyTable, networks: dict[str, float] | None = None) -> Measurements:
    device = {"name": "kit device", "threads": 2, "processor": "a processor"}
    found = Measurements(space.name, device)
    found.overhead = {"bound": [(0.002, 0.01)] * 4, "as_user": [(0.004, 0.01)] * 4}
    found.layers = {key: [(0.002 + entry.ms, 0.01)] * 4 for key, entry in table.layers.items()}
    found.networks = {e: [(ms, 0.01)] * 8 for e, ms in (networks or {}).items()}
    return found


def test_layers_lose_the_empty_sessions_overhead(macro: SearchSpace, macro_table: LatencyTable, tmp_path: Path) -> None:
    path = tmp_path / "measurements.json"
    _measurements(macro, macro_table).save(path)
    table = importers.import_measurements(path, macro)
    for key, entry in macro_table.layers.items():
        assert table.layers[key].ms == pytest.approx(entry.ms, abs=2e-6)
    assert table.overhead_ms == pytest.approx(0.004)
    assert table.device.name == "kit device"
    assert table.device.threads == 2


def test_layers_measured_later_join_at_the_clock_that_held_before(
    macro: SearchSpace, macro_table: LatencyTable
) -> None:
    first, second = _measurements(macro, macro_table), _measurements(macro, macro_table)
    keys = list(first.layers)
    first.layers = {key: first.layers[key] for key in keys[:9]}
    # The second run finds the machine clocked down by a fifth: everything, probe included, takes 1.25 times as long.
    second.layers = {key: [(1.25 * ms, 1.25 * c) for ms, c in second.layers[key]] for key in keys[9:]}
    second.overhead = {kind: [(1.25 * ms, 1.25 * c) for ms, c in rounds] for kind, rounds in second.overhead.items()}
    table = to_table(second, base=to_table(first))
    for key in keys:
        assert table.layers[key].ms == pytest.approx(macro_table.layers[key].ms, abs=3e-6)


def test_a_file_cut_off_half_way_gives_what_is_complete_and_says_what_is_missing(
    macro: SearchSpace, macro_table: LatencyTable, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = _measurements(macro, macro_table)
    found.layers = dict(list(found.layers.items())[:11])
    found.save(tmp_path / "measurements.json")
    with caplog.at_level(logging.WARNING):
        table = importers.import_measurements(tmp_path / "measurements.json", macro)
    assert len(table.layers) == 11
    assert "11 of 18 layers" in caplog.text


def test_networks_that_came_along_calibrate_and_bound(
    macro: SearchSpace, macro_table: LatencyTable, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rng = np.random.default_rng(0)
    encodings = [macro.encode(t) for t in np.unique(macro.sample(60, rng), axis=0)][:36]
    truth = macro_table.predictor(macro)(np.stack([macro.decode(e) for e in encodings])) * 1.25
    found = _measurements(macro, macro_table, dict(zip(encodings, truth, strict=True)))
    found.calibration = encodings[:8]
    found.save(tmp_path / "whole.json")
    table = importers.import_measurements(tmp_path / "whole.json", macro)
    np.testing.assert_allclose(table.predictor(macro)(np.stack([macro.decode(e) for e in encodings])), truth, rtol=0.01)
    assert table.upper_bound is not None
    assert len(table.upper_bound.ratios) == 28
    assert table.bound_factor(0.95) < 1.02
    # Cut off while networks were measured: calibrated all the same, but not bounded by too few.
    found.networks = dict(list(found.networks.items())[:15])
    found.save(tmp_path / "cut.json")
    with caplog.at_level(logging.WARNING):
        table = importers.import_measurements(tmp_path / "cut.json", macro)
    assert table.calibration is not None
    assert table.upper_bound is None
    assert "at least 19" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "something"}, "format is 'something'"),
        ({"format_version": 2}, "format_version is 2"),
        ({"space": "ofa-mobilenetv3-w1.0"}, "was measured for space"),
        ({"space": 7}, "space must be a text"),
        ({"layers": {"nonsense": {"samples_ms": [1.0]}}}, "layer nonsense is not one of"),
        ({"layers": {}}, "hold no finished layer"),
        ({"overhead": {}}, "overhead.bound is missing"),
        ({"layers": {"x": {"samples_ms": [1.0, -2.0]}}}, r"layers.x: samples_ms must be"),
        ({"layers": {"x": {"samples_ms": [1.0], "clock_ms": [0.1, 0.2]}}}, "one number >= 0 per sample"),
    ],
)
def test_a_measurements_file_that_cannot_be_used_is_refused(
    macro: SearchSpace, macro_table: LatencyTable, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    path = tmp_path / "measurements.json"
    _measurements(macro, macro_table).save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(LatencyTableError, match=message):
        importers.import_measurements(path, macro)


def test_half_a_json_file_is_called_that(macro: SearchSpace, macro_table: LatencyTable, tmp_path: Path) -> None:
    path = tmp_path / "measurements.json"
    _measurements(macro, macro_table).save(path)
    path.write_text(path.read_text()[:-40])
    with pytest.raises(LatencyTableError, match="cut off"):
        importers.import_measurements(path, macro)


# -- impossible values -----------------------------------------------------------------------------------------------


def test_a_larger_kernel_far_faster_than_its_twin_is_named(ofa_table: LatencyTable, ofa_224: SearchSpace) -> None:
    from dataclasses import replace

    from pnag.models.cost.latency_table import LayerLatency
    from pnag.trainer.latency.measure import implausible_layers

    layers = ofa_224.distinct_layers()
    assert implausible_layers(layers, ofa_table) == []
    odd = next(x for x in layers if x.kernel_size == 5)
    twin_key = odd.key.replace("kernel:5", "kernel:3")
    changed = replace(
        ofa_table, layers={**ofa_table.layers, odd.key: LayerLatency(0.5 * ofa_table.layers[twin_key].ms)}
    )
    warnings = implausible_layers(layers, changed)
    assert len(warnings) == 1
    assert odd.key in warnings[0]
    assert "kernel 3" in warnings[0]
    slow = replace(ofa_table, layers={k: LayerLatency(v.ms / 1000) for k, v in ofa_table.layers.items()})
    assert any("seconds" in warning for warning in implausible_layers(layers, slow))


def test_a_layer_no_slower_than_nothing_is_kept_above_zero_and_named(
    macro: SearchSpace, macro_table: LatencyTable, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = _measurements(macro, macro_table)
    key = next(iter(found.layers))
    found.layers[key] = [(0.001, 0.01)] * 4
    found.save(tmp_path / "m.json")
    with caplog.at_level(logging.WARNING):
        table = importers.import_measurements(tmp_path / "m.json", macro)
    assert 0 < table.layers[key].ms < 0.001
    assert key in caplog.text


def test_spellings_say_nothing_of_layers_those_files_do_not_have() -> None:
    odd = Layer("mbconv", 14, 80, 80, kernel_size=3, expanded_channels=200)
    assert all(not keys[0].startswith("MBConv") for keys in importers._spellings(odd))
