"""Exported networks run, say what they are, and equal torch; whatever goes wrong, nothing half-made is left."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from starlette.testclient import TestClient
from typer.testing import CliRunner, Result

from pnag.cli.main import app
from pnag.models import files
from pnag.models.bundle.bundle import MANIFEST, PARETO_FRONT, WEIGHTS, Bundle, write_bundle
from pnag.models.errors import PnagError, WeightsError
from pnag.models.space.registry import get_space
from pnag.service.app import create_app
from pnag.service.settings import Settings
from pnag.trainer.data.images import Images
from pnag.trainer.networks import export
from pnag.trainer.supernet.plain_network import PlainNetwork
from pnag.trainer.supernet.supernet import subnet
from pnag.trainer.supernet.weights_file import SupernetWeights, build_supernet

SPACE = get_space("nas-bench-macro")
ENCODING = "02012100"
OFA_ENCODING = "2,2,2,2,2:3,3,0,0,5,7,0,0,3,3,0,0,3,3,0,0,7,3,0,0:3,4,0,0,6,3,0,0,3,3,0,0,3,3,0,0,6,6,0,0@128"


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _images(count: int = 30) -> Images:
    rng = np.random.default_rng(0)
    return Images(rng.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8), np.arange(count) % 10)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A supernet of random weights, as `pnag supernet train` writes it."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "supernet.pt"
    state = build_supernet(SPACE).state_dict()
    SupernetWeights(SPACE.name, state, [0.5] * 3, [0.25] * 3, _images().sha256, 10, {}).save(path)
    return path


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same images as a file."""
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    encoded = []
    for pixels_CHW in _images().pixels_NCHW:  # noqa: N806 (the suffix is the shape)
        buffer = io.BytesIO()
        Image.fromarray(pixels_CHW.transpose(1, 2, 0)).save(buffer, "PNG")
        encoded.append({"bytes": buffer.getvalue()})
    path = tmp_path_factory.mktemp("images") / "images.parquet"
    pq.write_table(pa.table({"image": encoded, "label": _images().labels_N}), path)
    return path


