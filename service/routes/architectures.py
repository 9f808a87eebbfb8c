"""Known networks: predict them, look them up, list the best."""

import csv
import io
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from pnag.service.contract.bodies import bundle_ref, candidate_body, links, to_json
from pnag.service.contract.json_body import JsonRoute
from pnag.service.contract.openapi import CSV, GET_ARCHITECTURE, JSON, LOOK_UP_AGAIN, problems
from pnag.service.contract.problems import ConflictingFieldsError, check_count
from pnag.service.contract.schemas import (
    ArchitectureAnswer,
    CandidateBody,
    FrontBody,
    FrontQuery,
    PredictManyBody,
    PredictOneBody,
    PredictRequest,
)
from pnag.service.routes.dependencies import AnswererDep, BundlesDep, SettingsDep

router = APIRouter(tags=["architectures"], route_class=JsonRoute)


@router.post(
    "/predict",
    response_model=PredictOneBody | PredictManyBody,
    responses={200: LOOK_UP_AGAIN, **problems(404, 413, 415, 422, 503)},
)
async def predict(request: PredictRequest, bundles: BundlesDep, settings: SettingsDep) -> Response:
    """Predicted accuracy, latency and size of networks you name.

    `encoding` gets one candidate, `encodings` a list of them in the same order.
    """
    if (request.encoding is None) == (request.encodings is None):
        raise ConflictingFieldsError("encodings", "send either encoding or encodings")
    encodings = [request.encoding] if request.encoding is not None else request.encodings or []
    check_count("encodings", len(encodings), settings.max_items)
    bundle = bundles.catalogue.get(request.bundle)
    candidates = await bundle.run(lambda: bundle.generator.predict(encodings, request.coverage))
    results = [candidate_body(bundle.space, candidate) for candidate in candidates]
    for result in results:
        bundle.remember(result["architecture"]["id"], result["architecture"]["encoding"])
    common = {"bundle": bundle_ref(bundle.bundle), "device": bundle.device}
    body: dict[str, Any] = {**common, **results[0]} if request.encoding is not None else {**common, "results": results}
    return Response(to_json(body), media_type=JSON)


@router.get(
    "/pareto-front",
    response_model=FrontBody,
    responses={200: {"content": {CSV: {"schema": {"type": "string"}}}}, **problems(404, 422)},
)
async def pareto_front(request: Request, query: Annotated[FrontQuery, Query()], bundles: BundlesDep) -> Response:
    """The best networks of a bundle by rising latency; JSON, or CSV with `Accept: text/csv`."""
    bundle = bundles.catalogue.get(query.bundle)
    arguments = query.model_dump(exclude={"bundle"}, exclude_none=True)
    candidates = await bundle.run(lambda: bundle.generator.pareto_front(**arguments))
    points = [candidate_body(bundle.space, candidate) for candidate in candidates]
    if prefers_csv(request.headers.get("accept", "")):
        return Response(front_csv(points), media_type=CSV, headers={"vary": "accept"})
    coverage = query.coverage if query.coverage is not None else bundle.default_coverage
    body: FrontBody = {
        "bundle": bundle_ref(bundle.bundle),
        "device": bundle.device,
        "latency_coverage": coverage,
        "points": points,
    }
    return Response(to_json(body), media_type=JSON, headers={"vary": "accept"})


@router.get(
    "/architectures/{architecture_id}",
    operation_id=GET_ARCHITECTURE,
    response_model=ArchitectureAnswer,
    responses=problems(404, 422, 503),
)
async def architecture(architecture_id: str, answerer: AnswererDep) -> Response:
    """A network of a front, or one that was answered lately, by its id."""
    bundle, encoding = await answerer.find_architecture(architecture_id)
    (candidate,) = await bundle.run(lambda: bundle.generator.predict([encoding]))
    body: ArchitectureAnswer = {
        **candidate_body(bundle.space, candidate),
        "bundle": bundle_ref(bundle.bundle),
        "device": bundle.device,
        "links": links(bundle.bundle, candidate.architecture),
    }
    return Response(to_json(body), media_type=JSON)


def prefers_csv(accept: str) -> bool:
    """True if CSV is asked for before JSON; what is not mentioned counts as JSON."""
    for part in accept.split(","):
        media_type = part.partition(";")[0].strip().lower()
        if media_type == CSV:
            return True
        if media_type in (JSON, "*/*", "application/*"):
            return False
    return False


def front_csv(points: list[CandidateBody]) -> str:
    """One row per network; the columns are the field names of the JSON."""
    columns = ("latency_upper_ms", "latency_ms", "top1_percent", "macs_m", "params_m", "size_mb", "peak_memory_mb")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["architecture", *columns])
    for point in points:
        predicted: dict[str, Any] = {**point["predicted"]}
        writer.writerow([point["architecture"]["encoding"], *(predicted[column] for column in columns)])
    return text.getvalue()
