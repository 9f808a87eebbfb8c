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

_FAST = ("models/", "service/", "test_client.py", "test_house.py", "test_version.py")
"""Below this folder: tests that start no browser and no process and train nothing (the Makefile lists it too) ..."""
_NOT_FAST = (
    "models/policy/",
    "service/contract/test_contract.py",
    "service/engine/test_bundles.py",
    "service/engine/test_model_files.py",
    "service/engine/test_redis_cache.py",
    "service/feedback/",
    "service/test_server.py",
)
"""... but for these."""

# A busy host is no failure; the timeout in pyproject.toml ends what hangs.
settings.register_profile("pnag", deadline=None)
settings.register_profile("fast", deadline=None, max_examples=20)
settings.load_profile("pnag")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that `make test-fast` runs."""
    here = Path(__file__).parent
    for item in items:
        name = item.path.relative_to(here).as_posix() if item.path.is_relative_to(here) else ""
        if name.startswith(_FAST) and not name.startswith(_NOT_FAST) and not item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.fast)


@pytest.fixture(scope="session", autouse=True)
def _logs_as_in_production() -> None:
    configure_logs(Settings(log_level="warning", log_format="json"))


@pytest.fixture(scope="session", autouse=True)
def _no_settings_from_outside() -> Iterator[None]:
    """A developer's PNAG_ variables must not change what is tested."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        for field in Settings.model_fields:  # not PNAG_DATA or PNAG_NO_SKIP, which are for the tests themselves
            monkeypatch.delenv(f"PNAG_{field.upper()}", raising=False)
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
