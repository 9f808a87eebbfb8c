"""`pnag supernet`: train the weights that all architectures of a space share."""

from pathlib import Path
from typing import Annotated

import typer

from pnag.cli.options import (
    ImagesOption,
    JsonOption,
    SeedOption,
    SpaceOption,
    moved_command,
    moved_options,
    print_result,
)

app = typer.Typer(no_args_is_help=True, help="Train the weights that all architectures of a space share.")


@app.command(
    epilog="Example: pnag supernet train --space nas-bench-macro --images train.parquet --out runs/supernet",
    cls=moved_options({"--val-images": "--validation-images"}),
)
def train(
    space: SpaceOption,
    images: ImagesOption,
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
    validation_images: Annotated[int, typer.Option(min=1, help="Images to hold out, for `pnag label`.")] = 5000,
    checkpoint_minutes: Annotated[float, typer.Option(min=0, help="How often to save.")] = 2.0,
    seed: SeedOption = 0,
    threads: Annotated[int | None, typer.Option(min=1, help="Of each process; default: torch's.")] = None,
    as_json: JsonOption = False,
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
            num_held_out=validation_images, checkpoint_every_s=60 * checkpoint_minutes, progress=progress,
        )  # fmt: skip
    if not Group.join().is_first:
        return
    seen, minutes = weights.report["images_seen"], weights.report["wall_seconds"] / 60
    print_result(
        {"out": str(out / WEIGHTS), "space": space, **weights.report},
        as_json,
        f"{out / WEIGHTS}: {space}, {seen} images seen in {minutes:.1f} min",
    )


moved_command(app, "pnag supernet check", "pnag bench labels")
