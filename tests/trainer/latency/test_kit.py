import json
import os
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from pnag.models.errors import LatencyTableError
from pnag.models.space.search_space import SearchSpace
from pnag.trainer.latency import importers, kit
from pnag.trainer.latency.kit import KitOptions

SMALL = KitOptions(num_calibration=3, num_bounding=2)


@pytest.fixture(scope="module")
def unpacked(macro: SearchSpace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kit")
    kit.write_kit(macro, folder / "kit.zip", SMALL)
    with zipfile.ZipFile(folder / "kit.zip") as archive:
        archive.extractall(folder / "unpacked")
    return folder / "unpacked"


def _run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # -I: no PYTHONPATH and no current folder, so that nothing of the project can be found by accident.
    command = [sys.executable, "-I", str(folder / "measure.py"), *arguments]
    environment = {**os.environ, "ORT_DISABLE_TELEMETRY": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_a_kit_holds_every_layer_and_is_small(macro: SearchSpace, unpacked: Path) -> None:
    manifest = json.loads((unpacked / "kit.json").read_text())
    assert set(manifest["layers"]) == {layer.key for layer in macro.distinct_layers()}
    assert len(manifest["networks"]) == 5
    assert len(manifest["calibration"]) == 3
    assert all((unpacked / file).exists() for group in ("layers", "networks") for file in manifest[group].values())
    assert (unpacked.parent / "kit.zip").stat().st_size < 100_000


def test_equal_kits_are_equal_bytes(macro: SearchSpace, tmp_path: Path, unpacked: Path) -> None:
    kit.write_kit(macro, tmp_path / "again.zip", SMALL)
    assert (tmp_path / "again.zip").read_bytes() == (unpacked.parent / "kit.zip").read_bytes()


def test_the_script_knows_nothing_of_the_project(unpacked: Path) -> None:
    import ast

    tree = ast.parse((unpacked / "measure.py").read_text(), feature_version=(3, 9))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    foreign = {name for name in imported if name.split(".")[0] not in sys.stdlib_module_names}
    assert foreign == {"numpy", "onnxruntime"}


def test_what_the_script_measures_becomes_a_table(macro: SearchSpace, unpacked: Path, tmp_path: Path) -> None:
    out = tmp_path / "measurements.json"
    broken_off = _run(unpacked, "--rounds", "3", "--stop-after-s", "0", "--out", str(out))
    assert broken_off.returncode == 1
    assert "run again to go on" in broken_off.stdout
    done = _run(unpacked, "--rounds", "3", "--out", str(out))
    assert done.returncode == 0, done.stderr
    table = importers.import_measurements(out, macro)
    assert set(table.layers) == {layer.key for layer in macro.distinct_layers()}
    assert table.device.threads == 1
    assert table.device.execution_provider == "CPUExecutionProvider"
    assert table.calibration is not None
    assert table.calibration.num_networks == 3
    assert table.upper_bound is None
    assert (table.predictor(macro)(macro.sample(50, np.random.default_rng(0))) > 0).all()
    # Another device's file is not mixed with this one's.
    other = _run(unpacked, "--rounds", "3", "--out", str(out), "--device-name", "another")
    assert other.returncode == 1
    assert "another" in other.stderr


def test_the_script_says_what_is_wrong(unpacked: Path, tmp_path: Path) -> None:
    wrong = _run(unpacked, "--threads", "0")
    assert wrong.returncode == 2
    missing = _run(unpacked, "--execution-provider", "TpuExecutionProvider", "--out", str(tmp_path / "m.json"))
    assert missing.returncode == 1
    assert "CPUExecutionProvider" in missing.stderr
    assert not (tmp_path / "m.json").exists() or json.loads((tmp_path / "m.json").read_text())["layers"] == {}


FAKE_PERF_TEST = """#!{python}
import sys
file = sys.argv[-1]
assert sys.argv[sys.argv.index("-m") + 1] == "times" and "-I" in sys.argv and "-s" in sys.argv
number = int(file[-9:-5]) if "-0" in file else 0
ms = 0.01 if "empty" in file else {{"layer": 0.5 + number, "netwo": 20.0 + number}}[file.split("/")[1][:5]]
print(f'''Session creation time cost: 0.0102016 s
First inference time cost: 2 ms
Total inference time cost: 0.185739 s
Total inference requests: 20
Average inference time cost: {{1.2 * ms:.6g}} ms
Avg CPU usage:96
Peak working set size:36696064
Runs:20
Min Latency: {{ms / 1000:.6g}} s
Max Latency: {{2 * ms / 1000:.6g}} s
P50 Latency: {{1.1 * ms / 1000:.6g}} s''')
"""


@pytest.fixture
def perf_test_output(unpacked: Path, tmp_path: Path) -> str:
    assert _run(unpacked, "--make-weights").returncode == 0
    fake = tmp_path / "onnxruntime_perf_test"
    fake.write_text(FAKE_PERF_TEST.format(python=sys.executable))
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    environment = {**os.environ, "PERF_TEST": str(fake), "PASSES": "2", "THREADS": "4"}
    command = ["sh", str(unpacked / "run_perf_test.sh")]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return finished.stdout


def test_what_onnxruntime_perf_test_prints_becomes_a_table(
    macro: SearchSpace, perf_test_output: str, tmp_path: Path
) -> None:
    path = tmp_path / "perf_test.txt"
    path.write_text(perf_test_output)
    assert importers.looks_like_perf_test(path)
    table = importers.import_perf_test(path, macro, "a phone")
    for number, layer in enumerate(macro.distinct_layers()):
        assert table.layers[layer.key].ms == pytest.approx(0.5 + number - 0.01, rel=1e-4)
        assert table.layers[layer.key].rounds == 2
    assert table.device.name == "a phone"
    assert table.device.threads == 4
    assert table.device.precision == "fp32"
    assert table.calibration is not None
    assert table.calibration.num_networks == 3
    assert len(table.networks) == 3


def test_graphs_that_failed_on_the_phone_are_named_and_left_out(
    macro: SearchSpace, perf_test_output: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "perf_test.txt"
    key = macro.distinct_layers()[4].key
    parts = perf_test_output.split(f"### layers {key}\n")
    assert len(parts) == 3
    ends = [part[part.index("### ") :] for part in parts[1:]]
    path.write_text(parts[0] + "".join(f"### layers {key}\nout of memory\n{end}" for end in ends))
    table = importers.import_perf_test(path, macro, "a phone")
    assert key not in table.layers
    assert len(table.layers) == 17
    assert key in caplog.text
    path.write_text("Session creation time cost: 1 s\n")
    with pytest.raises(LatencyTableError, match="does not begin with"):
        importers.import_perf_test(path, macro, "a phone")


def test_an_int8_kit_carries_its_own_weights(macro: SearchSpace, tmp_path: Path) -> None:
    narrow = macro.restrict({d.name: ["identity"] for d in macro.decisions[1:]})
    options = KitOptions(num_calibration=3, num_bounding=0, precision="int8")
    manifest = kit.write_kit(narrow, tmp_path / "kit.zip", options)
    assert manifest["weights"] is None
    assert manifest["precision"] == "int8"
    with zipfile.ZipFile(tmp_path / "kit.zip") as archive:
        archive.extractall(tmp_path / "unpacked")
    done = _run(tmp_path / "unpacked", "--rounds", "2")
    assert done.returncode == 0, done.stderr
    table = importers.import_measurements(tmp_path / "unpacked" / "measurements.json", narrow)
    assert table.device.precision == "int8"
    assert "int8" in table.device.name
