"""Explanations: why a budget gets the network it gets."""

from weakref import WeakKeyDictionary

from fastapi import APIRouter, Response

from pnag.models.answer.explain import Explainer
from pnag.models.errors import InfeasibleBudgetError
from pnag.service.contract.bodies import to_json
from pnag.service.contract.explanations import ExplainBody, explain_body
from pnag.service.contract.json_body import JsonRoute
from pnag.service.contract.openapi import JSON, problems
from pnag.service.contract.schemas import GenerateRequest
from pnag.service.engine.answerer import infeasible, question
from pnag.service.engine.loaded_bundle import LoadedBundle
from pnag.service.routes.dependencies import BundlesDep

router = APIRouter(tags=["generate"], route_class=JsonRoute)

_explainers: WeakKeyDictionary[LoadedBundle, Explainer] = WeakKeyDictionary()
"""Each goes when its bundle does."""


@router.post("/explain", response_model=ExplainBody, responses=problems(404, 413, 415, 422, 503))
async def explain(request: GenerateRequest, bundles: BundlesDep) -> Response:
    """The answer of /generate, which limit binds, what .1 % more would cost, alternatives, habits of the front."""
    bundle = bundles.catalogue.get(request.bundle)
    query = question(bundle, request, request.budget_ms).query
    if bundle not in _explainers:
        _explainers[bundle] = Explainer(bundle.generator)
    explainer = _explainers[bundle]
    try:
        explanation = await bundle.run(lambda: explainer.explain(query))
    except InfeasibleBudgetError as exc:
        raise infeasible(bundle, exc) from exc
    for candidate in (explanation.answer.best, *explanation.answer.alternatives):
        bundle.remember(candidate.architecture.id, candidate.architecture.encoding)
    return Response(to_json(explain_body(bundle.bundle, explanation)), media_type=JSON)
