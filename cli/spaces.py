"""The `pnag` sub-commands for search spaces of one's own. Heavy imports wait until a command runs."""

from pathlib import Path
from typing import Annotated

import typer

from pnag.cli.options import JsonOption, print_json

app = typer.Typer()
spaces_app = typer.Typer()
app.add_typer(spaces_app, name="spaces")


@spaces_app.callback(invoke_without_command=True)
def spaces(context: typer.Context, as_json: JsonOption = False) -> None:
    """The search spaces that can be named; `pnag spaces check NAME` examines one."""
    if context.invoked_subcommand is not None:
        return
    from pnag.models.space.registry import get_space, space_names

    listed = [(name, get_space(name)) for name in space_names()]
    if as_json:
        print_json(
            [
                {"name": name, "num_decisions": len(s.decisions), "num_architectures": str(s.num_architectures)}
                for name, s in listed
            ]
        )
        return
    for name, space in listed:
        typer.echo(f"{name:24} {len(space.decisions):3} decisions  {space.num_architectures:.3g} networks")


@app.command(epilog="Example: pnag init my-networks")
def init(
    folder: Annotated[Path, typer.Argument(help="Where to; made if it is not there.", show_default=False)],
) -> None:
    """Write a commented search space and measurements to start from."""
    from pnag.trainer.tabular.starting_project import write_project

    for path in write_project(folder):
        typer.echo(str(path))
    typer.echo(f"next: cd {folder} && pnag validate --space space.yaml --records measurements.csv", err=True)


@app.command(epilog="Example: pnag validate --space space.yaml --records measurements.csv")
def validate(
    space: Annotated[str, typer.Option(help="A search space: a name, or a .yaml file.", show_default=False)],
    records: Annotated[Path | None, typer.Option(help="Measured architectures.")] = None,
    candidates: Annotated[Path | None, typer.Option(help="A list for `pnag train --candidates`.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Check a search space and its records, and say everything that is wrong, with rows."""
    from pnag.trainer.checks.validate import validate as run

    report = run(space, records, candidates)
    if as_json:
        print_json(report.to_dict())
    else:
        for line in (*report.facts, *(f"note: {note}" for note in report.notes)):
            typer.echo(line)
        for problem in report.problems:
            typer.echo(problem, err=True)
        verdict = (
            f"{len(report.problems)} problem{'s' * (len(report.problems) > 1)}"
            if report.problems
            else "nothing is wrong"
        )
        typer.echo(verdict, err=bool(report.problems))
    if report.problems:
        raise typer.Exit(1)


@spaces_app.command("check", epilog="Example: pnag spaces check nas-bench-macro")
def spaces_check(
    name: Annotated[str, typer.Argument(help="A registered search space, or a .yaml file.", show_default=False)],
    seed: Annotated[int, typer.Option(help="Of the architectures that are tried.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Examine a search space: round trips, activity, cost sums; where it has layers, the network they build."""
    from pnag.trainer.checks.space import check_space
    from pnag.trainer.tabular.space_file import load_space

    results = check_space(load_space(name), seed)
    if as_json:
        print_json([{"check": r.name, "passed": r.passed, "detail": r.detail} for r in results])
    else:
        for result in results:
            typer.echo(f"{'ok    ' if result.passed else 'FAILED'} {result.name}: {result.detail}")
    if not all(result.passed for result in results):
        raise typer.Exit(1)
