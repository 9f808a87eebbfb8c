"""Answers `POST /generate` without the framework, which costs several times what a remembered answer does.

It understands a request exactly as the route does (same model, same answerer) or leaves it alone: whatever is unusual
(a query, another media type, a body that does not validate) goes on to the route, which says what is wrong with it.
"""

from pydantic import ValidationError
from starlette.types import ASGIApp, Receive, Scope, Send

from models.errors import PnagError
from service.answerer import Answerer
from service.bounds import ClientGoneError, asked_timeout_s, patience
from service.errors import ServiceError, problem_of
from service.json_route import is_json
from service.schemas import GenerateRequest

ROUTE = "/generate"


class HotPath:
    """ASGI layer in front of the framework."""

    def __init__(self, app: ASGIApp, answerer: Answerer, *, timeout_s: float) -> None:
        self._app = app
        self._answerer = answerer
        self._timeout_s = timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = _usual_request(scope)
        if request is None:
            await self._app(scope, receive, send)
            return
        scope["pnag.route"] = ROUTE
        try:
            asked = self._answerer.understand(request)
            content, cache = self._answerer.remembered(asked), "memory"
            if content is None:
                timeout_s = asked_timeout_s(scope["pnag.headers"], self._timeout_s)
                if timeout_s is None:
                    await self._app(scope, receive, send)
                    return
                async with patience(receive, timeout_s):
                    reply = await self._answerer.find(asked)
                content, cache = reply.content, reply.cache
        except (PnagError, ServiceError) as exc:
            await problem_of(exc).response(scope["pnag.request_id"])(scope, receive, send)
            return
        except ClientGoneError:
            return
        scope["pnag.cache"] = cache
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(content)),
            (b"x-cache", cache.encode()),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": content})


def _usual_request(scope: Scope) -> GenerateRequest | None:
    """The request, if it is one that the route would take too and needs nothing but its body to be understood."""
    if scope["type"] != "http" or scope["path"] != ROUTE or scope["method"] != "POST" or scope["query_string"]:
        return None
    content_type = scope["pnag.headers"].get(b"content-type", b"")
    if content_type != b"application/json" and not is_json(content_type.decode("latin-1")):
        return None
    try:
        return GenerateRequest.model_validate_json(scope["pnag.body"])
    except ValidationError:
        return None
