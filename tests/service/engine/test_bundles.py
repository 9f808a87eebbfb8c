"""Bundles come, go and are replaced while requests run; a bad one changes nothing."""

import gc
import os
import shutil
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from pnag.models.bundle.bundle import Bundle
from pnag.models.errors import BundleError
from pnag.service.contract.problems import BundleRequiredError
from pnag.service.engine.bundles import Catalogue, find_bundles

ASK = {"budget_ms": 6}
Make = Callable[..., TestClient]
Write = Callable[..., Bundle]


@pytest.fixture
def root(tmp_path: Path, bundle_folder: Path) -> Path:
    """A folder of bundles with one in it."""
    shutil.copytree(bundle_folder, tmp_path / "bundles" / "tiny")
    return tmp_path / "bundles"


def version_of(client: TestClient, **request: Any) -> str:
    response = client.post("/generate", json={**ASK, **request})
    assert response.status_code == 200, response.text
    version: str = response.json()["bundle"]["version"]
    return version


def reload(client: TestClient) -> dict[str, Any]:
    response = client.post("/admin/reload")
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


def damage(folder: Path) -> None:
    path = folder / "generator.onnx"
    path.write_bytes(path.read_bytes()[:-1])


def test_a_new_version_beside_the_old_one_answers_and_the_old_one_can_be_pinned(
    make_client: Make, root: Path, write_tiny_bundle: Write
) -> None:
    client = make_client(bundles=(root,))
    old = client.post("/generate", json=ASK).json()
    write_tiny_bundle(root / "tiny-2", version="2", speed=1.5)
    done = reload(client)
    assert done == {"loaded": [str(root / "tiny-2")], "removed": [], "refused": {}}
    assert version_of(client) == "2"
    assert client.post("/generate", json={**ASK, "bundle": "tiny@1"}).json() == old
    assert client.post("/generate", json=ASK).json()["predicted"]["top1_percent"] > old["predicted"]["top1_percent"]
    assert client.get("/pareto-front").json()["bundle"]["version"] == "2"


def test_a_bundle_replaced_in_place_is_swapped(make_client: Make, root: Path, write_tiny_bundle: Write) -> None:
    client = make_client(bundles=(root,))
    write_tiny_bundle(root / "tiny", version="2", speed=1.5)
    assert version_of(client) == "1"
    reload(client)
    assert version_of(client) == "2"
    assert client.post("/generate", json={**ASK, "bundle": "tiny@1"}).status_code == 404


def test_a_damaged_bundle_is_refused_the_old_one_stays_and_the_service_is_ready(
    make_client: Make, root: Path, write_tiny_bundle: Write
) -> None:
    client = make_client(bundles=(root,))
    write_tiny_bundle(root / "tiny", version="2")
    damage(root / "tiny")
    done = reload(client)
    assert "generator.onnx" in done["refused"][str(root / "tiny")]
    assert (version_of(client), client.get("/readyz").status_code) == ("1", 200)
    metrics = client.get("/metrics").text
    assert "pnag_bundles_refused 1.0" in metrics
    assert 'pnag_bundle_reloads_total{result="refused"} 1.0' in metrics


def test_a_refused_bundle_is_looked_at_again_only_when_it_changes(
    make_client: Make, root: Path, write_tiny_bundle: Write
) -> None:
    client = make_client(bundles=(root,))
    write_tiny_bundle(root / "other", name="other")
    damage(root / "other")
    assert reload(client)["refused"] == reload(client)["refused"] != {}
    assert 'pnag_bundle_reloads_total{result="refused"} 1.0' in client.get("/metrics").text
    write_tiny_bundle(root / "other", name="other")
    assert reload(client) == {"loaded": [str(root / "other")], "removed": [], "refused": {}}


def test_a_bundle_that_no_longer_answers_as_recorded_is_refused(
    make_client: Make, root: Path, write_tiny_bundle: Write
) -> None:
    client = make_client(bundles=(root,))
    write_tiny_bundle(root / "other", name="other", recorded="22222222")
    (reason,) = reload(client)["refused"].values()
    assert "self-test" in reason
    assert "22222222" in reason


def test_a_removed_bundle_is_let_go_but_never_the_last(make_client: Make, root: Path, write_tiny_bundle: Write) -> None:
    write_tiny_bundle(root / "other", name="other")
    client = make_client(bundles=(root,))
    shutil.rmtree(root / "other")
    assert reload(client)["removed"] == [str(root / "other")]
    assert client.post("/generate", json={**ASK, "bundle": "other"}).status_code == 404
    shutil.rmtree(root / "tiny")
    assert reload(client)["removed"] == []
    assert version_of(client) == "1"


def test_a_folder_of_bundles_that_is_gone_is_told_and_changes_nothing(make_client: Make, root: Path) -> None:
    client = make_client(bundles=(root,))
    shutil.rmtree(root)
    response = client.post("/admin/reload")
    assert (response.status_code, response.json()["type"]) == (409, "urn:pnag:problem:reload-failed")
    assert version_of(client) == "1"


