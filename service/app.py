"""The application, put together. Nothing happens at import."""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI
from starlette.middleware.gzip import GZipMiddleware
from starlette.types import ASGIApp

from service.answerer import Answerer
from service.bounds import Patience, ReadBody
from service.bundles import BundleStore
from service.errors import add_handlers
from service.front_cache import FrontCache
from service.hot_path import HotPath
from service.lifecycle import Lifecycle
from service.loaded_bundle import LoadedBundle, open_bundle
from service.metrics import Metrics
from service.observability import Observe
from service.openapi import document_problems
from service.redis_cache import RedisCache
from service.reloader import Reloader
from service.routes import admin, architectures, bundles, generate, health
from service.security import ApiKeys, Guard, needs_guard
from service.settings import Settings

VERSION = "0.1.0"

DESCRIPTION = """A latency budget goes in, the best network that keeps it comes out.

Errors are `application/problem+json` with a stable `type`."""


def create_app(settings: Settings) -> FastAPI:
    """The service; bundles are loaded when it starts, which fails if one of them is not intact.

    Raises:
        SettingsError: if an API key is not as it should be.
    """
    # One thread runs every inference: a second would only share the cores, and ONNX Runtime sessions do not scale.
    executor = ThreadPoolExecutor(1, thread_name_prefix="inference")
    metrics = Metrics()

    def load(folder: Path) -> LoadedBundle:
        generator = open_bundle(folder)
        generator.num_candidates = settings.num_candidates
        return LoadedBundle(generator, executor, settings, metrics)

    store = BundleStore(settings.bundles, load, metrics, settings.default_bundle)
    redis = RedisCache(settings, metrics) if settings.redis_url else None
    keys = ApiKeys(settings) if settings.has_keys else None
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
            executor.shutdown(wait=True, cancel_futures=True)

    answerer = Answerer(store, metrics, cache_entries=settings.cache_entries, redis=redis)

    class Application(FastAPI):
        def build_middleware_stack(self) -> ASGIApp:
            """Our layers go around all of the framework's, so that a hot request never enters it."""
            app: ASGIApp = GZipMiddleware(super().build_middleware_stack(), minimum_size=4096)
            app = Patience(app, timeout_s=settings.request_timeout_s)
            app = HotPath(app, answerer, timeout_s=settings.request_timeout_s)
            app = FrontCache(app, store)
            app = ReadBody(app, max_bytes=settings.max_body_bytes)
            if needs_guard(settings):
                app = Guard(app, settings, keys, metrics)
            return Observe(app, metrics, lifecycle, log_requests_per_s=settings.log_requests_per_s)

    app = Application(title="PNAG", version=VERSION, description=DESCRIPTION, lifespan=lifespan)
    app.state.settings = settings
    app.state.bundles = store
    app.state.answerer = answerer
    app.state.reloader = reloader
    app.state.lifecycle = lifecycle
    app.state.metrics = metrics
    for module in (generate, architectures, bundles, health, admin):
        app.include_router(module.router)
    add_handlers(app)
    document_problems(app)
    return app
