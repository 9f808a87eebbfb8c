"""The Open Inference Protocol (KServe v2), so that its clients and gateways can ask for networks as they ask any model.

A bundle is a model: budgets in ms go in, encodings and predictions come out. Problems carry their detail as `error`
too, which is where such clients look.
"""

from typing import Any

import orjson
from fastapi import APIRouter, Request, Response

from pnag.service.contract.json_body import refuse_encoding
from pnag.service.contract.open_inference import (
    HEADER_LENGTH,
    InferResponse,
    ModelMetadata,
    ModelReady,
    ServerMetadata,
    read_request,
    tensors_metadata,
    write_response,
)
from pnag.service.contract.openapi import JSON, problems
from pnag.service.contract.problems import NotReadyError, check_count
from pnag.service.engine.bundles import Catalogue
from pnag.service.engine.loaded_bundle import LoadedBundle
from pnag.service.routes.dependencies import AnswererDep, BundlesDep, LifecycleDep, SettingsDep
from pnag.service.version import VERSION

router = APIRouter(prefix="/v2", tags=["open inference protocol"])

_INFER_BODY = {
    "requestBody": {
        "description": f"JSON; with the header {HEADER_LENGTH}, so many bytes of JSON and then tensors as bytes.",
        "required": True,
        "content": {JSON: {"schema": {"$ref": "#/components/schemas/InferRequest"}}},
    }
}


@router.get("", response_model=ServerMetadata)
async def server() -> ServerMetadata:
    """This server and what it can do beyond the protocol's core."""
    return {"name": "pnag", "version": VERSION, "extensions": ["binary_tensor_data"]}


@router.get("/health/live", response_model=dict[str, bool])
async def live() -> dict[str, bool]:
    """The process answers."""
    return {"live": True}


@router.get("/health/ready", response_model=dict[str, bool], responses=problems(503))
async def ready(bundles: BundlesDep, lifecycle: LifecycleDep) -> dict[str, bool]:
    """Budgets can be answered."""
    if lifecycle.is_draining or not bundles.catalogue.bundles:
        raise NotReadyError("shutting down" if lifecycle.is_draining else "no bundle is loaded yet")
    return {"ready": True}


@router.get("/models/{name}", response_model=ModelMetadata, responses=problems(404, 422))
@router.get("/models/{name}/versions/{version}", response_model=ModelMetadata, responses=problems(404, 422))
async def model(name: str, bundles: BundlesDep, version: str | None = None) -> ModelMetadata:
    """A bundle's inputs and outputs."""
    _find(bundles.catalogue, name, version)
    inputs, outputs = tensors_metadata()
    versions = [bundle.version for bundle in bundles.catalogue.bundles if bundle.name == name]
    return {"name": name, "versions": versions, "platform": "pnag", "inputs": inputs, "outputs": outputs}


@router.get("/models/{name}/ready", response_model=ModelReady, responses=problems(404, 422))
@router.get("/models/{name}/versions/{version}/ready", response_model=ModelReady, responses=problems(404, 422))
async def model_ready(name: str, bundles: BundlesDep, version: str | None = None) -> ModelReady:
    """A bundle that is loaded is ready."""
    _find(bundles.catalogue, name, version)
    return {"name": name, "ready": True}


@router.post(
    "/models/{name}/infer",
    response_model=InferResponse,
    responses=problems(404, 413, 415, 422, 503),
    openapi_extra=_INFER_BODY,
)
@router.post(
    "/models/{name}/versions/{version}/infer",
    response_model=InferResponse,
    responses=problems(404, 413, 415, 422, 503),
    openapi_extra=_INFER_BODY,
)
async def infer(
    name: str,
    request: Request,
    answerer: AnswererDep,
    bundles: BundlesDep,
    settings: SettingsDep,
    version: str | None = None,
) -> Response:
    """A network for each budget; one without an answer fails the request, as the protocol has it."""
    bundle = _find(bundles.catalogue, name, version)
    refuse_encoding(request)
    asked, budgets_ms = read_request(await request.body(), request.headers.get(HEADER_LENGTH))
    check_count("inputs.0.data", len(budgets_ms), settings.max_items)
    answers: list[Any] = []
    for reply in await answerer.answer_each(bundle, asked.parameters, budgets_ms):
        if isinstance(reply, Exception):
            raise reply
        answers.append(orjson.loads(reply.content))
    content, json_length = write_response(asked, bundle.name, bundle.version, answers)
    if json_length is None:
        return Response(content, media_type=JSON)
    return Response(content, media_type="application/octet-stream", headers={HEADER_LENGTH: str(json_length)})


def _find(catalogue: Catalogue, name: str, version: str | None) -> LoadedBundle:
    return catalogue.get(name if version is None else f"{name}@{version}")
