"""The commands as they are typed, against real ONNX Runtime; few rounds, since nothing here depends on the times."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from pnag.cli import main as cli
from pnag.models.cost.latency_table import LatencyTable
from pnag.models.space.search_space import SearchSpace
from pnag.trainer.latency.timing import rounds as timing_rounds

NARROW = [word for i in range(3, 9) for word in ("--only", f"layer{i}=identity")]
"""Leaves the first two layers of nas-bench-macro open: nine networks, few layers."""


def _run(*arguments: str) -> Result:
    return CliRunner().invoke(cli.app, ["latency", *arguments])


def _pnag(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """With errors turned into messages and exit codes, as the installed command does it."""
    with pytest.raises(SystemExit) as exit_:
        cli.main(["latency", *arguments])
    captured = capfd.readouterr()
    return int(exit_.value.code or 0), captured.out, captured.err


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of nas-bench-macro, measured in two rounds."""
    path = tmp_path_factory.mktemp("measured") / "table.json"
    result = _run("measure", "--space", "nas-bench-macro", "--rounds", "2", "--out", str(path), "--json")
    assert result.exit_code == 0, result.output
    return path


def test_measuring_writes_a_table_that_predicts(measured: Path, macro: SearchSpace) -> None:
    table = LatencyTable.load(measured)
    assert set(table.layers) == {layer.key for layer in macro.distinct_layers()}
    assert table.statistic == "lower_quartile_of_rounds_at_median_clock"
    assert table.device.runtime is not None
    assert table.device.runtime.startswith("onnxruntime ")
    assert table.host_load is not None
    assert table.host_load["wall_s"] >= 0
    assert table.measured_at is not None
    import socket

    assert socket.gethostname() not in measured.read_text()
    assert (table.predictor(macro)(macro.sample(20, np.random.default_rng(0))) > 0).all()


def test_measuring_a_part_then_the_rest_keeps_what_is_there(tmp_path: Path, macro: SearchSpace) -> None:
    path = tmp_path / "table.json"
    arguments = ["measure", "--space", "nas-bench-macro", "--rounds", "2", "--out", str(path), "--json"]
    part = _run(*arguments, *NARROW)
    assert part.exit_code == 0, part.output
    before = LatencyTable.load(path)
    covered = before.measured_space(macro)
    assert covered.num_architectures == 9
    whole = json.loads(_run(*arguments).stdout)
    after = LatencyTable.load(path)
    assert whole["num_layers"] == 18
    assert whole["num_measured_now"] == 18 - len(before.layers)
    assert all(after.layers[key] == entry for key, entry in before.layers.items())
    assert json.loads(_run(*arguments).stdout)["num_measured_now"] == 0
    assert after.measured_space(macro).num_architectures == 6561


def test_a_measurement_that_was_stopped_goes_on(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing_rounds, "SAVE_EVERY_S", 0.0)
    path = tmp_path / "table.json"
    arguments = ["measure", "--space", "nas-bench-macro", *NARROW, "--rounds", "2", "--out", str(path)]
    code, out, err = _pnag(capfd, *arguments, "--stop-after-s", "0")
    assert (code, out) == (1, "")
    assert "run the same command to go on" in err
    assert not path.exists()
    assert path.with_name("table.json.partial").exists()
    code, _, err = _pnag(capfd, *arguments, "--threads", "2")
    assert code == 1
    assert "unfinished run" in err
    code, out, err = _pnag(capfd, *arguments)
    assert code == 0
    assert "going on from" in err
    assert str(path) in out
    assert not path.with_name("table.json.partial").exists()


