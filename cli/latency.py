"""`pnag latency …`: parse what was asked, call the stage, print what came of it.

Heavy imports wait until a command runs, so that `pnag --help` stays fast.
"""

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pnag.cli.options import (
    JsonOption,
    LatencyTableOption,
    SeedOption,
    SpaceOption,
    moved_options,
    print_result,
    rounds_bar,
    say,
)

if TYPE_CHECKING:
    from pnag.models.cost.latency_table import LatencyTable
    from pnag.models.space.search_space import SearchSpace

app = typer.Typer(
    no_args_is_help=True,
    help="Measure devices: latency tables, their calibration, their bound.",
    rich_markup_mode=None,
)


class Precision(StrEnum):
    """The numbers a network computes with."""

    FP32 = "fp32"
    INT8 = "int8"


OnlyOption = Annotated[
    list[str] | None,
    typer.Option("--only", metavar="DECISION=OPTION[,OPTION]", help="Only these options of a decision; repeatable."),
]
RoundsOption = Annotated[int, typer.Option(min=1, help="Rounds per graph at most; steady ones stop earlier.")]
StopOption = Annotated[
    float | None, typer.Option(min=0, help="Stop in good order after so many seconds; the same command goes on.")
]
PrecisionOption = Annotated[Precision, typer.Option(help="int8 is static QDQ quantisation, weights per channel.")]
BatchOption = Annotated[int, typer.Option(min=1, help="Images that a network takes at a time.")]
CoverageOption = Annotated[float, typer.Option(min=0.5, max=0.999, help="The coverage that is promised by default.")]
CalibrationOption = Annotated[int, typer.Option(min=3, help="Networks that calibrate.")]
BoundingOption = Annotated[int, typer.Option(min=1, help="Further networks that set the bound.")]
FittedOption = Annotated[Path | None, typer.Option(help="The fitted table; default: --latency-table itself.")]


