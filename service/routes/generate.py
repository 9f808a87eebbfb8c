"""Budgets in, networks out."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Query, Response

from models.errors import PnagError
from service.answerer import question
from service.bodies import to_json
from service.dependencies import AnswererDep, BundlesDep, ScopeDep, SettingsDep, TimeoutHeader
from service.errors import InfeasibleError, InvalidRequestError, check_count, problem_of
from service.json_route import JsonRoute
from service.routes.documented import JSON, problems
from service.schemas import AnswerBody, BatchBody, BatchRequest, GenerateQuery, GenerateRequest

router = APIRouter(tags=["generate"], route_class=JsonRoute)


@router.post("/generate", response_model=AnswerBody, responses=problems(404, 413, 415, 422, 503))
async def generate(
    query: Annotated[GenerateQuery, Query()],
    scope: ScopeDep,
    answerer: AnswererDep,
    request: GenerateRequest | None = None,
    _timeout_ms: TimeoutHeader = None,
) -> Response:
    """The most accurate network found that keeps the budget."""
    # Most requests never come here: service/hot_path.py answers them in the same way.
    if request is None:
        if query.budget_ms is None:
            raise InvalidRequestError("budget_ms", 'missing; send {"budget_ms": 20} as JSON, or ?budget_ms=20')
        request = GenerateRequest(budget_ms=query.budget_ms, bundle=query.bundle)
    elif query.model_fields_set:
        raise InvalidRequestError("budget_ms", "sent in the body and in the query; use one of the two")
    reply = await answerer.answer(answerer.understand(request))
    scope["pnag.cache"] = reply.cache
    return Response(reply.content, media_type=JSON, headers={"x-cache": reply.cache})


@router.post("/generate/batch", response_model=BatchBody, responses=problems(404, 413, 415, 422, 503))
async def generate_batch(
    request: BatchRequest, answerer: AnswererDep, bundles: BundlesDep, settings: SettingsDep
) -> Response:
    """A network for each budget.

    A budget without an answer becomes a problem in its place (it has `status`, an answer has not), and the response is
    still 200. The whole batch fails only if it cannot be read, its bundle is unknown, or the service is overloaded.
    """
    check_count("budgets_ms", len(request.budgets_ms), settings.max_items)
    bundle = bundles.catalogue.get(request.bundle)

    async def one(budget_ms: float) -> tuple[bytes, bool]:
        try:
            return (await answerer.answer(question(bundle, request, budget_ms))).content, True
        except (PnagError, InfeasibleError) as exc:
            return to_json(problem_of(exc).body()), False

    results: list[tuple[bytes, bool]] = []
    # A run at a time: a long batch must not fill the queue that single budgets wait in.
    for start in range(0, len(request.budgets_ms), settings.max_batch_size):
        some = request.budgets_ms[start : start + settings.max_batch_size]
        results += await asyncio.gather(*map(one, some))
    answered = sum(is_answer for _, is_answer in results)
    # The answers are JSON already: join them instead of reading and writing them again.
    content = b'{"results":[%b],"num_answered":%d,"num_problems":%d}' % (
        b",".join(content for content, _ in results),
        answered,
        len(results) - answered,
    )
    return Response(content, media_type=JSON)
