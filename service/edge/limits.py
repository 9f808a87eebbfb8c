"""What a request may cost: bytes of body, seconds of waiting, and only while its caller still listens."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pnag.service.contract.problems import BodyTooLargeError, DeadlineError

TIMEOUT_HEADER = b"x-request-timeout-ms"


class ClientGoneError(Exception):
    """The caller hung up: there is nobody to answer."""


class ReadBody:
    """Reads the body into `pnag.body` before the framework looks at the request; too large a one is refused."""

    def __init__(self, app: ASGIApp, *, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await read_body(scope, receive, self._max_bytes)
        await self._app(scope, receive, send)


async def read_body(scope: Scope, receive: Receive, max_bytes: int) -> bytes:
    """The whole body, kept as `pnag.body`. How long it may take is for the connection (`edge/protocol.py`).

    Raises:
        BodyTooLargeError: before more of it is read than may be.
        ClientGoneError: if the caller hangs up half way.
    """
    body: bytes | None = scope.get("pnag.body")
    if body is not None:
        return body
    message = await receive()
    body = message.get("body", b"")
    while message.get("more_body") and len(body) <= max_bytes:
        message = await receive()
        body += message.get("body", b"")
    if message["type"] == "http.disconnect":
        raise ClientGoneError
    if len(body) > max_bytes:
        raise BodyTooLargeError(f"the body has more than {max_bytes} bytes (PNAG_MAX_BODY_BYTES)")
    scope["pnag.body"] = body
    return body


class Patience:
    """Ends what the framework does for a request when its time is up or its caller is gone."""

    def __init__(self, app: ASGIApp, *, timeout_s: float) -> None:
        self._app = app
        self._timeout_s = timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        timeout_s = asked_timeout_s(scope["pnag.headers"], self._timeout_s) or self._timeout_s
        async with patience(receive, timeout_s) as (gone, deadline):
            scope["pnag.prolong"] = lambda seconds: deadline.reschedule(asyncio.get_running_loop().time() + seconds)
            await self._app(scope, _replay(scope["pnag.body"], gone), send)


@asynccontextmanager
async def patience(receive: Receive, timeout_s: float) -> AsyncIterator[tuple[asyncio.Event, asyncio.Timeout]]:
    """Cancels its block when the time is up or the caller hangs up; yields an event that is set then, and the deadline.

    Raises:
        DeadlineError, ClientGoneError: in place of the cancellation.
    """
    task = asyncio.current_task()
    assert task is not None
    gone = asyncio.Event()

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        gone.set()
        task.cancel()

    watcher = asyncio.create_task(watch())
    deadline = asyncio.timeout(timeout_s)
    try:
        async with deadline:
            yield gone, deadline
    except TimeoutError:
        if not deadline.expired():
            raise
        raise DeadlineError(f"no answer within {timeout_s:g} s; the service is busy, come back later") from None
    except asyncio.CancelledError:
        if gone.is_set() and task.uncancel() == 0:
            raise ClientGoneError from None
        raise
    finally:
        watcher.cancel()


def asked_timeout_s(headers: dict[bytes, bytes], max_s: float) -> float | None:
    """The time a caller gives us (`x-request-timeout-ms`), at most our own; None if it is not a number of 1 or more."""
    text = headers.get(TIMEOUT_HEADER)
    if text is None:
        return max_s
    try:
        asked_s = float(text) / 1000
    except ValueError:
        return None
    return min(asked_s, max_s) if asked_s >= 0.001 else None


def _replay(body: bytes, gone: asyncio.Event) -> Receive:
    """A `receive` that gives the body once, then waits for the caller to hang up."""
    is_read = False

    async def receive() -> Message:
        nonlocal is_read
        if not is_read:
            is_read = True
            return {"type": "http.request", "body": body, "more_body": False}
        await gone.wait()
        return {"type": "http.disconnect"}

    return receive
