"""Write the parts of the documentation that the code itself says: docs/cli.md and docs/openapi.json, docs/http-api.md.

python scripts/reference.py          # write
python scripts/reference.py --check  # exit 1 if one is out of date
"""

import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from pnag.cli import main as cli  # noqa: E402
from pnag.service.app import create_app  # noqa: E402
from pnag.service.settings import Settings  # noqa: E402

DOCS = ROOT / "docs"


def openapi() -> dict[str, Any]:
    """The service's OpenAPI document; needs no bundle."""
    with tempfile.TemporaryDirectory() as nothing:
        return create_app(Settings(bundles=(Path(nothing),))).openapi()


def cli_reference() -> str:
    """List every command with its options, in Markdown."""
    lines = ["# Command line", "", "Written by `scripts/reference.py` from the commands themselves.", ""]
    group = typer.main.get_command(cli.app)
    for path, command in sorted(_commands(group, ())):
        lines += [f"## pnag {' '.join(path)}", "", (command.help or "").strip(), ""]
        rows = []
        for parameter in command.params:
            if parameter.name == "help":
                continue
            names = ", ".join(f"`{o}`" for o in (*parameter.opts, *parameter.secondary_opts))
            text = (getattr(parameter, "help", None) or "").replace("|", "\\|")
            needed = "required" if parameter.required else ""
            rows.append(f"| {names} | {text} | {needed} |")
        if rows:
            lines += ["| option | what | |", "|---|---|---|", *rows, ""]
        if command.epilog:
            lines += [f"    {command.epilog.removeprefix('Example: ')}", ""]
    return "\n".join(lines)


def http_reference(document: dict[str, Any]) -> str:
    """List every route in one table, in Markdown."""
    lines = [
        "# HTTP API", "",
        "Written by `scripts/reference.py` from [openapi.json](openapi.json), which has all fields.", "",
        "| request | what | statuses |", "|---|---|---|",
    ]  # fmt: skip
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            text = operation.get("description", operation.get("summary", "")).partition("\n")[0].replace("|", "\\|")
            lines.append(f"| `{method.upper()} {path}` | {text} | {', '.join(operation['responses'])} |")
    return "\n".join([*lines, ""])


def _commands(command: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(command, TyperGroup):
        context = typer.Context(command)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            if found is not None and not found.hidden:
                yield from _commands(found, (*path, name))
    else:
        yield path, command


def files() -> dict[Path, str]:
    """Give what should stand where."""
    document = openapi()
    return {
        DOCS / "openapi.json": json.dumps(document, indent=1, ensure_ascii=False) + "\n",
        DOCS / "http-api.md": http_reference(document),
        DOCS / "cli.md": cli_reference(),
    }


def main() -> int:
    """Write or compare."""
    stale = {p: t for p, t in files().items() if not p.is_file() or p.read_text() != t}
    for path, text in stale.items():
        print(path.relative_to(ROOT), "is out of date" if "--check" in sys.argv else "written")  # noqa: T201
        if "--check" not in sys.argv:
            path.write_text(text)
    return int(bool(stale) and "--check" in sys.argv)


if __name__ == "__main__":
    sys.exit(main())
