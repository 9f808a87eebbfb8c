"""`POST /generate` and `/generate/batch`: budgets in, networks out."""

from typing import Annotated

from fastapi import APIRouter, Query, Response

from pnag.service.contract.bodies import to_json
from pnag.service.contract.json_body import JsonRoute
from pnag.service.contract.openapi import JSON, LOOK_UP_AGAIN, problems
from pnag.service.contract.problems import ConflictingFieldsError, check_count, problem_of
from pnag.service.contract.schemas import AnswerBody, BatchBody, BatchRequest, GenerateQuery, GenerateRequest
from pnag.service.routes.dependencies import AnswererDep, BundlesDep, SettingsDep, StateDep, TimeoutHeader

router = APIRouter(tags=["generate"], route_class=JsonRoute)


@router.post(
    "/generate", response_model=AnswerBody, responses={200: LOOK_UP_AGAIN, **problems(404, 413, 415, 422, 503)}
)
async def generate(
    query: Annotated[GenerateQuery, Query()],
    state: StateDep,
    answerer: AnswererDep,
    request: GenerateRequest | None = None,
    _timeout_ms: TimeoutHeader = None,
) -> Response:
    """The most accurate network found that keeps the budget."""
    # Most requests never come here: service/edge/entry.py asks the same answerer. This is for the rest, for what is
    # wrong with a request, and for the OpenAPI document.
    body = state.body or b""
    if request is None:
        if query.budget_ms is None:
            raise ConflictingFieldsError("budget_ms", 'missing; send {"budget_ms": 20} as JSON, or ?budget_ms=20')
        body = query.model_dump_json(exclude_unset=True).encode()
    elif query.model_fields_set:
        raise ConflictingFieldsError("budget_ms", "sent in the body and in the query; use one of the two")
    reply = await answerer.answer(body)
    state.cache = reply.cache
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
    replies = await answerer.answer_each(bundle, request, request.budgets_ms)
    # The answers are JSON already: join them instead of reading and writing them again.
    results = [to_json(problem_of(r).body()) if isinstance(r, Exception) else r.content for r in replies]
    num_problems = sum(isinstance(reply, Exception) for reply in replies)
    content = b'{"results":[%b],"num_answered":%d,"num_problems":%d}' % (
        b",".join(results),
        len(replies) - num_problems,
        num_problems,
    )
    return Response(content, media_type=JSON)
