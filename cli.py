"""`pnag`: joins the commands that serve with those that train and measure.

The latter are imported only when one of them is named or listed, so serving never loads torch, and a base install that
lacks what training needs still serves.
"""

import importlib
import sys
from collections.abc import Iterator, Sequence

import typer
from typer.core import TyperCommand, TyperGroup

from pnag.models.errors import PnagError
from pnag.service.commands import app as service_app
from pnag.service.explain_commands import app as explain_app

LATER = {"pnag.trainer.commands": None, "pnag.trainer.space_commands": None, "pnag.trainer.latency.commands": "latency"}
LATER |= {
    "pnag.bench.commands": "bench",
    "pnag.trainer.label.commands": None,
    "pnag.trainer.supernet.commands": "supernet",
}
LATER |= {"pnag.trainer.supernet.export_commands": None}
"""Modules with a typer `app`, and the sub-command that holds its commands; None = top level."""


SHARED_GROUPS = {"bench", "spaces"}
"""Groups with sub-commands from both sides."""


class _JoinedCommands(TyperGroup):
    """The service's commands at once, the others when they are asked for."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        self._join()
        return super().list_commands(ctx)

    def get_command(self, ctx: typer.Context, cmd_name: str) -> TyperCommand | None:  # type: ignore[override]
        if cmd_name not in self.commands or cmd_name in SHARED_GROUPS:
            self._join()
        return super().get_command(ctx, cmd_name)  # type: ignore[return-value]

    def _join(self) -> None:
        for name, command in _later_commands():
            mine = self.commands.setdefault(name, command)
            if mine is not command and isinstance(mine, TyperGroup) and isinstance(command, TyperGroup):
                mine.commands.update(command.commands)


def _later_commands() -> Iterator[tuple[str, TyperCommand | TyperGroup]]:
    for module, group in LATER.items():
        try:
            app: typer.Typer = importlib.import_module(module).app
        except ModuleNotFoundError as exc:
            if exc.name is not None and exc.name.partition(".")[0] == "trainer":
                continue  # a stage that this installation does not have
            print(f"pnag: {module} needs {exc.name}; install pnag[train] for its commands", file=sys.stderr)  # noqa: T201
            continue
        joined = typer.Typer()
        joined.add_typer(app, name=group)
        yield from typer.main.get_group(joined).commands.items()  # type: ignore[misc]


app = typer.Typer(
    cls=_JoinedCommands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="A latency budget goes in, the best network that keeps it comes out.",
)
app.add_typer(service_app)
app.add_typer(explain_app)


@app.callback()
def _root() -> None:
    """Keep sub-commands even if only one is there."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `pnag`; exits 0 when done, 1 when it failed, 2 on wrong use, 130 on Ctrl-C (typer sees to these two)."""
    try:
        app(arguments)
    except (PnagError, OSError) as exc:
        print(f"pnag: {exc}", file=sys.stderr)  # noqa: T201
        sys.exit(1)


if __name__ == "__main__":
    main()
