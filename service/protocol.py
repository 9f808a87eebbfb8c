"""uvicorn's HTTP connection, with bounds on who may hold one open: uvicorn itself waits forever for a slow request."""

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from service.settings import Settings


_NOTHING = object()


class BoundedProtocol(HttpToolsProtocol):
    """Closes a connection that takes too long to send a whole request, and those beyond the most there may be.

    One timer per connection looks at it now and then; nothing is done per request, where it would be felt.
    """

    _look: asyncio.TimerHandle | None = None
    _seen: object = None
    """The request that was incomplete at the last look; None: not even begun."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        settings: Settings = self.app.state.settings  # ours: server.py puts no proxy middleware around it
        if len(self.connections) > settings.max_connections:
            transport.close()
            return
        self._interval_s = settings.receive_timeout_s
        self._look = self.loop.call_later(self._interval_s, self._close_if_slow)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._look is not None:
            self._look.cancel()
        super().connection_lost(exc)

    def _close_if_slow(self) -> None:
        """A request that is as incomplete as at the last look has had its time."""
        # `scope` is new from a request's first byte on, `cycle` from the end of its headers.
        # Both are None at first, whatever uvicorn's annotations say.
        cycle: RequestResponseCycle | None = self.cycle
        is_incomplete = cycle is None or cycle.scope is not self.scope or cycle.more_body
        if is_incomplete and self._seen is self.scope:
            self.transport.close()
            return
        self._seen = self.scope if is_incomplete else _NOTHING
        self._look = self.loop.call_later(self._interval_s, self._close_if_slow)
