"""The OpenAPI document: what routes say of themselves, and bodies that FastAPI cannot see in them."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import TypeAdapter

from pnag.service.contract.open_inference import InferRequest
from pnag.service.contract.problems import MEDIA_TYPE
from pnag.service.contract.schemas import ProblemBody

JSON = "application/json"
CSV = "text/csv"

GET_ARCHITECTURE, GET_MODEL = "get_architecture", "get_model"

_ID = {"architecture_id": "$response.body#/architecture/id"}
LOOK_UP_AGAIN: dict[str, Any] = {
    "links": {
        "architecture": {"operationId": GET_ARCHITECTURE, "parameters": _ID},
        "model": {"operationId": GET_MODEL, "parameters": _ID},
    }
}
"""The 200 of a route whose answer names a network: where that can be asked for again."""

_WHY = {
    400: "The request is not HTTP as it should be",
    401: "No API key, or an unknown one",
    403: "The API key does not reach this far",
    404: "No such bundle, architecture or search space",
    409: "The reload failed; everything stays as it was",
    413: "The body is too large",
    415: "The body is not JSON",
    422: "The request is not valid, or no network fits",
    429: "Too many requests for this key",
    503: "Overloaded, or not ready; see Retry-After",
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """`responses=` of a route that can answer with these problems."""
    # By reference, not as a model: FastAPI would build a validator per route and status (0.3 s in all) and not use it.
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemBody"}}}
    return {status: {"description": _WHY[status], "content": content} for status in statuses}


def document_problems(app: FastAPI) -> None:
    """Add the bodies that routes refer to by name to the OpenAPI document, which is made when first asked for."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
            for model in (ProblemBody, InferRequest):
                extra = TypeAdapter(model).json_schema(ref_template="#/components/schemas/{model}")
                schema["components"]["schemas"].update(extra.pop("$defs"), **{model.__name__: extra})
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
