"""`pnag label`: which architectures to measure next, and measuring them with a supernet's weights.

Without weights it asks and tells through files, so that any training job fits between.
"""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pnag.trainer.label.measure import Task

app = typer.Typer()


@app.command(
    epilog="Example: pnag label --space nas-bench-macro --records known.csv --count 20 --out ask.csv; measure; then "
    "again with --tell ask.csv"
)
def label(
    space: Annotated[str, typer.Option(help="A search space: a name (`pnag spaces` lists them) or a .yaml file.")],
    out: Annotated[
        Path, typer.Option(help="The CSV of architectures to measure; with --weights, the records themselves.")
    ],
    records: Annotated[
        Path | None, typer.Option(help="What is known: a CSV; need not exist yet. Not with --weights.")
    ] = None,
    latency_table: Annotated[
        Path | None, typer.Option(help="The cost, in ms; without it, the cost is MACs, in millions.")
    ] = None,
    strategy: Annotated[
        str, typer.Option(help="active, stratified (over cost), random; all with --weights.")
    ] = "active",
    count: Annotated[
        int, typer.Option(min=1, help="Architectures to propose; with --weights, to know at the end.")
    ] = 20,
    candidates: Annotated[
        Path | None, typer.Option(help="Of a .yaml space: the architectures there are, with latency_ms in every row.")
    ] = None,
    tell: Annotated[
        Path | None, typer.Option(help="First add this file's measured rows (as --out wrote them) to --records.")
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="A supernet.pt: measure with it.")] = None,
    images: Annotated[
        Path | None, typer.Option(help="The images --weights was trained on; accuracy is that of those held out.")
    ] = None,
    recalibration_images: Annotated[int, typer.Option(min=2, help="For each one's batch norm.")] = 256,
    validation_images: Annotated[int, typer.Option(min=1, help="Of those held out, at most.")] = 5000,
    precision: Annotated[
        str | None, typer.Option(help="fp32 or bf16; default: the quicker one on this processor.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that measure; above 1 needs pnag[cluster].")] = 1,
    cluster: Annotated[str | None, typer.Option(help="A Dask scheduler's address, in place of --workers.")] = None,
    seed: Annotated[int, typer.Option(help="Same records and seed, same proposals.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Propose which architectures to measure next, given what is known; or measure them with a supernet's weights."""
    if weights is not None:
        if images is None or records is not None or tell is not None:
            raise typer.BadParameter("--weights needs --images, and writes to --out; it takes no --records or --tell")
        from pnag.trainer.label.measure import Task
        from pnag.trainer.supernet.precision import quickest_precision
        from pnag.trainer.supernet.score import ScoreConfig

        config = ScoreConfig(recalibration_images, validation_images, precision or quickest_precision())
        task = Task(space, str(weights.resolve()), str(images.resolve()), config)
        _measure(task, out, latency_table, strategy, count, seed, workers, cluster, as_json)
        return
    if records is None:
        raise typer.BadParameter("--records is missing; only with --weights it is not needed")
    from pnag.trainer.tabular.space_file import is_space_file, read_space

    column = "top1_percent"
    if is_space_file(space):
        from pnag.trainer.label.ask_tell_table import ask_table, measured_column, tell_table

        if candidates is None or latency_table is not None:
            raise typer.BadParameter("a .yaml space needs --candidates, and takes no --latency-table")
        table_space = read_space(Path(space))
        column = measured_column(table_space)
        told = tell_table(table_space, records, tell) if tell is not None else 0
        known, asked = ask_table(table_space, records, candidates, out, strategy, count, seed)
    else:
        from pnag.trainer.label.ask_tell import ask, tell_measured

        if candidates is not None:
            raise typer.BadParameter("--candidates is for .yaml spaces")
        told = tell_measured(space, records, tell) if tell is not None else 0
        known, asked = ask(space, records, out, latency_table, strategy, count, seed)
    if as_json:
        _print_json({"told": told, "known": known, "asked": asked, "out": str(out)})
        return
    if tell is not None:
        typer.echo(f"{records}: {told} measured architectures added, {known} known now")
    typer.echo(f"{out}: {asked} architectures to measure; fill in {column}, then pass the file as --tell")


def _measure(
    task: "Task", out: Path, latency_table: Path | None, strategy: str, count: int, seed: int, workers: int,
    cluster: str | None, as_json: bool,
) -> None:  # fmt: skip
    import time

    from pnag.models.space.registry import get_space
    from pnag.trainer.label.ask_tell import cost_of
    from pnag.trainer.label.cluster import run_on_cluster
    from pnag.trainer.label.measure import measure_labels, run_here
    from pnag.trainer.progress import show_progress

    started = time.monotonic()
    space = get_space(task.space)
    run = run_here if workers == 1 and cluster is None else run_on_cluster(workers, cluster)
    with show_progress() as progress:
        new = measure_labels(
            task,
            out,
            cost_of(space, latency_table)[1],
            strategy,
            None if strategy == "all" else count,
            seed,
            run,
            progress,
        )
    if as_json:
        _print_json({"measured": new, "out": str(out), "seconds": round(time.monotonic() - started, 1)})
        return
    typer.echo(f"{out}: {new} architectures measured in {(time.monotonic() - started) / 60:.1f} min")


def _print_json(document: dict[str, object]) -> None:
    json.dump(document, sys.stdout)
    sys.stdout.write("\n")
