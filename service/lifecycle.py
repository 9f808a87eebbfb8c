"""State of the process between start and exit, and the signals that move it."""

import asyncio
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType

import structlog

log = structlog.get_logger("pnag.lifecycle")


@dataclass
class Lifecycle:
    """Shared by the signals, which end it, and everybody who has to say so."""

    is_draining: bool = False
    """The process is about to end: it answers, but is not ready, and asks its callers to connect anew."""

    def listen(self, *, drain_s: float, reload: Callable[[], None]) -> Callable[[], None]:
        """Make SIGTERM drain before it ends the server, and SIGHUP reload; return what undoes it.

        The server's own handler must be installed already: it is called when the draining is over, or by a second
        SIGTERM. Outside the main thread (in tests) there are no signals to listen to.
        """
        if threading.current_thread() is not threading.main_thread():
            return lambda: None
        loop = asyncio.get_running_loop()
        end = signal.getsignal(signal.SIGTERM)
        before_hup = signal.getsignal(signal.SIGHUP)

        def on_term(number: int, frame: FrameType | None) -> None:
            if not callable(end):
                return
            if drain_s == 0 or self.is_draining:
                end(number, frame)
                return
            self.is_draining = True
            log.info("draining", seconds=drain_s)
            loop.call_soon_threadsafe(loop.call_later, drain_s, end, number, None)

        def on_hup(_number: int, _frame: FrameType | None) -> None:
            loop.call_soon_threadsafe(reload)

        signal.signal(signal.SIGTERM, on_term)
        signal.signal(signal.SIGHUP, on_hup)

        def undo() -> None:
            signal.signal(signal.SIGTERM, end)
            signal.signal(signal.SIGHUP, before_hup)

        return undo
