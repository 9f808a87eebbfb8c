"""For the operator."""

from fastapi import APIRouter

from pnag.service.contract.openapi import problems
from pnag.service.contract.schemas import ReloadedBody
from pnag.service.routes.dependencies import ReloaderDep, StateDep

RELOAD_S = 300.0
"""A reload has its own time: cut off by the deadline of an answer, it would have been for nothing."""

router = APIRouter(prefix="/admin", tags=["admin"])


@router.post("/reload", response_model=ReloadedBody, responses=problems(401, 403, 409))
async def reload(state: StateDep, reloader: ReloaderDep) -> ReloadedBody:
    """Look at the bundle folders and the API keys again, in this process; as SIGHUP does in all of them.

    A bundle that cannot be loaded is refused, and what was served in its place before still is.
    """
    state.extend_deadline(RELOAD_S)
    done = await reloader.reload()
    return {"loaded": done.loaded, "removed": done.removed, "refused": done.refused}
