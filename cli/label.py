"""`pnag label`: which architectures to measure next, and measuring them with a supernet's weights.

Asking and telling goes through files, so that any training job fits between.
"""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from pnag.cli.options import JsonOption, print_json


class _Label(TyperGroup):
    """Three commands that were one: names the command that a call in the old form is now."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0].startswith("--") and args[0] != "--help":
            options = {word.partition("=")[0] for word in args}
            name = "measure" if "--weights" in options else "tell" if "--tell" in options else "ask"
            typer.echo(
                f"pnag label: is three commands, ask, tell and measure; see `pnag label {name} --help`", err=True
            )
            ctx.exit(2)
        return super().parse_args(ctx, args)


app = typer.Typer(cls=_Label, no_args_is_help=True, help="Choose which architectures to measure next, or measure them.")

_Space = Annotated[str, typer.Option(help="A search space: a name (`pnag spaces` lists them) or a .yaml file.")]
_Table = Annotated[
    Path | None, typer.Option("--latency-table", help="The cost, in ms; without it, the cost is MACs, in millions.")
]
_Seed = Annotated[int, typer.Option(help="Same records and seed, same proposals.")]


@app.command(epilog="Example: pnag label ask --space nas-bench-macro --records known.csv --count 20 --out ask.csv")
def ask(
    space: _Space,
    records: Annotated[Path, typer.Option(help="What is known: a CSV; need not exist yet.")],
    out: Annotated[Path, typer.Option(help="The CSV of architectures to measure.")],
    latency_table: _Table = None,
    candidates: Annotated[
        Path | None, typer.Option(help="Of a .yaml space: the architectures there are, with latency_ms in every row.")
    ] = None,
    strategy: Annotated[str, typer.Option(help="active, stratified (over cost) or random.")] = "active",
    count: Annotated[int, typer.Option(min=1, help="Architectures to propose.")] = 20,
    seed: _Seed = 0,
    as_json: JsonOption = False,
) -> None:
    """Propose which architectures to measure next, given what is known."""
    from pnag.models.space.tabular import TableSpace
    from pnag.trainer.label.ask_tell import Request, ask_table, measured_column
    from pnag.trainer.label.ask_tell import ask as ask_layers
    from pnag.trainer.tabular.space_file import load_space

    chosen, request = load_space(space), Request(strategy, count, seed)
    if isinstance(chosen, TableSpace):
        if candidates is None or latency_table is not None:
            raise typer.BadParameter("a .yaml space needs --candidates, and takes no --latency-table")
        known, asked = ask_table(chosen, records, candidates, out, request)
    else:
        if candidates is not None:
            raise typer.BadParameter("--candidates is for .yaml spaces")
        known, asked = ask_layers(chosen, records, out, latency_table, request)
    if as_json:
        print_json({"known": known, "asked": asked, "out": str(out)})
        return
    column = measured_column(chosen)
    typer.echo(f"{out}: {asked} architectures to measure; fill in {column}, then `pnag label tell --measured {out}`")


@app.command(epilog="Example: pnag label tell --space nas-bench-macro --records known.csv --measured ask.csv")
def tell(
    space: _Space,
    records: Annotated[Path, typer.Option(help="What is known: a CSV; need not exist yet.")],
    measured: Annotated[Path, typer.Option(help="What `ask` wrote, filled in; blank rows are passed over.")],
    as_json: JsonOption = False,
) -> None:
    """Add measured architectures to the records, whole or not at all."""
    from pnag.trainer.label.ask_tell import tell as add
    from pnag.trainer.tabular.space_file import load_space

    told = add(load_space(space), records, measured)
    if as_json:
        print_json({"told": told, "records": str(records)})
        return
    typer.echo(f"{records}: {told} measured architectures added")


@app.command(
    epilog="Example: pnag label measure --space nas-bench-macro --weights supernet.pt --images train.parquet "
    "--count 500 --out labels.csv"
)
def measure(
    space: Annotated[str, typer.Option(help="A search space (`pnag spaces` lists them).")],
    weights: Annotated[Path, typer.Option(help="A supernet.pt: measure with it.")],
    images: Annotated[
        Path, typer.Option(help="The images --weights was trained on; accuracy is that of those held out.")
    ],
    out: Annotated[Path, typer.Option(help="The records; those that are there are not measured again.")],
    latency_table: _Table = None,
    strategy: Annotated[str, typer.Option(help="active, stratified (over cost), random or all.")] = "active",
    count: Annotated[int, typer.Option(min=1, help="Architectures to know at the end.")] = 20,
    recalibration_images: Annotated[int, typer.Option(min=2, help="For each one's batch norm.")] = 256,
    validation_images: Annotated[int, typer.Option(min=1, help="Of those held out, at most.")] = 5000,
    precision: Annotated[
        str | None, typer.Option(help="fp32 or bf16; default: the quicker one on this processor.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that measure; above 1 needs pnag[cluster].")] = 1,
    cluster: Annotated[str | None, typer.Option(help="A Dask scheduler's address, in place of --workers.")] = None,
    seed: _Seed = 0,
    as_json: JsonOption = False,
) -> None:
    """Measure architectures with a supernet's weights."""
    import time

    from pnag.models.space.registry import get_space
    from pnag.trainer.label.ask_tell import Request, cost_of
    from pnag.trainer.label.cluster import run_on_cluster
    from pnag.trainer.label.measure import Task, measure_labels, run_here
    from pnag.trainer.progress import show_progress
    from pnag.trainer.supernet.precision import quickest_precision
    from pnag.trainer.supernet.score import ScoreConfig

    started = time.monotonic()
    config = ScoreConfig(recalibration_images, validation_images, precision or quickest_precision())
    task = Task(space, str(weights.resolve()), str(images.resolve()), config)
    cost = cost_of(get_space(space), latency_table)[1]
    run = run_here if workers == 1 and cluster is None else run_on_cluster(workers, cluster)
    with show_progress() as progress:
        new = measure_labels(task, out, cost, Request(strategy, count, seed), run, progress)
    seconds = time.monotonic() - started
    if as_json:
        print_json({"measured": new, "out": str(out), "seconds": round(seconds, 1)})
        return
    typer.echo(f"{out}: {new} architectures measured in {seconds / 60:.1f} min")
