"""`pnag latency …`: parse what was asked, call the stage, print what came of it.

Heavy imports wait until a command runs, so that `pnag --help` stays fast.
"""

import json
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from models.search_space import SearchSpace
    from trainer.latency.kit_script import Progress

app = typer.Typer(
    no_args_is_help=True,
    help="Measure devices: latency tables, their calibration, their bound.",
    rich_markup_mode=None,
)

SpaceOption = Annotated[str, typer.Option("--space", help="search space, as `pnag spaces` lists them")]
OnlyOption = Annotated[
    list[str] | None,
    typer.Option("--only", metavar="DECISION=OPTION[,OPTION]", help="only these options of a decision; repeatable"),
]
JsonOption = Annotated[bool, typer.Option("--json", help="machine-readable result on stdout")]
RoundsOption = Annotated[int, typer.Option(min=1, help="rounds per graph at most; steady ones stop earlier")]
StopOption = Annotated[
    float | None, typer.Option(min=0, help="stop in good order after so many seconds; the same command goes on")
]
DeviceNameOption = Annotated[
    str | None, typer.Option(help="how to name the device (default: processor, threads, runtime)")
]


@app.command(
    epilog="example: pnag latency measure --space ofa-mobilenetv3-w1.0 --only resolution=224 --threads 1",
)
def measure(
    space: SpaceOption,
    only: OnlyOption = None,
    threads: Annotated[int, typer.Option(min=1, help="threads of ONNX Runtime")] = 1,
    batch_size: Annotated[int, typer.Option(min=1)] = 1,
    rounds: RoundsOption = 60,
    execution_provider: Annotated[str, typer.Option(help="as onnxruntime names it")] = "CPUExecutionProvider",
    device_name: DeviceNameOption = None,
    out: Annotated[
        Path | None,
        typer.Option(help="the table (default: latency_tables/SPACE--DEVICE.json); extended if it is there"),
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="measure layers anew that the table has")] = False,
    stop_after_s: StopOption = None,
    as_json: JsonOption = False,
) -> None:
    """Time every distinct layer of a search space on this machine and write its latency table."""
    from models.errors import LatencyTableError
    from models.latency_table import LatencyTable
    from trainer.latency import kit_script
    from trainer.latency import measure as measuring

    setup = kit_script.Setup(threads, batch_size, execution_provider)
    chosen = _space(space, only)
    device = kit_script.describe_device(setup, device_name)
    path = out or Path("latency_tables") / f"{chosen.name}--{measuring.slug(device['name'])}.json"
    base = LatencyTable.load(path) if path.exists() and not again else None
    if base is not None:
        base.check_space(chosen)
        if vars(base.device) != device:
            different = [
                f"{key} is {value!r}, here {device.get(key)!r}"
                for key, value in vars(base.device).items()
                if value != device.get(key)
            ]
            raise LatencyTableError(
                f"{path} is of another device ({'; '.join(different)}); choose another --out, or --again to replace it"
            )
    wanted = chosen.distinct_layers()
    missing = [layer for layer in wanted if base is None or layer.key not in base.layers]
    measurements = _resume(_partial(path), chosen, device)
    plan = kit_script.Plan(rounds=rounds, stop_after_s=stop_after_s)
    if missing:
        with _progress(f"{len(missing)} layers", (len(missing) + 2) * rounds) as progress:
            done = measuring.measure(
                measurements, setup, plan, layers=missing, save_to=_partial(path), progress=progress
            )
        if not done:
            raise LatencyTableError(f"stopped after {stop_after_s:g} s; run the same command to go on")
        table = measuring.to_table(measurements, base=base)
        table.save(path)
        _partial(path).unlink(missing_ok=True)
    else:
        assert base is not None
        table = base
    _warn(measuring.implausible_layers(wanted, table), table.host_load)
    _print(
        {
            "latency_table": str(path),
            "space": table.space,
            "device": table.device.name,
            "num_layers": len(wanted),
            "num_measured_now": len(missing),
            "overhead_ms": table.overhead_ms,
            "host_load": table.host_load,
        },
        as_json,
        f"{path}: {len(wanted)} layers on {table.device.name}, {len(missing)} of them measured now",
    )


