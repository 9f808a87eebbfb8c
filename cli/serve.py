"""The `pnag` commands that serve and answer. Everything heavy is imported inside: `pnag --help` stays quick."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pnag.cli.options import BundleOption, JsonOption, print_json

if TYPE_CHECKING:
    from pnag.models.bundle.bundle import Bundle
    from pnag.service.contract.schemas import PredictedBody

app = typer.Typer(no_args_is_help=True)
bundle_app = typer.Typer(no_args_is_help=True, help="Look into a bundle.")
app.add_typer(bundle_app, name="bundle")


@app.command(epilog="Example: pnag serve --bundle bundles/ofa-mobilenetv3-w1.0-imagenet --port 8000")
def serve(
    bundle: Annotated[
        list[Path] | None,
        typer.Option(help="Bundle folder, or a folder of bundle folders; may be repeated. Default: PNAG_BUNDLES."),
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on. Default: PNAG_HOST.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on. Default: PNAG_PORT.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that share the port. Default: PNAG_WORKERS.")] = None,
) -> None:
    """Answer budgets over HTTP. Everything else is set by PNAG_ variables: see .env.example."""
    from pnag.service.server import serve as run_server
    from pnag.service.settings import load_settings

    given = {"bundles": bundle or None, "host": host, "port": port, "workers": workers}
    run_server(load_settings(**{name: value for name, value in given.items() if value is not None}))


@app.command(epilog="Example: pnag generate --bundle bundles/ofa-mobilenetv3-w1.0-imagenet --budget-ms 20")
def generate(
    bundle: BundleOption,
    budget_ms: Annotated[float, typer.Option(help="Latency budget in ms.", show_default=False)],
    macs_m: Annotated[float | None, typer.Option(help="At most so many million MACs.")] = None,
    params_m: Annotated[float | None, typer.Option(help="At most so many million parameters.")] = None,
    size_mb: Annotated[float | None, typer.Option(help="At most so many megabytes of weights.")] = None,
    peak_memory_mb: Annotated[float | None, typer.Option(help="At most so many megabytes of activations.")] = None,
    coverage: Annotated[float | None, typer.Option(help="How likely the budget is kept; 0.5 = no margin.")] = None,
    num_alternatives: Annotated[int, typer.Option(min=0, max=20, help="Further networks that fit.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Answer one budget without a server."""
    from pnag.models.answer.question import Limits, Query
    from pnag.models.answer.runtime import OnnxGenerator
    from pnag.service.contract.bodies import answer_body

    generator = OnnxGenerator(_load(bundle))
    limits = Limits(macs_m, params_m, size_mb, peak_memory_mb)
    answer = generator.generate(Query(budget_ms, limits, coverage, num_alternatives))
    body = answer_body(generator.bundle, answer)
    if as_json:
        print_json(body)
        return
    for candidate in (body, *body["alternatives"]):
        typer.echo(candidate["architecture"]["encoding"])
        typer.echo(_prediction_line(candidate["predicted"]))


