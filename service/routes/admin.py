"""For the operator."""

from fastapi import APIRouter

from service.dependencies import ReloaderDep
from service.routes.documented import problems
from service.schemas import ReloadedBody

router = APIRouter(prefix="/admin", tags=["admin"])


@router.post("/reload", response_model=ReloadedBody, responses=problems(401, 403, 409))
async def reload(reloader: ReloaderDep) -> ReloadedBody:
    """Look at the bundle folders and the API keys again, in this process; as SIGHUP does in all of them.

    A bundle that cannot be loaded is refused, and what was served in its place before still is.
    """
    done = await reloader.reload()
    return {"loaded": done.loaded, "removed": done.removed, "refused": done.refused}
