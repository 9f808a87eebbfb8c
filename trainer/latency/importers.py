"""Latency tables from files that others wrote: a kit's measurements, look-up tables in the OFA / nsganetv2 YAML form.

A layer that the file lacks is an error that names it; nothing is filled in.
"""

import logging
import statistics
from pathlib import Path
from typing import Any

from models.errors import LatencyTableError, MissingLayerError
from models.files import is_number
from models.latency_table import Device, LatencyTable, LayerLatency
from models.layers import Layer
from models.search_space import SearchSpace
from trainer.latency.measure import SECONDS_SUSPECTED_BELOW_MS, Measurements, to_table

logger = logging.getLogger(__name__)

MAX_NAMED = 5


def import_measurements(path: Path, space: SearchSpace) -> LatencyTable:
    """The table of a kit's (or an interrupted run's) measurements.json; a file cut off half-way gives what it holds.

    Raises:
        LatencyTableError: if it is for another space, or holds no finished layer.
    """
    measurements = Measurements.load(path)
    if measurements.space != space.name:
        raise LatencyTableError(f"{path.name}: was measured for space {measurements.space!r}, not {space.name!r}")
    known = {layer.key for layer in space.distinct_layers()}
    unknown = [key for key in measurements.layers if key not in known]
    if unknown:
        raise LatencyTableError(
            f"{path.name}: layer {unknown[0]} is not one of {space.name} ({len(unknown)} such); "
            "was the kit made by another version, or for other options (--only)?"
        )
    missing = len(known) - len(measurements.layers)
    if missing:
        logger.warning(
            "%s holds %d of %d layers; run the kit again to go on, then import again",
            path.name, len(measurements.layers), len(known),
        )  # fmt: skip
    return to_table(measurements, source=path.name)


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
