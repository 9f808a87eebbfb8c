"""Problems: each error becomes a status and one body, `application/problem+json` (RFC 9457).

`type` is what a program acts on and never changes meaning; docs/service.md lists them all. `detail` is for people.
"""

import http
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil
from types import MappingProxyType
from typing import Any, cast

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.types import Scope

from pnag.models.errors import BudgetError, BundleError, EncodingError, PnagError, SearchSpaceError, UnknownBundleError
from pnag.service.contract.schemas import ArchitectureBody, FieldError, ProblemBody
from pnag.service.request_state import RequestState
from pnag.service.settings import SettingsError

MEDIA_TYPE = "application/problem+json"
PREFIX = "urn:pnag:problem:"
SHOW_A_KEY = MappingProxyType({"www-authenticate": "Bearer"})
RETRY_SOON = MappingProxyType({"retry-after": "1"})


class ServiceError(Exception):
    """A request that cannot be answered for a reason that lies with the service; see the sub-classes."""

    code: str
    status: int
    headers: Mapping[str, str]

    def __init_subclass__(cls, code: str, status: int = 422, headers: Mapping[str, str] = MappingProxyType({})) -> None:
        cls.code, cls.status, cls.headers = code, status, headers


class InvalidRequestError(ServiceError, code="invalid-request"):
    """One field says something that its schema alone cannot refuse."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field, self.message = field, message


class ConflictingFieldsError(InvalidRequestError, code="conflicting-fields"):
    """Each field is as its schema wants it, but together they say too little, too much, or two things."""


class OverloadedError(ServiceError, code="overloaded", status=503, headers=RETRY_SOON):
    """Too many are waiting: come back later."""


class DeadlineError(ServiceError, code="deadline-exceeded", status=503, headers=RETRY_SOON):
    """It took longer than the caller, or the operator, wants to wait."""


class BodyTooLargeError(ServiceError, code="body-too-large", status=413):
    """More bytes than the operator allows."""


class UnauthorizedError(ServiceError, code="unauthorized", status=401, headers=SHOW_A_KEY):
    """No API key, or one that is not ours."""


class ForbiddenError(ServiceError, code="forbidden", status=403):
    """The API key does not reach this far."""


class RateLimitedError(ServiceError, code="rate-limited", status=429):
    """More requests than this caller may make."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.headers = {"retry-after": str(ceil(retry_after_s))}


class NotReadyError(ServiceError, code="not-ready", status=503, headers=RETRY_SOON):
    """The service is starting or going away."""


class BundleRequiredError(ServiceError, code="bundle-required"):
    """Several bundles are loaded, and the request leaves open which one it means."""


class InfeasibleError(ServiceError, code="infeasible-budget"):
    """No network of the bundle fits; carries the one that comes nearest."""

    def __init__(self, message: str, smallest_feasible_ms: float | None, architecture: ArchitectureBody) -> None:
        super().__init__(message)
        self.smallest_feasible_ms = smallest_feasible_ms
        self.architecture = architecture


class UnknownArchitectureError(ServiceError, code="unknown-architecture", status=404):
    """No loaded bundle knows this id."""


class NoWeightsError(ServiceError, code="no-weights", status=404):
    """The bundle predicts the network, but holds no weights to build it."""


@dataclass(frozen=True)
class Problem:
    """A problem, ready to be sent."""

    code: str
    status: int
    detail: str
    extras: dict[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)

    def body(self, request_id: str | None = None) -> ProblemBody:
        """The JSON object."""
        title = TITLES.get(self.code) or http.HTTPStatus(self.status).phrase
        body = {"type": PREFIX + self.code, "title": title, "status": self.status, "detail": self.detail, **self.extras}
        return cast(ProblemBody, body | ({"request_id": request_id} if request_id else {}))

    def content(self, scope: Scope) -> bytes:
        """The JSON of a response to a request."""
        body: dict[str, Any] = {**self.body(RequestState.of(scope).request_id)}
        if scope["path"].startswith("/v2/"):
            body["error"] = self.detail  # where clients of the Open Inference Protocol look
        return orjson.dumps(body)

    def response(self, scope: Scope) -> Response:
        """The whole response to a request."""
        return Response(self.content(scope), self.status, dict(self.headers), MEDIA_TYPE)


