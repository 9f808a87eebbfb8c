"""The OpenAPI document: what FastAPI derives from the routes, with errors under the media type they are sent as."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from service.errors import MEDIA_TYPE


def document_problems(app: FastAPI) -> None:
    """Let the application's OpenAPI document say that errors are problems; it is made when first asked for."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
            for methods in schema["paths"].values():
                for operation in methods.values():
                    for status, response in operation["responses"].items():
                        if int(status) >= 400:
                            (body,) = response["content"].values()
                            response["content"] = {MEDIA_TYPE: body}
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
