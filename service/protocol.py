"""uvicorn's HTTP connection, with bounds on who may hold one open: uvicorn itself waits forever for a slow request."""

import asyncio
import math

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from service.settings import Settings

_OURSELVES = object()


class BoundedProtocol(HttpToolsProtocol):
    """Closes a connection that is idle for too long, that takes too long to send a whole request, or is one too many.

    One timer per connection looks at it twice in each limit. uvicorn arms and cancels one for every request instead;
    that alone would cost a remembered answer a twentieth.
    """

    _timer: asyncio.TimerHandle | None = None
    _waiting_for: object = None
    """At the last look: an incomplete request (None: not begun), the answer after which nothing came, or ourselves."""
    _since = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._settings: Settings = self.app.state.settings  # ours: server.py puts no proxy middleware around it
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
        """What the connection waits for, and for how long it may."""
        # Both are None at first, whatever uvicorn's annotations say. `scope` is new from a request's first byte on,
        # `cycle` from the end of its headers.
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is None or cycle.scope is not self.scope or cycle.more_body:
            return self.scope, self._settings.receive_timeout_s
        if cycle.response_complete:
            return cycle, self._settings.keep_alive_s
        return _OURSELVES, math.inf
