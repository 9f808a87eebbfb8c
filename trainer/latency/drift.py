"""Does a table still hold? A handful of its layers, and networks of its fit, measured again."""

import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

from pnag.models.cost.latency_table import LatencyTable
from pnag.models.space.layers import Layer
from pnag.models.space.search_space import SearchSpace
from pnag.trainer.latency import fit, kit_script
from pnag.trainer.latency.measure import BOUND, Measurements

TOLERANCE_PERCENT = 5.0
"""How far the median layer, or the networks, may have moved: as much as the table may be wrong at all."""
WORST_TOLERANCE_PERCENT = 25.0
"""How far one layer may have: single layers scatter more than their sum."""


def choose_layers(table: LatencyTable, space: SearchSpace, count: int) -> list[Layer]:
    """Layers evenly spread over the table's latencies, always the same ones."""
    known = sorted(
        (layer for layer in space.distinct_layers() if layer.key in table.layers),
        key=lambda layer: (table.layers[layer.key].ms, layer.key),
    )
    places = np.unique(np.linspace(0, len(known) - 1, min(count, len(known))).round().astype(int))
    return [known[i] for i in places] if known else []


def report(table: LatencyTable, layers: Sequence[Layer], measurements: Measurements) -> dict[str, Any]:
    """How far layers and networks have moved since the table was made, in percent (> 0 is slower), and the verdict.

    Times are as they come, not scaled to the table's clock: a processor that is clocked down is a reason to worry too;
    `clock_percent` says how much of it that is.
    """
    between_layers = _wall_ms(measurements.overhead[BOUND])
    moved = {
        layer.key: ((_wall_ms(measurements.layers[layer.key]) - between_layers) / table.layers[layer.key].ms - 1) * 100
        for layer in layers
    }
    again = fit.network_latencies(measurements.networks, for_bound=False)
    networks_percent = fit.host_shift_percent(table, again)
    median_percent = statistics.median(moved.values()) if moved else None
    worst = max(moved, key=lambda key: abs(moved[key])) if moved else None
    clock = kit_script.median_clock(measurements.layers)
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


def _wall_ms(samples: Sequence[kit_script.Sample]) -> float:
    return kit_script.lower_quartile([ms for ms, _ in samples])
