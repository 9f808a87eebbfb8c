"""`pnag serve` in a process of its own, with what the system says of it: memory, open files, exit code."""

import contextlib
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Self

import httpx
import psutil

from pnag.models.errors import PnagError

REPOSITORY = Path(__file__).resolve().parents[2]
PATIENCE_S = 60.0
PLAINLY: dict[str, Any] = {"timeout": PATIENCE_S, "trust_env": False, "verify": False}
"""For httpx: no proxy and no certificates are looked for, which takes longer than to ask."""


class NotRunningError(PnagError):
    """A program that a measurement needs did not start, or did not get where it should."""


def free_port() -> int:
    """One that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class RunningService:
    """One worker; started when built, ready when `wait` returns or its block begins, ended with its block."""

    def __init__(self, bundle: Path, log: Path, port: int | None = None, **settings: object) -> None:
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = log
        variables = {f"PNAG_{name.upper()}": str(value) for name, value in settings.items()}
        environment = {**os.environ, "ORT_DISABLE_TELEMETRY": "1", "PNAG_WATCH_INTERVAL_S": "0", **variables}
        command = [sys.executable, "-m", "pnag", "serve", "--bundle", str(bundle.resolve()), "--port", str(self.port)]
        with log.open("ab") as output:
            self.process = subprocess.Popen(command, env=environment, stderr=output, cwd=REPOSITORY)
        self.seen = psutil.Process(self.process.pid)

    def wait(self) -> Self:
        """Wait until it is ready.

        Raises:
            NotRunningError: with the end of its log.
        """
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end and self.process.poll() is None:
            with contextlib.suppress(httpx.TransportError):
                if self.ask("GET", "/readyz")[0] == 200:
                    return self
            time.sleep(0.1)
        raise NotRunningError(f"the service did not start:\n{self._log.read_text()[-2000:]}")

    def __enter__(self) -> Self:
        """Wait until it is ready; end it if it never is."""
        try:
            return self.wait()
        except BaseException:
            self.close()
            raise

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
        """Status and content of one request on a connection of its own."""
        response = httpx.request(method, self.url + path, json=body, **PLAINLY)
        return response.status_code, response.content

    def metric(self, line: str) -> float:
        """A metric's value by name and labels, as `/metrics` prints them; NaN if it is not there."""
        found = re.search(rf"^{re.escape(line)} (\S+)$", self.ask("GET", "/metrics")[1].decode(), re.MULTILINE)
        return float(found[1]) if found else float("nan")

    @property
    def rss_mb(self) -> float:
        """Resident memory."""
        return float(self.seen.memory_info().rss) / 1e6

    def end(self) -> int:
        """Ask it to end as an operator does; its exit code."""
        self.process.terminate()
        return self.process.wait(PATIENCE_S)

    def close(self) -> None:
        """End it, however it is."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
