"""The application, put together. Nothing happens at import."""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fastapi import FastAPI
from starlette.middleware.gzip import GZipMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from pnag.service.contract.openapi import document_problems
from pnag.service.contract.problems import add_handlers
from pnag.service.edge.entry import Entry
from pnag.service.edge.pareto_front_cache import ParetoFrontCache
from pnag.service.edge.security import ApiKeys, Guard, needs_guard
from pnag.service.engine.answerer import Answerer
from pnag.service.engine.bundles import BundleStore
from pnag.service.engine.loaded_bundle import LoadedBundle, open_bundle
from pnag.service.engine.model_files import ModelFiles
from pnag.service.feedback.summary import Feedback
from pnag.service.lifecycle import Lifecycle
from pnag.service.reloader import Reloader
from pnag.service.routes import (
    admin,
    architectures,
    bundles,
    explain,
    feedback,
    generate,
    health,
    known,
    kserve,
    model_files,
    page,
)
from pnag.service.settings import Settings
from pnag.service.telemetry.metrics import Metrics
from pnag.service.telemetry.request_log import RequestLog
from pnag.service.version import VERSION

if TYPE_CHECKING:
    from pnag.service.engine.redis_cache import RedisCache

DESCRIPTION = """A latency budget goes in, the best network that keeps it comes out.

Errors are `application/problem+json` with a stable `type`."""


ROUTES = (generate, explain, architectures, model_files, bundles, feedback, known, health, admin, kserve, page)
"""In the order of the OpenAPI document."""


class Application(FastAPI):
    """FastAPI with our entry around all of it: a hot request must not enter it, and no error of it may get out."""

    entry: ASGIApp
    """The outermost layer."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.entry(scope, receive, send)

    async def framework(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Do what FastAPI itself would."""
        await super().__call__(scope, receive, send)


def create_app(settings: Settings) -> Application:
    """The service; bundles are loaded when it starts, which fails if one of them is not intact.

    Raises:
        SettingsError: if an API key is not as it should be.
    """
    app = Application(
        title="PNAG", version=VERSION, description=DESCRIPTION, lifespan=_lifespan, docs_url=None, redoc_url=None
    )
    executor = ThreadPoolExecutor(settings.inference_threads, thread_name_prefix="inference")
    metrics = Metrics()
    lifecycle = Lifecycle()
    keys = ApiKeys(settings) if settings.has_keys else None
    store = BundleStore(settings.bundles, _loader(settings, executor, metrics), metrics, settings.default_bundle)
    redis = _redis(settings, metrics)
    answerer = Answerer(store, redis, settings)
    app.entry = Entry(
        ParetoFrontCache(GZipMiddleware(app.framework, minimum_size=4096, compresslevel=6), store),
        answerer=answerer,
        guard=Guard(settings, keys, metrics) if needs_guard(settings) else None,
        lifecycle=lifecycle,
        request_log=RequestLog(metrics, lines_per_s=settings.log_requests_per_s),
        settings=settings,
    )
    app.state.settings = settings
    app.state.executor = executor
    app.state.bundles = store
    app.state.redis = redis
    app.state.answerer = answerer
    app.state.model_files = ModelFiles(settings.model_cache, settings.model_cache_mb * 1_000_000)
    app.state.reloader = Reloader(store, keys)
    app.state.lifecycle = lifecycle
    app.state.metrics = metrics
    for module in ROUTES:
        app.include_router(module.router)
    add_handlers(app)
    document_problems(app)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Ready what the routes need, and let go of it in the end."""
    state, settings = app.state, app.state.settings
    if not state.bundles.catalogue.bundles:
        state.bundles.load_all()
    app.openapi()  # FastAPI builds its routes when first needed, 0.2 s: not on the first caller's time
    async with AsyncExitStack() as stack:
        stack.callback(state.executor.shutdown, wait=True, cancel_futures=True)
        stack.callback(state.model_files.close)
        state.feedback = Feedback(settings, state.metrics)
        stack.push_async_callback(state.feedback.store.close)
        if state.redis:
            state.redis.start()
            stack.push_async_callback(state.redis.close)
        if settings.watch_interval_s:
            watch = asyncio.create_task(state.reloader.watch(settings.watch_interval_s))
            stack.callback(watch.cancel)
        stack.callback(state.lifecycle.listen(drain_s=settings.drain_s, reload=state.reloader.soon))
        yield


def _loader(settings: Settings, executor: Executor, metrics: Metrics) -> Callable[[Path], LoadedBundle]:
    """The function that readies the bundle in a folder."""

    def load(folder: Path) -> LoadedBundle:
        first = open_bundle(folder)
        # Each thread has sessions of its own: two threads in one get in each other's way.
        generators = [first, *(first.clone() for _ in range(settings.inference_threads - 1))]
        for generator in generators:
            generator.num_candidates = settings.num_candidates
        return LoadedBundle(generators, executor, settings, metrics)

    return load


def _redis(settings: Settings, metrics: Metrics) -> "RedisCache | None":
    if not settings.redis_url:
        return None
    from pnag.service.engine.redis_cache import RedisCache  # 6 MB that a service without Redis need not hold

    return RedisCache(settings, metrics)
