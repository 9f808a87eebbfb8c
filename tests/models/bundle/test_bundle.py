"""A bundle is loaded whole or refused with the file named; the real one that ships is put through every damage."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pnag.models.answer.runtime import OnnxGenerator
from pnag.models.bundle.bundle import (
    EVALUATOR,
    FILES,
    GENERATOR,
    LATENCY_TABLE,
    MANIFEST,
    PARETO_FRONT,
    WEIGHTS,
    Bundle,
    write_bundle,
)
from pnag.models.bundle.weights import Operator, StoredNetwork, pack_weights
from pnag.models.errors import BundleError
from pnag.models.space.registry import get_space

SHIPPED = Path(__file__).parents[3] / "bundles" / "ofa-mobilenetv3-w1.0-imagenet"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(SHIPPED, tmp_path / "bundle"))


def _manifest(bundle: Bundle, **changes: Any) -> dict[str, Any]:
    kept = {k: v for k, v in bundle.manifest.items() if k not in ("format_version", "files")}
    return {**kept, **changes}


def test_the_shipped_bundle_is_whole_small_and_from_the_records() -> None:
    bundle = Bundle.load(SHIPPED)
    assert bundle.name == SHIPPED.name
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) <= 2_000_000
    assert (SHIPPED / GENERATOR).stat().st_size <= 1_000_000
    assert bundle.manifest["accuracy"]["source"] == "ofa_mbv3_w1.0_r224_imagenet.csv"
    assert len(bundle.known) == 1357
    assert bundle.latency_table.device.threads == 1


@pytest.mark.parametrize("name", [MANIFEST, *FILES])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(BundleError, match=rf"bundle/{name}: cannot be read"):
        Bundle.load(folder)


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_byte_is_noticed(folder: Path, name: str) -> None:
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(BundleError, match=rf"bundle/{name}: sha256 is .* altered"):
        Bundle.load(folder)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("format_version", 2, "format_version is 2; this pnag reads 1: upgrade pnag"),
        ("format_version", None, "format_version is None"),
        ("name", 7, "name is 7; it should be a string"),
        ("files", {}, "files does not list"),
        ("files", {"../evil": {}}, r"files\.\.\./evil\.sha256 is missing"),
        ("search_space", {"name": "none", "decisions": []}, "unknown search space 'none'"),
        ("search_space", {"name": "nas-bench-macro", "decisions": []}, "decisions differ"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(folder: Path, field: str, value: Any, message: str) -> None:
    document = json.loads((folder / MANIFEST).read_text())
    document[field] = value
    (folder / MANIFEST).write_text(json.dumps(document))
    with pytest.raises(BundleError, match=message):
        Bundle.load(folder)


def test_a_file_outside_the_folder_is_never_read(folder: Path) -> None:
    (folder.parent / "secret").write_bytes(b"x")
    document = json.loads((folder / MANIFEST).read_text())
    document["files"]["../secret"] = {"sha256": "0", "size_bytes": 1}
    (folder / MANIFEST).write_text(json.dumps(document))
    with pytest.raises(BundleError, match=r"'\.\./secret' must be a plain name"):
        Bundle.load(folder)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (LATENCY_TABLE, b"{}", "format_version is None"),
        (PARETO_FRONT, b'{"points": []}', r"points is .*; it should have at least 1 item"),
        (PARETO_FRONT, b'{"points": [{"encoding": "x", "latency_ms": 1, "accuracy": 1}]}', r"points: .*'x'"),
        (PARETO_FRONT, b"\xff", "not valid JSON"),
    ],
)
def test_a_bundle_that_would_not_load_is_not_written(folder: Path, name: str, content: bytes, message: str) -> None:
    bundle = Bundle.load(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    contents = {n: bundle.contents[n] for n in FILES} | {name: content}
    with pytest.raises(BundleError, match=message):
        write_bundle(folder, _manifest(bundle), contents)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir()] == ["bundle"]


def test_writing_over_a_bundle_replaces_it_whole(folder: Path) -> None:
    bundle = Bundle.load(folder)
    (folder / "left-over.txt").write_text("old")
    again = write_bundle(folder, _manifest(bundle, version="2"), {n: bundle.contents[n] for n in FILES})
    assert again.version == "2"
    assert again.digest != bundle.digest
    assert not (folder / "left-over.txt").exists()
    assert [path.name for path in folder.parent.iterdir()] == ["bundle"]


@pytest.mark.parametrize(("name", "other"), [(GENERATOR, EVALUATOR), (EVALUATOR, GENERATOR)])
def test_an_onnx_file_in_the_wrong_place_is_refused_at_load(folder: Path, name: str, other: str) -> None:
    bundle = Bundle.load(folder)
    contents = {n: bundle.contents[n] for n in FILES}
    mixed = write_bundle(folder, _manifest(bundle), contents | {name: bundle.contents[other]})
    with pytest.raises(BundleError, match=rf"{name}: input"):
        OnnxGenerator(mixed)
    broken = write_bundle(folder, _manifest(bundle), contents | {name: b"not onnx"})
    with pytest.raises(BundleError, match=rf"{name}: ONNX Runtime cannot load it"):
        OnnxGenerator(broken)


def _with_weights(folder: Path, space: str | None = None) -> Bundle:
    bundle = Bundle.load(folder)
    network = StoredNetwork(bundle.front[0].encoding, [Operator(np.ones((2, 3), np.float32), np.ones(2, np.float32))])
    space_of = bundle.space if space is None else get_space(space)
    encoding = network.encoding if space is None else "00000000"
    content = pack_weights(space_of, [replace(network, encoding=encoding)], {})
    contents = {name: bundle.contents[name] for name in FILES} | {WEIGHTS: content}
    return write_bundle(folder, _manifest(bundle), contents)


def test_weights_stay_on_disk_and_tell_what_they_can_build(folder: Path) -> None:
    assert not Bundle.load(folder).has_weights_of(Bundle.load(SHIPPED).front[0].encoding)
    bundle = _with_weights(folder)
    assert WEIGHTS in bundle.manifest["files"]
    assert WEIGHTS not in bundle.contents
    assert [bundle.has_weights_of(point.encoding) for point in bundle.front[:2]] == [True, False]
    assert bundle.weights is not None
    assert bundle.weights.read() == (folder / WEIGHTS).read_bytes()


def test_weights_that_are_altered_are_noticed_when_loaded_and_when_read(folder: Path) -> None:
    bundle = _with_weights(folder)
    assert bundle.weights is not None
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes() + b" ")
    for read in (lambda: Bundle.load(folder), bundle.weights.read):
        with pytest.raises(BundleError, match=rf"bundle/{WEIGHTS}: sha256 is"):
            read()


def test_weights_of_another_space_are_refused(folder: Path) -> None:
    with pytest.raises(BundleError, match=f"{WEIGHTS}: .*nas-bench-macro|not `depths"):
        _with_weights(folder, "nas-bench-macro")
