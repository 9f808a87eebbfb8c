"""Limits on a request: bytes of body, seconds of waiting, and only while its caller still listens."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.types import Message, Receive

from pnag.service.contract.problems import BodyTooLargeError, DeadlineError

TIMEOUT_HEADER = b"x-request-timeout-ms"


class ClientGoneError(Exception):
    """The caller hung up: there is nobody to answer."""


async def read_body(receive: Receive, max_bytes: int) -> bytes:
    """Read the whole body. How long it may take is for the connection (`edge/protocol.py`).

    Raises:
        BodyTooLargeError: before more of it is read than may be.
        ClientGoneError: if the caller hangs up half way.
    """
    message = await receive()
    body: bytes = message.get("body", b"")
    while message.get("more_body") and len(body) <= max_bytes:
        message = await receive()
        body += message.get("body", b"")
    if message["type"] == "http.disconnect":
        raise ClientGoneError
    if len(body) > max_bytes:
        raise BodyTooLargeError(f"the body has more than {max_bytes} bytes (PNAG_MAX_BODY_BYTES)")
    return body


@asynccontextmanager
async def time_limit(receive: Receive, timeout_s: float) -> AsyncIterator[tuple[asyncio.Event, asyncio.Timeout]]:
    """Cancel the block when the time is up or the caller hangs up; yield an event that is set then, and the deadline.

    Raises:
        DeadlineError, ClientGoneError: in place of the cancellation.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    gone = asyncio.Event()
    watcher: asyncio.Task[None] | None = None

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        gone.set()
        task.cancel()

    def start_watching() -> None:
        nonlocal watcher
        watcher = loop.create_task(watch())

    # Not before the block waits for something: what is refused at once should not pay for a task.
    start = loop.call_soon(start_watching)
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
        start.cancel()
        if watcher is not None:
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


def replay(body: bytes, gone: asyncio.Event) -> Receive:
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
