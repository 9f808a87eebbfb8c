"""uvicorn's HTTP connection, with bounds on who may hold one open: uvicorn itself waits forever for a slow request."""

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.settings import Settings


class BoundedProtocol(HttpToolsProtocol):
    """Closes a connection that does not send a whole request in time, and those beyond the most there may be.

    One timer per connection looks now and then: a timer per request would cost as much as looking up a cached answer.
    """

    _incomplete_since: float | None = None
    _look: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        settings: Settings = self.app.state.settings  # ours: server.py puts no proxy middleware around it
        if len(self.connections) > settings.max_connections:
            transport.close()
            return
        self._timeout_s = settings.receive_timeout_s
        self._incomplete_since = self.loop.time()  # sending nothing at all is slow too
        self._look_later()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._look is not None:
            self._look.cancel()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._incomplete_since = self.loop.time()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._incomplete_since = None

    def _look_later(self) -> None:
        self._look = self.loop.call_later(self._timeout_s / 2, self._close_if_slow)

    def _close_if_slow(self) -> None:
        since = self._incomplete_since
        if since is not None and self.loop.time() - since >= self._timeout_s:
            self.transport.close()
            return
        self._look_later()
