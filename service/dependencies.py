"""What routes ask for in their signatures."""

from typing import Annotated

from fastapi import Depends, Request

from service.answerer import Answerer
from service.bundles import BundleStore
from service.lifecycle import Lifecycle
from service.metrics import Metrics
from service.settings import Settings


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


SettingsDep = Annotated[Settings, Depends(_settings)]
BundlesDep = Annotated[BundleStore, Depends(_bundles)]
AnswererDep = Annotated[Answerer, Depends(_answerer)]
LifecycleDep = Annotated[Lifecycle, Depends(_lifecycle)]
MetricsDep = Annotated[Metrics, Depends(_metrics)]