def test_an_old_bundle_is_freed_with_its_last_request(make_client: Make, root: Path, write_tiny_bundle: Write) -> None:
    client = make_client(bundles=(root,))
    gc.collect()
    gc.disable()  # freed by counting alone: waiting for the collector could keep two bundles in memory for long
    try:
        old = weakref.ref(client.app.state.bundles.catalogue.bundles[0])  # type: ignore[attr-defined]
        write_tiny_bundle(root / "tiny", version="2")
        client.post("/generate", json=ASK)
        client.get("/pareto-front")
        reload(client)
        assert old() is None  # at once: who keeps answers must not keep the bundle until somebody asks again
    finally:
        gc.enable()


def test_metrics_tell_what_is_loaded_now(make_client: Make, root: Path, write_tiny_bundle: Write) -> None:
    client = make_client(bundles=(root,))
    write_tiny_bundle(root / "tiny", version="2")
    reload(client)
    lines = [line for line in client.get("/metrics").text.splitlines() if line.startswith("pnag_bundle_info{")]
    values = {line.partition('version="')[2][0]: line.rpartition(" ")[2] for line in lines}
    assert values == {"1": "0.0", "2": "1.0"}


def test_of_several_bundles_one_must_be_named(make_client: Make, root: Path, write_tiny_bundle: Write) -> None:
    write_tiny_bundle(root / "other", name="other")
    client = make_client(bundles=(root,))
    response = client.post("/generate", json=ASK)
    assert (response.status_code, response.json()["type"]) == (422, "urn:pnag:problem:bundle-required")
    assert "other@1" in response.json()["detail"]
    assert client.post("/generate", json={**ASK, "bundle": "other"}).json()["bundle"]["name"] == "other"


def test_the_operator_can_say_which_bundle_is_the_default(
    make_client: Make, root: Path, write_tiny_bundle: Write
) -> None:
    write_tiny_bundle(root / "other", name="other")
    for name in ("other", "tiny"):
        client = make_client(bundles=(root,), default_bundle=name)
        assert client.post("/generate", json=ASK).json()["bundle"]["name"] == name
        assert client.get("/bundles").json()["bundles"][0]["name"] == name, "the page opens with the first"


def test_a_default_that_is_not_there_stops_the_start(make_client: Make, root: Path) -> None:
    with pytest.raises(BundleError, match="'other' is not loaded"):
        make_client(bundles=(root,), default_bundle="other")


def test_a_damaged_bundle_stops_the_start(make_client: Make, root: Path) -> None:
    damage(root / "tiny")
    with pytest.raises(BundleError, match="generator.onnx"):
        make_client(bundles=(root,))


def test_half_a_bundle_beside_a_good_one_stops_the_start(make_client: Make, root: Path) -> None:
    (root / "half").mkdir()
    shutil.copy(root / "tiny" / "manifest.json", root / "half")
    with pytest.raises(BundleError, match=r"half/\S+: cannot be read"):
        make_client(bundles=(root,))


def test_the_same_version_twice_is_refused(make_client: Make, root: Path) -> None:
    shutil.copytree(root / "tiny", root / "copy")
    with pytest.raises(BundleError, match="tiny@1 is in another folder"):
        make_client(bundles=(root,))


@pytest.mark.parametrize("what", ["folder", "file"])
def test_a_link_that_leaves_the_folder_is_refused(root: Path, bundle_folder: Path, what: str) -> None:
    if what == "folder":
        os.symlink(bundle_folder, root / "link")
    else:
        (root / "tiny" / "evaluator.onnx").unlink()
        os.symlink(bundle_folder / "evaluator.onnx", root / "tiny" / "evaluator.onnx")
    with pytest.raises(BundleError, match="leads out of"):
        list(find_bundles([root]))


def test_a_link_within_the_folder_is_fine(root: Path) -> None:
    os.rename(root / "tiny", root / ".tiny-1")
    os.symlink(root / ".tiny-1", root / "tiny")
    assert root / "tiny" in list(find_bundles([root]))


def test_nothing_loaded_asks_for_a_bundle() -> None:
    with pytest.raises(BundleRequiredError):
        Catalogue().get(None)


def test_a_look_that_finds_nothing_new_keeps_the_catalogue(make_client: Make, root: Path) -> None:
    client = make_client(bundles=(root,))
    store = client.app.state.bundles  # type: ignore[attr-defined]
    before = store.catalogue
    assert reload(client) == {"loaded": [], "removed": [], "refused": {}}
    assert store.catalogue is before, "whoever keeps answers by catalogue would forget them at every look"


def test_a_reload_may_take_longer_than_an_answer(make_client: Make, root: Path, write_tiny_bundle: Write) -> None:
    client = make_client(bundles=(root,), request_timeout_s=0.02)
    write_tiny_bundle(root / "tiny", version="2")
    store = client.app.state.bundles  # type: ignore[attr-defined]
    load = store._load
    took_s: list[float] = []

    def load_slowly(folder: Path) -> Any:
        start = time.monotonic()
        while (taken := time.monotonic() - start) < 0.1:
            time.sleep(0.01)
        took_s.append(taken)
        return load(folder)

    store._load = load_slowly
    assert client.post("/admin/reload").json()["loaded"] == [str(root / "tiny")]
    assert took_s
