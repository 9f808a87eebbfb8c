"""The network of an answer can be fetched, and runs."""

import base64
import hashlib
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from starlette.testclient import TestClient

from pnag.models.bundle.bundle import WEIGHTS, Bundle
from pnag.service.engine import model_files

MakeClient = Callable[..., TestClient]


@pytest.fixture
def client(make_client: MakeClient, weights_folder: Path, tmp_path: Path) -> TestClient:
    return make_client(bundles=(weights_folder,), model_cache=tmp_path / "models")


def _answer(client: TestClient, budget_ms: float = 5.6) -> dict[str, Any]:
    body: dict[str, Any] = client.post("/generate", json={"budget_ms": budget_ms}).json()
    return body


def _with_link(client: TestClient) -> dict[str, Any]:
    """An answer whose network can be fetched."""
    return next(a for b in np.linspace(1, 10, 50) if "model" in (a := _answer(client, b)).get("links", {}))


def _front(client: TestClient) -> list[dict[str, Any]]:
    points: list[dict[str, Any]] = client.get("/pareto-front").json()["points"]
    return [point["architecture"] for point in points]


def test_the_network_of_an_answer_runs_in_onnx_runtime(client: TestClient) -> None:
    answer = _with_link(client)
    response = client.get(answer["links"]["model"])
    assert (response.status_code, response.headers["content-type"]) == (200, "application/octet-stream")
    onnx.checker.check_model(response.content, full_check=True)
    session = onnxruntime.InferenceSession(response.content, providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"images": np.ones((3, 3, 32, 32), np.float32)})
    assert logits.shape == (3, 10)
    assert np.isfinite(logits).all()
    said = session.get_modelmeta().custom_metadata_map
    assert said["encoding"] == answer["architecture"]["encoding"]
    assert (said["space"], said["bundle"], said["source"]) == ("nas-bench-macro", "tiny@1", "invented")
    assert said["measured_top1_percent"] == "50.00"
    assert float(said["predicted_latency_ms"]) == answer["predicted"]["latency_ms"]


def test_the_checksum_is_told_and_a_file_one_has_is_not_sent_again(client: TestClient) -> None:
    link = _with_link(client)["links"]["model"]
    response = client.get(link)
    digest = hashlib.sha256(response.content)
    assert response.headers["etag"] == f'"{digest.hexdigest()}"'
    assert response.headers["repr-digest"] == f"sha-256=:{base64.b64encode(digest.digest()).decode()}:"
    again = client.get(link, headers={"if-none-match": response.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert client.get(link, headers={"if-none-match": '"other"'}).status_code == 200


def test_a_link_is_there_only_where_it_works(client: TestClient) -> None:
    *built, last = _front(client)
    for architecture in (*built[::6], last):
        body = client.get(f"/architectures/{architecture['id']}").json()
        response = client.get(f"/architectures/{architecture['id']}/model.onnx")
        assert ("model" in body["links"]) == (response.status_code == 200) == (architecture is not last)
    assert response.json()["type"] == "urn:pnag:problem:no-weights"
    assert f"weights of {len(built)} other networks" in response.json()["detail"]
    assert f"--architecture {last['encoding']} --weights FILE" in response.json()["detail"]


def test_a_bundle_without_weights_says_pnag_export(shared_client: TestClient) -> None:
    answer = _answer(shared_client)
    response = shared_client.get(f"/architectures/{answer['architecture']['id']}/model.onnx")
    assert (response.status_code, response.json()["type"]) == (404, "urn:pnag:problem:no-weights")
    assert "no weights; with a supernet's weights, `pnag export --bundle tiny" in response.json()["detail"]
    assert "model" not in answer["links"]


def test_of_two_bundles_the_one_with_weights_is_taken_unless_another_is_named(
    make_client: MakeClient, weights_folder: Path, tmp_path: Path, write_tiny_bundle: Callable[..., Bundle]
) -> None:
    write_tiny_bundle(tmp_path / "bare", name="bare")
    client = make_client(bundles=(tmp_path / "bare", weights_folder), default_bundle="bare")
    front = client.get("/pareto-front?bundle=tiny").json()["points"]
    path = f"/architectures/{front[0]['architecture']['id']}/model.onnx"
    assert client.get(path).status_code == 200
    assert client.get(path + "?bundle=tiny@1").status_code == 200
    assert client.get(path + "?bundle=bare").json()["type"] == "urn:pnag:problem:no-weights"
    assert client.get(path + "?bundle=other").json()["type"] == "urn:pnag:problem:unknown-bundle"


def test_many_who_want_the_same_network_have_it_assembled_once(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = _with_link(client)["links"]["model"]
    assembled, everybody_asks = [], threading.Event()

    def build(*arguments: Any) -> bytes:
        everybody_asks.wait(5)
        assembled.append(arguments)
        return b"a network"

    monkeypatch.setattr(model_files, "build_network", build)
    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(client.get, link) for _ in range(8)]
        everybody_asks.set()
        assert {answer.result().content for answer in answers} == {b"a network"}
    assert len(assembled) == 1


def test_a_kept_file_is_read_from_disk_also_after_a_restart(
    make_client: MakeClient, weights_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make_client(bundles=(weights_folder,), model_cache=tmp_path)
    link = _with_link(first)["links"]["model"]
    content = first.get(link).content
    monkeypatch.setattr(model_files, "build_network", lambda *_: pytest.fail("assembled again"))
    second = make_client(bundles=(weights_folder,), model_cache=tmp_path)
    assert second.get(f"/architectures/{_front(second)[0]['id']}").status_code == 200
    assert _with_link(second)["links"]["model"] == link
    assert second.get(link).content == content


def test_a_kept_file_that_was_altered_is_assembled_again(
    make_client: MakeClient, weights_folder: Path, tmp_path: Path
) -> None:
    first = make_client(bundles=(weights_folder,), model_cache=tmp_path)
    link = _with_link(first)["links"]["model"]
    content = first.get(link).content
    (kept,) = tmp_path.glob("*.onnx")
    kept.write_bytes(content[:-1] + b"?")
    second = make_client(bundles=(weights_folder,), model_cache=tmp_path)
    _with_link(second)
    assert second.get(link).content == content


def test_files_on_disk_stay_within_their_bound_and_the_oldest_goes(
    make_client: MakeClient, weights_folder: Path, tmp_path: Path
) -> None:
    client = make_client(bundles=(weights_folder,), model_cache=tmp_path, model_cache_mb=10)
    built = _front(client)[:-1]
    for architecture in built[::3]:
        size = len(client.get(f"/architectures/{architecture['id']}/model.onnx").content)
        kept = list(tmp_path.iterdir())
        assert sum(path.stat().st_size for path in kept) <= 10_000_000
        assert any(architecture["id"] in path.name for path in kept) == (size <= 10_000_000)
    assert 0 < len(list(tmp_path.iterdir())) < len(built[::3])


def test_without_room_on_disk_the_network_is_handed_out_all_the_same(
    make_client: MakeClient, weights_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    client = make_client(bundles=(weights_folder,), model_cache=tmp_path / "file" / "below")
    assert client.get(_with_link(client)["links"]["model"]).status_code == 200


def test_weights_that_changed_on_disk_are_not_handed_out(
    make_client: MakeClient, weights_folder: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(weights_folder, tmp_path / "bundle"))
    client = make_client(bundles=(folder,))
    link = _with_link(client)["links"]["model"]
    (folder / WEIGHTS).write_bytes(b"other")
    response = client.get(link)
    assert (response.status_code, response.json()["type"]) == (503, "urn:pnag:problem:not-ready")
    assert "sha256 is" in response.json()["detail"]
