"""Tell whether a latency table still holds: a handful of its layers, and networks of its fit, measured again."""

import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pnag.models.cost.latency_table import LatencyTable
from pnag.models.errors import LatencyTableError
from pnag.models.space.layers import Layer
from pnag.models.space.registry import get_space
from pnag.models.space.search_space import SearchSpace
from pnag.trainer.latency.check import fixed_points, host_shift_percent
from pnag.trainer.latency.fit import network_latencies
from pnag.trainer.latency.measure import Run, measure, same_device
from pnag.trainer.latency.timing.measurements import BOUND, Measurements
from pnag.trainer.latency.timing.samples import Sample, lower_quartile, median_clock

TOLERANCE_PERCENT = 5.0
"""By this the median layer, or the networks, may have moved: as much as the table may be wrong at all."""
WORST_TOLERANCE_PERCENT = 25.0
"""By this one layer may have: single layers scatter more than their sum."""


def measure_drift(path: Path, num_layers: int, run: Run) -> dict[str, Any]:
    """Report on what some layers and networks of a file's table take now; the report goes into the table too.

    Raises:
        LatencyTableError: if there is nothing to measure again, or this is not the table's device.
    """
    table = LatencyTable.load(path)
    space = table.measured_space(get_space(table.space))
    layers, networks = choose_layers(table, space, num_layers), fixed_points(table)
    if not layers and not networks:
        raise LatencyTableError(f"the table of {table.device.name} was learned from records: nothing to measure again")
    setup, here = same_device(table.device)
    measurements = measure(space, here, setup, run, layers=layers, networks=networks)
    found = report(table, layers, measurements)
    replace(table, drift=found).save(path)
    return found


def choose_layers(table: LatencyTable, space: SearchSpace, count: int) -> list[Layer]:
    """Layers evenly spread over the table's latencies, always the same ones."""
    known = sorted(
        (layer for layer in space.distinct_layers() if layer.key in table.layers),
        key=lambda layer: (table.layers[layer.key].ms, layer.key),
    )
    places = np.unique(np.linspace(0, len(known) - 1, min(count, len(known))).round().astype(int))
    return [known[i] for i in places] if known else []


def report(table: LatencyTable, layers: Sequence[Layer], measurements: Measurements) -> dict[str, Any]:
    """The move of layers and networks since the table was made, in percent (> 0 is slower), and the verdict.

    Times are as they come, not scaled to the table's clock: a processor that is clocked down is a reason to worry too;
    `clock_percent` says how much of it that is.
    """
    between_layers = _wall_ms(measurements.overhead[BOUND])
    moved = {
        layer.key: ((_wall_ms(measurements.layers[layer.key]) - between_layers) / table.layers[layer.key].ms - 1) * 100
        for layer in layers
    }
    again = network_latencies(measurements.networks, for_bound=False)
    networks_percent = host_shift_percent(table, again)
    median_percent = statistics.median(moved.values()) if moved else None
    worst = max(moved, key=lambda key: abs(moved[key])) if moved else None
    clock = median_clock(measurements.layers)
    clock_before = (table.host_load or {}).get("clock_probe_ms")
    holds = all(
        abs(percent) <= tolerance
        for percent, tolerance in (
            (median_percent, TOLERANCE_PERCENT),
            (networks_percent, TOLERANCE_PERCENT),
            (moved[worst] if worst else None, WORST_TOLERANCE_PERCENT),
        )
        if percent is not None
    )
    return {
        "holds": holds,
        "measured_at": measurements.measured_at,
        "layers_percent": None if median_percent is None else round(median_percent, 2),
        "worst_layer": worst,
        "worst_percent": None if worst is None else round(moved[worst], 2),
        "networks_percent": networks_percent,
        "clock_percent": round((clock / clock_before - 1) * 100, 2) if clock and clock_before else None,
        "num_layers": len(moved),
        "num_networks": len(again),
        "host_load": measurements.host_load,
    }


def _wall_ms(samples: Sequence[Sample]) -> float:
    return lower_quartile([ms for ms, _ in samples])
