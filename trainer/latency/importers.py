"""Latency tables from files that others wrote: a kit's measurements, look-up tables in the OFA / nsganetv2 YAML form.

A layer that the file lacks is an error that names it; nothing is filled in.
"""

import logging
import re
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

from pnag.models.cost.latency_table import Device, LatencyTable, LayerLatency
from pnag.models.errors import BudgetError, LatencyTableError, MissingLayerError
from pnag.models.files import is_number
from pnag.models.space.layers import Layer
from pnag.models.space.search_space import SearchSpace
from pnag.trainer.latency import fit
from pnag.trainer.latency.measure import SECONDS_SUSPECTED_BELOW_MS, to_table
from pnag.trainer.latency.timing.measurements import Measurements

logger = logging.getLogger(__name__)

MAX_NAMED = 5
PERF_TEST_MARK = "### pnag "


def import_measurements(path: Path, space: SearchSpace, coverage: float = 0.95) -> LatencyTable:
    """The table of a kit's (or an interrupted run's) measurements.json; a file cut off half-way gives what it holds.

    Calibrated and bounded where the file holds enough whole networks; what it lacks is said on stderr.

    Raises:
        LatencyTableError: if it is for another space, or holds no finished layer.
    """
    return _table_of(Measurements.load(path), space, coverage, path.name)


def import_perf_test(path: Path, space: SearchSpace, device_name: str, coverage: float = 0.95) -> LatencyTable:
    """The table of what `run_perf_test.sh` of a kit printed: each pass's fastest run counts as a round.

    Raises:
        LatencyTableError: if the text is no such output, or not of `space`.
    """
    try:
        text = path.read_text(errors="replace")
    except OSError as exc:
        raise LatencyTableError(f"{path}: cannot read the output ({exc.strerror})") from None
    return _table_of(_parse_perf_test(text, device_name, path.name), space, coverage, path.name)


def looks_like_perf_test(path: Path) -> bool:
    """True if a file begins as `run_perf_test.sh` begins its output."""
    try:
        with path.open(errors="replace") as file:
            return file.read(len(PERF_TEST_MARK)) == PERF_TEST_MARK
    except OSError:
        return False


def _parse_perf_test(text: str, device_name: str, name: str) -> Measurements:
    header = re.match(
        re.escape(PERF_TEST_MARK) + r"space=(\S+) batch_size=(\d+) precision=(\S+) threads=(\d+) provider=(\S+)", text
    )
    if header is None:
        raise LatencyTableError(
            f"{name}: does not begin with {PERF_TEST_MARK!r}; give the whole output of run_perf_test.sh"
        )
    space, batch_size, precision, threads, provider = header.groups()
    device = {
        "name": device_name,
        "runtime": "onnxruntime",
        "execution_provider": provider,
        "threads": int(threads),
        "batch_size": int(batch_size),
        "precision": precision,
    }
    measurements = Measurements(space, device)
    sections = re.split(r"^### (overhead|layers|networks|calibration) (.+)$", text, flags=re.MULTILINE)[1:]
    for group, entry, output in zip(sections[::3], sections[1::3], sections[2::3], strict=True):
        if group == "calibration":
            measurements.calibration.append(entry.strip())
            continue
        figure = re.search(r"Min Latency:? (?:is )?([-+.\deE]+) ?s", output)
        if figure is None:
            logger.warning(
                "%s: %s %s has no `Min Latency` (it did not run, or without -s); left out", name, group, entry
            )
            continue
        getattr(measurements, group).setdefault(entry.strip(), []).append((float(figure[1]) * 1000, 0.0))
    return measurements


def _table_of(measurements: Measurements, space: SearchSpace, coverage: float, name: str) -> LatencyTable:
    if measurements.space != space.name:
        raise LatencyTableError(f"{name}: was measured for space {measurements.space!r}, not {space.name!r}")
    known = {layer.key for layer in space.distinct_layers()}
    unknown = [key for key in measurements.layers if key not in known]
    if unknown:
        raise LatencyTableError(
            f"{name}: layer {unknown[0]} is not one of {space.name} ({len(unknown)} such); "
            "was the kit made by another version, or for other options (--only)?"
        )
    missing = len(known) - len(measurements.layers)
    if missing:
        logger.warning(
            "%s holds %d of %d layers; run the kit again to go on, then import again",
            name, len(measurements.layers), len(known),
        )  # fmt: skip
    return _fitted(to_table(measurements, source=name), space, measurements, coverage)


def _fitted(table: LatencyTable, space: SearchSpace, measurements: Measurements, coverage: float) -> LatencyTable:
    """Calibrated and bounded by the networks that were measured along, as far as they go."""
    latencies = fit.network_latencies(measurements.networks, for_bound=True)
    measured = {network.architecture: network for network in latencies}
    usable = {e: n for e, n in measured.items() if all(layer.key in table.layers for layer in space.layers(e))}
    calibrating = [n for e, n in usable.items() if e in measurements.calibration]
    bounding = [n for e, n in usable.items() if e not in measurements.calibration]
    if len(calibrating) < fit.MIN_CALIBRATION_NETWORKS:
        if measurements.calibration:
            logger.warning("%d calibration networks are done; the table stays uncalibrated", len(calibrating))
        return table
    covered = table.measured_space(space)
    table = fit.calibrate(table, covered, calibrating)
    try:
        table = fit.bound(table, covered, bounding, coverage)
    except BudgetError as exc:
        logger.warning("no bound: %s", exc)
        bounding = []
    return replace(table, networks=(*calibrating, *bounding))


