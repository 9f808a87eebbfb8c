"""`GET /pareto-front` from memory, with an ETag: a front changes only when its bundle does.

The route behind it computes fronts and knows nothing of this.
"""

import hashlib
from dataclasses import dataclass

from cachetools import LRUCache
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pnag.service.contract.etag import not_modified
from pnag.service.engine.bundles import BundleStore
from pnag.service.request_state import RequestState

ROUTE = "/pareto-front"
MAX_FRONTS = 128


@dataclass(frozen=True, slots=True)
class _Front:
    headers: dict[str, str]
    body: bytes


class ParetoFrontCache:
    """ASGI layer that keeps ready fronts, one per catalogue, query and kind of answer."""

    def __init__(self, app: ASGIApp, bundles: BundleStore) -> None:
        self._app = app
        self._bundles = bundles
        self._fronts: LRUCache[tuple[str | bytes, ...], _Front] = LRUCache(MAX_FRONTS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != ROUTE or scope["method"] != "GET":
            await self._app(scope, receive, send)
            return
        state = RequestState.of(scope)
        digest = self._bundles.catalogue.digest
        kind = state.headers.get(b"accept", b""), state.headers.get(b"accept-encoding", b"")
        key = (digest, scope["query_string"], *kind)
        front, cache = self._fronts.get(key), "memory"
        if front is None:
            front, cache = await self._ask(scope, receive, send), "miss"
            if front is None:
                return  # a problem; it has been sent
            if self._bundles.catalogue.digest == digest:
                self._fronts[key] = front
        state.route, state.cache = ROUTE, cache
        response = not_modified(Request(scope), front.headers)
        if response is None:
            response = Response(front.body, headers={**front.headers, "x-cache": cache})
        await response(scope, receive, send)

    async def _ask(self, scope: Scope, receive: Receive, send: Send) -> _Front | None:
        """The route's answer, held back; one that is not a front is sent on as it comes."""
        start: Message = {}
        body: list[bytes] = []

        async def hold(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                start = message
            if start["status"] != 200:
                await send(message)
            elif message["type"] == "http.response.body":
                body.append(message.get("body", b""))

        await self._app(scope, receive, hold)
        if start.get("status") != 200:
            return None
        content = b"".join(body)
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in start["headers"]}
        etag = f'"{hashlib.blake2b(content, digest_size=12).hexdigest()}"'
        return _Front({**headers, "etag": etag, "cache-control": "no-cache"}, content)
