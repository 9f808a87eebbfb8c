"""A real server process: connections, signals, workers."""

import asyncio
import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from pnag.models.bundle.bundle import Bundle
from pnag.service.app import create_app
from pnag.service.edge.protocol import BoundedProtocol
from pnag.service.settings import Settings

ASK = b'{"budget_ms": 6}'
REQUEST = (
    b"POST /generate HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(ASK)
) + ASK


class Server:
    """`pnag serve` in a process of its own."""

    def __init__(self, bundles: Path, **settings: Any) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        variables = {f"PNAG_{name.upper()}": str(value) for name, value in settings.items()}
        environment = {**os.environ, "ORT_DISABLE_TELEMETRY": "1", "PNAG_WATCH_INTERVAL_S": "0", **variables}
        command = [sys.executable, "-m", "pnag", "serve", "--bundle", str(bundles), "--port", str(self.port)]
        self.process = subprocess.Popen(
            command, env=environment, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
        )
        self.until(lambda: self.get("/readyz")[0] == 200)

    def until(self, condition: Callable[[], object]) -> None:
        """Wait for what the process brings about."""
        for _ in range(1000):
            with contextlib.suppress(OSError, http.client.HTTPException):
                if condition():
                    return
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        self.process.kill()
        raise AssertionError(f"it did not come about; the log says: {self.process.communicate()[1]}")

    def request(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes, dict[str, str]]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(method, path, body, {"content-type": "application/json"} if body else {})
            response = connection.getresponse()
            return response.status, response.read(), dict(response.getheaders())
        finally:
            connection.close()

    def get(self, path: str) -> tuple[int, bytes, dict[str, str]]:
        return self.request("GET", path)

    def ask(self) -> dict[str, Any]:
        status, content, _ = self.request("POST", "/generate", ASK)
        assert status == 200, content
        answer: dict[str, Any] = json.loads(content)
        return answer

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), 20)

    def end(self) -> tuple[int, str]:
        """Exit code and log, once it has ended by itself."""
        log = self.process.communicate(timeout=30)[1]
        return self.process.returncode, log

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


@pytest.fixture(scope="module")
def server(bundle_folder: Path) -> Iterator[Server]:
    """A server that has little patience with connections."""
    server = Server(bundle_folder, receive_timeout_s=0.2, keep_alive_s=0.4)
    yield server
    server.close()


def read_all(connection: socket.socket) -> bytes:
    """What comes until the other side closes."""
    connection.settimeout(20)
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while data := connection.recv(65_536):
            received += data
    return received


@pytest.mark.parametrize(
    "sent",
    [b"", b"POST /gen", REQUEST[:60], REQUEST[:-1], REQUEST + b"GET /he"],
    ids=["none", "line", "head", "body", "2nd"],
)
def test_a_request_that_does_not_come_whole_is_cut_off(server: Server, sent: bytes) -> None:
    with server.connect() as connection:
        connection.sendall(sent)
        received = read_all(connection)
    assert received.count(b"HTTP/1.1 200") == sent.count(REQUEST)


def test_an_idle_connection_is_closed_and_one_in_use_is_not(server: Server) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    for _ in range(3):
        connection.request("POST", "/generate", ASK, {"content-type": "application/json"})
        assert connection.getresponse().read().startswith(b'{"budget_ms":6.0')
    assert read_all(connection.sock) == b""
    connection.close()


def test_requests_sent_without_waiting_are_answered_in_order(server: Server) -> None:
    budgets = [6.0, 7.0, 8.0]
    with server.connect() as connection:
        for budget in budgets:
            body = json.dumps({"budget_ms": budget}).encode()
            connection.sendall(REQUEST.replace(b": %d\r\n" % len(ASK), b": %d\r\n" % len(body)).replace(ASK, body))
        received = read_all(connection)
    assert [float(found) for found in re.findall(rb'\{"budget_ms":([\d.]+),', received)] == budgets


class FakeTransport(asyncio.Transport):
    """Knows whether it was closed."""

    is_closed = False

    def close(self) -> None:
        self.is_closed = True


@pytest.mark.parametrize(("others", "is_closed"), [(2, False), (3, True)])
def test_one_connection_too_many_is_closed_at_once(bundle_folder: Path, others: int, is_closed: bool) -> None:
    async def scenario() -> None:
        app = create_app(Settings(bundles=(bundle_folder,), max_connections=3))
        state = ServerState()
        state.connections.update(object() for _ in range(others))  # type: ignore[misc]
        protocol = BoundedProtocol(uvicorn.Config(app, log_config=None, proxy_headers=False), state, {})
        transport = FakeTransport()
        protocol.connection_made(transport)
        assert transport.is_closed is is_closed
        protocol.connection_lost(None)

    asyncio.run(scenario())


def test_every_answer_has_the_security_header(server: Server) -> None:
    for status, path in ((200, "/healthz"), (404, "/nowhere"), (200, "/docs")):
        got, _, headers = server.get(path)
        assert (got, headers["x-content-type-options"]) == (status, "nosniff")
    assert "server" not in headers


def test_a_refusal_of_head_has_no_body(server: Server) -> None:
    with server.connect() as connection:
        connection.sendall(b"HEAD / HTTP/1.1\r\nhost: x\r\ncontent-length: 300000\r\n\r\n" + b"x" * 300_000)
        head, _, body = read_all(connection).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 413 ")
    assert body == b""


