"""Options that several commands share, printing of results, and pointers from old names to new ones."""

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

if TYPE_CHECKING:
    from pnag.trainer.latency.timing.rounds import RoundsDone

JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
BundleOption = Annotated[Path, typer.Option("--bundle", help="Bundle folder.", show_default=False)]
SpaceOption = Annotated[str, typer.Option("--space", help="A search space; `pnag spaces` lists them.")]
LatencyTableOption = Annotated[
    Path, typer.Option("--latency-table", help="What `pnag latency` wrote for the device.", show_default=False)
]
CostTableOption = Annotated[
    Path | None, typer.Option("--latency-table", help="The cost, in ms; without it, the cost is MACs, in millions.")
]
ImagesOption = Annotated[
    Path, typer.Option("--images", help="Parquet with columns image and label, or a folder per class.")
]
SeedOption = Annotated[int, typer.Option("--seed", help="Same inputs, same seed, same result.")]


def print_json(document: Any) -> None:
    """Write a result for programs to stdout."""
    json.dump(document, sys.stdout, indent=2, ensure_ascii=False)
    sys.stdout.write("\n")


def print_result(result: Mapping[str, Any], as_json: bool, text: str | None = None) -> None:
    """Print a result: as JSON if asked for, else as text; without a text, one line for each entry."""
    if as_json:
        print_json(result)
    else:
        typer.echo("\n".join(f"{name}: {value}" for name, value in result.items()) if text is None else text)


def say(message: str) -> None:
    """Tell people something on stderr, where it does not mix with the result."""
    typer.echo(message, err=True)


@contextmanager
def rounds_bar(name: str) -> "Iterator[Callable[[RoundsDone], None]]":
    """Show a bar over the rounds of a measurement; rounds of an earlier run count at once."""
    from pnag.trainer.progress import Stage, show_progress

    with show_progress() as bars, ExitStack() as stack:
        stage: Stage | None = None
        done = 0

        def step(progress: "RoundsDone") -> None:
            nonlocal stage, done
            if stage is None:
                stage = stack.enter_context(bars.stage(name, progress.total))
            stage.step(progress.done - done)
            done = progress.done

        yield step


def moved_options(moved: Mapping[str, str]) -> type[TyperCommand]:
    """Make a command that answers options it had once with what to type now, in one line; exits 2."""

    class Command(TyperCommand):
        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            for option in moved:
                if any(word.partition("=")[0] == option for word in args):
                    _point(f"{ctx.command_path} {option}", moved[option])
            return super().parse_args(ctx, args)

    return Command


def moved_command(app: typer.Typer, old: str, new: str) -> None:
    """Make the old name of a command answer with the new one, in one line; exits 2."""
    settings = {"ignore_unknown_options": True, "allow_extra_args": True}

    @app.command(old.rpartition(" ")[2], hidden=True, context_settings=settings, add_help_option=False)
    def pointer() -> None:
        _point(old, new)


def _point(old: str, new: str) -> None:
    say(f"pnag: `{old}` is now `{new}`")
    raise typer.Exit(2)
