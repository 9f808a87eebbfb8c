"""Where files lie, and how large files and rooms may grow: what no linter looks at."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

ROOMS = {
    "bench": {"markdown"},
    "cli": set(),
    "models": {"errors", "files", "pareto"},
    "pnag": {"__main__"},
    "pnag_client": {"client"},
    "service": {"app", "lifecycle", "reloader", "request_state", "server", "settings", "version"},
    "trainer": {"checkpoint", "config", "progress", "recipes", "repeatable", "train_bundle"},
}
"""Room -> the modules that may lie in it although it has rooms of its own; without such rooms all lie in it."""

BESIDE = {"deploy", "examples", "scripts"}
"""Folders with Python that is no part of the package."""

NOT_OURS = {"build", "dist", "docs", "htmlcov", "runs", "tests"}

MOST_FILES_IN_A_ROOM = 13
MOST_LINES_OF_A_FILE = 400

FILES = sorted(
    path
    for room in (*ROOMS, *BESIDE)
    for path in (ROOT / room).rglob("*.py")  # links are not followed: pnag/ holds links to the rooms
)
FOLDERS = sorted({path.parent for path in FILES if path.relative_to(ROOT).parts[0] in ROOMS})


def _names(paths: list[Path]) -> list[str]:
    return [path.relative_to(ROOT).as_posix() for path in paths]


def _num_lines(path: Path) -> int:
    return len(path.read_text().splitlines())


def test_no_python_file_lies_outside_a_room() -> None:
    known = {*ROOMS, *BESIDE, *NOT_OURS}
    tops = [path for path in ROOT.iterdir() if path.name not in known and not path.name.startswith(".")]
    assert _names([path for path in tops if path.suffix == ".py" or (path.is_dir() and any(path.rglob("*.py")))]) == []


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_of_rooms_holds_no_loose_files(room: str) -> None:
    has_rooms = any(folder.parent == ROOT / room for folder in FOLDERS)
    loose = {path.stem for path in (ROOT / room).glob("*.py")} - {"__init__"}
    assert not has_rooms or loose <= ROOMS[room]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.relative_to(ROOT).as_posix())
def test_a_room_says_what_it_is_and_is_not_too_large(folder: Path) -> None:
    package = folder / "__init__.py"
    assert package.exists(), "without it neither mypy nor the import contracts see the folder"
    assert ast.get_docstring(ast.parse(package.read_text()))
    assert len([*folder.glob("*.py")]) <= MOST_FILES_IN_A_ROOM


def test_no_file_is_too_long() -> None:
    long = [path for path in FILES if _num_lines(path) > MOST_LINES_OF_A_FILE]
    assert _names(long) == []