def test_what_is_not_http_is_refused(server: Server) -> None:
    with server.connect() as connection:
        connection.sendall(b"\x16\x03\x01 nonsense\r\n\r\n")
        assert read_all(connection).startswith(b"HTTP/1.1 400")


def test_hup_reloads_and_term_drains_before_the_end(
    tmp_path: Path, bundle_folder: Path, write_tiny_bundle: Callable[..., Bundle]
) -> None:
    folder = shutil.copytree(bundle_folder, tmp_path / "tiny")
    server = Server(folder, drain_s=600, log_format="json")
    try:
        write_tiny_bundle(folder, version="2")
        server.process.send_signal(signal.SIGHUP)
        server.until(lambda: server.ask()["bundle"]["version"] == "2")

        server.process.send_signal(signal.SIGTERM)
        server.until(lambda: server.get("/readyz")[0] == 503)
        status, _, headers = server.request("POST", "/generate", ASK)
        assert (status, headers["connection"]) == (200, "close")
        assert server.get("/healthz")[0] == 200

        server.process.send_signal(signal.SIGTERM)
        code, log = server.end()
        assert code == 0, log
        events = [json.loads(line) for line in log.splitlines()]
        assert {"draining", "bundles reloaded"} <= {event["event"] for event in events}
        assert not [event for event in events if event["level"] == "error"]
    finally:
        server.close()


def test_workers_answer_alike_and_any_of_them_tells_the_metrics_of_all(bundle_folder: Path) -> None:
    server = Server(bundle_folder, workers=2)
    try:
        for _ in range(10):
            server.ask()

        def counted() -> bool:
            text = server.get("/metrics")[1].decode()
            counts = re.findall(
                r'pnag_http_request_seconds_count\{cache="\w+",route="/generate",status="200"\} (\S+)', text
            )
            return sum(map(float, counts)) == 10

        server.until(counted)
        server.process.send_signal(signal.SIGTERM)
        assert server.end()[0] == 0
    finally:
        server.close()


def test_a_port_that_is_taken_is_one_clear_message(bundle_folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        command = [sys.executable, "-m", "pnag", "serve", "--bundle", str(bundle_folder)]
        port = taken.getsockname()[1]
        done = subprocess.run([*command, "--port", str(port)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("drain", [False, True])
def test_a_ready_answer_has_the_headers_of_any_other(bundle_folder: Path, drain: bool) -> None:
    server = Server(bundle_folder, drain_s=600)
    try:
        server.ask()
        if drain:
            server.process.send_signal(signal.SIGTERM)
            server.until(lambda: server.get("/readyz")[0] == 503)
        status, content, headers = server.request("POST", "/generate", ASK)
        assert (status, headers["x-cache"], headers["content-length"]) == (200, "memory", str(len(content)))
        assert headers["content-type"] == "application/json"
        assert {"date", "x-request-id", "x-content-type-options"} <= set(headers)
        assert headers.get("connection") == ("close" if drain else None)
    finally:
        server.close()


def test_an_old_client_gets_a_ready_answer_too_and_the_connection_closes(server: Server) -> None:
    server.ask()
    with server.connect() as connection:
        connection.sendall(REQUEST.replace(b"HTTP/1.1", b"HTTP/1.0"))
        head, _, content = read_all(connection).partition(b"\r\n\r\n")
    assert b"connection: close" in head.lower()
    assert json.loads(content)["budget_ms"] == 6


def test_a_refusal_in_haste_says_what_one_through_the_framework_does(bundle_folder: Path) -> None:
    server = Server(bundle_folder, max_batch_size=1, max_waiting=1, inference_threads=1, num_candidates=1024)

    def refused(path: str, body: bytes) -> tuple[dict[str, str], dict[str, Any]]:
        request = b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
        with contextlib.ExitStack() as stack:
            connections = [stack.enter_context(server.connect()) for _ in range(8)]
            for number, connection in enumerate(connections):
                budget = b"%.3f" % (6 + number / 8)
                content = body.replace(b"%BUDGET", budget)
                connection.sendall(request % (path.encode().replace(b"%BUDGET", budget), len(content), content))
            for connection in connections:
                response = http.client.HTTPResponse(connection)
                response.begin()
                content = response.read()
                if response.status == 503:
                    return {k.lower(): v for k, v in response.getheaders()}, json.loads(content)
        raise AssertionError("eight at a time were all answered")

    try:
        at_once, problem = refused("/generate", b'{"budget_ms": %BUDGET}')
        properly, same_problem = refused("/generate?budget_ms=%BUDGET", b"")
    finally:
        server.close()
    assert problem["type"] == same_problem["type"] == "urn:pnag:problem:overloaded"
    assert (problem["status"], problem["request_id"]) == (503, at_once["x-request-id"])
    assert problem.keys() == same_problem.keys()
    assert at_once.keys() == properly.keys()
    varying = ("content-length", "x-request-id", "date")
    assert [v for k, v in sorted(at_once.items()) if k not in varying] == [
        v for k, v in sorted(properly.items()) if k not in varying
    ]
    assert at_once["retry-after"] == "1"