@app.command(epilog="Example: pnag latency measure --space ofa-mobilenetv3-w1.0 --only resolution=224 --threads 1")
def measure(
    space: SpaceOption,
    only: OnlyOption = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of ONNX Runtime.")] = 1,
    batch_size: BatchOption = 1,
    rounds: RoundsOption = 60,
    execution_provider: Annotated[str, typer.Option(help="As onnxruntime names it.")] = "CPUExecutionProvider",
    precision: PrecisionOption = Precision.FP32,
    device_name: Annotated[
        str | None, typer.Option(help="How to name the device; default: processor, threads, runtime.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="The table; default: latency_tables/SPACE--DEVICE.json. Extended if it is there."),
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Measure layers anew that the table has.")] = False,
    stop_after_s: StopOption = None,
    as_json: JsonOption = False,
) -> None:
    """Time every distinct layer of a search space on this machine and write its latency table."""
    from pnag.trainer.latency.measure import Run, measure_space
    from pnag.trainer.latency.timing.host import Setup

    chosen = _space(space, only)
    setup = Setup(threads, batch_size, execution_provider, precision.value)
    with rounds_bar("layers") as progress:
        run = Run(rounds, stop_after_s, progress, say)
        table, path, num_new = measure_space(chosen, setup, run, out, device_name=device_name, again=again)
    num_layers, device = len(chosen.distinct_layers()), table.device.name
    _warn(table.host_load, table, chosen)
    print_result(
        {
            "latency_table": str(path),
            "space": table.space,
            "device": device,
            "num_layers": num_layers,
            "num_measured_now": num_new,
            "overhead_ms": table.overhead_ms,
            "host_load": table.host_load,
        },
        as_json,
        f"{path}: {num_layers} layers on {device}, {num_new} of them measured now",
    )


@app.command(
    epilog="Example: pnag latency fit --latency-table latency_table.json",
    cls=moved_options({"--records": "pnag latency learn", "--feedback": "pnag latency fit-feedback"}),
)
def fit(
    latency_table: LatencyTableOption,
    num_calibration: CalibrationOption = 10,
    num_bounding: BoundingOption = 40,
    coverage: CoverageOption = 0.95,
    rounds: RoundsOption = 80,
    seed: SeedOption = 0,
    out: FittedOption = None,
    stop_after_s: StopOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure whole networks here, calibrate the table on some, bound it by the others."""
    from pnag.trainer.latency.fit import measure_and_fit
    from pnag.trainer.latency.measure import Run

    with rounds_bar("networks") as progress:
        run = Run(rounds, stop_after_s, progress, say)
        fitted = measure_and_fit(latency_table, num_calibration, num_bounding, coverage, seed, run)
    host_load = (fitted.host_load or {})["fit"]
    _warn(host_load)
    _save_fitted(
        fitted, out or latency_table, coverage, {"host_load": host_load}, as_json,
        f"calibrated on {num_calibration} networks, bounded by {num_bounding}",
    )  # fmt: skip


@app.command(
    "fit-feedback",
    epilog="Example: pnag latency fit-feedback --latency-table latency_table.json "
    "--feedback http://localhost:8000/bundles/NAME/feedback",
)
def fit_feedback(
    latency_table: LatencyTableOption,
    feedback: Annotated[
        str, typer.Option(metavar="FILE|URL", help="CSV of GET /bundles/NAME/feedback; key in PNAG_API_KEY.")
    ],
    device_name: Annotated[str | None, typer.Option(help="Whose reports; needed if they are of several.")] = None,
    num_calibration: CalibrationOption = 10,
    coverage: CoverageOption = 0.95,
    seed: SeedOption = 0,
    out: FittedOption = None,
    as_json: JsonOption = False,
) -> None:
    """Calibrate and bound a table by what devices in the field reported to the service."""
    from pnag.trainer.latency.feedback import fit_reports

    fitted, found = fit_reports(latency_table, feedback, device_name, num_calibration, coverage, seed)
    if found.num_left_out:
        say(f"warning: {found.num_left_out} reports are too far from the table's prediction; left out")
    assert fitted.calibration is not None
    num_calibrating, num_networks = fitted.calibration.num_networks, len(found.networks)
    facts = {
        "device": found.device, "num_reports": found.num_reports, "num_networks": num_networks,
        "num_left_out": found.num_left_out,
    }  # fmt: skip
    _save_fitted(
        fitted, out or latency_table, coverage, facts, as_json,
        f"calibrated on {num_calibrating} and bounded by {num_networks - num_calibrating} networks "
        f"({found.num_reports} reports by {found.device})",
    )  # fmt: skip


@app.command(
    epilog="Example: pnag latency learn --records rows.csv --space ofa-mobilenetv3-w1.0 --device-name 'My GPU' "
    "--out latency_table.json"
)
def learn(
    records: Annotated[Path, typer.Option(help="Measured networks: CSV or Parquet, architecture,latency_ms.")],
    space: Annotated[str | None, typer.Option(help="Their search space; needed without --latency-table.")] = None,
    latency_table: Annotated[Path | None, typer.Option(help="A table of this device that they are to correct.")] = None,
    device_name: Annotated[str | None, typer.Option(help="How to name the device; default: as the file.")] = None,
    coverage: CoverageOption = 0.95,
    seed: SeedOption = 0,
    out: FittedOption = None,
    as_json: JsonOption = False,
) -> None:
    """Learn a device from whole networks alone, where no layer can be timed."""
    from pnag.models.cost.latency_table import LatencyTable
    from pnag.models.space.registry import get_space
    from pnag.trainer.latency.learned.table import learn_table
    from pnag.trainer.progress import show_progress

    path = out or latency_table
    base = LatencyTable.load(latency_table) if latency_table is not None else None
    name = space or (base.space if base else None)
    if name is None or path is None:
        raise typer.BadParameter("--space and --out are needed, or the --latency-table that the records correct")
    with show_progress() as progress:
        table, learning = learn_table(records, get_space(name), base, device_name, coverage, seed, progress)
    figures, num_rows = learning.figures, len(learning.ratios)
    facts: dict[str, Any] = {"method": learning.model.method, "num_rows": num_rows, "held_out": figures}
    facts["candidates"] = dict(learning.model.candidates)
    _save_fitted(
        table, path, coverage, facts, as_json,
        f"learned from {num_rows} networks ({learning.model.method}); held out: MAPE {figures['mape_percent']:.2f} %, "
        f"kendall tau {figures['kendall_tau']:.3f}",
    )  # fmt: skip


@app.command(epilog="Example: pnag latency check --latency-table latency_table.json --plot check.png")
def check(
    latency_table: LatencyTableOption,
    num_networks: Annotated[int, typer.Option(min=2, help="Fresh networks to measure.")] = 40,
    rounds: RoundsOption = 80,
    seed: SeedOption = 1,
    plot: Annotated[Path | None, typer.Option(help="Scatter plot, PNG.")] = None,
    stop_after_s: StopOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure networks that had no part in the fit and compare; the figures go into the table."""
    from pnag.trainer.latency.check import measure_and_check
    from pnag.trainer.latency.measure import Run

    with rounds_bar("networks") as progress:
        table, result = measure_and_check(latency_table, num_networks, seed, Run(rounds, stop_after_s, progress, say))
    if plot is not None:
        from pnag.trainer.latency.plots import scatter

        scatter(result, table, plot)
    _warn(result.figures["host_load"])
    text = f"{table.device.name}, {num_networks} fresh networks: {result.summary()}"
    print_result({"latency_table": str(latency_table), **result.figures}, as_json, text)


@app.command(epilog="Example: pnag latency kit --space ofa-mobilenetv3-w1.0 --only resolution=224 --out kit.zip")
def kit(
    space: SpaceOption,
    out: Annotated[Path, typer.Option(help="The zip to write.")],
    only: OnlyOption = None,
    batch_size: BatchOption = 1,
    precision: PrecisionOption = Precision.FP32,
    num_calibration: CalibrationOption = 10,
    num_bounding: Annotated[int, typer.Option(min=0, help="Further networks that set the bound.")] = 40,
    as_json: JsonOption = False,
) -> None:
    """Pack a device kit: graphs and a script for a device that has only onnxruntime and numpy."""
    from pnag.trainer.latency.kit import KitOptions, write_kit

    options = KitOptions(num_calibration, num_bounding, batch_size, precision.value)
    manifest = write_kit(_space(space, only), out, options)
    size, num_layers, num_networks = out.stat().st_size, len(manifest["layers"]), len(manifest["networks"])
    print_result(
        {"kit": str(out), "size_bytes": size, "num_layers": num_layers, "num_networks": num_networks},
        as_json,
        f"{out}: {num_layers} layers, {num_networks} networks, {size / 1e6:.2f} MB; "
        "unzip it on the device and run measure.py",
    )


@app.command(
    "import",
    epilog="Example: pnag latency import i7-8700K_lut.yaml --space ofa-mobilenetv3-w1.0 --only resolution=224 "
    "--device-name 'Intel i7-8700K, 1 core' --out i7.json",
)
def import_(
    file: Annotated[
        Path,
        typer.Argument(
            help="A device kit's measurements.json, its run_perf_test.sh's output, or a YAML look-up table."
        ),
    ],
    space: SpaceOption,
    out: Annotated[Path, typer.Option(help="The table to write.")],
    only: OnlyOption = None,
    device_name: Annotated[
        str | None, typer.Option(help="How to name the device; default: as measured, else from the file's name.")
    ] = None,
    coverage: CoverageOption = 0.95,
    as_json: JsonOption = False,
) -> None:
    """Turn measurements from elsewhere into a latency table."""
    from pnag.trainer.latency.importers import import_file

    chosen = _space(space, only)
    table = import_file(file, chosen, device_name, coverage)
    _warn(table.host_load, table, chosen)
    table.save(out)
    device, num_layers = table.device.name, len(table.layers)
    print_result(
        {"latency_table": str(out), "space": table.space, "device": device, "num_layers": num_layers},
        as_json,
        f"{out}: {num_layers} layers of {device}",
    )


@app.command(epilog="Example: pnag latency drift --latency-table latency_table.json")
def drift(
    latency_table: LatencyTableOption,
    num_layers: Annotated[int, typer.Option(min=1, help="Layers to measure again.")] = 8,
    rounds: RoundsOption = 60,
    as_json: JsonOption = False,
) -> None:
    """Measure a handful of layers again and say whether the table still holds (exit 1 if not); goes into the table."""
    from pnag.trainer.latency.drift import measure_drift
    from pnag.trainer.latency.measure import Run

    with rounds_bar("layers") as progress:
        found = measure_drift(latency_table, num_layers, Run(rounds, progress=progress))
    _warn(found["host_load"])
    moved = [
        f"{what} {found[key]:+.1f} %"
        for what, key in (("layers", "layers_percent"), ("networks", "networks_percent"), ("clock", "clock_percent"))
        if found[key] is not None
    ]
    verdict = "still holds" if found["holds"] else f"no longer holds; worst is {found['worst_layer']}"
    text = f"{latency_table} {verdict}: {', '.join(moved)}"
    print_result({"latency_table": str(latency_table), **found}, as_json, text)
    if not found["holds"]:
        raise typer.Exit(1)


@app.command(epilog="Example: pnag latency predict --latency-table latency_table.json --records rows.csv > out.csv")
def predict(
    latency_table: LatencyTableOption,
    records: Annotated[Path, typer.Option(help="CSV or Parquet with a column architecture.")],
    coverage: Annotated[
        float | None, typer.Option(min=0.5, max=0.999, help="Of the upper figure; default: the table's.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Predict the latency of each row's architecture, as CSV: architecture,latency_ms,latency_upper_ms.

    The upper figure stays empty where the table has no bound.
    """
    import csv

    from pnag.models.cost.latency_table import LatencyTable
    from pnag.models.space.registry import get_space
    from pnag.trainer.data.records import read_records

    table = LatencyTable.load(latency_table)
    space = table.measured_space(get_space(table.space))
    rows = read_records(records, space)
    asked = table.default_coverage if coverage is None else coverage
    factor = table.bound_factor(asked) if table.upper_bound or coverage is not None else None
    found = [
        (encoding, float(ms), None if factor is None else float(ms) * factor)
        for encoding, ms in zip(rows.encodings, table.predictor(space)(rows.tokens_ND), strict=True)
    ]
    columns = ("architecture", "latency_ms", "latency_upper_ms")
    if as_json:
        rounded = [(encoding, *(None if ms is None else round(ms, 6) for ms in both)) for encoding, *both in found]
        predictions = [dict(zip(columns, row, strict=True)) for row in rounded]
        print_result({"coverage": asked, "device": table.device.name, "predictions": predictions}, as_json)
        return
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows((encoding, *("" if ms is None else f"{ms:.6f}" for ms in both)) for encoding, *both in found)


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


def _save_fitted(
    table: "LatencyTable", path: Path, coverage: float, facts: dict[str, Any], as_json: bool, summary: str
) -> None:
    """Write a table that has a bound, and print what came of the fit."""
    from pnag.trainer.latency.fit import bound_factors

    table.save(path)
    factors = bound_factors(table)
    calibration = {"calibration": dict(table.calibration.coefficients)} if table.calibration else {}
    print_result(
        {"latency_table": str(path), **calibration, "bound_factors": factors, **facts},
        as_json,
        f"{path}: {summary}; a latency is at most {factors[f'{coverage:g}']:.3f} x its prediction at coverage "
        f"{coverage:g}",
    )


def _warn(host_load: Any, table: "LatencyTable | None" = None, space: "SearchSpace | None" = None) -> None:
    """Say what makes measurements doubtful: a busy host, and entries that no device would give."""
    from pnag.trainer.latency.measure import implausible_layers
    from pnag.trainer.latency.timing.host import host_load_is_noisy

    for warning in implausible_layers(space.distinct_layers(), table) if table and space else ():
        say(f"warning: {warning}")
    if host_load and host_load_is_noisy(host_load):
        say(f"warning: the host was busy while measuring: {json.dumps(dict(host_load))}")
