"""The application, put together. Nothing happens at import."""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fastapi import FastAPI
from starlette.middleware.gzip import GZipMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from pnag.service.contract.openapi import document_problems
from pnag.service.contract.problems import add_handlers
from pnag.service.edge.entry import Front
from pnag.service.edge.hot_path import HotPath
from pnag.service.edge.limits import Patience, ReadBody
from pnag.service.edge.pareto_front_cache import FrontCache
from pnag.service.edge.security import ApiKeys, Guard, needs_guard
from pnag.service.engine.answerer import Answerer
from pnag.service.engine.bundles import BundleStore
from pnag.service.engine.loaded_bundle import LoadedBundle, open_bundle
from pnag.service.engine.model_files import ModelFiles
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


class Application(FastAPI):
    """FastAPI with our layers around all of it: a hot request must not enter it, and no error of it may get out."""

    front: ASGIApp
    """The outermost layer."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.front(scope, receive, send)

    async def framework(self, scope: Scope, receive: Receive, send: Send) -> None:
        """What FastAPI itself would do."""
        await super().__call__(scope, receive, send)


def create_app(settings: Settings) -> Application:
    """The service; bundles are loaded when it starts, which fails if one of them is not intact.

    Raises:
        SettingsError: if an API key is not as it should be.
    """
    executor = ThreadPoolExecutor(settings.inference_threads, thread_name_prefix="inference")
    metrics = Metrics()

    def load(folder: Path) -> LoadedBundle:
        first = open_bundle(folder)
        # Each thread has sessions of its own: two threads in one get in each other's way.
        generators = [first, *(first.clone() for _ in range(settings.inference_threads - 1))]
        for generator in generators:
            generator.num_candidates = settings.num_candidates
        return LoadedBundle(generators, executor, settings, metrics)

    store = BundleStore(settings.bundles, load, metrics, settings.default_bundle)
    redis = _redis(settings, metrics)
    keys = ApiKeys(settings) if settings.has_keys else None
    files = ModelFiles(settings.model_cache, settings.model_cache_mb * 1_000_000)
    lifecycle = Lifecycle()
    reloader = Reloader(store, keys)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        if not store.catalogue.bundles:
            store.load_all()
        app.openapi()  # FastAPI builds its routes when first needed, .2 s: not on the first caller's time
        if redis:
            redis.start()
        watch = asyncio.create_task(reloader.watch(settings.watch_interval_s)) if settings.watch_interval_s else None
        stop_listening = lifecycle.listen(drain_s=settings.drain_s, reload=reloader.soon)
        try:
            yield
        finally:
            stop_listening()
            if watch:
                watch.cancel()
            if redis:
                await redis.close()
            files.close()
            executor.shutdown(wait=True, cancel_futures=True)

    answerer = Answerer(store, redis, settings)

    app = Application(
        title="PNAG", version=VERSION, description=DESCRIPTION, lifespan=lifespan, docs_url=None, redoc_url=None
    )
    behind: ASGIApp = GZipMiddleware(app.framework, minimum_size=4096, compresslevel=6)
    behind = Patience(behind, timeout_s=settings.request_timeout_s)
    behind = FrontCache(behind, store)
    behind = ReadBody(behind, max_bytes=settings.max_body_bytes)
    app.front = Front(
        behind,
        guard=Guard(settings, keys, metrics) if needs_guard(settings) else None,
        hot_path=HotPath(answerer, store, settings),
        lifecycle=lifecycle,
        request_log=RequestLog(metrics, lines_per_s=settings.log_requests_per_s),
    )
    app.state.settings = settings
    app.state.bundles = store
    app.state.answerer = answerer
    app.state.model_files = files
    app.state.redis = redis
    app.state.reloader = reloader
    app.state.lifecycle = lifecycle
    app.state.metrics = metrics
    for module in (
        generate,
        explain,
        architectures,
        model_files,
        bundles,
        feedback,
        known,
        health,
        admin,
        kserve,
        page,
    ):
        app.include_router(module.router)
    add_handlers(app)
    document_problems(app)
    return app


def _redis(settings: Settings, metrics: Metrics) -> "RedisCache | None":
    if not settings.redis_url:
        return None
    from pnag.service.engine.redis_cache import RedisCache  # 6 MB that a service without Redis need not hold

    return RedisCache(settings, metrics)
