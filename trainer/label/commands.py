"""`pnag label`: which architectures to measure next; ask and tell through files, so any training job fits between."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()


@app.command(
    epilog="Example: pnag label --space nas-bench-macro --records known.csv --count 20 --out ask.csv; measure; then "
    "again with --tell ask.csv"
)
def label(
    space: Annotated[str, typer.Option(help="A search space; `pnag spaces` lists them.")],
    records: Annotated[Path, typer.Option(help="What is known: a CSV; need not exist yet.")],
    out: Annotated[Path, typer.Option(help="The CSV of architectures to measure that is written.")],
    latency_table: Annotated[
        Path | None, typer.Option(help="The cost, in ms; without it, the cost is MACs, in millions.")
    ] = None,
    strategy: Annotated[str, typer.Option(help="active, stratified (over cost) or random.")] = "active",
    count: Annotated[int, typer.Option(min=1, help="Architectures to propose.")] = 20,
    tell: Annotated[
        Path | None, typer.Option(help="First add this file's measured rows (architecture, top1_percent) to --records.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Same records and seed, same proposals.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Propose which architectures to measure next, given what is known."""
    from trainer.label.ask_tell import ask, tell_measured

    told = tell_measured(space, records, tell) if tell is not None else 0
    known, asked = ask(space, records, out, latency_table, strategy, count, seed)
    if as_json:
        json.dump({"told": told, "known": known, "asked": asked, "out": str(out)}, sys.stdout)
        sys.stdout.write("\n")
        return
    if tell is not None:
        typer.echo(f"{records}: {told} measured architectures added, {known} known now")
    typer.echo(f"{out}: {asked} architectures to measure; fill in top1_percent, then pass the file as --tell")