@app.command(
    "import",
    epilog="example: pnag latency import i7-8700K_lut.yaml --space ofa-mobilenetv3-w1.0 --only resolution=224 "
    "--device-name 'Intel i7-8700K, 1 core' --out i7.json",
)
def import_(
    file: Annotated[Path, typer.Argument(help="a kit's measurements.json, or a YAML look-up table")],
    space: SpaceOption,
    out: Annotated[Path, typer.Option(help="the table to write")],
    only: OnlyOption = None,
    device_name: DeviceNameOption = None,
    as_json: JsonOption = False,
) -> None:
    """Turn measurements from elsewhere into a latency table."""
    from trainer.latency import importers
    from trainer.latency import measure as measuring

    chosen = _space(space, only)
    if file.suffix in (".yaml", ".yml"):
        table = importers.import_yaml(file, chosen, device_name or file.stem)
    else:
        table = importers.import_measurements(file, chosen)
    _warn(measuring.implausible_layers(chosen.distinct_layers(), table), table.host_load)
    table.save(out)
    _print(
        {"latency_table": str(out), "space": table.space, "device": table.device.name, "num_layers": len(table.layers)},
        as_json,
        f"{out}: {len(table.layers)} layers of {table.device.name}",
    )


def _space(name: str, only: list[str] | None) -> "SearchSpace":
    """The search space, restricted to what `--only decision=option,option` says."""
    from models.errors import SearchSpaceError
    from models.spaces.registry import get_space

    space = get_space(name)
    kept: dict[str, list[Any]] = {}
    for text in only or ():
        decision, equals, options = text.partition("=")
        if not equals or not options:
            raise SearchSpaceError(f"--only {text!r}: expected DECISION=OPTION[,OPTION], e.g. resolution=224,192")
        known = {str(option): option for option in space.decisions[space.index(decision)].options}
        kept.setdefault(decision, []).extend(known.get(option.strip(), option.strip()) for option in options.split(","))
    return space.restrict(kept) if kept else space


def _partial(path: Path) -> Path:
    return path.with_name(path.name + ".partial")


def _resume(path: Path, space: "SearchSpace", device: dict[str, Any]) -> Any:
    """What an interrupted run left, or nothing yet."""
    from models.errors import LatencyTableError
    from trainer.latency.measure import Measurements

    if not path.exists():
        return Measurements(space.name, device)
    measurements = Measurements.load(path)
    if measurements.space != space.name or measurements.device != device:
        raise LatencyTableError(
            f"{path} is an unfinished run of {measurements.space} on {measurements.device.get('name')}, not of "
            f"{space.name} on {device['name']}; finish it with its own options, or delete it"
        )
    _log(f"going on from {path}")
    return measurements


@contextmanager
def _progress(name: str, total: int) -> "Iterator[Callable[[Progress], None]]":
    """A bar over all rounds; rounds of an earlier run count at once."""
    from trainer.progress import show_progress

    with show_progress() as bars, bars.stage(name, total) as stage:
        done = 0

        def step(progress: "Progress") -> None:
            nonlocal done
            stage.step(progress.done - done)
            done = progress.done

        yield step


def _warn(warnings: list[str], host_load: Any) -> None:
    from trainer.latency import kit_script

    for warning in warnings:
        _log(f"warning: {warning}")
    if host_load and kit_script.host_load_is_noisy(host_load):
        _log(f"warning: the host was busy while measuring: {json.dumps(dict(host_load))}")


def _log(message: str) -> None:
    logging.getLogger("pnag.latency").info(message)
    sys.stderr.write(message + "\n")


def _print(result: dict[str, Any], as_json: bool, summary: str) -> None:
    sys.stdout.write((json.dumps(result, indent=1) if as_json else summary) + "\n")
