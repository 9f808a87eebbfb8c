"""Knowledge of a bundle beside its front: the networks it was trained on, named references, the bounds it can promise.

All of it is fixed when the bundle is loaded, so it is worked out once for each bundle and kept as bytes, gzipped too:
compressing it for each request would hold up everybody else's for 60 ms.
"""

import gzip
from typing import Annotated
from weakref import WeakKeyDictionary

import numpy as np
from fastapi import APIRouter, Path, Request, Response
from typing_extensions import TypedDict

from pnag.models.cost.latency_table import LatencyTable
from pnag.models.errors import BudgetError
from pnag.service.contract.bodies import bundle_ref, candidate_body, to_json
from pnag.service.contract.etag import not_modified
from pnag.service.contract.openapi import JSON, problems
from pnag.service.contract.schemas import BundleRef, CandidateBody
from pnag.service.engine.loaded_bundle import LoadedBundle
from pnag.service.routes.dependencies import BundlesDep

COVERAGES = (0.5, 0.8, 0.9, 0.95, 0.99)
"""Coverages worth offering to somebody who has none in mind, beside the bundle's own."""

router = APIRouter(tags=["bundles"])


_ready: WeakKeyDictionary[LoadedBundle, tuple[bytes, bytes]] = WeakKeyDictionary()
"""Answers, plain and gzipped; each goes when its bundle does."""


class BoundBody(TypedDict):
    """One promise: `latency_upper_ms` is `latency_ms` times `factor`, and holds with probability `coverage`."""

    coverage: float
    factor: float


class ReferenceBody(CandidateBody):
    """A network that people know by a name."""

    name: str


class KnownBody(TypedDict):
    """The measured networks a bundle was trained on, as columns of equal length, by rising latency.

    `top1_percent` is measured; `latency_ms` is what the bundle's table says of the network.
    """

    bundle: BundleRef
    device: str
    bounds: list[BoundBody]
    references: list[ReferenceBody]
    encodings: list[str]
    latency_ms: list[float]
    top1_percent: list[float]


@router.get("/bundles/{name}/known", response_model=KnownBody, responses=problems(404, 422))
async def known(
    request: Request,
    name: Annotated[str, Path(description="A name, or `name@version`.", max_length=200)],
    bundles: BundlesDep,
) -> Response:
    """The networks behind a bundle, with the bounds it can promise; for drawing beside `/pareto-front`."""
    bundle = bundles.catalogue.get(name)
    headers = {"etag": f'"known-{bundle.digest[:24]}"', "cache-control": "no-cache", "vary": "accept-encoding"}
    unchanged = not_modified(request, headers)
    if unchanged is not None:
        return unchanged
    ready = _ready.get(bundle)
    if ready is None:
        ready = _ready[bundle] = await bundle.run(lambda: _prepare(bundle))
    plain, gzipped = ready
    if "gzip" in request.headers.get("accept-encoding", ""):
        return Response(gzipped, media_type=JSON, headers={**headers, "content-encoding": "gzip"})
    return Response(plain, media_type=JSON, headers=headers)


def _prepare(bundle: LoadedBundle) -> tuple[bytes, bytes]:
    plain = to_json(known_body(bundle))
    return plain, gzip.compress(plain, 6, mtime=0)


def known_body(bundle: LoadedBundle) -> KnownBody:
    """The whole answer for one bundle; takes as long as the evaluator does for its references."""
    records, space = bundle.bundle.known, bundle.space
    tokens = [space.decode(record.encoding) for record in records]
    tokens_ND = np.array(tokens, dtype=np.int64).reshape(-1, len(space.decisions))
    latency_ms_N = bundle.bundle.costs().latency_ms(tokens_ND)
    order_N = np.argsort(latency_ms_N, kind="stable")
    named = bundle.bundle.manifest.get("references", [])
    candidates = bundle.generator.predict([entry["encoding"] for entry in named]) if named else []
    return {
        "bundle": bundle_ref(bundle.bundle),
        "device": bundle.device,
        "bounds": bounds(bundle.bundle.latency_table),
        "references": [
            {"name": str(entry["name"]), **candidate_body(space, candidate)}
            for entry, candidate in zip(named, candidates, strict=True)
        ],
        "encodings": [records[i].encoding for i in order_N],
        "latency_ms": [round(float(latency_ms_N[i]), 4) for i in order_N],
        "top1_percent": [round(records[i].accuracy * 100, 4) for i in order_N],
    }


def bounds(table: LatencyTable) -> list[BoundBody]:
    """The coverages that the table can promise, rising, with their factors."""
    found: list[BoundBody] = []
    for coverage in sorted({*COVERAGES, table.default_coverage}):
        try:
            found.append({"coverage": coverage, "factor": table.bound_factor(coverage)})
        except BudgetError:
            continue  # too few networks were measured for this one
    return found
