"""JSON bodies read strictly: another media type is 415, and depth and number range are bounded by pydantic's parser."""

import json
from collections.abc import Callable, Coroutine
from typing import Any

import pydantic_core
from fastapi import HTTPException, Request, Response
from fastapi.routing import APIRoute


class JsonRoute(APIRoute):
    """A route whose body, if there is one, must be JSON."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            return await handler(_JsonRequest(request.scope, request.receive))

        return handle


class _JsonRequest(Request):
    async def body(self) -> bytes:
        refuse_encoding(self)
        content = await super().body()
        if content and not is_json(self.headers.get("content-type", "")):
            raise HTTPException(415, "the body must be JSON, sent with content-type: application/json")
        return content

    async def json(self) -> Any:
        content = await self.body()
        try:
            return pydantic_core.from_json(content, allow_inf_nan=False)
        except ValueError as exc:
            # The one error that FastAPI turns into a validation error.
            raise json.JSONDecodeError(str(exc), "", 0) from None


def is_json(content_type: str) -> bool:
    """True for the content type JSON, with or without parameters."""
    return content_type.partition(";")[0].strip().lower() == "application/json"


def refuse_encoding(request: Request) -> None:
    """Raise HTTPException 415 for a compressed body: a few bytes of it could be gigabytes."""
    encoding = request.headers.get("content-encoding", "identity")
    if encoding != "identity":
        raise HTTPException(415, f"content-encoding {encoding!r} is not supported; send the body as it is")
