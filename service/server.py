"""Server process: runs the application under uvicorn, with its sockets, workers and exit."""

import gc
import os
import signal
import sys
import tempfile
from contextlib import ExitStack
from functools import partial
from socket import socket

import uvicorn
from fastapi import FastAPI
from uvicorn.supervisors import Multiprocess

from pnag.service.edge.protocol import BoundedProtocol
from pnag.service.engine.memory import give_back_memory, keep_memory_together
from pnag.service.settings import Settings, SettingsError
from pnag.service.telemetry.logs import configure_logs

SWITCH_INTERVAL_S = 0.001
"""Python's own 5 ms are as long as a run: event loop and inference threads would wait so long for each other."""

# On every answer. Here and not in a layer, because uvicorn checks each header of each answer, but these only once.
SECURITY_HEADERS = [("x-content-type-options", "nosniff")]


def serve(settings: Settings) -> None:
    """Serve until told to stop.

    Raises:
        BundleError: if a bundle cannot be loaded.
        SettingsError: if a port is taken, or the server could not start.
    """
    configure_logs(settings)
    with ExitStack() as stack:
        sockets = [stack.enter_context(_bind(settings, settings.port))]
        if settings.admin_port is not None:
            sockets.append(stack.enter_context(_bind(settings, settings.admin_port)))
            settings = settings.model_copy(update={"admin_port": sockets[1].getsockname()[1]})  # 0 became a number
        _run(settings, sockets)


def make_worker(settings: Settings) -> FastAPI:
    """The application of one process, with its bundles."""
    # Imported in the process that serves: the parent of several workers needs none of it.
    from pnag.service.app import create_app
    from pnag.service.telemetry.metrics import forget_dead_workers

    configure_logs(settings)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    keep_memory_together()
    forget_dead_workers()
    app = create_app(settings)
    app.state.bundles.load_all()  # before the port answers, so that a bad bundle is a message and not a traceback
    # What is loaded by now stays: the collector need not look at it again whenever requests have left enough behind.
    gc.collect()
    gc.freeze()
    give_back_memory()
    return app


def _run(settings: Settings, sockets: list[socket]) -> None:
    if settings.workers > 1:
        # Before prometheus_client is imported anywhere: it decides then how to keep its values.
        with tempfile.TemporaryDirectory(prefix="pnag-metrics-") as folder:
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
            Multiprocess(_config(settings, partial(make_worker, settings)), sockets).run()
        return
    # uvicorn raises the signal again once it has shut down; to end when told to is no failure.
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(0))
    app = make_worker(settings)
    server = uvicorn.Server(_config(settings, lambda: app))
    server.run(sockets)
    if not server.started:
        raise SettingsError("the server did not start; the log above says why")


def _config(settings: Settings, factory: partial[FastAPI] | object) -> uvicorn.Config:
    return uvicorn.Config(
        factory,  # type: ignore[arg-type]
        factory=True,
        http=BoundedProtocol,
        ws="none",
        workers=settings.workers,
        backlog=2048,
        timeout_worker_healthcheck=60,
        timeout_graceful_shutdown=settings.grace_s,
        access_log=False,
        log_config=None,
        server_header=False,
        headers=SECURITY_HEADERS,
        # Only the rate limit looks at addresses; behind a proxy that must be trusted first, limit by key or there.
        proxy_headers=False,
    )


def _bind(settings: Settings, port: int) -> socket:
    """A listening address; in the parent, so that workers share it and a taken port is one clear message."""
    config = uvicorn.Config("", host=settings.host, port=port, log_config=None)
    try:
        return config.bind_socket()
    except SystemExit:  # uvicorn has logged why
        raise SettingsError(f"cannot listen on {settings.host}:{port}; is it taken? --port takes another") from None
