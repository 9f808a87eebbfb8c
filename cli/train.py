"""The `pnag` sub-commands that train. Heavy imports wait until a command runs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pnag.cli.options import JsonOption, print_json

if TYPE_CHECKING:
    from pnag.models.bundle.bundle import Bundle
    from pnag.trainer.config import TrainConfig

app = typer.Typer()

_Seed = Annotated[int, typer.Option(help="Same inputs, same seed, same bundle.")]
_Recipe = Annotated[str, typer.Option(help="default, quick (seconds, nothing converges) or thorough.")]
_Table = Annotated[Path, typer.Option("--latency-table", help="What `pnag latency` wrote for the device.")]


@app.command(
    epilog="Example: pnag train --space nas-bench-macro --records records.csv --latency-table table.json --out bundle"
)
def train(
    space: Annotated[str, typer.Option(help="A search space (`pnag spaces` lists them), or your own as a .yaml file.")],
    records: Annotated[Path, typer.Option(help="CSV or Parquet: architecture, top1_percent or accuracy.")],
    out: Annotated[Path, typer.Option(help="The bundle folder to write.")],
    latency_table: Annotated[
        Path | None,
        typer.Option(help="What `pnag latency` wrote for the device. A .yaml space may learn it from latency_ms."),
    ] = None,
    only_recorded: Annotated[
        bool, typer.Option("--only-recorded", help="Of a .yaml space: answer with architectures of --records only.")
    ] = False,
    candidates: Annotated[
        Path | None, typer.Option(help="Of a .yaml space: answer with architectures of this file only.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="Of a .yaml space: what the records' latency_ms was measured on.")
    ] = None,
    references: Annotated[
        Path | None, typer.Option(help="CSV: name, architecture of networks people know; the page shows them.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="The bundle's name; default: the folder's.")] = None,
    bundle_version: Annotated[str, typer.Option(help="The bundle's version.")] = "1",
    dataset: Annotated[str, typer.Option(help="What the accuracies were measured on.")] = "unknown",
    recipe: _Recipe = "default",
    method: Annotated[str, typer.Option(help="elite-imitation, or the paper's reinforce.")] = "elite-imitation",
    evaluator: Annotated[
        str, typer.Option(help="What reinforce maximises: composite, or the paper's learned ranking.")
    ] = "composite",
    checkpoint: Annotated[
        Path | None, typer.Option(help="A folder that keeps generator training resumable, and its curves.csv.")
    ] = None,
    seed: _Seed = 0,
    as_json: JsonOption = False,
) -> None:
    """Train evaluator and generator, and write a verified bundle."""
    from pnag.trainer.progress import show_progress
    from pnag.trainer.tabular.inputs import Choices
    from pnag.trainer.train_bundle import BundleRef, Job, Sources, train_bundle

    config = _config(recipe, seed, method, evaluator)
    ref = BundleRef(name or out.resolve().name, bundle_version, dataset)
    sources = Sources(space, records, latency_table, Choices(candidates, only_recorded, device), references)
    with show_progress() as progress:
        bundle = train_bundle(sources, Job(out, ref, config, progress, checkpoint))
    _report(bundle, out, as_json)


@app.command(epilog="Example: pnag retarget --bundle my-bundle --latency-table phone.json --out my-bundle-phone")
def retarget(
    bundle: Annotated[Path, typer.Option(help="The bundle whose evaluator is kept.")],
    latency_table: _Table,
    out: Annotated[Path, typer.Option(help="The bundle folder to write.")],
    name: Annotated[str | None, typer.Option(help="The new bundle's name; default: the folder's.")] = None,
    recipe: _Recipe = "default",
    seed: _Seed = 0,
    as_json: JsonOption = False,
) -> None:
    """Make a bundle for another device: the same evaluator, a new generator."""
    from pnag.models.bundle.bundle import Bundle
    from pnag.trainer.progress import show_progress
    from pnag.trainer.train_bundle import BundleRef, Job, retarget_bundle

    config, source = _config(recipe, seed), Bundle.load(bundle)
    ref = BundleRef(name or out.resolve().name, source.version, str(source.manifest["accuracy"]["dataset"]))
    with show_progress() as progress:
        made = retarget_bundle(source, latency_table, Job(out, ref, config, progress))
    _report(made, out, as_json)


def _config(recipe: str, seed: int, method: str = "elite-imitation", evaluator: str = "composite") -> "TrainConfig":
    from dataclasses import replace

    from pnag.trainer.config import SCORES
    from pnag.trainer.generator.train import METHODS
    from pnag.trainer.recipes import RECIPES

    if recipe not in RECIPES:
        raise typer.BadParameter(f"{recipe!r}; choose from {sorted(RECIPES)}", param_hint="--recipe")
    for name, value, known in (("--method", method, METHODS), ("--evaluator", evaluator, SCORES)):
        if value not in known:
            raise typer.BadParameter(f"{value!r}; choose from {list(known)}", param_hint=name)
    config = RECIPES[recipe](seed)
    return replace(
        config,
        generator=replace(config.generator, method=method),
        evaluator=replace(config.evaluator, score=evaluator),
    )


def _report(bundle: "Bundle", out: Path, as_json: bool) -> None:
    metrics, training = bundle.manifest["metrics"], bundle.manifest["training"]
    if as_json:
        print_json({"bundle": str(out), "name": bundle.name, "version": bundle.version, "metrics": metrics})
        return
    evaluator, generator = metrics["evaluator"], metrics["generator"]
    baseline, alone = ("macs", "MACs") if "macs_only_kendall_tau" in evaluator else ("cost", "cost")
    typer.echo(
        f"evaluator: kendall tau {_number(evaluator['kendall_tau'])} ({alone} alone "
        f"{_number(evaluator[f'{baseline}_only_kendall_tau'])}), mean error {evaluator['mae_percent']:.3f} points "
        f"({alone} alone {evaluator[f'{baseline}_only_mae_percent']:.3f}), "
        f"{evaluator['interval_coverage_asked']:.0%} interval held for "
        f"{evaluator['interval_coverage_seen']:.0%}, over {evaluator['num_held_out']} held-out records\n"
        f"generator: mean regret {generator['mean_regret_percent']:.4f} points, hypervolume "
        f"{generator['hypervolume_percent']:.2f} % of the archive's, {generator['samples_over_budget']} samples over "
        f"budget, at {generator['budgets']} budgets with {generator['candidates']} candidates\n"
        f"{out}: {bundle.name} {bundle.version}, {generator['front_points']} front networks, "
        f"{training['wall_seconds']:g} s on the CPU"
    )


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"
