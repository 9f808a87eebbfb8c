"""The notes that the layers of the service leave for each other about one request."""

import asyncio
from dataclasses import dataclass

from starlette.types import Scope

_KEY = "pnag"


@dataclass(slots=True)
class RequestState:
    """One request, from its headers to its line in the log; made by `edge/entry.py`."""

    headers: dict[bytes, bytes]
    request_id: str
    body: bytes | None = None
    """None until it has been read."""
    route: str | None = None
    """Set where a request is answered without the framework, which would know."""
    cache: str = "-"
    """Where the answer came from: memory, redis, shared, miss, or - where there is no cache."""
    api_key: str | None = None
    """Name of the caller's key."""
    deadline: asyncio.Timeout | None = None

    @classmethod
    def of(cls, scope: Scope) -> "RequestState":
        """The state of a request that came in by the entry."""
        state: RequestState = scope[_KEY]
        return state

    def attach(self, scope: Scope) -> None:
        """Put it where `of` finds it."""
        scope[_KEY] = self

    def extend_deadline(self, seconds: float) -> None:
        """Give the request so long from now, whatever it had."""
        assert self.deadline is not None, "the entry sets a deadline before it passes a request on"
        self.deadline.reschedule(asyncio.get_running_loop().time() + seconds)