def test_a_table_of_another_device_is_not_extended(
    measured: Path, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "other.json"
    table = LatencyTable.load(measured)
    replace(table, device=replace(table.device, threads=4)).save(path)
    code, _, err = _pnag(capfd, "measure", "--space", "nas-bench-macro", "--rounds", "2", "--out", str(path))
    assert code == 1
    assert "threads is 4, here 1" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--space", "no-such-space"], "unknown search space 'no-such-space'"),
        (["--space", "nas-bench-macro", "--only", "layer1"], "expected DECISION=OPTION"),
        (["--space", "nas-bench-macro", "--only", "layer9=identity"], "no decision 'layer9'"),
        (["--space", "nas-bench-macro", "--only", "layer1=dense"], "choose from"),
        (["--space", "nas-bench-macro", "--execution-provider", "TpuExecutionProvider"], "is not in this onnxruntime"),
    ],
)
def test_what_cannot_be_measured_is_said(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    code, out, err = _pnag(capfd, "measure", *arguments, "--out", str(tmp_path / "t.json"))
    assert (code, out) == (1, "")
    assert message in err
    assert not (tmp_path / "t.json").exists()


@pytest.fixture(scope="module")
def fitted(measured: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    path = tmp_path_factory.mktemp("fitted") / "table.json"
    result = _run(
        "fit", "--latency-table", str(measured), "--out", str(path), "--num-calibration", "4", "--num-bounding", "9",
        "--coverage", "0.9", "--rounds", "2", "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    return path, json.loads(result.stdout)


def test_fitting_calibrates_and_bounds(fitted: tuple[Path, dict[str, Any]], measured: Path) -> None:
    path, found = fitted
    table = LatencyTable.load(path)
    assert table.calibration is not None
    assert table.calibration.num_networks == 4
    assert table.upper_bound is not None
    assert len(table.upper_bound.ratios) == 9
    assert table.default_coverage == 0.9
    assert found["bound_factors"] == {"0.9": table.bound_factor(0.9)}
    assert len(table.networks) == 13
    assert LatencyTable.load(measured).calibration is None, "--out must leave the given table alone"


def test_checking_judges_by_fresh_networks_and_draws_them(fitted: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    path, plot = fitted[0], tmp_path / "plots" / "check.png"
    result = _run(
        "check", "--latency-table", str(path), "--num-networks", "5", "--rounds", "2", "--plot", str(plot), "--json"
    )
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["num_networks"] == 5
    assert set(found["over_bound_percent"]) == {"0.9"}
    assert found["macs_only"]["kendall_tau"] is not None
    assert plot.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    table = LatencyTable.load(path)
    assert table.check is not None
    assert table.check["mape_percent"] == found["mape_percent"]


def test_drift_measures_again_and_leaves_its_verdict_in_the_table(
    fitted: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    path = tmp_path / "table.json"
    path.write_bytes(fitted[0].read_bytes())
    result = _run("drift", "--latency-table", str(path), "--num-layers", "3", "--rounds", "2", "--json")
    found = json.loads(result.stdout)
    assert result.exit_code == (0 if found["holds"] else 1)
    assert found["num_layers"] == 3
    assert found["num_networks"] == 3
    drift = LatencyTable.load(path).drift
    assert drift is not None
    assert drift["holds"] == found["holds"]
    # Ten times as fast as it was measured: nothing holds.
    table = LatencyTable.load(path)
    fast = {key: replace(entry, ms=entry.ms / 10) for key, entry in table.layers.items()}
    replace(table, layers=fast).save(path)
    moved = _run("drift", "--latency-table", str(path), "--num-layers", "3", "--rounds", "2")
    assert moved.exit_code == 1
    assert "no longer holds" in moved.stdout


def test_too_few_networks_for_the_coverage_are_refused_before_anything_is_measured(
    measured: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> bool:
        raise AssertionError("measured, although it cannot be enough")

    monkeypatch.setattr("pnag.trainer.latency.measure.measure", refuse)
    code, _, err = _pnag(capfd, "fit", "--latency-table", str(measured), "--num-bounding", "18")
    assert code == 1
    assert "at least 19" in err


def test_a_table_measured_elsewhere_is_not_fitted_here(
    measured: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    table = LatencyTable.load(measured)
    replace(table, device=replace(table.device, processor="Cortex-A76")).save(tmp_path / "a.json")
    code, _, err = _pnag(capfd, "fit", "--latency-table", str(tmp_path / "a.json"))
    assert code == 1
    assert "Cortex-A76" in err
    replace(table, device=replace(table.device, threads=None)).save(tmp_path / "b.json")
    code, _, err = _pnag(capfd, "check", "--latency-table", str(tmp_path / "b.json"))
    assert code == 1
    assert "does not say how it was measured" in err


# -- records and predictions -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rows(macro: SearchSpace, macro_table: LatencyTable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokens = np.unique(macro.sample(80, np.random.default_rng(0)), axis=0)
    path = tmp_path_factory.mktemp("rows") / "rows.csv"
    ms = macro_table.predictor(macro)(tokens)
    lines = [f"{macro.encode(t)},{m:.6f}" for t, m in zip(tokens, ms, strict=True)]
    path.write_text("architecture,latency_ms\n" + "\n".join(lines) + "\n")
    return path


def test_a_device_is_learned_from_rows_and_predicts_them(rows: Path, tmp_path: Path) -> None:
    table = tmp_path / "learned.json"
    result = _run(
        "learn",
        "--records",
        str(rows),
        "--space",
        "nas-bench-macro",
        "--device-name",
        "A GPU",
        "--out",
        str(table),
        "--json",
    )
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert set(found["candidates"]) == {"physical", "one-hot", "additive", "kernel"}
    assert found["held_out"]["mape_percent"] == min(c["mape_percent"] for c in found["candidates"].values())
    assert LatencyTable.load(table).device.name == "A GPU"
    predicted = _run("predict", "--latency-table", str(table), "--records", str(rows))
    given = list(csv.DictReader(io.StringIO(rows.read_text())))
    answered = list(csv.DictReader(io.StringIO(predicted.stdout)))
    assert list(answered[0]) == ["architecture", "latency_ms", "latency_upper_ms"]
    assert [row["architecture"] for row in answered] == [row["architecture"] for row in given]
    for row, truth in zip(answered, given, strict=True):
        assert float(row["latency_ms"]) == pytest.approx(float(truth["latency_ms"]), rel=0.05)
        assert float(row["latency_upper_ms"]) >= float(row["latency_ms"])
    by_coverage = [
        float(json.loads(
            _run("predict", "--latency-table", str(table), "--records", str(rows), "--coverage", c, "--json").stdout
        )["predictions"][0]["latency_upper_ms"])
        for c in ("0.5", "0.9", "0.95")
    ]  # fmt: skip
    assert by_coverage == sorted(by_coverage)
    assert by_coverage[0] == pytest.approx(float(answered[0]["latency_ms"]), abs=1e-6)


def test_a_table_is_fitted_to_what_devices_reported(macro_table: LatencyTable, rows: Path, tmp_path: Path) -> None:
    table, reports = tmp_path / "table.json", tmp_path / "reports.csv"
    macro_table.save(table)
    lines = rows.read_text().splitlines()
    wild = f"{lines[1].split(',')[0]},99999,phone"
    reports.write_text("\n".join([f"{lines[0]},device", *(f"{line},phone" for line in lines[1:]), wild]))
    result = _run("fit-feedback", "--latency-table", str(table), "--feedback", str(reports), "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["device"], found["num_reports"], found["num_left_out"]) == ("phone", len(lines), 1)
    assert "1 reports are too far" in result.stderr
    assert found["bound_factors"]["0.95"] == pytest.approx(1)
    assert LatencyTable.load(table).calibration is not None


def test_encodings_with_commas_come_out_as_csv(ofa_table: LatencyTable, ofa_224: SearchSpace, tmp_path: Path) -> None:
    ofa_table.save(tmp_path / "t.json")
    encoding = ofa_224.encode(ofa_224.sample(1, np.random.default_rng(0))[0])
    (tmp_path / "r.csv").write_text(f'architecture\n"{encoding}"\n')
    result = _run("predict", "--latency-table", str(tmp_path / "t.json"), "--records", str(tmp_path / "r.csv"))
    row = next(csv.DictReader(io.StringIO(result.stdout)))
    assert row["architecture"] == encoding
    assert row["latency_upper_ms"] == "", "a table without a bound promises nothing"
    # A resolution that was never measured is refused with those that were.
    (tmp_path / "r.csv").write_text(f'architecture\n"{encoding}@192"\n')
    refused = _run("predict", "--latency-table", str(tmp_path / "t.json"), "--records", str(tmp_path / "r.csv"))
    assert refused.exit_code == 1
    assert "resolution is 192; choose from [224]" in str(refused.exception)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["fit"], 2),
        (["fit-feedback", "--feedback", "ROWS"], 2),
        (["fit-feedback", "--latency-table", "no-such.json", "--feedback", "ROWS"], 1),
        (["learn", "--records", "ROWS"], 2),
        (["learn", "--records", "ROWS", "--space", "nas-bench-macro"], 2),
        (["learn", "--records", "no-such.csv", "--space", "nas-bench-macro", "--out", "x.json"], 1),
        (["predict", "--latency-table", "no-such.json", "--records", "ROWS"], 1),
        (["measure"], 2),
        (["no-such-command"], 2),
    ],
)
def test_wrong_use_exits_with_2_and_failure_with_1(
    rows: Path, capfd: pytest.CaptureFixture[str], arguments: list[str], code: int
) -> None:
    found, out, err = _pnag(capfd, *(str(rows) if word == "ROWS" else word for word in arguments))
    assert (found, out) == (code, "")
    assert err


@pytest.mark.parametrize(
    ("arguments", "new"),
    [
        (["--records", "rows.csv", "--space", "nas-bench-macro", "--out", "x.json"], "pnag latency learn"),
        (["--latency-table", "t.json", "--feedback=rows.csv"], "pnag latency fit-feedback"),
    ],
)
def test_an_option_that_became_a_command_names_it(
    capfd: pytest.CaptureFixture[str], arguments: list[str], new: str
) -> None:
    code, out, err = _pnag(capfd, "fit", *arguments)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert new in err


def test_importing_a_kits_file_by_the_command(macro: SearchSpace, macro_table: LatencyTable, tmp_path: Path) -> None:
    from pnag.trainer.latency.timing.measurements import Measurements

    measurements = Measurements(macro.name, {"name": "as measured", "threads": 4})
    measurements.overhead = {"bound": [(0.001, 0.0)], "as_user": [(0.002, 0.0)]}
    measurements.layers = {key: [(entry.ms, 0.0)] for key, entry in macro_table.layers.items()}
    measurements.save(tmp_path / "measurements.json")
    for extra, name in (([], "as measured"), (["--device-name", "My phone"], "My phone")):
        result = _run(
            "import",
            str(tmp_path / "measurements.json"),
            "--space",
            macro.name,
            "--out",
            str(tmp_path / "t.json"),
            *extra,
        )
        assert result.exit_code == 0, result.output
        assert LatencyTable.load(tmp_path / "t.json").device.name == name
        assert LatencyTable.load(tmp_path / "t.json").source == "measurements.json"


@pytest.mark.parametrize(
    "command", ["measure", "kit", "import", "fit", "fit-feedback", "learn", "check", "drift", "predict"]
)
def test_every_help_ends_with_a_line_to_paste(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    text = " ".join(_run(command, "--help").stdout.split())
    assert f"pnag latency {command} " in text[text.rindex("Example:") :]


def test_the_commands_load_nothing_heavy_until_they_run() -> None:
    import subprocess
    import sys

    code = (
        "import sys, pnag.cli.latency; "
        "heavy = ('numpy', 'onnx', 'onnxruntime', 'torch', 'scipy', 'sklearn', 'pandas'); "
        "print([module for module in heavy if module in sys.modules])"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert finished.stdout.strip() == "[]"
