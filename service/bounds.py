"""What a request may cost: bytes of body, seconds of waiting, and only while its caller still listens."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import BodyTooLargeError, DeadlineError, problem_of

TIMEOUT_HEADER = b"x-request-timeout-ms"


class ClientGoneError(Exception):
    """The caller hung up: there is nobody to answer."""


class ReadBody:
    """Reads the body into `pnag.body` before anybody looks at the request; too large a one is refused.

    How long it may take to arrive is bounded by the connection (service/protocol.py).
    """

    def __init__(self, app: ASGIApp, *, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = scope["pnag.headers"]
            try:
                # Most requests without a body say so by saying nothing.
                has_body = b"content-length" in headers or b"transfer-encoding" in headers
                scope["pnag.body"] = await self._read(headers, receive) if has_body else b""
            except BodyTooLargeError as exc:
                await problem_of(exc).response(scope["pnag.request_id"])(scope, receive, send)
                return
            except ClientGoneError:
                return
        await self._app(scope, receive, send)

    async def _read(self, headers: dict[bytes, bytes], receive: Receive) -> bytes:
        if int(headers.get(b"content-length", b"0")) > self._max_bytes:
            raise self._too_large()
        message = await receive()
        body: bytes = message.get("body", b"")
        while message["type"] == "http.request" and message.get("more_body"):
            if len(body) > self._max_bytes:
                raise self._too_large()
            message = await receive()
            body += message.get("body", b"")
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        if len(body) > self._max_bytes:
            raise self._too_large()
        return body

    def _too_large(self) -> BodyTooLargeError:
        return BodyTooLargeError(f"the body has more than {self._max_bytes} bytes (PNAG_MAX_BODY_BYTES)")


class Patience:
    """Ends what the framework does for a request when its time is up or its caller is gone."""

    def __init__(self, app: ASGIApp, *, timeout_s: float) -> None:
        self._app = app
        self._timeout_s = timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def send_on(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        timeout_s = asked_timeout_s(scope["pnag.headers"], self._timeout_s) or self._timeout_s
        try:
            async with patience(receive, timeout_s) as gone:
                await self._app(scope, _replay(scope["pnag.body"], gone), send_on)
        except ClientGoneError:
            pass
        except DeadlineError as exc:
            if started:
                raise
            await problem_of(exc).response(scope["pnag.request_id"])(scope, receive, send)


@asynccontextmanager
async def patience(receive: Receive, timeout_s: float) -> AsyncIterator[asyncio.Event]:
    """Cancels its block when the time is up or the caller hangs up; yields an event that is set in the latter case.

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
            yield gone
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
    """The time a caller gives us (`x-request-timeout-ms`), at most our own; None if that is not a number above 0."""
    text = headers.get(TIMEOUT_HEADER)
    if text is None:
        return max_s
    try:
        asked_s = float(text) / 1000
    except ValueError:
        return None
    return min(asked_s, max_s) if asked_s > 0 else None


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
