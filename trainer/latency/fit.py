"""From a sum of layers to a promise: calibrate a latency table on whole networks, and bound it by others.

    predicted = c_overhead * overhead + sum over families of c_family * (sum of the family's layers)
    min over c >= 0 of  mean(((predicted - measured) / measured)^2) + strength * mean((c / scale - 1)^2)

`scale` is the one factor that fits best: the block sum is right but for a common factor (each isolated layer pays for
its own change of memory layout), so coefficients are drawn towards it, and ten networks are enough. The strength is the
one with the least leave-one-out error. Unconstrained, coefficients go negative.

Axis letters: N = networks, F = layer families, the overhead first.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pnag.models.cost.additive import macs_cost
from pnag.models.cost.latency_table import Calibration, LatencyTable, NetworkLatency, UpperBound
from pnag.models.errors import BudgetError, LatencyTableError
from pnag.models.space.registry import get_space
from pnag.models.space.search_space import SearchSpace
from pnag.trainer.latency.measure import Run, measure_networks
from pnag.trainer.latency.networks import Cost, stratified
from pnag.trainer.latency.timing.samples import Sample, lower_quartile

Floats = NDArray[np.float64]

STRENGTHS = tuple(10.0**e for e in range(-7, 2))
NUM_QUARTERS = 4
COVERAGES = (0.9, 0.95, 0.99)
MIN_CALIBRATION_NETWORKS = 3
OVERHEAD = "overhead"


def measure_and_fit(
    path: Path, num_calibration: int, num_bounding: int, coverage: float, seed: int, run: Run
) -> LatencyTable:
    """The table of a file, calibrated and bounded by networks that are measured here.

    Raises:
        BudgetError: if there are too few networks for `coverage`, before any is measured.
        LatencyTableError: if this is not the table's device, or the time was not enough.
    """
    table = LatencyTable.load(path)
    UpperBound(coverage, (1.0,) * num_bounding).factor(coverage)
    space, calibrating, bounding = choose_networks(table, num_calibration, num_bounding, seed)
    measured = measure_networks(table.device, space, [*calibrating, *bounding], run, path, "fit")
    networks = network_latencies(measured.networks, for_bound=True)
    fitted = calibrate(table, space, networks[: len(calibrating)])
    fitted = bound(fitted, space, networks[len(calibrating) :], coverage)
    host_load = {**(table.host_load or {}), "fit": dict(measured.host_load or {})}
    return replace(fitted, networks=tuple(networks), host_load=host_load)


def choose_networks(
    table: LatencyTable, num_calibration: int, num_bounding: int, seed: int
) -> tuple[SearchSpace, list[str], list[str]]:
    """The space the table covers, and the networks to calibrate and to bound it with, evenly spread over cost.

    Of the bounding networks every other one has the most MACs for its predicted latency: that is what a search under a
    budget looks for, and it finds the networks that the table takes for too fast.
    """
    space = table.measured_space(get_space(table.space))
    cost, rng = table.cost(space), np.random.default_rng(seed)
    calibrating = stratified(space, cost, num_calibration, rng, with_cheapest=True)
    return space, calibrating, mixed(space, cost, num_bounding, rng, calibrating)


def mixed(space: SearchSpace, cost: Cost, count: int, rng: np.random.Generator, exclude: list[str]) -> list[str]:
    """Networks spread over cost: half of them any, half with the most MACs for their cost."""
    plain = stratified(space, cost, count - count // 2, rng, exclude=exclude)
    searched = stratified(space, cost, count // 2, rng, exclude=[*exclude, *plain], prefer=macs_cost(space))
    return [*plain, *searched]


def bound_factors(table: LatencyTable) -> dict[str, float]:
    """The factor at each usual coverage that the table's networks are enough for."""
    factors = {}
    for coverage in sorted({*COVERAGES, table.default_coverage}):
        try:
            factors[f"{coverage:g}"] = table.bound_factor(coverage)
        except BudgetError:
            continue
    return factors


def network_latencies(samples: Mapping[str, Sequence[Sample]], *, for_bound: bool) -> list[NetworkLatency]:
    """Wall-clock times of networks measured together: in a good round, and in a slow one.

    A good round is the lower quartile, what predictions aim at. A slow one is the median round, what somebody finds who
    measures the network; `for_bound`, times how far the host as a whole went from its own median in its slowest quarter
    of the time. It wanders by some percent within minutes, and a promise has to hold then too.
    """
    wander = host_wander(samples.values()) if for_bound else 1.0
    networks = []
    for encoding, rounds in samples.items():
        times = [ms for ms, _ in rounds]
        slow = wander * statistics.median(times)
        networks.append(NetworkLatency(encoding, round(lower_quartile(times), 6), round(slow, 6)))
    return networks


def network_latency(encoding: str, samples: Sequence[Sample]) -> NetworkLatency:
    """One network alone; `slow_ms` is the median of its own slowest quarter of the time."""
    return network_latencies({encoding: samples}, for_bound=True)[0]


