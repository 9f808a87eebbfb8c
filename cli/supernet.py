"""`pnag supernet`: train the weights that all architectures of a space share."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Train the weights that all architectures of a space share."""


@app.command(epilog="Example: pnag supernet train --space nas-bench-macro --images train.parquet --out runs/supernet")
def train(
    space: Annotated[str, typer.Option(help="A search space; `pnag spaces` lists them.")],
    images: Annotated[Path, typer.Option(help="Parquet with columns image and label, or a folder with one per class.")],
    out: Annotated[Path, typer.Option(help="The folder for supernet.pt, checkpoint.pt and curves.csv.")],
    epochs: Annotated[float, typer.Option(min=0, help="How often each image is seen.")] = 30.0,
    max_minutes: Annotated[
        float | None, typer.Option(min=0, help="End the schedule by then; may be raised when going on.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=2, help="Images of a step, over all processes.")] = 64,
    lr: Annotated[float, typer.Option(help="The highest learning rate.")] = 0.05,
    optimizer: Annotated[str, typer.Option(help="sgd or adamw.")] = "sgd",
    label_smoothing: Annotated[float, typer.Option(min=0, max=0.9)] = 0.0,
    ema_decay: Annotated[float, typer.Option(min=0, max=1, help="Keep averaged weights; 0 keeps the last.")] = 0.0,
    paths: Annotated[
        str | None,
        typer.Option(help="fair: every option once a step; uniform: one path; sandwich: for elastic supernets."),
    ] = None,
    progressive: Annotated[bool, typer.Option(help="Train on small images first, on whole ones last.")] = True,
    precision: Annotated[
        str | None, typer.Option(help="fp32 or bf16; default: the quicker one on this processor.")
    ] = None,
    val_images: Annotated[int, typer.Option(min=1, help="Images to hold out, for `pnag label`.")] = 5000,
    checkpoint_minutes: Annotated[float, typer.Option(min=0, help="How often to save.")] = 2.0,
    seed: Annotated[int, typer.Option(help="Same images and seed, same weights.")] = 0,
    threads: Annotated[int | None, typer.Option(min=1, help="Of each process; default: torch's.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Train a supernet, or go on where a run in --out stopped.

    Several processes: `torchrun --nproc-per-node 2 -m pnag supernet train …`.
    """
    import torch

    from pnag.models.space.registry import get_space
    from pnag.trainer.data.images import input_size, read_images
    from pnag.trainer.progress import show_progress
    from pnag.trainer.supernet.distributed import Group
    from pnag.trainer.supernet.train_supernet import PROGRESSIVE, WEIGHTS, SupernetConfig, train_supernet

    if threads is not None:
        torch.set_num_threads(threads)
    config = SupernetConfig(
        epochs=epochs, max_minutes=max_minutes, batch_size=batch_size, lr=lr, optimizer=optimizer,
        label_smoothing=label_smoothing, ema_decay=ema_decay, paths=paths, precision=precision, seed=seed,
        sizes=PROGRESSIVE if progressive else ((0.0, 1.0),),
    )  # fmt: skip
    found = get_space(space)
    with show_progress() as progress:
        weights = train_supernet(
            found, read_images(images, input_size(found)), config, out,
            num_held_out=val_images, checkpoint_every_s=60 * checkpoint_minutes, progress=progress,
        )  # fmt: skip
    if not Group.join().is_first:
        return
    if as_json:
        json.dump({"out": str(out / WEIGHTS), "space": space, **weights.report}, sys.stdout)
        sys.stdout.write("\n")
        return
    seen, minutes = weights.report["images_seen"], weights.report["wall_seconds"] / 60
    typer.echo(f"{out / WEIGHTS}: {space}, {seen} images seen in {minutes:.1f} min")


@app.command(
    epilog="Example: pnag supernet check --bundle bundles/nas-bench-macro-cifar10 --records records.csv "
    "--truth nas-bench-macro_cifar10.json --out check.png"
)
def check(
    bundle: Annotated[Path, typer.Option(help="A bundle that was trained on the records.")],
    records: Annotated[Path, typer.Option(help="What `pnag label measure` wrote.")],
    truth: Annotated[Path, typer.Option(help="Records of the whole space, each architecture trained on its own.")],
    out: Annotated[Path, typer.Option(help="The picture to write.")],
    budgets: Annotated[int, typer.Option(min=2, help="Test budgets, even over the range.")] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Where the truth is known: how well labels rank architectures, and what the bundle's answers lose."""
    from pnag.bench.search.supernet_truth import compare_with_truth
    from pnag.models.bundle.bundle import Bundle

    result = compare_with_truth(Bundle.load(bundle), records, truth, out, budgets)
    if as_json:
        json.dump(result, sys.stdout)
        sys.stdout.write("\n")
        return
    typer.echo(
        "kendall tau {kendall_tau:.3f} over {architectures} labels (MACs alone {kendall_tau_of_macs:.3f}), "
        "{kendall_tau_of_predictions:.3f} of predictions for the whole space; true regret {regret_points:.3f} points "
        "over {budgets} budgets, at most {largest_regret_points:.3f}; {answers_over_budget} answers over budget".format(
            **result
        )
    )
