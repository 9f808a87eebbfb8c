"""uvicorn's HTTP connection, with bounds on who may hold one open: uvicorn itself waits forever for a slow request.

And a short way out for answers that are ready: uvicorn checks and joins every header of every answer, which takes about
as long as all that we do for a remembered one.
"""

import asyncio
import math

from starlette.types import Send
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from pnag.service.settings import Settings

_OURSELVES = object()


class _DefaultHeads:
    """Status lines with uvicorn's own headers, as bytes; the server makes new ones each second, for the date."""

    def __init__(self) -> None:
        self._headers: object = None
        self._of_status: dict[int, bytes] = {}

    def of(self, status: int, headers: list[tuple[bytes, bytes]]) -> bytes:
        if headers is not self._headers:
            self._headers, self._of_status = headers, {}
        head = self._of_status.get(status)
        if head is None:
            lines = b"".join(b"%b: %b\r\n" % header for header in headers)
            head = self._of_status[status] = STATUS_LINE[status] + lines
        return head


_default_heads = _DefaultHeads()


def send_at_once(send: Send, status: int, head: bytes, body: bytes) -> bool:
    """Write a whole answer in one go, if `send` is that of a connection in its usual state; else do nothing: False.

    Args:
        head: header lines, each with its line end, `content-length` among them; nobody checks them.
    """
    cycle = getattr(send, "__self__", None)
    if not isinstance(cycle, RequestResponseCycle):
        return False
    if cycle.disconnected or cycle.response_started or not cycle.keep_alive or cycle.flow.write_paused:
        return False
    if cycle.scope["method"] == "HEAD":
        return False  # its answer has no body
    cycle.response_started = cycle.response_complete = True
    cycle.transport.write(b"%b%b\r\n%b" % (_default_heads.of(status, cycle.default_headers), head, body))
    cycle.message_event.set()
    cycle.on_response()
    return True


class BoundedProtocol(HttpToolsProtocol):
    """Close a connection that is idle for too long, that takes too long to send a whole request, or is one too many.

    One timer per connection looks at it twice in each limit. uvicorn arms and cancels one for every request instead;
    that alone would cost a remembered answer a twentieth.
    """

    _timer: asyncio.TimerHandle | None = None
    _waiting_for: object = None
    """At the last look: an incomplete request (None: not begun), the answer after which nothing came, or ourselves."""
    _since = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        app = self.app  # ours: server.py puts no proxy middleware around it
        self._settings: Settings = app.state.settings
        self.app = app.entry  # what the application would do first, without asking it
        if len(self.connections) > self._settings.max_connections:
            transport.close()
            return
        self._since = self.loop.time()
        self._look_later()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """As uvicorn's, but for the timer of idle connections: `_look` sees to those."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())

    def _look_later(self) -> None:
        limit_s = min(self._settings.receive_timeout_s, self._settings.keep_alive_s)
        self._timer = self.loop.call_later(limit_s / 2, self._look)

    def _look(self) -> None:
        waiting_for, limit_s = self._state()
        now = self.loop.time()
        if waiting_for is not self._waiting_for:
            self._waiting_for, self._since = waiting_for, now
        elif now - self._since >= limit_s:
            self.transport.close()
            return
        self._look_later()

    def _state(self) -> tuple[object, float]:
        """The thing that the connection waits for, and for how long it may."""
        # Both are None at first, whatever uvicorn's annotations say. `scope` is new from a request's first byte on,
        # `cycle` from the end of its headers.
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is None or cycle.scope is not self.scope or cycle.more_body:
            return self.scope, self._settings.receive_timeout_s
        if cycle.response_complete:
            return cycle, self._settings.keep_alive_s
        return _OURSELVES, math.inf
