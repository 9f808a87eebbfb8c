"""`pnag latency …`: parse what was asked, call the stage, print what came of it.

Heavy imports wait until a command runs, so that `pnag --help` stays fast.
"""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from pnag.models.cost.latency_table import LatencyTable, NetworkLatency
    from pnag.models.space.search_space import SearchSpace
    from pnag.trainer.latency.kit_script import Progress, Setup

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


class Precision(StrEnum):
    """What numbers the network computes with."""

    FP32 = "fp32"
    INT8 = "int8"


PrecisionOption = Annotated[Precision, typer.Option(help="int8 is static QDQ quantisation, weights per channel")]
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
    precision: PrecisionOption = Precision.FP32,
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
    from pnag.models.cost.latency_table import LatencyTable
    from pnag.models.errors import LatencyTableError
    from pnag.trainer.latency import kit_script
    from pnag.trainer.latency import measure as measuring

    setup = kit_script.Setup(threads, batch_size, execution_provider, precision.value)
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


TableOption = Annotated[Path, typer.Option("--latency-table", help="a table that `pnag latency` wrote")]
SeedOption = Annotated[int, typer.Option(help="which networks are drawn")]


@app.command(
    epilog="examples: pnag latency fit --latency-table latency_table.json; "
    "pnag latency fit --records rows.csv --space ofa-mobilenetv3-w1.0 --device-name 'My GPU' --out latency_table.json"
)
def fit(
    latency_table: Annotated[
        Path | None, typer.Option("--latency-table", help="a measured table to calibrate and bound")
    ] = None,
    records: Annotated[
        Path | None, typer.Option("--records", help="learn from these whole networks instead: architecture,latency_ms")
    ] = None,
    space: Annotated[str | None, typer.Option("--space", help="search space of --records")] = None,
    feedback: Annotated[
        str | None,
        typer.Option(
            "--feedback",
            metavar="FILE|URL",
            help="calibrate on what devices reported: CSV of GET /bundles/NAME/feedback (key in PNAG_API_KEY); "
            "--device-name says whose reports",
        ),
    ] = None,
    device_name: DeviceNameOption = None,
    num_calibration: Annotated[int, typer.Option(min=3, help="networks that calibrate")] = 10,
    num_bounding: Annotated[int, typer.Option(min=1, help="further networks that set the bound")] = 40,
    coverage: Annotated[float, typer.Option(min=0.5, max=0.999, help="promised by default")] = 0.95,
    rounds: RoundsOption = 80,
    seed: SeedOption = 0,
    out: Annotated[Path | None, typer.Option(help="the fitted table (default: --latency-table itself)")] = None,
    stop_after_s: StopOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure networks here, calibrate the table on some, bound it by others; or learn a device from --records.

    With --feedback the networks are those that devices in the field reported on.
    """
    if records is not None and feedback is not None:
        raise typer.BadParameter("give --records or --feedback, not both")
    if records is not None:
        _learn(records, latency_table, space, device_name, coverage, seed, out, as_json)
        return
    if latency_table is None:
        raise typer.BadParameter("give --latency-table to calibrate, or --records to learn from")
    if feedback is not None:
        _fit_feedback(feedback, latency_table, device_name, num_calibration, coverage, seed, out, as_json)
        return
    from dataclasses import replace

    from pnag.models.cost.latency_table import LatencyTable, UpperBound
    from pnag.trainer.latency import fit as fitting

    table = LatencyTable.load(latency_table)
    UpperBound(coverage, (1.0,) * num_bounding).factor(coverage)  # too few networks: say so before measuring them
    chosen, calibrating, bounding = fitting.choose_networks(table, num_calibration, num_bounding, seed)
    networks, host_load = _measure_networks(
        table, chosen, [*calibrating, *bounding], latency_table.with_name(latency_table.name + ".fit.partial"),
        rounds, stop_after_s, for_bound=True,
    )  # fmt: skip
    fitted = fitting.calibrate(table, chosen, networks[: len(calibrating)])
    fitted = fitting.bound(fitted, chosen, networks[len(calibrating) :], coverage)
    fitted = replace(fitted, networks=tuple(networks), host_load={**(table.host_load or {}), "fit": host_load})
    fitted.save(out or latency_table)
    assert fitted.calibration is not None
    factors = fitting.bound_factors(fitted)
    _print(
        {
            "latency_table": str(out or latency_table),
            "calibration": dict(fitted.calibration.coefficients),
            "bound_factors": factors,
            "host_load": host_load,
        },
        as_json,
        f"{out or latency_table}: calibrated on {len(calibrating)} networks, bounded by {len(bounding)}; "
        f"a latency is at most {factors[f'{coverage:g}']:.3f} x its prediction at coverage {coverage:g}",
    )


def _fit_feedback(
    source: str,
    latency_table: Path,
    device_name: str | None,
    num_calibration: int,
    coverage: float,
    seed: int,
    out: Path | None,
    as_json: bool,
) -> None:
    from pnag.models.cost.latency_table import LatencyTable
    from pnag.models.space.registry import get_space
    from pnag.trainer.latency import feedback as field
    from pnag.trainer.latency import fit as fitting

    table = LatencyTable.load(latency_table)
    space = table.measured_space(get_space(table.space))
    found = field.field_networks(table, space, field.read_reports(source), device_name)
    fitted = field.fit(table, space, found, num_calibration, coverage, seed)
    fitted.save(out or latency_table)
    assert fitted.calibration is not None
    factors = fitting.bound_factors(fitted)
    if found.num_left_out:
        _log(f"warning: {found.num_left_out} reports are too far from the table's prediction; left out")
    _print(
        {
            "latency_table": str(out or latency_table),
            "device": found.device,
            "num_reports": found.num_reports,
            "num_networks": len(found.networks),
            "num_left_out": found.num_left_out,
            "calibration": dict(fitted.calibration.coefficients),
            "bound_factors": factors,
        },
        as_json,
        f"{out or latency_table}: calibrated on {fitted.calibration.num_networks} and bounded by "
        f"{len(found.networks) - fitted.calibration.num_networks} networks ({found.num_reports} reports by "
        f"{found.device}); a latency is at most {factors[f'{coverage:g}']:.3f} x its prediction "
        f"at coverage {coverage:g}",
    )


def _learn(
    records: Path,
    latency_table: Path | None,
    space_name: str | None,
    device_name: str | None,
    coverage: float,
    seed: int,
    out: Path | None,
    as_json: bool,
) -> None:
    from dataclasses import replace

    from pnag.models.cost.latency_table import LatencyTable, UpperBound
    from pnag.models.space.registry import get_space
    from pnag.trainer.latency import fit as fitting
    from pnag.trainer.latency import learned
    from pnag.trainer.progress import show_progress

    base = LatencyTable.load(latency_table) if latency_table is not None else None
    if (base is None and space_name is None) or (base is None and out is None):
        raise typer.BadParameter("--records needs --space and --out, or the --latency-table that it is to correct")
    space = get_space(space_name or (base.space if base else ""))
    if base is not None:
        base.check_space(space)
    rows = learned.read_rows(records, space)
    UpperBound(coverage, (1.0,) * len(rows.encodings)).factor(coverage)  # too few rows: say so before learning
    with show_progress() as bars, bars.stage("folds", learned.num_steps(len(rows))) as stage:
        learning = learned.learn(space, rows.tokens_ND, rows.require_latency(), seed=seed, progress=stage.step)
    table = learned.to_table(space, device_name or records.stem, learning, coverage, records.name)
    if base is not None:
        table = replace(
            base, learned=table.learned, upper_bound=table.upper_bound, calibration=None, check=None, networks=(),
            source=records.name,
        )  # fmt: skip
    path = out or latency_table
    assert path is not None
    table.save(path)
    factors, figures = fitting.bound_factors(table), learning.figures
    _print(
        {
            "latency_table": str(path),
            "method": learning.model.method,
            "num_rows": len(rows),
            "held_out": figures,
            "candidates": dict(learning.model.candidates),
            "bound_factors": factors,
        },
        as_json,
        f"{path}: learnt from {len(rows)} networks ({learning.model.method}); held out: "
        f"MAPE {figures['mape_percent']:.2f} %, kendall tau {figures['kendall_tau']:.3f}; a latency is at most "
        f"{factors[f'{coverage:g}']:.3f} x its prediction at coverage {coverage:g}",
    )


@app.command(epilog="example: pnag latency check --latency-table latency_table.json --plot check.png")
def check(
    latency_table: TableOption,
    num_networks: Annotated[int, typer.Option(min=2, help="fresh networks to measure")] = 40,
    rounds: RoundsOption = 80,
    seed: SeedOption = 1,
    plot: Annotated[Path | None, typer.Option(help="scatter plot, PNG")] = None,
    stop_after_s: StopOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure networks that had no part in the fit and compare; the figures go into the table."""
    from dataclasses import replace

    from pnag.models.cost.latency_table import LatencyTable
    from pnag.trainer.latency import fit as fitting

    table = LatencyTable.load(latency_table)
    space, encodings = fitting.choose_check_networks(table, num_networks, seed)
    anchors = fitting.anchors(table)
    measured, host_load = _measure_networks(
        table, space, [*encodings, *anchors], latency_table.with_name(latency_table.name + ".check.partial"),
        rounds, stop_after_s, for_bound=False,
    )  # fmt: skip
    networks, again = measured[: len(encodings)], measured[len(encodings) :]
    result = fitting.check(table, space, networks, again)
    figures = {**result.figures, "host_load": host_load}
    replace(table, check=figures).save(latency_table)
    if plot is not None:
        from pnag.trainer.latency.plots import scatter

        scatter(result, table, plot)
    baseline = figures["macs_only"]
    _print(
        {"latency_table": str(latency_table), **figures},
        as_json,
        f"{table.device.name}, {len(networks)} fresh networks: MAPE {figures['mape_percent']:.2f} %, "
        f"bias {figures['bias_percent']:+.2f} %, within 5 % {figures['within_5_percent']:.0f} %, "
        f"within 10 % {figures['within_10_percent']:.0f} %, kendall tau {figures['kendall_tau']:.3f}"
        + (
            f" (MACs alone: MAPE {baseline['mape_percent']:.2f} %, tau {baseline['kendall_tau']:.3f})"
            if baseline
            else ""
        )
        + (
            f"; host {shift:+.1f} % slower than at the fit"
            if (shift := figures["host_shift_percent"]) is not None
            else ""
        )
        + "".join(f"; over the bound at {c}: {p:.1f} %" for c, p in figures["over_bound_percent"].items()),
    )


def _setup_of(table: "LatencyTable") -> tuple["Setup", dict[str, Any]]:
    """How the table was measured, and this machine measured so; raises LatencyTableError if it is another one."""
    from pnag.models.errors import LatencyTableError
    from pnag.trainer.latency import kit_script

    device = table.device
    if None in (device.threads, device.batch_size, device.execution_provider, device.precision):
        raise LatencyTableError(
            f"the table of {device.name} does not say how it was measured; fit it from whole networks with --records"
        )
    setup = kit_script.Setup(
        int(device.threads or 0), int(device.batch_size or 0), str(device.execution_provider), str(device.precision)
    )
    here = kit_script.describe_device(setup, device.name)
    if device.processor != here["processor"]:
        raise LatencyTableError(
            f"the table was measured on {device.processor!r}, this is {here['processor']!r}; run it there, "
            "or fit it from whole networks with --records"
        )
    return setup, here


def _measure_networks(
    table: "LatencyTable",
    space: "SearchSpace",
    encodings: list[str],
    partial: Path,
    rounds: int,
    stop_after_s: float | None,
    *,
    for_bound: bool,
) -> tuple[list["NetworkLatency"], dict[str, Any]]:
    """Measure whole networks on the table's own device; raises LatencyTableError if this is another one."""
    from pnag.models.errors import LatencyTableError
    from pnag.trainer.latency import fit as fitting
    from pnag.trainer.latency import kit_script
    from pnag.trainer.latency import measure as measuring

    setup, here = _setup_of(table)
    measurements = _resume(partial, space, here)
    plan = kit_script.Plan(rounds=rounds, min_rounds=rounds // 2, stop_after_s=stop_after_s)
    with _progress(f"{len(encodings)} networks", (len(encodings) + 2) * rounds) as progress:
        done = measuring.measure(
            measurements, setup, plan, networks={e: space.layers(e) for e in encodings}, save_to=partial,
            progress=progress,
        )  # fmt: skip
    if not done:
        raise LatencyTableError(f"stopped after {stop_after_s:g} s; run the same command to go on")
    partial.unlink(missing_ok=True)
    _warn([], measurements.host_load)
    samples = {encoding: measurements.networks[encoding] for encoding in encodings}
    return fitting.network_latencies(samples, for_bound=for_bound), dict(measurements.host_load or {})


@app.command(epilog="example: pnag latency kit --space ofa-mobilenetv3-w1.0 --only resolution=224 --out kit.zip")
def kit(
    space: SpaceOption,
    out: Annotated[Path, typer.Option(help="the zip to write")],
    only: OnlyOption = None,
    batch_size: Annotated[int, typer.Option(min=1)] = 1,
    precision: PrecisionOption = Precision.FP32,
    num_calibration: Annotated[int, typer.Option(min=3, help="networks that calibrate")] = 10,
    num_bounding: Annotated[int, typer.Option(min=0, help="further networks that set the bound")] = 40,
    as_json: JsonOption = False,
) -> None:
    """Pack graphs and a script for a device that has only onnxruntime and numpy."""
    from pnag.trainer.latency.kit import KitOptions, write_kit

    manifest = write_kit(
        _space(space, only), out, KitOptions(num_calibration, num_bounding, batch_size, precision.value)
    )
    size = out.stat().st_size
    _print(
        {
            "kit": str(out),
            "size_bytes": size,
            "num_layers": len(manifest["layers"]),
            "num_networks": len(manifest["networks"]),
        },
        as_json,
        f"{out}: {len(manifest['layers'])} layers, {len(manifest['networks'])} networks, {size / 1e6:.2f} MB; "
        "unzip it on the device and run measure.py",
    )


@app.command(
    "import",
    epilog="example: pnag latency import i7-8700K_lut.yaml --space ofa-mobilenetv3-w1.0 --only resolution=224 "
    "--device-name 'Intel i7-8700K, 1 core' --out i7.json",
)
def import_(
    file: Annotated[
        Path,
        typer.Argument(help="a kit's measurements.json, what its run_perf_test.sh printed, or a YAML look-up table"),
    ],
    space: SpaceOption,
    out: Annotated[Path, typer.Option(help="the table to write")],
    only: OnlyOption = None,
    device_name: Annotated[
        str | None, typer.Option(help="how to name the device (default: as measured, else from the file's name)")
    ] = None,
    coverage: Annotated[float, typer.Option(min=0.5, max=0.999, help="promised by default")] = 0.95,
    as_json: JsonOption = False,
) -> None:
    """Turn measurements from elsewhere into a latency table."""
    from dataclasses import replace

    from pnag.trainer.latency import importers
    from pnag.trainer.latency import measure as measuring

    chosen = _space(space, only)
    if file.suffix in (".yaml", ".yml"):
        table = importers.import_yaml(file, chosen, device_name or file.stem)
    elif importers.looks_like_perf_test(file):
        table = importers.import_perf_test(file, chosen, device_name or file.stem, coverage)
    else:
        table = importers.import_measurements(file, chosen, coverage)
        if device_name is not None:
            table = replace(table, device=replace(table.device, name=device_name))
    _warn(measuring.implausible_layers(chosen.distinct_layers(), table), table.host_load)
    table.save(out)
    _print(
        {"latency_table": str(out), "space": table.space, "device": table.device.name, "num_layers": len(table.layers)},
        as_json,
        f"{out}: {len(table.layers)} layers of {table.device.name}",
    )


@app.command(epilog="example: pnag latency drift --latency-table latency_table.json")
def drift(
    latency_table: TableOption,
    num_layers: Annotated[int, typer.Option(min=1, help="layers to measure again")] = 8,
    rounds: RoundsOption = 60,
    as_json: JsonOption = False,
) -> None:
    """Measure a handful of layers again and say whether the table still holds (exit 1 if not); goes into the table."""
    from dataclasses import replace

    from pnag.models.cost.latency_table import LatencyTable
    from pnag.models.errors import LatencyTableError
    from pnag.models.space.registry import get_space
    from pnag.trainer.latency import drift as drifting
    from pnag.trainer.latency import fit as fitting
    from pnag.trainer.latency import kit_script
    from pnag.trainer.latency import measure as measuring

    table = LatencyTable.load(latency_table)
    space = table.measured_space(get_space(table.space))
    layers, networks = drifting.choose_layers(table, space, num_layers), fitting.anchors(table)
    if not layers and not networks:
        raise LatencyTableError(f"{latency_table} was learnt from records and holds nothing to measure again")
    setup, device = _setup_of(table)
    measurements = measuring.Measurements(space.name, device)
    plan = kit_script.Plan(rounds=rounds)
    with _progress(f"{len(layers)} layers", (len(layers) + len(networks) + 2) * rounds) as progress:
        measuring.measure(
            measurements, setup, plan, layers=layers, networks={e: space.layers(e) for e in networks}, progress=progress
        )
    found = drifting.report(table, layers, measurements)
    replace(table, drift=found).save(latency_table)
    _warn([], measurements.host_load)
    moved = [
        f"{what} {found[key]:+.1f} %"
        for what, key in (("layers", "layers_percent"), ("networks", "networks_percent"), ("clock", "clock_percent"))
        if found[key] is not None
    ]
    verdict = "still holds" if found["holds"] else f"no longer holds; worst is {found['worst_layer']}"
    _print({"latency_table": str(latency_table), **found}, as_json, f"{latency_table} {verdict}: {', '.join(moved)}")
    if not found["holds"]:
        raise typer.Exit(1)


@app.command(epilog="example: pnag latency predict --latency-table latency_table.json --records rows.csv > out.csv")
def predict(
    latency_table: TableOption,
    records: Annotated[Path, typer.Option("--records", help="CSV or Parquet with a column architecture")],
    coverage: Annotated[
        float | None, typer.Option(min=0.5, max=0.999, help="of the upper figure (default: the table's)")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Predict the latency of each row's architecture, as CSV: architecture,latency_ms,latency_upper_ms.

    The upper figure stays empty where the table has no bound.
    """
    from pnag.models.cost.latency_table import LatencyTable
    from pnag.models.space.registry import get_space
    from pnag.trainer.data.records import read_records

    table = LatencyTable.load(latency_table)
    space = table.measured_space(get_space(table.space))
    rows = read_records(records, space)
    predicted_N = table.predictor(space)(rows.tokens_ND)
    asked = table.default_coverage if coverage is None else coverage
    factor = table.bound_factor(asked) if table.upper_bound or coverage is not None else None
    if as_json:
        found = [
            {
                "architecture": encoding,
                "latency_ms": round(float(ms), 6),
                "latency_upper_ms": None if factor is None else round(float(ms) * factor, 6),
            }
            for encoding, ms in zip(rows.encodings, predicted_N, strict=True)
        ]
        sys.stdout.write(json.dumps({"coverage": asked, "device": table.device.name, "predictions": found}) + "\n")
        return
    import csv

    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["architecture", "latency_ms", "latency_upper_ms"])
    for encoding, ms in zip(rows.encodings, predicted_N, strict=True):
        writer.writerow([encoding, f"{ms:.6f}", "" if factor is None else f"{ms * factor:.6f}"])


def _space(name: str, only: list[str] | None) -> "SearchSpace":
    """The search space, restricted to what `--only decision=option,option` says."""
    from pnag.models.errors import SearchSpaceError
    from pnag.models.space.registry import get_space

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
    from pnag.models.errors import LatencyTableError
    from pnag.trainer.latency.measure import Measurements

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
    from pnag.trainer.progress import show_progress

    with show_progress() as bars, bars.stage(name, total) as stage:
        done = 0

        def step(progress: "Progress") -> None:
            nonlocal done
            stage.step(progress.done - done)
            done = progress.done

        yield step


def _warn(warnings: list[str], host_load: Any) -> None:
    from pnag.trainer.latency import kit_script

    for warning in warnings:
        _log(f"warning: {warning}")
    if host_load and kit_script.host_load_is_noisy(host_load):
        _log(f"warning: the host was busy while measuring: {json.dumps(dict(host_load))}")


def _log(message: str) -> None:
    sys.stderr.write(message + "\n")


def _print(result: dict[str, Any], as_json: bool, summary: str) -> None:
    sys.stdout.write((json.dumps(result, indent=1) if as_json else summary) + "\n")
