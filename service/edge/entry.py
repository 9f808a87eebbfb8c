"""The entry of every request: identified, checked, answered from here if it can be, and counted when it is over.

One plain ASGI function and not a stack of middlewares, because a remembered answer leaves from here, and each layer it
had to pass would cost it about as much as finding it does. For the same reason a usual `POST /generate` is answered
without the framework; one that is unusual (a query, another media type, a body that does not validate) goes on to the
route, which says what is wrong with it. Both ask the same `Answerer.answer`.
"""

import itertools
import os
import re
from collections.abc import Iterable
from time import perf_counter

import structlog
from pydantic import ValidationError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pnag.service.contract import problems
from pnag.service.contract.json_body import is_json
from pnag.service.contract.problems import problem_of
from pnag.service.edge.limits import ClientGoneError, asked_timeout_s, read_body, replay, time_limit
from pnag.service.edge.protocol import send_at_once
from pnag.service.edge.security import Guard
from pnag.service.engine.answer_memory import Reply
from pnag.service.engine.answerer import Answerer
from pnag.service.lifecycle import Lifecycle
from pnag.service.request_state import STATE_KEY, RequestState
from pnag.service.settings import Settings
from pnag.service.telemetry.request_log import CLIENT_GONE, RequestLog

log = structlog.get_logger("pnag.http")

GENERATE = "/generate"

CLOSE = (b"connection", b"close")
"""Sent while the process is going away, so that callers connect anew, to another one."""

_HEAD = b"content-type: application/json\r\ncontent-length: %d\r\nx-cache: %b\r\nx-request-id: %b\r\n"
"""Of a ready answer. A request id holds no space and no line end, so it cannot become another header."""

_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,100}")


class Entry:
    """The outermost layer: no error gets past it, and no request goes uncounted.

    Args:
        app: the layers behind this one, for all that is not answered from here.
        guard: None where nobody has to be kept out.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        answerer: Answerer,
        guard: Guard | None,
        lifecycle: Lifecycle,
        request_log: RequestLog,
        settings: Settings,
    ) -> None:
        self._app = app
        self._answerer = answerer
        self._guard = guard
        self._lifecycle = lifecycle
        self._request_log = request_log
        self._max_body_bytes = settings.max_body_bytes
        self._timeout_s = settings.request_timeout_s
        # Unique among replicas by its prefix and in the process by its number; a uuid4 costs ten times as much.
        self._prefix = os.urandom(6).hex()
        self._numbers = itertools.count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = perf_counter()
        headers = dict(scope["headers"])
        sent_id = headers.get(b"x-request-id")
        if sent_id is not None and _REQUEST_ID.fullmatch(sent_id):
            request_id = sent_id.decode()
        else:
            request_id = f"{self._prefix}-{next(self._numbers):x}"
        state = scope[STATE_KEY] = RequestState(headers, request_id)
        status = CLIENT_GONE
        try:
            if self._guard is not None:
                self._guard.check(scope, state)
            reply = await self._answer(scope, state, receive)
            if reply is None:
                status = await self._pass_on(scope, state, receive, send)
            else:
                status = 200
                state.cache = reply.cache
                head = _HEAD % (len(reply.content), reply.cache.encode(), request_id.encode())
                if self._lifecycle.is_draining or not send_at_once(send, 200, head, reply.content):
                    await self._send(send, 200, head, reply.content)
        except ClientGoneError:
            pass
        except Exception as exc:
            status = await self._explain(exc, scope, state, send)
        finally:
            self._request_log.note(scope, state, status, start)

    async def _answer(self, scope: Scope, state: RequestState, receive: Receive) -> Reply | None:
        """The answer to a usual `POST /generate`, or None if this is for the framework.

        Raises:
            PnagError, ServiceError: what there is to tell the caller instead of an answer.
            ClientGoneError: if the caller hung up.
        """
        if scope["path"] != GENERATE or scope["method"] != "POST" or scope["query_string"]:
            return None
        headers = state.headers
        content_type = headers.get(b"content-type", b"")
        if b"content-encoding" in headers:
            return None
        if content_type != b"application/json" and not is_json(content_type.decode("latin-1")):
            return None
        state.route = GENERATE
        body = state.body = await read_body(receive, self._max_body_bytes)
        remembered = self._answerer.remembered(body)
        if remembered is not None:
            return remembered
        timeout_s = asked_timeout_s(headers, self._timeout_s)
        if timeout_s is None:
            return None
        try:
            async with time_limit(receive, timeout_s):
                return await self._answerer.answer(body)
        except ValidationError:
            return None

    async def _pass_on(self, scope: Scope, state: RequestState, receive: Receive, send: Send) -> int:
        """Have the layers behind answer, within the limits of a request; return the status they answered with."""
        if state.body is None:
            state.body = await read_body(receive, self._max_body_bytes)
        status = 0

        async def send_on(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", state.request_id.encode())]
                if self._lifecycle.is_draining:
                    message["headers"].append(CLOSE)
            await send(message)

        timeout_s = asked_timeout_s(state.headers, self._timeout_s) or self._timeout_s
        try:
            async with time_limit(receive, timeout_s) as (gone, state.deadline):
                await self._app(scope, replay(state.body, gone), send_on)
        except Exception:
            if not status:
                raise  # nothing has been sent, so the caller can still be told
            log.exception("request failed", request_id=state.request_id, path=scope["path"])
        return status or CLIENT_GONE

    async def _explain(self, exc: Exception, scope: Scope, state: RequestState, send: Send) -> int:
        """Send the problem that an error amounts to; its status."""
        problem = problem_of(exc)
        if problem.status == 500:
            log.exception("request failed", request_id=state.request_id, path=scope["path"])
        content = problem.content(scope)
        head = b"content-type: %b\r\ncontent-length: %d\r\nx-request-id: %b\r\n" % (
            problems.MEDIA_TYPE.encode(),
            len(content),
            state.request_id.encode(),
        )
        for name, value in problem.headers.items():
            head += f"{name}: {value}\r\n".encode("latin-1")
        # At once if it can be: under a load that is too much, most of the work is to say so.
        if self._lifecycle.is_draining or not send_at_once(send, problem.status, head, content):
            await self._send(send, problem.status, head, content)
        return problem.status

    async def _send(self, send: Send, status: int, head: bytes, body: bytes) -> None:
        """Send what is ready as the framework would."""
        headers: Iterable[tuple[bytes, ...]] = (tuple(line.split(b": ", 1)) for line in head.splitlines())
        closing = [CLOSE] if self._lifecycle.is_draining else []
        await send({"type": "http.response.start", "status": status, "headers": [*headers, *closing]})
        await send({"type": "http.response.body", "body": body})
