"""What several test folders need."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from hypothesis import settings

from pnag.service.settings import Settings
from pnag.service.telemetry.logs import configure_logs

pytest_plugins = [f"tests.fixtures.{name}" for name in ("devices", "supernet", "tiny_bundle", "training")]

# A busy host is no failure; the timeout in pyproject.toml ends what hangs.
settings.register_profile("pnag", deadline=None)
settings.load_profile("pnag")


@pytest.fixture(scope="session", autouse=True)
def _logs_as_in_production() -> None:
    configure_logs(Settings(log_level="warning", log_format="json"))


@pytest.fixture(scope="session", autouse=True)
def _no_settings_from_outside() -> Iterator[None]:
    """A developer's PNAG_ variables must not change what is tested."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        for name in list(os.environ):
            if name.startswith("PNAG_") and name != "PNAG_DATA":
                monkeypatch.delenv(name)
        yield


@pytest.fixture(autouse=True)
def _logs_as_they_were() -> Iterator[None]:
    """Logging set up inside a test writes to that test's captured stderr, which is closed for the next."""
    root = logging.getLogger()
    handlers, level, events = root.handlers[:], root.level, structlog.get_config()
    yield
    root.handlers[:], root.level = handlers, level
    structlog.configure(**events)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The published measurements; tests that read them are skipped where they are not, and say so."""
    folder = Path(os.environ.get("PNAG_DATA", Path(__file__).parents[1].parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no published measurements at {folder}; set PNAG_DATA")
    return folder
