"""What the routes say of themselves in the OpenAPI document."""

from typing import Any

from service.schemas import ProblemBody

JSON = "application/json"

_WHY = {
    400: "The request is not HTTP as it should be",
    401: "No API key, or an unknown one",
    403: "The API key does not reach this far",
    404: "No such bundle, architecture or search space",
    406: "None of the accepted media types can be had",
    413: "The body is too large",
    415: "The body is not JSON",
    422: "The request is not valid, or no network fits",
    429: "Too many requests for this key",
    503: "Overloaded, or not ready; see Retry-After",
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """`responses=` of a route that can answer with these problems."""
    return {status: {"model": ProblemBody, "description": _WHY[status]} for status in statuses}
