"""The notes that the layers of the service leave for each other about one request."""

import asyncio
from dataclasses import dataclass, field

from starlette.types import Scope

STATE_KEY = "pnag"
"""Of a request's state in its ASGI scope."""


@dataclass
class RequestState:
    """One request, from its headers to its line in the log; made by `edge/entry.py`."""

    headers: dict[bytes, bytes]
    request_id: str
    # Not set when made: most requests need none of these, and would pay for each.
    body: bytes | None = field(default=None, init=False)
    """None until it has been read."""
    route: str | None = field(default=None, init=False)
    """Set where a request is answered without the framework, which would know."""
    cache: str = field(default="-", init=False)
    """Where the answer came from: memory, redis, shared, miss, or - where there is no cache."""
    api_key: str | None = field(default=None, init=False)
    """Name of the caller's key."""
    deadline: asyncio.Timeout | None = field(default=None, init=False)

    @classmethod
    def of(cls, scope: Scope) -> "RequestState":
        """The state of a request that came in by the entry."""
        state: RequestState = scope[STATE_KEY]
        return state

    def extend_deadline(self, seconds: float) -> None:
        """Give the request so long from now, whatever it had."""
        assert self.deadline is not None, "the entry sets a deadline before it passes a request on"
        self.deadline.reschedule(asyncio.get_running_loop().time() + seconds)
