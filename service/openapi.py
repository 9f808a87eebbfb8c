"""The OpenAPI document: what FastAPI derives from the routes, and the problem body that all of them refer to."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import TypeAdapter

from service.schemas import ProblemBody


def document_problems(app: FastAPI) -> None:
    """Let the application's OpenAPI document hold the problem body; the document is made when first asked for."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
            problem = TypeAdapter(ProblemBody).json_schema(ref_template="#/components/schemas/{model}")
            schema["components"]["schemas"].update(problem.pop("$defs"), ProblemBody=problem)
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
