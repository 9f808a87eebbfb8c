"""What happens to every request, in order, before the framework sees it; and what is told about it afterwards.

One plain ASGI function and not a stack of middlewares, because a remembered answer leaves from here, and each layer it
had to pass would cost it about as much as finding it does.
"""

import itertools
import os
import re
from time import perf_counter

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pnag.service.contract.problems import OverloadedError, problem_of
from pnag.service.edge.hot_path import HotPath
from pnag.service.edge.limits import ClientGoneError
from pnag.service.edge.protocol import send_at_once
from pnag.service.edge.security import Guard
from pnag.service.lifecycle import Lifecycle
from pnag.service.telemetry.request_log import CLIENT_GONE, RequestLog

log = structlog.get_logger("pnag.http")

CLOSE = (b"connection", b"close")
"""Sent while the process is going away, so that callers connect anew, to another one."""

_HEAD = b"content-type: application/json\r\ncontent-length: %d\r\nx-cache: %b\r\nx-request-id: %b\r\n"
"""Of a ready answer. A request id holds no space and no line end, so it cannot become another header."""

_REFUSAL_HEAD = (
    b"content-type: application/problem+json\r\ncontent-length: %d\r\nretry-after: %b\r\nx-request-id: %b\r\n"
)

_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,100}")


class Front:
    """The outermost layer: no error gets past it, and no request goes uncounted.

    It puts `pnag.headers` (bytes to bytes) and `pnag.request_id` into the scope. Whoever answers without the framework
    says in `pnag.route` what was asked; `pnag.cache` says which cache an answer came from.

    Args:
        app: the layers behind this one, for all that the hot path leaves alone.
        guard: None where nobody has to be kept out.
    """

    def __init__(
        self, app: ASGIApp, *, guard: Guard | None, hot_path: HotPath, lifecycle: Lifecycle, request_log: RequestLog
    ) -> None:
        self._app = app
        self._guard = guard
        self._hot_path = hot_path
        self._lifecycle = lifecycle
        self._request_log = request_log
        # Unique among replicas by its prefix and in the process by its number; a uuid4 costs ten times as much.
        self._prefix = os.urandom(6).hex()
        self._numbers = itertools.count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = perf_counter()
        headers = scope["pnag.headers"] = dict(scope["headers"])
        sent_id = headers.get(b"x-request-id")
        if sent_id is not None and _REQUEST_ID.fullmatch(sent_id):
            request_id = sent_id.decode()
        else:
            request_id = f"{self._prefix}-{next(self._numbers):x}"
        scope["pnag.request_id"] = request_id
        status = CLIENT_GONE
        try:
            if self._guard is not None:
                self._guard.check(scope)
            reply = await self._hot_path.answer(scope, receive)
            if reply is None:
                status = await self._pass_on(scope, receive, send)
            else:
                status = 200
                scope["pnag.cache"] = reply.cache
                head = _HEAD % (len(reply.content), reply.cache.encode(), request_id.encode())
                if self._lifecycle.is_draining or not send_at_once(send, 200, head, reply.content):
                    await self._send(head, reply.content, send)
        except ClientGoneError:
            pass
        except OverloadedError as exc:  # when there is no time to lose
            status = exc.status
            if self._lifecycle.is_draining or not self._refuse_at_once(exc, scope, send):
                await self._explain(exc, scope, receive, send)
        except Exception as exc:
            status = await self._explain(exc, scope, receive, send)
        finally:
            self._request_log.note(scope, status, start)

    async def _send(self, head: bytes, body: bytes, send: Send) -> None:
        """Send a ready answer as the framework would."""
        if self._lifecycle.is_draining:
            head += b"connection: close\r\n"
        headers = [tuple(line.split(b": ", 1)) for line in head.splitlines()]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> int:
        """Let the layers behind answer; the status they answered with."""
        status = 0

        async def send_on(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", scope["pnag.request_id"].encode())]
                if self._lifecycle.is_draining:
                    message["headers"].append(CLOSE)
            await send(message)

        try:
            await self._app(scope, receive, send_on)
        except Exception:
            if not status:
                raise  # nothing has been sent, so the caller can still be told
            log.exception("request failed", request_id=scope["pnag.request_id"], path=scope["path"])
        return status or CLIENT_GONE

    def _refuse_at_once(self, exc: OverloadedError, scope: Scope, send: Send) -> bool:
        """Send what `_explain` would, in a fraction of the time; False if this connection wants it done properly."""
        content = problem_of(exc).content(scope)
        retry_after = exc.headers["retry-after"].encode()
        head = _REFUSAL_HEAD % (len(content), retry_after, scope["pnag.request_id"].encode())
        return send_at_once(send, exc.status, head, content)

    async def _explain(self, exc: Exception, scope: Scope, receive: Receive, send: Send) -> int:
        """Send the problem that an error amounts to; its status."""
        problem = problem_of(exc)
        if problem.status == 500:
            log.exception("request failed", request_id=scope["pnag.request_id"], path=scope["path"])
        response = problem.response(scope)
        response.headers["x-request-id"] = scope["pnag.request_id"]
        if self._lifecycle.is_draining:
            response.headers["connection"] = "close"
        await response(scope, receive, send)
        return problem.status
