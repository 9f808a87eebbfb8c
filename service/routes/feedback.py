"""Reports from the field: devices send them, operators see whether promises hold."""

import csv
import io
from collections.abc import Iterable
from time import time
from typing import Annotated

from fastapi import APIRouter, Path, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypedDict

from pnag.service.contract.bodies import bundle_ref, to_json
from pnag.service.contract.json_body import JsonRoute
from pnag.service.contract.openapi import CSV, JSON, problems
from pnag.service.contract.problems import ConflictingFieldsError, UnknownArchitectureError
from pnag.service.contract.schemas import BundleName, BundleRef, Positive
from pnag.service.feedback.report import FieldReport
from pnag.service.feedback.summary import Summary
from pnag.service.routes.architectures import prefers_csv
from pnag.service.routes.dependencies import AnswererDep, BundlesDep, FeedbackDep

MAX_DEVICES = 100
"""Listed one by one; devices name themselves, so there may be any number."""


router = APIRouter(tags=["feedback"], route_class=JsonRoute)


class FeedbackRequest(BaseModel):
    """A network that was measured, by `id` or by `encoding`."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True)

    id: Annotated[str, Field(max_length=100)] | None = None
    """As /generate gave it; known for a while."""
    encoding: Annotated[str, Field(max_length=1000)] | None = None
    bundle: BundleName | None = None
    """Which bundle promised: a name, or `name@version`. With `id` it is the one that knows it."""
    device: Annotated[str, Field(min_length=1, max_length=200)]
    """What it was measured on, in words that the operator will know."""
    latency_ms: Annotated[Positive, Field(le=1e7)]


class FeedbackBody(TypedDict):
    """What was promised for that network."""

    bundle: BundleRef
    encoding: str
    promised_ms: float
    coverage: float
    is_within: bool


class SummaryBody(TypedDict):
    """How well promises were kept."""

    num_reports: int
    over_fraction: float | None
    median_ratio: float | None


class DeviceBody(SummaryBody):
    """The same for the reports of one device."""

    device: str


class FeedbackOfBundleBody(SummaryBody):
    """How well a bundle's promises were kept, by the reports of the last weeks."""

    bundle: BundleRef
    device: str
    coverage: float
    """Promised: `over_fraction` should be about 1 minus this, or less."""
    devices: list[DeviceBody]


@router.post("/feedback", status_code=202, response_model=FeedbackBody, responses=problems(404, 413, 415, 422, 503))
async def feedback(
    request: FeedbackRequest, bundles: BundlesDep, answerer: AnswererDep, feedback: FeedbackDep
) -> Response:
    """Report what a network took on a device. It is kept and counted; answers do not change by it."""
    if (request.id is None) == (request.encoding is None):
        raise ConflictingFieldsError("id", "send either id or encoding")
    if request.encoding is not None:
        bundle, encoding = bundles.catalogue.get(request.bundle), request.encoding
    else:
        assert request.id is not None
        found = await answerer.known_encoding(request.id)
        if found is None:
            raise UnknownArchitectureError(f"no loaded bundle knows architecture {request.id!r}; send its encoding")
        bundle, encoding = found
        if request.bundle is not None:
            bundle = bundles.catalogue.get(request.bundle)
    (candidate,) = await bundle.run(lambda: bundle.generator.predict([encoding]))
    promised_ms = candidate.predicted.latency_upper_ms
    report = FieldReport(candidate.architecture.encoding, request.device, request.latency_ms, promised_ms, time())
    await feedback.add(bundle.name, bundle.digest, report)
    body: FeedbackBody = {
        "bundle": bundle_ref(bundle.bundle),
        "encoding": report.encoding,
        "promised_ms": round(promised_ms, 4),
        "coverage": bundle.default_coverage,
        "is_within": report.ratio <= 1,
    }
    return Response(to_json(body), 202, media_type=JSON)


@router.get(
    "/bundles/{name}/feedback",
    response_model=FeedbackOfBundleBody,
    responses={200: {"content": {CSV: {"schema": {"type": "string"}}}}, **problems(404, 422, 503)},
)
async def bundle_feedback(
    request: Request,
    name: Annotated[str, Path(description="A name, or `name@version`.", max_length=200)],
    bundles: BundlesDep,
    feedback: FeedbackDep,
) -> Response:
    """Whether a bundle's promises hold in the field, by device; the reports themselves with `Accept: text/csv`."""
    bundle = bundles.catalogue.get(name)
    reports = await feedback.store.all(bundle.digest)
    if prefers_csv(request.headers.get("accept", "")):
        return Response(reports_csv(reports), media_type=CSV, headers={"vary": "accept"})
    by_device: dict[str, list[FieldReport]] = {}
    for report in reports:
        by_device.setdefault(report.device, []).append(report)
    busiest = sorted(by_device.items(), key=lambda item: -len(item[1]))[:MAX_DEVICES]
    body: FeedbackOfBundleBody = {
        "bundle": bundle_ref(bundle.bundle),
        "device": bundle.device,
        "coverage": bundle.default_coverage,
        **_summary(reports),
        "devices": [{"device": device, **_summary(some)} for device, some in busiest],
    }
    return Response(to_json(body), media_type=JSON, headers={"vary": "accept"})


def reports_csv(reports: Iterable[FieldReport]) -> str:
    """One row for each report, as `pnag latency fit-feedback` reads them."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["architecture", "latency_ms", "promised_ms", "device", "reported_at"])
    for report in reports:
        # A spreadsheet runs what starts like a formula.
        device = f"'{report.device}" if report.device[:1] in "=+-@\t\r" else report.device
        writer.writerow([report.encoding, report.latency_ms, report.promised_ms, device, round(report.reported_at)])
    return text.getvalue()


def _summary(reports: list[FieldReport]) -> SummaryBody:
    summary = Summary.of(reports)
    return {
        "num_reports": summary.num_reports,
        "over_fraction": summary.over_fraction,
        "median_ratio": None if summary.median_ratio is None else round(summary.median_ratio, 4),
    }
