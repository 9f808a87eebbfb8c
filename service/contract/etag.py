"""Conditional requests: a caller who has the answer already is told so, and gets no body."""

from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import Response


def not_modified(request: Request, headers: Mapping[str, str]) -> Response | None:
    """The 304 to a request whose `If-None-Match` names the ETag among these headers; None if it needs the body."""
    if headers["etag"] not in request.headers.get("if-none-match", ""):
        return None
    kept = {name: value for name, value in headers.items() if name not in ("content-type", "content-length")}
    return Response(status_code=304, headers=kept)
