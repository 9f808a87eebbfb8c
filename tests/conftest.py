"""What several test folders need."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

# A busy host is no failure; the timeout in pyproject.toml ends what hangs.
settings.register_profile("pnag", deadline=None)
settings.load_profile("pnag")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The published measurements; tests that read them are skipped where they are not, and say so."""
    folder = Path(os.environ.get("PNAG_DATA", Path(__file__).parents[1].parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no published measurements at {folder}; set PNAG_DATA")
    return folder