def host_wander(samples: Iterable[Sequence[Sample]]) -> float:
    """The factor by which networks measured in turn were slower in their slowest quarter of the time; at least 1.

    Rounds are in order of time. What all networks share is the host; what is left is each one's own noise.
    """
    quarters: list[list[float]] = [[] for _ in range(NUM_QUARTERS)]
    for rounds in samples:
        times = [ms for ms, _ in rounds]
        if len(times) >= NUM_QUARTERS:
            for quarter, part in zip(quarters, np.array_split(times, NUM_QUARTERS), strict=True):
                quarter.append(float(np.median(part)) / statistics.median(times))
    return max([1.0, *(statistics.median(quarter) for quarter in quarters if quarter)])


def calibrate(table: LatencyTable, space: SearchSpace, networks: Sequence[NetworkLatency]) -> LatencyTable:
    """The table with coefficients fitted on measured networks, and neither bound nor check.

    Raises:
        LatencyTableError: if there are too few networks.
        MissingLayerError: if one uses a layer the table lacks.
    """
    if len(networks) < MIN_CALIBRATION_NETWORKS:
        raise LatencyTableError(
            f"{len(networks)} networks cannot calibrate a table; measure at least {MIN_CALIBRATION_NETWORKS}"
        )
    families, features_NF = family_sums(table, space, [n.architecture for n in networks])
    measured_N = np.array([n.ms for n in networks])
    coefficients_F = _fit_coefficients(features_NF, measured_N)
    calibration = Calibration(
        "non-negative least squares of relative errors, shrunk to the scaled block sum",
        len(networks),
        {family: round(float(c), 6) for family, c in zip(families, coefficients_F, strict=True)},
    )
    return replace(table, calibration=calibration, upper_bound=None, check=None)


def family_sums(table: LatencyTable, space: SearchSpace, encodings: Sequence[str]) -> tuple[list[str], Floats]:
    """Uncalibrated ms per layer family of each network: the families' names, and the sums, shape [N, F]."""
    plain = replace(table, calibration=None)
    rows = []
    for encoding in encodings:
        row = {OVERHEAD: table.overhead_ms}
        for layer in space.layers(encoding):
            row[layer.family] = row.get(layer.family, 0.0) + plain.layer_ms(layer)
        rows.append(row)
    families = [OVERHEAD, *sorted({f for row in rows for f in row} - {OVERHEAD})]
    return families, np.array([[row.get(f, 0.0) for f in families] for row in rows])


def _fit_coefficients(features_NF: Floats, measured_N: Floats) -> Floats:
    errors = [_leave_one_out(features_NF, measured_N, strength) for strength in STRENGTHS]
    return _solve(features_NF, measured_N, STRENGTHS[int(np.argmin(errors))])


def _leave_one_out(features_NF: Floats, measured_N: Floats, strength: float) -> float:
    """Mean squared relative error of each network under the fit on the others."""
    squares = []
    for left_out in range(len(measured_N)):
        kept = np.arange(len(measured_N)) != left_out
        predicted = features_NF[left_out] @ _solve(features_NF[kept], measured_N[kept], strength)
        squares.append((predicted / measured_N[left_out] - 1) ** 2)
    return float(np.mean(squares))


def _solve(features_NF: Floats, measured_N: Floats, strength: float) -> Floats:
    from scipy.optimize import nnls

    relative_NF = features_NF / measured_N[:, np.newaxis]
    total_N = relative_NF.sum(axis=1)
    scale = float(total_N.sum() / (total_N**2).sum())
    num_networks, num_families = features_NF.shape
    share, pull = np.sqrt(1 / num_networks), np.sqrt(strength / num_families)
    rows = np.concatenate([relative_NF * share * scale, pull * np.eye(num_families)])
    targets = np.concatenate([np.full(num_networks, share), np.full(num_families, pull)])
    solution: Floats = nnls(rows, targets)[0]
    return solution * scale


def bound(table: LatencyTable, space: SearchSpace, networks: Sequence[NetworkLatency], coverage: float) -> LatencyTable:
    """The table with a one-sided split-conformal bound from networks that had no part in its fit.

    Raises:
        BudgetError: if there are too few networks for `coverage`; says how many are needed.
    """
    predicted_N = predict(table, space, [n.architecture for n in networks])
    slow_N = np.array([n.slow_ms for n in networks])
    upper_bound = UpperBound(coverage, tuple(sorted(round(float(r), 6) for r in slow_N / predicted_N)))
    upper_bound.factor(coverage)
    return replace(table, upper_bound=upper_bound, check=None)


def predict(table: LatencyTable, space: SearchSpace, encodings: Sequence[str]) -> Floats:
    """Predicted ms of architectures, shape [N]."""
    if not encodings:
        return np.zeros(0)
    return table.predictor(space)(np.stack([space.decode(e) for e in encodings]))
