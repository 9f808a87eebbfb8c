"""The worth of a latency table's predictions, compared with networks that had no part in its fit.

Axis letters: N = networks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau

from pnag.models.cost.additive import macs_cost
from pnag.models.cost.latency_table import LatencyTable, NetworkLatency
from pnag.models.errors import LatencyTableError
from pnag.models.space.registry import get_space
from pnag.models.space.search_space import SearchSpace
from pnag.trainer.latency.fit import bound_factors, mixed, network_latencies, predict
from pnag.trainer.latency.measure import Run, measure_networks

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Check:
    """The worth of a table's predictions on fresh networks."""

    figures: Mapping[str, Any]
    predicted_N: Floats
    measured_N: Floats
    upper_N: Floats | None

    def summary(self) -> str:
        """The figures in one line."""
        figures = self.figures
        parts = [
            f"MAPE {figures['mape_percent']:.2f} %, bias {figures['bias_percent']:+.2f} %, "
            f"within 5 % {figures['within_5_percent']:.0f} %, within 10 % {figures['within_10_percent']:.0f} %, "
            f"kendall tau {figures['kendall_tau']:.3f}"
        ]
        if baseline := figures["macs_only"]:
            parts[0] += f" (MACs alone: MAPE {baseline['mape_percent']:.2f} %, tau {baseline['kendall_tau']:.3f})"
        if (shift := figures["host_shift_percent"]) is not None:
            parts.append(f"host {shift:+.1f} % slower than at the fit")
        parts += [f"over the bound at {c}: {percent:.1f} %" for c, percent in figures["over_bound_percent"].items()]
        return "; ".join(parts)


def measure_and_check(path: Path, num_networks: int, seed: int, run: Run) -> tuple[LatencyTable, Check]:
    """Check the table of a file on fresh networks that are measured here, and write the figures into it.

    Raises:
        LatencyTableError: if this is not the table's device, or the time was not enough.
    """
    table = LatencyTable.load(path)
    space, encodings = choose_check_networks(table, num_networks, seed)
    measured = measure_networks(table.device, space, [*encodings, *fixed_points(table)], run, path, "check")
    networks = network_latencies(measured.networks, for_bound=False)
    result = check(table, space, networks[: len(encodings)], networks[len(encodings) :])
    figures = {**result.figures, "host_load": dict(measured.host_load or {})}
    table = replace(table, check=figures)
    table.save(path)
    return table, replace(result, figures=figures)


def choose_check_networks(table: LatencyTable, count: int, seed: int) -> tuple[SearchSpace, list[str]]:
    """The space the table covers, and fresh networks of the kind that bounded it."""
    space = table.measured_space(get_space(table.space))
    used = [n.architecture for n in table.networks]
    return space, mixed(space, table.cost(space), count, np.random.default_rng([seed, len(used)]), used)


def fixed_points(table: LatencyTable) -> list[str]:
    """Networks of the fit to measure again beside fresh ones: how they have moved, the host has moved."""
    by_ms = sorted(table.networks, key=lambda n: n.ms)
    return [n.architecture for n in (by_ms[0], by_ms[len(by_ms) // 2], by_ms[-1])] if len(by_ms) >= 3 else []


def host_shift_percent(table: LatencyTable, again: Sequence[NetworkLatency]) -> float | None:
    """The percentage by which networks of the fit have become slower (> 0); None without any."""
    before = {n.architecture: n.ms for n in table.networks}
    ratios = [n.ms / before[n.architecture] for n in again]
    return round((float(np.exp(np.mean(np.log(ratios)))) - 1) * 100, 2) if ratios else None


def check(
    table: LatencyTable,
    space: SearchSpace,
    networks: Sequence[NetworkLatency],
    again: Sequence[NetworkLatency] = (),
) -> Check:
    """Compare predictions with measured networks; none may have had a part in the fit.

    Args:
        again: networks of the fit measured again at the same time, to tell a moved host from a wrong table.

    Raises:
        LatencyTableError: if one had, or there are fewer than two.
    """
    if len(networks) < 2:
        raise LatencyTableError(f"{len(networks)} networks cannot check a table; measure at least 2")
    used = {n.architecture for n in table.networks}
    for network in networks:
        if network.architecture in used:
            raise LatencyTableError(f"{network.architecture} had a part in the fit; check on other networks")
    encodings = [n.architecture for n in networks]
    measured_N = np.array([n.ms for n in networks])
    slow_N = np.array([n.slow_ms for n in networks])
    predicted_N = predict(table, space, encodings)
    figures = accuracy_figures(predicted_N, measured_N)
    violations = {}
    upper_N = None
    for coverage, factor in bound_factors(table).items():
        violations[coverage] = round(float(np.mean(slow_N > factor * predicted_N) * 100), 2)
        if float(coverage) == table.default_coverage:
            upper_N = factor * predicted_N
    figures["over_bound_percent"] = violations
    figures["over_prediction_percent"] = round(float(np.mean(slow_N > predicted_N) * 100), 2)
    figures["host_shift_percent"] = host_shift_percent(table, again)
    figures["macs_only"] = _macs_baseline(table, space, encodings, measured_N)
    return Check(figures, predicted_N, measured_N, upper_N)


def accuracy_figures(predicted_N: Floats, measured_N: Floats) -> dict[str, Any]:
    """MAPE, bias, shares within 5 % and 10 %, Kendall's tau; errors are relative to the measured latency."""
    error_N = predicted_N / measured_N - 1
    return {
        "num_networks": len(measured_N),
        "mape_percent": round(float(np.mean(np.abs(error_N)) * 100), 3),
        "bias_percent": round(float(np.mean(error_N) * 100), 3),
        "within_5_percent": round(float(np.mean(np.abs(error_N) <= 0.05) * 100), 1),
        "within_10_percent": round(float(np.mean(np.abs(error_N) <= 0.10) * 100), 1),
        "kendall_tau": round(float(kendalltau(predicted_N, measured_N).statistic), 4),
    }


def _macs_baseline(
    table: LatencyTable, space: SearchSpace, encodings: Sequence[str], measured_N: Floats
) -> dict[str, Any] | None:
    """A straight line through MACs, fitted on the table's own networks: what needs no layer measured."""
    if len(table.networks) < 2:
        return None
    macs = macs_cost(space)

    def columns(names: Sequence[str]) -> Floats:
        macs_N = macs(np.stack([space.decode(e) for e in names])) / 1e6
        return np.stack([np.ones(len(names)), macs_N], axis=1)

    fitted_N = np.array([n.ms for n in table.networks])
    line, *_ = np.linalg.lstsq(columns([n.architecture for n in table.networks]), fitted_N, rcond=None)
    figures = accuracy_figures(columns(encodings) @ line, measured_N)
    return {key: figures[key] for key in ("mape_percent", "bias_percent", "kendall_tau")}
