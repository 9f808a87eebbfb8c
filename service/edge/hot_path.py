"""Answers `POST /generate` without the framework, which costs several times what a remembered answer does.

It understands a request exactly as the route does (same model, same answerer) or leaves it alone: whatever is unusual
(a query, another media type, a body that does not validate) goes on to the route, which says what is wrong with it.

A body that was answered before is not even parsed: the same bytes ask the same as long as the same bundles are loaded.
Parsing, the key and the look-up would be a quarter of what the whole request costs (docs/benchmarks-serving.md).
"""

from pydantic import ValidationError
from starlette.types import Receive, Scope

from pnag.service.contract.json_body import is_json
from pnag.service.contract.schemas import GenerateRequest
from pnag.service.edge.limits import asked_timeout_s, patience, read_body
from pnag.service.engine.answerer import Answerer, Reply
from pnag.service.engine.bundles import BundleStore
from pnag.service.settings import Settings

ROUTE = "/generate"
MAX_KEPT_BODY = 512


class HotPath:
    """Answers usual requests to `POST /generate`, remembered ones at once."""

    def __init__(self, answerer: Answerer, bundles: BundleStore, settings: Settings) -> None:
        self._answerer = answerer
        self._bundles = bundles
        self._settings = settings
        self._mark: object = None
        self._answered: dict[bytes, Reply] = {}
        """Body of a request -> its answer by the catalogue of that mark."""

    async def answer(self, scope: Scope, receive: Receive) -> Reply | None:
        """The answer, or None if this is for the framework.

        Raises:
            PnagError, ServiceError: what there is to tell the caller instead of an answer.
            ClientGoneError: if the caller hung up.
        """
        if scope["path"] != ROUTE or scope["method"] != "POST" or scope["query_string"]:
            return None
        headers = scope["pnag.headers"]
        content_type = headers.get(b"content-type", b"")
        if b"content-encoding" in headers:
            return None
        if content_type != b"application/json" and not is_json(content_type.decode("latin-1")):
            return None
        scope["pnag.route"] = ROUTE
        body = await read_body(scope, receive, self._settings.max_body_bytes)
        mark = self._bundles.catalogue.mark
        if self._mark is not mark:
            self._mark, self._answered = mark, {}
        return self._answered.get(body) or await self._find(scope, receive, body)

    async def _find(self, scope: Scope, receive: Receive, body: bytes) -> Reply | None:
        """The answer to a body that is new; None if the route has to say what is wrong with the request."""
        timeout_s = asked_timeout_s(scope["pnag.headers"], self._settings.request_timeout_s)
        try:
            request = GenerateRequest.model_validate_json(body)
        except ValidationError:
            return None
        if timeout_s is None:
            return None
        mark = self._mark
        asked = self._answerer.understand(request)
        reply = self._answerer.remembered(asked)
        if reply is None:
            self._answerer.check_room(asked)
            async with patience(receive, timeout_s):
                reply = await self._answerer.find(asked)
        # Unless the bundles were replaced meanwhile. Long bodies are not kept: they could be many, and all different.
        if mark is self._mark and len(body) <= MAX_KEPT_BODY and self._settings.cache_entries:
            if len(self._answered) >= self._settings.cache_entries:
                self._answered.clear()
            self._answered[body] = Reply(reply.content, "memory")
        return reply
