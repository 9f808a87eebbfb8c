"""The application, put together. Nothing happens at import."""

from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from fastapi import FastAPI

from service.answerer import Answerer
from service.bundles import BundleStore, LoadedBundle, open_bundle
from service.errors import add_handlers
from service.lifecycle import Lifecycle
from service.metrics import Metrics
from service.observability import Observe
from service.openapi import document_problems
from service.routes import architectures, bundles, generate, health
from service.settings import Settings

VERSION = "0.1.0"

DESCRIPTION = """A latency budget goes in, the best network that keeps it comes out.

Errors are `application/problem+json` with a stable `type`."""


def create_app(settings: Settings) -> FastAPI:
    """The service; bundles are loaded when it starts, which fails if one of them is not intact."""
    # One thread runs every inference: a second one would only share the cores, and the runtime's sessions do not scale.
    executor = ThreadPoolExecutor(1, thread_name_prefix="inference")
    store = BundleStore(settings.bundles, partial(_load, settings, executor), settings.default_bundle)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        if not store.catalogue.bundles:
            store.load_all()
        yield
        executor.shutdown(wait=True, cancel_futures=True)

    app = FastAPI(title="PNAG", version=VERSION, description=DESCRIPTION, lifespan=lifespan)
    app.state.settings = settings
    app.state.bundles = store
    app.state.answerer = Answerer(store, cache_entries=settings.cache_entries)
    app.state.lifecycle = Lifecycle()
    app.state.metrics = Metrics()
    for module in (generate, architectures, bundles, health):
        app.include_router(module.router)
    add_handlers(app)
    document_problems(app)
    app.add_middleware(Observe, metrics=app.state.metrics)
    return app


def _load(settings: Settings, executor: ThreadPoolExecutor, folder: Path) -> LoadedBundle:
    generator = open_bundle(folder, num_candidates=settings.num_candidates)
    return LoadedBundle(generator, executor, max_batch_size=settings.max_batch_size, max_waiting=settings.max_waiting)
