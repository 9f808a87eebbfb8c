"""`GET /pareto-front` from memory, with an ETag: a front changes only when its bundle does.

The route behind it computes fronts and knows nothing of this.
"""

import hashlib
from dataclasses import dataclass

from cachetools import LRUCache
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pnag.service.engine.bundles import BundleStore

ROUTE = "/pareto-front"
MAX_FRONTS = 128

Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class _Front:
    headers: Headers
    body: bytes
    etag: bytes


class FrontCache:
    """ASGI layer that keeps ready fronts, one per query and kind of answer."""

    def __init__(self, app: ASGIApp, bundles: BundleStore) -> None:
        self._app = app
        self._bundles = bundles
        self._fronts: LRUCache[tuple[bytes, bytes, bytes], _Front] = LRUCache(MAX_FRONTS)
        self._mark: object = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != ROUTE or scope["method"] != "GET":
            await self._app(scope, receive, send)
            return
        mark = self._bundles.catalogue.mark
        if mark is not self._mark:
            self._fronts.clear()
            self._mark = mark
        headers = scope["pnag.headers"]
        key = (scope["query_string"], headers.get(b"accept", b""), headers.get(b"accept-encoding", b""))
        front, cache = self._fronts.get(key), "memory"
        if front is None:
            front, cache = await self._ask(scope, receive, send), "miss"
            if front is None:
                return  # a problem; it has been sent
            if mark is self._mark:
                self._fronts[key] = front
        scope["pnag.route"], scope["pnag.cache"] = ROUTE, cache
        if front.etag in headers.get(b"if-none-match", b""):
            kept = [(name, value) for name, value in front.headers if name not in (b"content-length", b"content-type")]
            await send({"type": "http.response.start", "status": 304, "headers": kept})
            await send({"type": "http.response.body", "body": b""})
            return
        await send(
            {"type": "http.response.start", "status": 200, "headers": [*front.headers, (b"x-cache", cache.encode())]}
        )
        await send({"type": "http.response.body", "body": front.body})

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
        etag = b'"%b"' % hashlib.blake2b(content, digest_size=12).hexdigest().encode()
        headers = [*start["headers"], (b"etag", etag), (b"cache-control", b"no-cache")]
        return _Front(headers, content, etag)
