"""The real service in a process of its own, over four bundles.

`steady` is the shipped bundle with a bound and named networks, `swift` the same on a faster device, `units` one whose
records measure an error in millimetres, `tiny` one of another search space. They are made from what ships, so the tests
keep to what every bundle has.
"""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pnag.models.bundle.bundle import LATENCY_TABLE, PARETO_FRONT, Bundle, write_bundle
from pnag.models.cost.latency_table import UpperBound
from pnag.models.files import to_json
from pnag.models.space.metric import Metric
from tests.fixtures.tiny_bundle import write_tiny_bundle

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "bundles" / "ofa-mobilenetv3-w1.0-imagenet"
READY_WITHIN_S = 60


METRIC = Metric("rmse", "error", "minimise", "mm", worst=9.0, best=1.0)


def write_variant(folder: Path, *, device: str, speed: float, metric: Metric | None = None) -> None:
    """The shipped bundle on another device, with a bound that holds at .95 and the ends of its front named."""
    source = Bundle.load(SHIPPED)
    table = source.latency_table
    faster = replace(
        table,
        device=replace(table.device, name=device),
        layers={key: replace(layer, ms=layer.ms / speed) for key, layer in table.layers.items()},
        overhead_ms=table.overhead_ms / speed,
        upper_bound=UpperBound(0.95, tuple(0.94 + 0.004 * i for i in range(40))),
        networks=(),
    )
    document = json.loads(source.contents[PARETO_FRONT])
    document["points"] = [*document["points"][:-1:4], document["points"][-1]]  # enough to look at, and quicker to load
    for point in document["points"]:
        point["latency_ms"] /= speed
    kept = ("format_version", "files", "self_test")
    manifest: dict[str, Any] = {name: value for name, value in source.manifest.items() if name not in kept}
    manifest["name"] = folder.name
    if metric is not None:
        manifest["accuracy"] = {**manifest["accuracy"], "metric": metric.to_dict()}
    manifest["references"] = [
        {"name": "Smallest", "encoding": source.front[0].encoding},
        {"name": "Largest", "encoding": source.front[-1].encoding},
    ]
    contents = {name: source.contents[name] for name in source.manifest["files"]}
    contents[LATENCY_TABLE] = to_json(faster.to_dict()).encode()
    contents[PARETO_FRONT] = to_json(document).encode()
    write_bundle(folder, manifest, contents)


def write_bundles(folder: Path) -> None:
    """The four bundles of the tests."""
    write_variant(folder / "steady", device="Steady board, 1 thread", speed=1.0)
    write_variant(folder / "swift", device="Swift phone, 2 threads", speed=1.9)
    write_variant(folder / "units", device="Gauge, 1 thread", speed=1.0, metric=METRIC)
    # The service's own tests make a bundle of another search space by hand; one recipe for it is enough.
    write_tiny_bundle(folder / "tiny", with_weights=True)


class Service:
    """`pnag serve` that can be killed and started again on the same port."""

    def __init__(self, bundles: Path, log: Path) -> None:
        self._bundles, self._log = bundles, log
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        if self._process is not None:
            return
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PNAG_")}
        environment |= {
            "ORT_DISABLE_TELEMETRY": "1",
            "PNAG_BUNDLES": str(self._bundles),
            "PNAG_DEFAULT_BUNDLE": "steady",
            "PNAG_WATCH_INTERVAL_S": "0",
            "PNAG_LOG_LEVEL": "warning",
        }
        command = [sys.executable, "-m", "pnag", "serve"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "--port", str(self.port)], cwd=ROOT, env=environment, stdout=log, stderr=log
            )
        deadline = time.monotonic() + READY_WITHIN_S
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"pnag serve did not come up:\n{self._log.read_text()[-4000:]}")
            time.sleep(0.05)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def ask(self, path: str, body: Any = None) -> Any:
        """The service's answer, read without the page."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=10) as response:
            return json.load(response)

    def _is_ready(self) -> bool:
        try:
            return bool(self.ask("/readyz"))
        except (urllib.error.URLError, ConnectionError):
            return False


@pytest.fixture(scope="session")
def bundles_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("web-bundles")
    write_bundles(folder)
    return folder


@pytest.fixture(scope="session")
def service(bundles_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    service = Service(bundles_folder, tmp_path_factory.mktemp("web-logs") / "serve.log")
    service.start()
    yield service
    service.kill()