@pytest.fixture
def folder(trained: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A trained bundle with few networks on its front, so that weights of all are quickly made."""
    left_out = ("format_version", "files", "self_test")  # the answers recorded need the whole front
    manifest = {name: value for name, value in trained.manifest.items() if name not in left_out}
    contents = {name: content for name, content in trained.contents.items() if name != MANIFEST}
    front = json.loads(contents[PARETO_FRONT])
    contents[PARETO_FRONT] = json.dumps({**front, "points": front["points"][:: len(front["points"]) // 4]}).encode()
    monkeypatch.setattr(export, "NUM_BUDGETS", 5)
    write_bundle(tmp_path / "bundle", manifest, contents)
    return tmp_path / "bundle"


def _pnag(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def _randomized(space_name: str, encoding: str) -> PlainNetwork:
    """A network whose batch norm does something."""
    torch.manual_seed(0)
    space = get_space(space_name)
    network = subnet(build_supernet(space), space.decode(encoding))
    for name, tensor in network.state_dict().items():
        if "bn." in name and tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5)
    return network


@pytest.mark.parametrize(
    ("space", "encoding"),
    [("nas-bench-macro", ENCODING), ("nas-bench-macro", "00000000"), ("ofa-mobilenetv3-w1.0", OFA_ENCODING)],
)
def test_onnx_runtime_gives_torchs_logits(space: str, encoding: str) -> None:
    network = _randomized(space, encoding)
    size = network.layers[0].input_size
    images_NCHW = torch.randn(3, 3, size, size)  # noqa: N806
    content = export.export_network(network, {}, images_NCHW)
    with torch.inference_mode():
        expected = network(images_NCHW).numpy()
    assert expected.std() > 1e-3
    np.testing.assert_allclose(export.run_onnx(content, images_NCHW.numpy()), expected, rtol=1e-3, atol=1e-4)


def test_a_file_that_differs_from_torch_is_refused() -> None:
    network = _randomized("nas-bench-macro", ENCODING)
    content = export.export_network(network, {})
    scale = network.state_dict(keep_vars=False)["blocks.0.bn.weight"]  # shares its storage
    with torch.no_grad():
        scale *= 1.01
    with pytest.raises(WeightsError, match="logits differ from torch's by"):
        export.check_against_torch(content, network, torch.randn(2, 3, 32, 32))
    with torch.no_grad():
        scale *= float("nan")
    with pytest.raises(WeightsError, match="differ"):
        export.export_network(network, {})


def test_the_command_writes_a_network_that_knows_itself(
    folder: Path, weights: Path, images: Path, tmp_path: Path
) -> None:
    out = tmp_path / "model.onnx"
    result = _pnag("export", "--bundle", folder, "--architecture", ENCODING, "--weights", weights,
                   "--images", images, "--out", out, "--json")  # fmt: skip
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    said = export.metadata_of(out.read_bytes())
    assert (said["encoding"], said["space"], said["opset"], said["source"]) == (
        ENCODING,
        SPACE.name,
        "17",
        "supernet.pt",
    )
    assert (said["mean"], said["std"], said["precision"]) == ("0.5,0.5,0.5", "0.25,0.25,0.25", "fp32")
    assert report["measured_top1_percent"] == said["measured_top1_percent"]
    bundle = Bundle.load(folder)
    assert said["bundle"] == f"{bundle.name}@{bundle.version}"
    source = export.Source.load(SPACE, weights)
    _, held_out = _images().split(10)
    measured = export.accuracy_of(out.read_bytes(), held_out, source.normalise())
    assert said["measured_top1_percent"] == f"{measured * 100:.2f}"


def test_int8_is_smaller_close_and_measured(folder: Path, weights: Path, images: Path, tmp_path: Path) -> None:
    command = ("export", "--bundle", folder, "--architecture", ENCODING, "--weights", weights, "--images", images)
    for out, flags in (("fp32.onnx", ()), ("int8.onnx", ("--int8",))):
        assert _pnag(*command, "--out", tmp_path / out, *flags).exit_code == 0
    full, small = (tmp_path / name for name in ("fp32.onnx", "int8.onnx"))
    assert small.stat().st_size < 0.4 * full.stat().st_size
    said = export.metadata_of(small.read_bytes())
    assert said["precision"] == "int8"
    source = export.Source.load(SPACE, weights)
    _, held_out = _images().split(10)
    assert (
        said["measured_top1_percent"]
        == f"{export.accuracy_of(small.read_bytes(), held_out, source.normalise()) * 100:.2f}"
    )
    inputs = source.normalise()(_images().pixels_NCHW).contiguous().numpy()
    logits, quantized = (export.run_onnx(path.read_bytes(), inputs) for path in (full, small))
    assert np.corrcoef(logits.ravel(), quantized.ravel())[0, 1] > 0.95


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--architecture": "0201210"}, "has 7 digits"),
        ({"--weights": "nowhere.pt"}, "nowhere.pt"),
        ({"--images": "nowhere"}, "nowhere"),
        ({"--int8": None, "--images": False}, "needs --images"),
        ({"--weights": False, "--images": False}, "has no weights of 02012100"),
        ({"--out": False}, "--architecture and --out are needed"),
    ],
)
def test_wrong_use_is_refused_and_leaves_nothing(
    folder: Path, weights: Path, images: Path, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    options = {"--bundle": folder, "--architecture": ENCODING, "--weights": weights, "--images": images,
               "--out": tmp_path / "model.onnx", **changes}  # fmt: skip
    arguments = [a for name, value in options.items() if value is not False for a in (name, value) if a is not None]
    result = _pnag("export", *arguments)
    assert result.exit_code != 0
    said = result.output + str(result.exception)
    assert message in " ".join(said.replace("│", " ").split()), said
    assert not (tmp_path / "model.onnx").exists()


def test_the_network_of_an_answer_is_the_one_that_torch_has(
    folder: Path, weights: Path, images: Path, tmp_path: Path
) -> None:
    """The whole way: weights into a bundle, a budget to the service, its answer's network in ONNX Runtime."""
    result = _pnag("export", "--bundle", folder, "--weights", weights, "--images", images, "--into-bundle", "--json")
    assert result.exit_code == 0, result.output
    bundle = Bundle.load(folder)
    assert bundle.weights is not None
    assert json.loads(result.stdout)["networks"] == len(bundle.weights.index.accuracies)
    assert {point.encoding for point in bundle.front} <= bundle.weights.index.accuracies.keys()
    source = export.Source.load(bundle.space, weights)
    scorer = source.scorer(_images())
    budgets = np.linspace(bundle.front[0].latency_ms * 1.3, bundle.front[-1].latency_ms * 1.3, 4)
    inputs = source.normalise()(_images().pixels_NCHW[:4]).contiguous()
    with TestClient(create_app(Settings(bundles=(folder,), watch_interval_s=0))) as client:
        answers = [client.post("/generate", json={"budget_ms": budget}).json() for budget in budgets]
        linked = [answer for answer in answers if "model" in answer["links"]]
        assert linked
        for answer in linked:
            content = client.get(answer["links"]["model"]).content
            network = scorer.recalibrated(bundle.space.decode(answer["architecture"]["encoding"]))
            with torch.inference_mode():
                expected = network(inputs).numpy()
            # Weights in the bundle have half precision.
            np.testing.assert_allclose(export.run_onnx(content, inputs.numpy()), expected, rtol=0.02, atol=0.02)
            out = tmp_path / "model.onnx"
            encoding = answer["architecture"]["encoding"]
            assert _pnag("export", "--bundle", folder, "--architecture", encoding, "--out", out).exit_code == 0
            assert out.read_bytes() == content


def test_weights_replace_weights_and_other_files_stay(folder: Path, weights: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for _ in range(2):
        assert _pnag("export", "--bundle", folder, "--weights", weights, "--into-bundle").exit_code == 0
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert after.keys() == before.keys() | {WEIGHTS}
    assert {name for name in before if after[name] != before[name]} == {MANIFEST}


def test_export_killed_at_any_point_leaves_the_old_or_the_new_file_and_a_whole_bundle(
    folder: Path, weights: Path, tmp_path: Path
) -> None:
    out = tmp_path / "model.onnx"
    out.write_bytes(b"old")
    command = [sys.executable, "-m", "pnag", "export", "--bundle", str(folder), "--weights", str(weights)]
    one = [*command, "--architecture", ENCODING, "--out", str(out)]
    rng = np.random.default_rng(0)
    finished = 0
    for attempt in range(8):
        process = subprocess.Popen(one if attempt % 2 else [*command, "--into-bundle"], stderr=subprocess.DEVNULL,
                                   stdout=subprocess.DEVNULL, cwd=Path(__file__).parents[3])  # fmt: skip
        deadline = time.monotonic() + rng.uniform(0, 8)
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        finished += process.poll() == 0
        process.send_signal(signal.SIGKILL)
        process.wait()
        Bundle.load(folder)
        content = out.read_bytes()
        if content != b"old":
            onnx.checker.check_model(content)
    assert subprocess.run(one, check=False, cwd=Path(__file__).parents[3], stderr=subprocess.DEVNULL).returncode == 0
    onnx.checker.check_model(out.read_bytes())


@pytest.mark.parametrize("crash_at", range(3))
def test_a_bundle_is_whole_between_any_two_writes(
    folder: Path, weights: Path, monkeypatch: pytest.MonkeyPatch, crash_at: int
) -> None:
    """The points a kill can hit, one by one: replacing weights takes three writes."""
    from pnag.models.bundle import bundle as module

    assert _pnag("export", "--bundle", folder, "--weights", weights, "--into-bundle").exit_code == 0
    written: list[Path] = []
    write = files.write_atomic

    def crash(path: Path, content: bytes | str) -> None:
        if len(written) == crash_at:
            raise KeyboardInterrupt
        written.append(path)
        write(path, content)

    monkeypatch.setattr(module, "write_atomic", crash)
    bundle = Bundle.load(folder)
    content = bundle.weights.read() if bundle.weights else b""
    with pytest.raises(KeyboardInterrupt):
        module.write_weights(folder, bundle, content)
    assert Bundle.load(folder).front == bundle.front


def test_no_space_left_leaves_the_old_file(
    folder: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "model.onnx"
    out.write_bytes(b"old")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    result = _pnag("export", "--bundle", folder, "--architecture", ENCODING, "--weights", weights, "--out", out)
    assert isinstance(result.exception, OSError)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["model.onnx"]
    assert out.read_bytes() == b"old"


def test_labels_that_the_network_cannot_give_are_refused(weights: Path) -> None:
    source = export.Source.load(SPACE, weights)
    wrong = Images(_images().pixels_NCHW, np.full(30, 10))
    with pytest.raises(PnagError, match="a label is outside 0 to 9"):
        source.scorer(wrong)


def test_an_official_checkpoint_gives_the_shipped_bundles_networks(tmp_path: Path) -> None:
    """Names and shapes are the official file's (test_elastic.py); the numbers here are random."""
    shipped = Path(__file__).parents[3] / "bundles" / "ofa-mobilenetv3-w1.0-imagenet"
    bundle = Bundle.load(shipped)
    torch.manual_seed(0)
    supernet = build_supernet(get_space("ofa-mobilenetv3-w1.0")).eval()
    torch.save({"state_dict": supernet.state_dict()}, tmp_path / "ofa_mbv3_d234_e346_k357_w1.0")
    encoding, out = bundle.front[0].encoding, tmp_path / "model.onnx"
    result = _pnag("export", "--bundle", shipped, "--architecture", encoding,
                   "--weights", tmp_path / "ofa_mbv3_d234_e346_k357_w1.0", "--out", out)  # fmt: skip
    assert result.exit_code == 0, result.output
    said = export.metadata_of(out.read_bytes())
    assert (said["encoding"], said["mean"], said["source"]) == (
        encoding,
        "0.485,0.456,0.406",
        "ofa_mbv3_d234_e346_k357_w1.0",
    )
    images_NCHW = torch.randn(2, 3, 224, 224)  # noqa: N806
    with torch.inference_mode():
        expected = supernet(images_NCHW, supernet.space.decode(encoding)).numpy()
    np.testing.assert_allclose(export.run_onnx(out.read_bytes(), images_NCHW.numpy()), expected, rtol=1e-3, atol=1e-4)


def test_a_network_is_tried_beside_what_its_file_says(folder: Path, weights: Path, images: Path) -> None:
    model = folder / "model.onnx"
    command = ("export", "--bundle", folder, "--architecture", ENCODING, "--weights", weights, "--images", images)
    assert _pnag(*command, "--out", model).exit_code == 0
    result = _pnag("try", model, "--images", images, "--json")
    assert result.exit_code == 0, result.output
    said, report = export.metadata_of(model.read_bytes()), json.loads(result.stdout)
    data = _images()
    values = (data.pixels_NCHW / np.float32(255) - np.float32(0.5)) / np.float32(0.25)
    hits = export.run_onnx(model.read_bytes(), values.astype(np.float32)).argmax(1) == data.labels_N
    assert report["top1_percent"] == round(100 * hits.mean(), 2)
    assert report["images"] == 30
    assert report["encoding"] == ENCODING == said["encoding"]
    assert report["latency_upper_ms"] == float(said["latency_upper_ms"])
    assert 0 < report["latency_ms"] <= report["latency_in_slow_stretches_ms"]
    assert report["is_within_bound"] == (report["latency_in_slow_stretches_ms"] <= report["latency_upper_ms"])


def test_what_cannot_be_tried_is_named(tmp_path: Path) -> None:
    (tmp_path / "no.onnx").write_bytes(b"no network")
    assert "no.onnx: cannot be read as an ONNX network" in str(_pnag("try", tmp_path / "no.onnx").exception)
    (tmp_path / "mute.onnx").write_bytes(export.export_network(_randomized("nas-bench-macro", "00000000"), {}))
    assert "says nothing of predicted_latency_ms" in str(_pnag("try", tmp_path / "mute.onnx").exception)
