"""`pnag`: every command under one name.

A module of commands imports what is heavy when one of them runs, so this one loads in no time, and an installation that
serves has all commands too: one that needs more says which extra brings it.
"""

import sys
from collections.abc import Sequence

import typer

from pnag.cli import bench, explain, label, latency, networks, serve, spaces, supernet, train
from pnag.models.errors import PnagError

EXTRAS = {"distributed": "cluster", "httpx": "client", "psutil": "bench", "pymoo": "bench"}
"""Library -> the extra that brings it, where that is not `train`."""

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="A latency budget goes in, the best network that keeps it comes out.",
)
for commands in (serve, explain, train, spaces, networks):
    app.add_typer(commands.app)
app.add_typer(label.app, name="label")
app.add_typer(latency.app, name="latency")
app.add_typer(supernet.app, name="supernet")
app.add_typer(bench.app, name="bench")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `pnag`; exits 0 when done, 1 when it failed, 2 on wrong use, 130 on Ctrl-C (typer sees to these two)."""
    try:
        app(arguments)
    except (PnagError, OSError) as exc:
        print(f"pnag: {exc}", file=sys.stderr)  # noqa: T201
        sys.exit(1)
    except ModuleNotFoundError as exc:
        print(f"pnag: {_advice(exc.name or str(exc))}", file=sys.stderr)  # noqa: T201
        sys.exit(2)


def _advice(missing: str) -> str:
    """Name what to install when a module is missing."""
    if missing.startswith("pnag.bench"):
        return "this command compares and measures PNAG itself: run it in a checkout of the repository"
    if missing.startswith("pnag."):
        return f"this installation serves and holds no {missing}: use the trainer's image, or pip install 'pnag[train]'"
    package = missing.partition(".")[0]
    extra = EXTRAS.get(package, "train")
    return f"this command needs {package}, which is not installed: pip install 'pnag[{extra}]'"
