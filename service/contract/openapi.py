"""The OpenAPI document: what FastAPI derives from the routes, and the bodies that it cannot see in them."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import TypeAdapter

from pnag.service.contract.open_inference import InferRequest
from pnag.service.contract.schemas import ProblemBody


def document_problems(app: FastAPI) -> None:
    """Let the OpenAPI document hold the bodies that routes refer to by name; it is made when first asked for."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
            for model in (ProblemBody, InferRequest):
                extra = TypeAdapter(model).json_schema(ref_template="#/components/schemas/{model}")
                schema["components"]["schemas"].update(extra.pop("$defs"), **{model.__name__: extra})
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
