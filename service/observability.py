"""Around every request: an id, one metric, and a line in the log.

Plain ASGI on purpose: Starlette's BaseHTTPMiddleware costs two thirds of the requests per second.
"""

import itertools
import os
import re
from time import monotonic, perf_counter

import structlog
from prometheus_client import Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import problem_of
from service.lifecycle import Lifecycle
from service.metrics import Metrics

log = structlog.get_logger("pnag.http")

CLIENT_GONE = 499
"""nginx's status for a caller who hung up before the answer."""

_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,100}")
_TRACE_PARENT = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
_SECURITY_HEADERS = ((b"x-content-type-options", b"nosniff"), (b"x-frame-options", b"DENY"))


class Observe:
    """The outermost layer: no error gets past it, and no request goes uncounted.

    It puts `pnag.headers` (bytes to bytes) and `pnag.request_id` into the scope. A layer that answers without the
    framework says in `pnag.route` what it answered for; `pnag.cache` says which cache the answer came from.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, lifecycle: Lifecycle, *, log_requests_per_s: int) -> None:
        self._app = app
        self._lifecycle = lifecycle
        self._request_seconds = metrics.request_seconds
        self._series: dict[tuple[str, int, str], Histogram] = {}
        self._log = _RequestLog(log_requests_per_s)
        # Unique among replicas by its prefix and in the process by its number; a uuid4 costs ten times as much.
        self._prefix = os.urandom(6).hex()
        self._numbers = itertools.count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = perf_counter()
        lifecycle = self._lifecycle
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
                message["headers"] = [*message["headers"], *_SECURITY_HEADERS, (b"x-request-id", request_id.encode())]
                if lifecycle.is_draining:
                    message["headers"].append((b"connection", b"close"))
            await send(message)

        try:
            await self._app(scope, receive, send_on)
        except Exception as exc:
            log.exception("request failed", request_id=request_id, path=scope["path"])
            if status == CLIENT_GONE:
                await problem_of(exc).response(request_id)(scope, receive, send_on)
        finally:
            seconds = perf_counter() - start
            labels = (_route(scope), status, scope.get("pnag.cache", "-"))
            series = self._series.get(labels)
            if series is None:
                series = self._series[labels] = self._request_seconds.labels(*labels)
            series.observe(seconds)
            self._log.tell(scope, labels, seconds)


class _RequestLog:
    """One line per request while there are few; when busy, a sample, and how many were left out."""

    def __init__(self, lines_per_s: int) -> None:
        self._lines_per_s = lines_per_s
        self._second = 0
        self._told = self._left_out = 0

    def tell(self, scope: Scope, labels: tuple[str, int, str], seconds: float) -> None:
        route, status, cache = labels
        second = int(monotonic())
        if second != self._second:
            self._second, self._told = second, 0
        if status < 500:
            if self._told >= self._lines_per_s:
                self._left_out += 1
                return
            self._told += 1
        left_out, self._left_out = self._left_out, 0
        trace = _TRACE_PARENT.fullmatch(scope["pnag.headers"].get(b"traceparent", b""))
        log.log(
            40 if status >= 500 else 20,
            "request",
            request_id=scope["pnag.request_id"],
            method=scope["method"],
            route=route,
            status=status,
            cache=cache,
            ms=round(seconds * 1e3, 3),
            **({"trace_id": trace[1].decode()} if trace else {}),
            **({"key": scope["pnag.key"]} if "pnag.key" in scope else {}),
            **({"lines_left_out": left_out} if left_out else {}),
        )


def _route(scope: Scope) -> str:
    """The route's template, so that ids and typing errors make no new time series."""
    route = scope.get("pnag.route")
    return route if route is not None else getattr(scope.get("route"), "path", "other")
