"""The commands and options that people and scripts rely on: removing or renaming one is a decision, not an accident.

After a change that is meant, write the list anew and commit it:

    WRITE_SURFACE=1 python -m pytest tests/cli/test_surface.py
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from pnag.cli import main as cli

SURFACE = Path(__file__).with_name("surface.txt")


def _lines(command: Any, path: str) -> Iterator[str]:
    """One line for each command, and one for each of its arguments and options, in order of their names."""
    if not hasattr(command, "commands") or command.invoke_without_command:
        yield path
        yield from sorted(_parameters(command, path))
    for name, child in sorted(getattr(command, "commands", {}).items()):
        if not child.hidden:
            yield from _lines(child, f"{path} {name}")


def _parameters(command: Any, path: str) -> Iterator[str]:
    for parameter in command.params:
        if parameter.name == "help" or getattr(parameter, "hidden", False):
            continue
        is_option = parameter.param_type_name == "option"
        names = "/".join([*parameter.opts, *parameter.secondary_opts]) if is_option else str(parameter.name).upper()
        yield f"{path} {names}{' (required)' if parameter.required else ''}"


def test_every_command_and_option_is_still_there() -> None:
    found = list(_lines(typer.main.get_command(cli.app), "pnag"))
    if os.environ.get("WRITE_SURFACE"):
        SURFACE.write_text("\n".join(found) + "\n")
        pytest.skip(f"{SURFACE} written; look at the difference before you commit it")
    listed = SURFACE.read_text().splitlines()
    gone = [line for line in listed if line not in found]
    new = [line for line in found if line not in listed]
    assert (gone, new) == ([], []), (
        f"not there any more: {gone}; not listed: {new}. If that is meant: WRITE_SURFACE=1 python -m pytest {__file__}"
    )
    assert found == listed
