"""`GET /architectures/{id}/model.onnx`: the network itself."""

import base64
from collections.abc import AsyncIterator
from typing import Annotated

import anyio
from fastapi import APIRouter, Query, Request, Response
from starlette.responses import StreamingResponse

from pnag.models.space.search_space import Architecture
from pnag.service.contract.etag import not_modified
from pnag.service.contract.openapi import GET_MODEL, problems
from pnag.service.contract.problems import NoWeightsError
from pnag.service.engine.loaded_bundle import LoadedBundle
from pnag.service.engine.model_files import ModelFile
from pnag.service.routes.dependencies import AnswererDep, BundlesDep, ModelFilesDep, StateDep

router = APIRouter(tags=["architectures"])

CHUNK_BYTES = 1 << 18
DOWNLOAD_S = 600
"""What a caller may take to read it: PNAG_REQUEST_TIMEOUT_S is for the answer to begin."""


@router.get(
    "/architectures/{architecture_id}/model.onnx",
    operation_id=GET_MODEL,
    response_class=Response,
    responses={
        200: {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}},
        304: {"description": "The file has the ETag that `If-None-Match` names"},
        **problems(404, 422, 503),
    },
)
async def model(
    architecture_id: str,
    request: Request,
    state: StateDep,
    answerer: AnswererDep,
    bundles: BundlesDep,
    model_files: ModelFilesDep,
    bundle: Annotated[
        str | None, Query(description="Whose weights, as `name` or `name@version`. Default: any that has them.")
    ] = None,
) -> Response:
    """The runnable network, where the bundle has its weights: ONNX, images in, logits out.

    Its metadata say which network it is, how images must be prepared, and what was measured. `ETag` is the sha256 of
    the file, and so is `Repr-Digest`.
    """
    wanted = None if bundle is None else bundles.catalogue.get(bundle)
    found, encoding = await answerer.find_architecture(architecture_id)
    architecture = Architecture(found.space.name, encoding)
    holders = [wanted] if wanted else [found, *bundles.catalogue.bundles]
    holder = next((h for h in holders if _has_weights_of(h, architecture)), None)
    if holder is None:
        raise NoWeightsError(_advice(wanted or found, architecture))
    file = await model_files.get(holder, architecture_id, encoding)
    headers = {
        "etag": f'"{file.sha256}"',
        "repr-digest": f"sha-256=:{base64.b64encode(bytes.fromhex(file.sha256)).decode()}:",
        "cache-control": "no-cache",
    }
    unchanged = not_modified(request, headers)
    if unchanged is not None:
        file.file.close()
        return unchanged
    headers |= {
        "content-length": str(file.size_bytes),
        "content-disposition": f'attachment; filename="{architecture.space}-{architecture_id}.onnx"',
        # Weights do not compress; saying so keeps the compression layer from trying for seconds.
        "content-encoding": "identity",
    }
    state.extend_deadline(DOWNLOAD_S)
    return StreamingResponse(_chunks(file), headers=headers, media_type="application/octet-stream")


def _has_weights_of(bundle: LoadedBundle, architecture: Architecture) -> bool:
    return bundle.space.name == architecture.space and bundle.bundle.has_weights_of(architecture.encoding)


def _advice(bundle: LoadedBundle, architecture: Architecture) -> str:
    weights = bundle.bundle.weights
    lacking = "no weights" if weights is None else f"weights of {len(weights.index.accuracies)} other networks"
    return (
        f"bundle {bundle.name} has {lacking}; with a supernet's weights, `pnag export --bundle {bundle.name} "
        f"--architecture {architecture.encoding} --weights FILE --out model.onnx` writes the network"
    )


async def _chunks(file: ModelFile) -> AsyncIterator[bytes]:
    with file.file:
        while chunk := await anyio.to_thread.run_sync(file.file.read, CHUNK_BYTES):
            yield chunk
