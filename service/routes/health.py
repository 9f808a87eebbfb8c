"""Health and metrics: is it alive, can it answer, how does it do."""

from fastapi import APIRouter, Response

from pnag.service.contract.openapi import problems
from pnag.service.contract.problems import NotReadyError
from pnag.service.contract.schemas import StatusBody
from pnag.service.routes.dependencies import BundlesDep, LifecycleDep, MetricsDep

router = APIRouter(tags=["health"])


@router.get("/healthz", response_model=StatusBody)
async def healthz() -> StatusBody:
    """The process answers."""
    return {"status": "alive"}


@router.get("/readyz", response_model=StatusBody, responses=problems(503))
async def readyz(bundles: BundlesDep, lifecycle: LifecycleDep) -> StatusBody:
    """Budgets can be answered: a bundle is loaded, and the service is not going away."""
    if lifecycle.is_draining:
        raise NotReadyError("shutting down")
    if not bundles.catalogue.bundles:
        raise NotReadyError("no bundle is loaded yet")
    return {"status": "ready"}


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(metrics: MetricsDep) -> Response:
    """Everything Prometheus wants to know."""
    return Response(metrics.exposition(), media_type=metrics.media_type)
