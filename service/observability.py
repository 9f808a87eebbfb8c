"""Around every request: an id, two metrics, and a line in the log.

Plain ASGI on purpose: Starlette's BaseHTTPMiddleware costs two thirds of the requests per second (ENVIRONMENT: .3).
"""

import itertools
import os
from time import perf_counter

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import problem_of
from service.metrics import Metrics

log = structlog.get_logger("pnag.http")

MAX_REQUEST_ID = 100


class Observe:
    """The outermost layer: no error gets past it, and no request goes uncounted."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics
        # Unique among replicas by its prefix and in the process by its number; a uuid4 costs ten times as much.
        self._prefix = os.urandom(6).hex()
        self._numbers = itertools.count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = perf_counter()
        request_id = _sent_id(scope) or f"{self._prefix}-{next(self._numbers):x}"
        scope["pnag.request_id"] = request_id
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception as exc:
            log.exception("request failed", request_id=request_id, path=scope["path"])
            if status == 0:
                await problem_of(exc).response(request_id)(scope, receive, send_with_id)
        finally:
            seconds = perf_counter() - start
            route = _route(scope)
            self._metrics.requests.labels(route, str(status)).inc()
            self._metrics.request_seconds.labels(route).observe(seconds)
            log.info(
                "request", request_id=request_id, method=scope["method"], route=route, status=status, ms=seconds * 1e3
            )


def _sent_id(scope: Scope) -> str | None:
    """The caller's `x-request-id`, if it is short and plain enough to be logged and sent back."""
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            text = str(value, "latin-1")
            return text if len(text) <= MAX_REQUEST_ID and text.isascii() and text.isprintable() and text else None
    return None


def _route(scope: Scope) -> str:
    """The route's template, so that ids and typing errors make no new time series."""
    return getattr(scope.get("route"), "path", "other")
