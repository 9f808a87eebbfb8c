"""Asks a server at a rate, whatever it answers: an open loop, in which a slow server gets no pause for itself."""

import asyncio
import contextlib
import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, cast

import numpy as np
import uvloop

NO_ANSWER = 0
"""Stands for the status where a connection broke, was refused, or nothing came in time."""

TIMEOUT_S = 15.0

Request = tuple[str, bytes]
"""What kind it is, for the counts, and its bytes."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One request and how it went; `ms` counts from the moment it was due, not from when there was time to send it."""

    kind: str
    at_s: float
    status: int
    ms: float


def request(method: str, path: str, body: Any = None) -> bytes:
    """The bytes of a request; a body that is bytes is sent as it is, any other as JSON."""
    content = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    head = f"{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(content)}\r\n"
    return f"{head}content-type: application/json\r\n\r\n".encode() + content


def offer(port: int, requests: Iterable[Request], per_s: float, seconds: float) -> list[Asked]:
    """Ask for some seconds, `per_s` times each, however many are still unanswered."""
    return uvloop.run(_offer(port, requests, per_s, seconds))


def ask_in_turn(port: int, requests: Iterator[Request], connections: int, seconds: float) -> list[Asked]:
    """A closed loop: on each connection the next request follows the last answer."""
    return uvloop.run(_ask_in_turn(port, requests, connections, seconds))


def percentile_ms(asked: Sequence[Asked], percent: float) -> float:
    """Of the answers that were 200; NaN without any."""
    took_ms = [one.ms for one in asked if one.status == 200]
    return float(np.percentile(took_ms, percent)) if took_ms else float("nan")


async def _offer(port: int, requests: Iterable[Request], per_s: float, seconds: float) -> list[Asked]:
    pool = _Pool(port)
    start = time.perf_counter()
    tasks = []
    for number, (kind, content) in enumerate(islice(requests, round(per_s * seconds))):
        due = start + number / per_s
        if (ahead := due - time.perf_counter()) > 0:
            await asyncio.sleep(ahead)
        tasks.append(asyncio.create_task(pool.ask(kind, content, due, start)))
    asked = await asyncio.gather(*tasks)
    pool.close()
    return list(asked)


async def _ask_in_turn(port: int, requests: Iterator[Request], connections: int, seconds: float) -> list[Asked]:
    pool = _Pool(port)
    start = time.perf_counter()

    async def one() -> list[Asked]:
        asked = []
        while (now := time.perf_counter()) < start + seconds:
            asked.append(await pool.ask(*next(requests), now, start))
        return asked

    asked = await asyncio.gather(*(one() for _ in range(connections)))
    pool.close()
    return [one for some in asked for one in some]


class _Pool:
    """Connections that are kept open, as many as there are requests at a time."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: list[_Connection] = []

    async def ask(self, kind: str, content: bytes, due: float, start: float) -> Asked:
        status = NO_ANSWER
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(TIMEOUT_S):
                connection = await self._connection()
                status, stays = await connection.ask(content)
            if stays:
                self._idle.append(connection)
            else:
                connection.transport.close()
        return Asked(kind, due - start, status, (time.perf_counter() - due) * 1e3)

    async def _connection(self) -> "_Connection":
        while self._idle:
            connection = self._idle.pop()
            if not connection.transport.is_closing():
                return connection
        make: Callable[[], _Connection] = _Connection
        return (await asyncio.get_running_loop().create_connection(make, "127.0.0.1", self._port))[1]

    def close(self) -> None:
        for connection in self._idle:
            connection.transport.close()


class _Connection(asyncio.Protocol):
    """One request at a time; reads just enough HTTP to know where an answer ends."""

    transport: asyncio.Transport
    _LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
    _CLOSE = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)

    def __init__(self) -> None:
        self._received = b""
        self._answer: asyncio.Future[tuple[int, bool]] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's own class, which is no subclass of it

    async def ask(self, content: bytes) -> tuple[int, bool]:
        """Status, and whether the connection stays open."""
        self._received, self._answer = b"", asyncio.get_running_loop().create_future()
        self.transport.write(content)
        return await self._answer

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        if not end or self._answer is None or self._answer.done():
            return
        length = self._LENGTH.search(head)
        if len(body) >= (int(length[1]) if length else 0):
            self._answer.set_result((int(head[9:12]), not self._CLOSE.search(head)))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionResetError("closed without an answer") if exc is None else exc)
