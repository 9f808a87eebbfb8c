"""`pnag export`, `pnag try` and `pnag finetune`: networks that run."""

import hashlib
from pathlib import Path
from typing import Annotated, Any

import typer

from pnag.cli.options import BundleOption, ImagesOption, JsonOption, SeedOption, print_result

app = typer.Typer()


@app.command(
    epilog="Example: pnag export --bundle bundles/nas-bench-macro-cifar10 --architecture 02012100 --out model.onnx"
)
def export(
    bundle: BundleOption,
    architecture: Annotated[str | None, typer.Option(help="Encoding, as answers have it.")] = None,
    out: Annotated[Path | None, typer.Option(help="The ONNX file to write.")] = None,
    weights: Annotated[
        Path | None,
        typer.Option(help="supernet.pt or an official OFA checkpoint. Default: the bundle's own weights."),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            help="Parquet with columns image and label, or a folder per class: recalibrates batch norm, measures."
        ),
    ] = None,
    int8: Annotated[bool, typer.Option(help="Quantise to 8-bit integers; needs --images.")] = False,
    into_bundle: Annotated[
        bool, typer.Option(help="Put the weights of the bundle's networks into the bundle: the service hands them out.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """A network that runs: sliced from the weights, batch norm recalibrated and folded, compared with torch."""
    from pnag.models.bundle.bundle import Bundle

    loaded = Bundle.load(bundle)
    if into_bundle:
        if weights is None or architecture is not None or out is not None or int8:
            raise typer.BadParameter(
                "--into-bundle takes --weights and --images, and writes all of the bundle's networks"
            )
        report = _fill_bundle(bundle, loaded, weights, images)
    else:
        if architecture is None or out is None:
            raise typer.BadParameter("--architecture and --out are needed, or --into-bundle")
        report = _export_one(loaded, architecture, weights, images, out, int8=int8)
    print_result(report, as_json)


def _export_one(
    bundle: Any, encoding: str, weights: Path | None, images: Path | None, out: Path, *, int8: bool
) -> dict[str, Any]:
    import torch

    from pnag.models.answer.exported_network import build_network, describe_network
    from pnag.models.answer.runtime import OnnxGenerator
    from pnag.models.errors import WeightsError
    from pnag.models.files import write_atomic
    from pnag.trainer.networks import export

    torch.set_num_threads(1)
    encoding = bundle.space.architecture(encoding).encoding
    (candidate,) = OnnxGenerator(bundle).predict([encoding])
    if int8 and images is None:
        raise typer.BadParameter("--int8 needs --images: the ranges of activations come from them")
    if weights is None:
        if int8 or images is not None:
            raise typer.BadParameter("--images and --int8 need --weights: the bundle's own are ready as they are")
        if not bundle.has_weights_of(encoding):
            raise WeightsError(f"bundle {bundle.name} has no weights of {encoding}; name a file with --weights")
        content = build_network(bundle, candidate)
    else:
        source = export.Source.load(bundle.space, weights)
        content = export.export_with(
            source, encoding, lambda accuracy: describe_network(bundle, candidate, accuracy),
            export.read_images_for(bundle.space, encoding, images), int8=int8,
        )  # fmt: skip
    write_atomic(out, content)
    said = export.metadata_of(content)
    return {"out": str(out), "sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content), **said}


def _fill_bundle(folder: Path, bundle: Any, weights: Path, images: Path | None) -> dict[str, Any]:
    import torch

    from pnag.models.bundle.bundle import WEIGHTS
    from pnag.trainer.networks import export
    from pnag.trainer.progress import show_progress

    torch.set_num_threads(1)
    source = export.Source.load(bundle.space, weights)
    encodings = export.networks_to_store(bundle)
    loaded_images = export.read_images_for(bundle.space, encodings[0], images)
    scorer = None if loaded_images is None else source.scorer(loaded_images)
    with show_progress() as progress, progress.stage("networks", len(encodings)) as stage:

        def one_by_one() -> Any:
            for network in export.stored_networks(source, encodings, scorer):
                yield network
                stage.step()

        filled = export.add_weights(folder, bundle, one_by_one(), source.metadata)
    entry = filled.manifest["files"][WEIGHTS]
    return {"bundle": str(folder), "networks": len(encodings), **entry}


@app.command("try", epilog="Example: pnag try model.onnx --images test.parquet")
def try_(
    network: Annotated[Path, typer.Argument(help="The ONNX file, from `pnag export` or from the service.")],
    images: Annotated[
        Path | None, typer.Option(help="Parquet with columns image and label, or a folder per class.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Run an exported network here: its time, and its accuracy on images, beside what its file promises."""
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    from pnag.models.errors import WeightsError
    from pnag.trainer.data.images import read_images
    from pnag.trainer.networks import export
    from pnag.trainer.networks.try_network import try_network

    try:
        content = network.read_bytes()
        size, _ = export.sizes_of(content)
    except (OSError, DecodeError, IndexError) as exc:
        raise WeightsError(f"{network}: cannot be read as an ONNX network ({exc})") from None
    report = try_network(content, None if images is None else read_images(images, size))
    print_result(report, as_json)


@app.command(
    epilog="Example: pnag finetune --bundle bundles/nas-bench-macro-cifar10 --weights runs/supernet/supernet.pt "
    "--architecture 02012100 --images mine.parquet --out runs/mine"
)
def finetune(
    bundle: BundleOption,
    weights: Annotated[Path, typer.Option(help="supernet.pt, or an official OFA checkpoint.", show_default=False)],
    architecture: Annotated[str, typer.Option(help="Encoding, as answers have it.", show_default=False)],
    images: ImagesOption,
    out: Annotated[Path, typer.Option(help="The folder for model.onnx, checkpoint.pt and curves.csv.")],
    epochs: Annotated[float, typer.Option(min=0, help="How often each image is seen.")] = 5.0,
    batch_size: Annotated[int, typer.Option(min=2, help="Images of a step.")] = 64,
    lr: Annotated[float, typer.Option(help="Learning rate at the start.")] = 0.01,
    distillation: Annotated[float, typer.Option(min=0, max=1, help="Weight of the teacher against the labels.")] = 0.5,
    checkpoint_minutes: Annotated[float, typer.Option(min=0, help="How often to save.")] = 2.0,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Train one network further on your images, its supernet's widest network teaching; goes on where --out stopped."""
    import torch

    from pnag.models.answer.exported_network import describe_network
    from pnag.models.answer.runtime import OnnxGenerator
    from pnag.models.bundle.bundle import Bundle
    from pnag.models.files import write_atomic
    from pnag.trainer.networks import export
    from pnag.trainer.networks.finetune import FinetuneConfig
    from pnag.trainer.networks.finetune import finetune as train_further
    from pnag.trainer.progress import show_progress

    torch.set_num_threads(1)
    loaded = Bundle.load(bundle)
    encoding = loaded.space.architecture(architecture).encoding
    source = export.Source.load(loaded.space, weights)
    config = FinetuneConfig(epochs, batch_size, lr, distillation=distillation, seed=seed)
    found = export.read_images_for(loaded.space, encoding, images)
    assert found is not None
    with show_progress() as progress:
        done = train_further(
            source, encoding, found, config, out, checkpoint_every_s=60 * checkpoint_minutes, progress=progress
        )
    (candidate,) = OnnxGenerator(loaded).predict([encoding])
    properties = {**source.metadata, **describe_network(loaded, candidate, done.accuracy), "finetuned_on": images.name}
    content = export.export_network(done.network, {**properties, "precision": "fp32"})
    write_atomic(out / "model.onnx", content)
    report = {
        "out": str(out / "model.onnx"),
        "sha256": hashlib.sha256(content).hexdigest(),
        "top1_percent": round(done.accuracy * 100, 2),
        "top1_percent_before": round(done.accuracy_before * 100, 2),
        "teacher_top1_percent": round(done.teacher_accuracy * 100, 2),
    }
    print_result(
        report,
        as_json,
        f"{report['out']}: top-1 {report['top1_percent']:.2f} % of the images held out, "
        f"{report['top1_percent_before']:.2f} % before, the teacher's {report['teacher_top1_percent']:.2f} %",
    )
