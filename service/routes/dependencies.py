"""What routes ask for in their signatures."""

from collections.abc import MutableMapping
from typing import Annotated, Any

from fastapi import Depends, Header, Request
from pydantic import Field

from pnag.service.contract.schemas import Unset
from pnag.service.engine.answerer import Answerer
from pnag.service.engine.bundles import BundleStore
from pnag.service.engine.model_files import ModelFiles
from pnag.service.lifecycle import Lifecycle
from pnag.service.reloader import Reloader
from pnag.service.settings import Settings
from pnag.service.telemetry.metrics import Metrics


def _settings(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings


def _bundles(request: Request) -> BundleStore:
    bundles: BundleStore = request.app.state.bundles
    return bundles


def _answerer(request: Request) -> Answerer:
    answerer: Answerer = request.app.state.answerer
    return answerer


def _lifecycle(request: Request) -> Lifecycle:
    lifecycle: Lifecycle = request.app.state.lifecycle
    return lifecycle


def _metrics(request: Request) -> Metrics:
    metrics: Metrics = request.app.state.metrics
    return metrics


def _reloader(request: Request) -> Reloader:
    reloader: Reloader = request.app.state.reloader
    return reloader


def _model_files(request: Request) -> ModelFiles:
    model_files: ModelFiles = request.app.state.model_files
    return model_files


def _scope(request: Request) -> MutableMapping[str, Any]:
    return request.scope


SettingsDep = Annotated[Settings, Depends(_settings)]
BundlesDep = Annotated[BundleStore, Depends(_bundles)]
AnswererDep = Annotated[Answerer, Depends(_answerer)]
LifecycleDep = Annotated[Lifecycle, Depends(_lifecycle)]
MetricsDep = Annotated[Metrics, Depends(_metrics)]
ReloaderDep = Annotated[Reloader, Depends(_reloader)]
ModelFilesDep = Annotated[ModelFiles, Depends(_model_files)]
ScopeDep = Annotated[MutableMapping[str, Any], Depends(_scope)]

TimeoutHeader = Annotated[
    Annotated[float, Field(ge=1, allow_inf_nan=False)] | Unset,
    Header(
        alias="x-request-timeout-ms",
        description="How long the caller will wait, at most PNAG_REQUEST_TIMEOUT_S; after that it is 503.",
    ),
]
"""Declared by routes so that it is documented and checked; `pnag.service.edge.limits` acts on it."""
