"""Parts of the application that routes ask for in their signatures."""

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import Depends, Header, Request
from pydantic import Field

from pnag.service.contract.schemas import Unset
from pnag.service.engine.answerer import Answerer
from pnag.service.engine.bundles import BundleStore
from pnag.service.engine.model_files import ModelFiles
from pnag.service.feedback.summary import Feedback
from pnag.service.lifecycle import Lifecycle
from pnag.service.reloader import Reloader
from pnag.service.request_state import RequestState
from pnag.service.settings import Settings
from pnag.service.telemetry.metrics import Metrics


def _part(name: str) -> Callable[[Request], Any]:
    """Get what `create_app` keeps under this name."""

    def get(request: Request) -> Any:
        return getattr(request.app.state, name)

    return get


def _state(request: Request) -> RequestState:
    return RequestState.of(request.scope)


SettingsDep = Annotated[Settings, Depends(_part("settings"))]
BundlesDep = Annotated[BundleStore, Depends(_part("bundles"))]
AnswererDep = Annotated[Answerer, Depends(_part("answerer"))]
FeedbackDep = Annotated[Feedback, Depends(_part("feedback"))]
LifecycleDep = Annotated[Lifecycle, Depends(_part("lifecycle"))]
MetricsDep = Annotated[Metrics, Depends(_part("metrics"))]
ReloaderDep = Annotated[Reloader, Depends(_part("reloader"))]
ModelFilesDep = Annotated[ModelFiles, Depends(_part("model_files"))]
StateDep = Annotated[RequestState, Depends(_state)]

TimeoutHeader = Annotated[
    Annotated[float, Field(ge=1, allow_inf_nan=False)] | Unset,
    Header(
        alias="x-request-timeout-ms",
        description="How long the caller will wait, at most PNAG_REQUEST_TIMEOUT_S; after that it is 503.",
    ),
]
"""Declared by routes so that it is documented and checked; `pnag.service.edge.entry` acts on it."""