def import_file(path: Path, space: SearchSpace, device_name: str | None, coverage: float) -> LatencyTable:
    """The table of a file in any of the forms here; the device is called by its measurements or its file if unnamed."""
    if path.suffix in (".yaml", ".yml"):
        return import_yaml(path, space, device_name or path.stem)
    if looks_like_perf_test(path):
        return import_perf_test(path, space, device_name or path.stem, coverage)
    table = import_measurements(path, space, coverage)
    return table if device_name is None else replace(table, device=replace(table.device, name=device_name))


def import_yaml(path: Path, space: SearchSpace, device_name: str) -> LatencyTable:
    """The table of a look-up table in the nsganetv2 or OFA form: `key: {mean, var}` in ms.

    Raises:
        LatencyTableError: if it is no such file, a value is not a latency, or the values look like seconds.
        MissingLayerError: naming the layers of `space` that it lacks.
    """
    import yaml

    try:
        document = yaml.load(path.read_bytes(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except OSError as exc:
        raise LatencyTableError(f"{path}: cannot read the look-up table ({exc.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as exc:
        raise LatencyTableError(f"{path.name}: not valid YAML ({' '.join(str(exc).split())})") from None
    if not isinstance(document, dict):
        raise LatencyTableError(
            f"{path.name}: expected a mapping of layer -> {{mean, var}}, got {type(document).__name__}"
        )
    layers, missing = {}, []
    for layer in space.distinct_layers():
        ms = _look_up(document, layer, path.name)
        if ms is None:
            missing.append(f"{layer.key} (looked for {' or '.join(' + '.join(keys) for keys in _spellings(layer))})")
        else:
            layers[layer.key] = LayerLatency(ms)
    if missing:
        more = f"; and {len(missing) - MAX_NAMED} more" if len(missing) > MAX_NAMED else ""
        raise MissingLayerError(
            f"{path.name} has no latency for {len(missing)} of {len(missing) + len(layers)} layers of {space.name}: "
            f"{'; '.join(missing[:MAX_NAMED])}{more}. Import a part with --only, e.g. --only resolution=224"
        )
    middle = statistics.median(entry.ms for entry in layers.values())
    if middle < SECONDS_SUSPECTED_BELOW_MS:
        raise LatencyTableError(
            f"{path.name}: the median layer takes {middle:g}; these look like seconds, a table is in ms. "
            "Multiply by 1000 first"
        )
    return LatencyTable(space.name, Device(device_name), statistic="mean", layers=layers, source=path.name)


def _look_up(document: dict[str, Any], layer: Layer, name: str) -> float | None:
    for keys in _spellings(layer):
        if all(key in document for key in keys):
            return round(sum(_value(document[key], f"{name}: {key}") for key in keys), 9)
    return None


def _value(entry: Any, where: str) -> float:
    mean = entry.get("mean") if isinstance(entry, dict) else entry
    if not is_number(mean) or mean <= 0:
        raise LatencyTableError(f"{where}: mean is {mean!r}; expected a number above 0, in ms")
    return float(mean)


def _spellings(layer: Layer) -> list[list[str]]:
    """The keys whose values add up to the layer, in nsganetv2's spelling and in OFA's (MobileNetV3)."""
    return [keys for spell in (_nsganetv2, _ofa) if (keys := spell(layer)) is not None]


def _shapes(layer: Layer, kept_size: int | None = None) -> str:
    size = layer.input_size if kept_size is None else kept_size
    return (
        f"input:{size}x{size}x{layer.in_channels}-output:{layer.output_size}x{layer.output_size}x{layer.out_channels}"
    )


def _nsganetv2(layer: Layer) -> list[str] | None:
    if layer.kind == "linear":
        return None if layer.has_pool else [f"classifier-input:{layer.in_channels}-output:{layer.out_channels}"]
    if layer.kind == "conv":
        if layer.has_pool:
            return [f"feature_mix_layer-{_shapes(layer, 1)}"]
        return [f"{'first_conv' if layer.kernel_size > 1 else 'final_expand_layer'}-{_shapes(layer)}"]
    ratio, rest = divmod(layer.expanded_channels, layer.in_channels)
    if rest:
        return None
    return [
        f"MBConv-{_shapes(layer)}-expand:{ratio}-kernel:{layer.kernel_size}-stride:{layer.stride}"
        f"-idskip:{layer.has_residual:d}-se:{layer.squeeze_channels > 0:d}"
    ]


def _ofa(layer: Layer) -> list[str] | None:
    if layer.kind == "linear":
        return None if layer.has_pool else [f"Logits-input:1x1x{layer.in_channels}-output:{layer.out_channels}"]
    if layer.kind == "conv":
        if layer.has_pool:
            size, channels = layer.input_size, layer.in_channels
            pool = f"AvgPool2D-input:{size}x{size}x{channels}-output:1x1x{channels}"
            return [pool, f"Conv_2-{_shapes(layer, 1)}"]
        return [f"{'Conv' if layer.kernel_size > 1 else 'Conv_1'}-{_shapes(layer)}"]
    return [
        f"expanded_conv-{_shapes(layer)}-expand:{layer.expanded_channels}-kernel:{layer.kernel_size}"
        f"-stride:{layer.stride}-idskip:{layer.has_residual:d}-se:{layer.squeeze_channels > 0:d}"
        f"-hs:{layer.activation == 'h_swish':d}"
    ]
