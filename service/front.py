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

from service.bounds import ClientGoneError
from service.errors import problem_of
from service.hot_path import HotPath
from service.lifecycle import Lifecycle
from service.request_log import CLIENT_GONE, RequestLog
from service.security import Guard

log = structlog.get_logger("pnag.http")

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

        async def send_on(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
                if self._lifecycle.is_draining:
                    message["headers"].append((b"connection", b"close"))
            await send(message)

        try:
            if self._guard is not None:
                self._guard.check(scope)
            reply = await self._hot_path.answer(scope, receive)
            if reply is None:
                await self._app(scope, receive, send_on)
            else:
                content = reply.content
                head = [
                    (b"content-type", b"application/json"),
                    (b"content-length", b"%d" % len(content)),
                    (b"x-cache", reply.cache.encode()),
                ]
                await send_on({"type": "http.response.start", "status": 200, "headers": head})
                await send({"type": "http.response.body", "body": content})
        except ClientGoneError:
            pass
        except Exception as exc:
            problem = problem_of(exc)
            if problem.status == 500:
                log.exception("request failed", request_id=request_id, path=scope["path"])
            if status == CLIENT_GONE:  # nothing has been sent yet
                await problem.response(request_id)(scope, receive, send_on)
        finally:
            self._request_log.note(scope, status, start)
