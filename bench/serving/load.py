"""Ask a server over HTTP at a rate (an open loop: a slow server gets no pause for itself) or in turn (a closed loop).

The open loop must offer several times what a worker can answer, which no general HTTP client of Python does on one
core: so connections are plain asyncio protocols, and httptools (uvicorn's parser) reads the answers.
"""

import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import httptools
import numpy as np
import uvloop

NO_ANSWER = 0
"""Stands for the status where a connection broke, was refused, or nothing came in time."""

TIMEOUT_S = 15.0

Request = tuple[str, bytes]
"""Kind, for the counts, and bytes. The kind `bad` must be refused (4xx)."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Answer of a server."""

    status: int
    headers: dict[bytes, bytes]
    content: bytes
    stays_open: bool


@dataclass(frozen=True, slots=True)
class Asked:
    """One request and how it went; `ms` counts from the moment it was due, not from when there was time to send it."""

    kind: str
    at_s: float
    status: int
    ms: float
    note: str = ""

    @property
    def is_wrong(self) -> bool:
        """Refused what is right, accepted what is wrong, or said nothing."""
        return not (400 <= self.status < 500 if self.kind == "bad" else self.status == 200)


Note = Callable[[Answer], str]
"""Gives what to remember of an answer; called outside the time that is measured."""


def request(method: str, path: str, body: Any = None, key: str = "") -> bytes:
    """Build the bytes of a request; a body that is bytes is sent as it is, any other as JSON."""
    content = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    head = f"{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(content)}\r\n"
    head += f"authorization: Bearer {key}\r\n" if key else ""
    return f"{head}content-type: application/json\r\n\r\n".encode() + content


def offer(url: str, requests: Iterable[Request], per_s: float, seconds: float) -> list[Asked]:
    """Ask for some seconds, `per_s` times each, however many are still unanswered."""
    return uvloop.run(_offer(_Pool(url), requests, per_s, seconds))


def ask_in_turn(
    url: str,
    requests: Iterator[Request],
    connections: int,
    seconds: float,
    *,
    pause_s: float = 0,
    until: Path | None = None,
    note: Note | None = None,
) -> list[Asked]:
    """Ask in a closed loop: on each connection the next request follows the last answer, after a pause.

    Args:
        until: ends earlier, as soon as this file is there.
    """

    def is_over(elapsed_s: float) -> bool:
        return elapsed_s >= seconds or (until is not None and until.exists())

    return uvloop.run(_ask_in_turn(_Pool(url, note), requests, connections, is_over, pause_s))


def percentile_ms(asked: Sequence[Asked], percent: float) -> float:
    """Percentile of the answers that were 200; NaN without any."""
    took_ms = [one.ms for one in asked if one.status == 200]
    return float(np.percentile(took_ms, percent)) if took_ms else float("nan")


async def _offer(pool: "_Pool", requests: Iterable[Request], per_s: float, seconds: float) -> list[Asked]:
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


async def _ask_in_turn(
    pool: "_Pool", requests: Iterator[Request], connections: int, is_over: Callable[[float], bool], pause_s: float
) -> list[Asked]:
    start = time.perf_counter()

    async def one() -> list[Asked]:
        asked = []
        while not is_over((now := time.perf_counter()) - start):
            asked.append(await pool.ask(*next(requests), now, start))
            if wait_s := max(pause_s, 0.05 if asked[-1].status == NO_ANSWER else 0):
                await asyncio.sleep(wait_s)
        return asked

    asked = await asyncio.gather(*(one() for _ in range(connections)))
    pool.close()
    return [one for some in asked for one in some]


class _Pool:
    """Connections that are kept open, as many as there are requests at a time."""

    def __init__(self, url: str, note: Note | None = None) -> None:
        parts = urlsplit(url)
        self._address = parts.hostname or "127.0.0.1", parts.port or 80
        self._note = note
        self._idle: list[_Connection] = []

    async def ask(self, kind: str, content: bytes, due: float, start: float) -> Asked:
        answer = None
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(TIMEOUT_S):
                connection = await self._connection()
                answer = await connection.ask(content)
            if answer.stays_open:
                self._idle.append(connection)
            else:
                connection.transport.close()
        ms = (time.perf_counter() - due) * 1e3
        if answer is None:
            return Asked(kind, due - start, NO_ANSWER, ms)
        return Asked(kind, due - start, answer.status, ms, self._note(answer) if self._note else "")

    async def _connection(self) -> "_Connection":
        while self._idle:
            connection = self._idle.pop()
            if not connection.transport.is_closing():
                return connection
        return (await asyncio.get_running_loop().create_connection(_Connection, *self._address))[1]

    def close(self) -> None:
        for connection in self._idle:
            connection.transport.close()


class _Connection(asyncio.Protocol):
    """One request at a time. httptools calls the methods `on_...`."""

    transport: asyncio.Transport
    _answer: "asyncio.Future[Answer] | None" = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's own class, which is no subclass of it

    async def ask(self, content: bytes) -> Answer:
        self._headers: dict[bytes, bytes] = {}
        self._content = b""
        self._parser = httptools.HttpResponseParser(self)
        self._answer = asyncio.get_running_loop().create_future()
        self.transport.write(content)
        return await self._answer

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.lower()] = value

    def on_body(self, body: bytes) -> None:
        self._content += body

    def on_message_complete(self) -> None:
        if self._answer is not None and not self._answer.done():
            status, stays_open = self._parser.get_status_code(), self._parser.should_keep_alive()
            self._answer.set_result(Answer(status, self._headers, self._content, stays_open))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionResetError(str(exc or "closed without an answer")))