@app.command(epilog="Example: pnag inspect nas-bench-macro 02012100 --json")
def inspect(
    space: Annotated[str, typer.Argument(help="Search space; `pnag spaces` lists them.", show_default=False)],
    encoding: Annotated[str, typer.Argument(help="Architecture, as text.", show_default=False)],
    bundle: Annotated[Path | None, typer.Option(help="Predict accuracy and latency with this bundle.")] = None,
    as_json: JsonOption = False,
) -> None:
    """MACs, parameters and layers of one architecture; with a bundle, its predicted accuracy and latency too."""
    from pnag.models.space.registry import get_space

    loaded = None if bundle is None else _load(bundle)
    # A space from somebody's YAML file is known to its bundles alone.
    search_space = loaded.space if loaded is not None and loaded.space.name == space else get_space(space)
    architecture = search_space.architecture(encoding)
    layers = search_space.layers(architecture.encoding)
    body: dict[str, Any] = {
        "architecture": {
            "id": architecture.id,
            "space": architecture.space,
            "encoding": architecture.encoding,
            **search_space.describe(architecture),
        },
    }
    if search_space.has_layers:
        body |= {
            "macs": sum(layer.macs for layer in layers),
            "params": sum(layer.params for layer in layers),
            "layers": [{"key": layer.key, "macs": layer.macs, "params": layer.params} for layer in layers],
        }
    if loaded is not None:
        body["predicted"] = _predict(loaded, space, architecture.encoding)
    if as_json:
        print_json(body)
        return
    typer.echo(architecture.encoding)
    for layer in body.get("layers", ()):
        typer.echo(f"{layer['macs'] / 1e6:10.3f} M MACs {layer['params'] / 1e6:8.4f} M parameters  {layer['key']}")
    if search_space.has_layers:
        typer.echo(
            f"{body['macs'] / 1e6:10.3f} M MACs {body['params'] / 1e6:8.4f} M parameters  in all, {len(layers)} layers"
        )
    if "predicted" in body:
        typer.echo(_prediction_line(body["predicted"]))


@app.command("api-key", epilog="Example: pnag api-key dashboard --scope read")
def api_key(
    name: Annotated[str, typer.Argument(help="Whose key it is; the log says so.", show_default=False)],
    scope: Annotated[str, typer.Option(help="read, or admin for /admin too.")] = "read",
) -> None:
    """Make an API key: the key on stdout, the line for PNAG_API_KEYS on stderr."""
    from pnag.service.edge.security import ApiKey

    key, line = ApiKey.make(name, scope)
    typer.echo(line, err=True)
    typer.echo(key)


@bundle_app.command("show")
def bundle_show(
    folder: Annotated[Path, typer.Argument(help="Bundle folder.", show_default=False)], as_json: JsonOption = False
) -> None:
    """Show what a bundle is: space, device, metrics, how it was trained."""
    manifest = dict(_load(folder).manifest)
    if as_json:
        print_json(manifest)
        return
    del manifest["search_space"]["decisions"]
    typer.echo(json.dumps(manifest, indent=2, ensure_ascii=False))


@bundle_app.command("verify")
def bundle_verify(folder: Annotated[Path, typer.Argument(help="Bundle folder.", show_default=False)]) -> None:
    """Check every hash and shape, and that the recorded answers come out the same."""
    from pnag.service.engine.loaded_bundle import open_bundle

    bundle = open_bundle(folder).bundle
    num_tests = len(bundle.manifest.get("self_test", ()))
    num_files = len(bundle.manifest["files"]) + 1
    typer.echo(f"{bundle.name} {bundle.version}: {num_files} files intact, {num_tests} recorded answers met")


def _load(folder: Path) -> "Bundle":
    from pnag.models.bundle.bundle import Bundle

    return Bundle.load(folder)


def _predict(bundle: "Bundle", space: str, encoding: str) -> "PredictedBody":
    from pnag.models.answer.runtime import OnnxGenerator
    from pnag.models.errors import BundleError
    from pnag.service.contract.bodies import predicted_body

    if bundle.space.name != space:
        raise BundleError(f"{bundle.name} is for search space {bundle.space.name}, not {space}; name that one")
    return predicted_body(OnnxGenerator(bundle).predict([encoding])[0].predicted)


def _prediction_line(predicted: "PredictedBody") -> str:
    sizes = ((predicted["macs_m"], "M MACs"), (predicted["params_m"], "M parameters"))
    quality = f"top-1 {predicted['top1_percent']:.2f} %"
    if "metric" in predicted:
        metric = predicted["metric"]
        quality = f"{metric['name']} {metric['value']:.4g} {metric['unit']}".rstrip()
    return (
        f"{quality}, {predicted['latency_ms']:.2f} ms"
        f" (at most {predicted['latency_upper_ms']:.2f} ms at coverage {predicted['latency_coverage']:g})"
        + "".join(f", {amount:.2f} {unit}" for amount, unit in sizes if amount is not None)
    )
