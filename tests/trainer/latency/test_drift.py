from dataclasses import replace

import numpy as np
import pytest

from pnag.models.cost.latency_table import LatencyTable, NetworkLatency
from pnag.models.space.search_space import SearchSpace
from pnag.trainer.latency import drift
from pnag.trainer.latency.timing.measurements import Measurements


def _again(table: LatencyTable, space: SearchSpace, factor: float, **odd: float) -> tuple[list, Measurements]:
    layers = drift.choose_layers(table, space, 6)
    found = Measurements(space.name, {"name": "x"}, overhead={"bound": [(0.002, 0.011)] * 3})
    for number, layer in enumerate(layers):
        ms = table.layers[layer.key].ms * odd.get(f"layer{number}", factor) + 0.002
        found.layers[layer.key] = [(ms, 0.011)] * 5
    return layers, found


def test_the_handful_of_layers_spans_the_table_and_is_always_the_same(
    ofa_table: LatencyTable, ofa_224: SearchSpace
) -> None:
    chosen = drift.choose_layers(ofa_table, ofa_224, 8)
    assert [x.key for x in chosen] == [x.key for x in drift.choose_layers(ofa_table, ofa_224, 8)]
    ms = [ofa_table.layers[x.key].ms for x in chosen]
    every_one = [entry.ms for entry in ofa_table.layers.values()]
    assert len(ms) == 8
    assert (ms[0], ms[-1]) == (min(every_one), max(every_one))
    assert ms == sorted(ms)
    assert len(drift.choose_layers(ofa_table, ofa_224, 1000)) == 95


@pytest.mark.parametrize(
    ("factor", "odd", "holds"),
    [
        (1.0, {}, True),
        (1.04, {}, True),
        (1.08, {}, False),
        (0.9, {}, False),
        (1.0, {"layer2": 1.2}, True),
        (1.0, {"layer2": 1.5}, False),
        (1.0, {"layer2": 0.5}, False),
    ],
)
def test_the_verdict_follows_the_median_and_the_worst_layer(
    ofa_table: LatencyTable, ofa_224: SearchSpace, factor: float, odd: dict[str, float], holds: bool
) -> None:
    layers, found = _again(ofa_table, ofa_224, factor, **odd)
    report = drift.report(replace(ofa_table, host_load={"clock_probe_ms": 0.01}), layers, found)
    assert report["holds"] is holds
    assert report["layers_percent"] == pytest.approx((factor - 1) * 100, abs=0.01)
    assert report["clock_percent"] == pytest.approx(10.0)
    if odd:
        assert report["worst_layer"] == layers[2].key
        assert report["worst_percent"] == pytest.approx((odd["layer2"] - 1) * 100, abs=0.01)


def test_networks_of_the_fit_count_too(macro_table: LatencyTable, macro: SearchSpace) -> None:
    encodings = [macro.encode(t) for t in np.unique(macro.sample(9, np.random.default_rng(0)), axis=0)]
    table = replace(macro_table, networks=tuple(NetworkLatency(e, 2.0, 2.1) for e in encodings))
    layers, found = _again(table, macro, 1.0)
    found.networks = {e: [(2.0 * 1.2, 0.011)] * 5 for e in encodings[:3]}
    report = drift.report(table, layers, found)
    assert report["networks_percent"] == pytest.approx(20.0)
    assert report["num_networks"] == 3
    assert report["holds"] is False
