"""One metric and, while there are not too many, one line in the log for each request."""

import re
from logging import ERROR, INFO, WARNING
from time import perf_counter

import structlog
from prometheus_client import Histogram
from starlette.types import Scope

from pnag.service.request_state import RequestState
from pnag.service.telemetry.metrics import Metrics

log = structlog.get_logger("pnag.http")

CLIENT_GONE = 499
"""nginx's status for a caller who hung up before the answer."""

_TRACE_PARENT = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")


class RequestLog:
    """Note how requests ended. When busy, only a sample of them and every crash get a line."""

    def __init__(self, metrics: Metrics, *, lines_per_s: int) -> None:
        self._request_seconds = metrics.request_seconds
        self._series: dict[tuple[str, int, str], Histogram] = {}
        self._lines_per_s = lines_per_s
        self._second_ends = 0.0
        self._lines = self._left_out = 0

    def note(self, scope: Scope, state: RequestState, status: int, start: float) -> None:
        """Note that a request that came at `start` (perf_counter) has been answered."""
        now = perf_counter()
        labels = (state.route or _route(scope), status, state.cache)
        series = self._series.get(labels)
        if series is None:  # looking it up at the library takes as long as the rest
            series = self._series[labels] = self._request_seconds.labels(*labels)
        series.observe(now - start)
        if now < self._second_ends and self._lines >= self._lines_per_s and status != 500:
            self._left_out += 1
            return
        if now >= self._second_ends:
            self._second_ends, self._lines = now + 1, 0
        self._lines += 1
        self._tell(scope, state, labels, now - start)

    def _tell(self, scope: Scope, state: RequestState, labels: tuple[str, int, str], seconds: float) -> None:
        route, status, cache = labels
        extras = {}
        if trace := _TRACE_PARENT.fullmatch(state.headers.get(b"traceparent", b"")):
            extras["trace_id"] = trace[1].decode()
        if state.api_key is not None:
            extras["key"] = state.api_key
        if self._left_out:
            extras["lines_left_out"], self._left_out = self._left_out, 0
        log.log(
            ERROR if status == 500 else WARNING if status > 500 else INFO,
            "request",
            request_id=state.request_id,
            method=scope["method"],
            route=route,
            status=status,
            cache=cache,
            ms=round(seconds * 1e3, 3),
            **extras,
        )


def _route(scope: Scope) -> str:
    """The route's template, so that ids and typing errors make no new time series."""
    return getattr(scope.get("route"), "path", "other")
