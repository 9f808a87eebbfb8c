"""One version, in every place that names it."""

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

from pnag.service.version import VERSION
from scripts.version import PLACES, change, find

ROOT = Path(__file__).parents[1]


def test_every_place_names_the_same_version() -> None:
    places = dict(find(ROOT))
    assert {place: version for place, version in places.items() if version != VERSION} == {}
    assert {place.partition(":")[0] for place in places} == PLACES.keys()
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == VERSION


def test_a_new_version_is_put_into_every_place_and_nowhere_else(tmp_path: Path) -> None:
    for name in PLACES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    change(tmp_path, "9.8.7rc1")
    assert {version for _, version in find(tmp_path)} == {"9.8.7rc1"}
    change(tmp_path, VERSION)
    assert all((tmp_path / name).read_text() == (ROOT / name).read_text() for name in PLACES)


def test_the_script_is_content_with_the_repository() -> None:
    assert subprocess.run([sys.executable, ROOT / "scripts" / "version.py"], check=False).returncode == 0
