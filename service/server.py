"""Runs the application under uvicorn."""

import uvicorn

from service.app import create_app
from service.logs import configure_logs
from service.settings import Settings


def serve(settings: Settings) -> None:
    """Serve until told to stop.

    Raises:
        BundleError: if a bundle cannot be loaded.
    """
    configure_logs(settings)
    app = create_app(settings)
    app.state.bundles.load_all()  # before the port opens, so that a bad bundle is an error message and not a traceback
    uvicorn.run(app, host=settings.host, port=settings.port, access_log=False, log_config=None, server_header=False)