TITLES = {
    "invalid-request": "The request is not valid",
    "conflicting-fields": "Some fields do not go together",
    "infeasible-budget": "No network is fast enough",
    "invalid-budget": "The budget or its coverage cannot be promised",
    "invalid-encoding": "The encoding is not a network of the search space",
    "unknown-bundle": "No such bundle",
    "bundle-required": "Which bundle?",
    "unknown-search-space": "No such search space",
    "unknown-architecture": "No such architecture",
    "no-weights": "The bundle has no weights of this network",
    "body-too-large": "The body is too large",
    "unauthorized": "An API key is needed",
    "forbidden": "The API key does not reach this far",
    "rate-limited": "Too many requests",
    "deadline-exceeded": "It took too long",
    "reload-failed": "The reload failed",
    "overloaded": "Too many requests are waiting",
    "not-ready": "The service is not ready",
}

_HTTP_CODES = {404: "not-found", 405: "method-not-allowed", 413: "body-too-large", 415: "unsupported-media-type"}


def problem_of(exc: Exception) -> Problem:
    """The problem that an error amounts to; anything unforeseen is a 500 that says nothing of the inside."""
    match exc:
        case InfeasibleError():
            extras = {"smallest_feasible_ms": exc.smallest_feasible_ms, "architecture": exc.architecture}
            return Problem(exc.code, exc.status, str(exc), extras)
        case BudgetError():
            return Problem("invalid-budget", 422, str(exc))
        case EncodingError():
            return Problem("invalid-encoding", 422, str(exc))
        case UnknownBundleError():
            return Problem("unknown-bundle", 404, str(exc))
        case SearchSpaceError():
            return Problem("unknown-search-space", 404, str(exc))
        case InvalidRequestError():
            return _invalid([{"field": exc.field, "message": exc.message}], exc.code)
        case BundleError() | SettingsError():
            return Problem("reload-failed", 409, f"everything stays as it was: {exc}")
        case ServiceError():
            return Problem(exc.code, exc.status, str(exc), headers=exc.headers)
        case RequestValidationError():
            return _invalid([_field_error(error) for error in exc.errors()])
        case ValidationError():
            return _invalid([_field_error({**error, "loc": ("body", *error["loc"])}) for error in exc.errors()])
        case HTTPException():
            code = _HTTP_CODES.get(exc.status_code, http.HTTPStatus(exc.status_code).phrase.lower().replace(" ", "-"))
            return Problem(code, exc.status_code, str(exc.detail), headers=dict(exc.headers or {}))
        case _:
            return Problem("internal-error", 500, "The service failed; its log has the details under the request id.")


def check_count(field: str, count: int, max_count: int) -> None:
    """Raise InvalidRequestError if a list is longer than the operator allows."""
    if count > max_count:
        raise InvalidRequestError(field, f"{count} items; send at most {max_count} at once (PNAG_MAX_ITEMS)")


def _invalid(errors: list[FieldError], code: str = InvalidRequestError.code) -> Problem:
    detail = "; ".join(f"{e['field']}: {e['message']}" if e["field"] else e["message"] for e in errors[:5])
    return Problem(code, 422, detail, {"errors": errors[:50]})


def _field_error(error: Any) -> FieldError:
    """One pydantic finding; what was sent is not repeated, it may be large or secret."""
    _where, *path = error["loc"]
    message = error["msg"]
    if error["type"] == "extra_forbidden":
        message = "no such field; see /docs for those there are"
    if error["type"] == "json_invalid":
        return {"field": "", "message": f"the body is not valid JSON ({error.get('ctx', {}).get('error', message)})"}
    return {"field": ".".join(str(part) for part in path), "message": message}


def add_handlers(app: FastAPI) -> None:
    """Make every error leave as a problem, those of the framework too."""

    async def handle(request: Request, exc: Exception) -> Response:
        return problem_of(exc).response(request.scope)

    for kind in (ServiceError, PnagError, ValidationError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, handle)
