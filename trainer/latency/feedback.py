"""Reports from the field (`GET /bundles/{name}/feedback` as CSV) as networks that `fit` can calibrate and bound with.

Whoever may ask the service may report, so a report is a claim, not a measurement. Nothing happens by itself: somebody
chooses to fit from reports, and what they can do is bounded. A report that is further from the table's own prediction
than `PLAUSIBLE` times is left out, and if that happens to more than `MAX_LEFT_OUT` of them, they are of another device
and nothing is fitted. Of what is left the middle report on each network counts, whoever sent how many.
"""

import csv
import io
import os
import statistics
import urllib.error
import urllib.request
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pnag.models.cost.latency_table import LatencyTable, NetworkLatency, UpperBound
from pnag.models.errors import EncodingError, LatencyTableError, RecordsError
from pnag.models.space.registry import get_space
from pnag.models.space.search_space import SearchSpace
from pnag.trainer.latency.fit import bound, calibrate, predict

PLAUSIBLE = 3.0
MAX_LEFT_OUT = 0.2
MAX_BYTES = 8_000_000
"""More than the service keeps for a bundle (5000 reports)."""
TIMEOUT_S = 30.0
KEY_VARIABLE = "PNAG_API_KEY"


@dataclass(frozen=True)
class FieldNetworks:
    """Networks that the reports of one device come down to.

    Attributes:
        networks: by encoding; `ms` is the median of its reports, `slow_ms` the median of the slower half of them.
        num_reports: of this device.
        num_left_out: how many of them were too far from the prediction.
    """

    device: str
    networks: tuple[NetworkLatency, ...]
    num_reports: int
    num_left_out: int


def read_reports(source: str) -> str:
    """The CSV behind a path or a URL; with the API key of `PNAG_API_KEY`, if there is one.

    Raises:
        RecordsError: if it cannot be read, or is longer than `MAX_BYTES`.
    """
    try:
        if source.startswith(("http://", "https://")):
            headers = {"accept": "text/csv"}
            if key := os.environ.get(KEY_VARIABLE):
                headers["authorization"] = f"Bearer {key}"
            with urllib.request.urlopen(urllib.request.Request(source, headers=headers), timeout=TIMEOUT_S) as answer:
                content: bytes = answer.read(MAX_BYTES + 1)
        else:
            with Path(source).open("rb") as file:
                content = file.read(MAX_BYTES + 1)
    except urllib.error.HTTPError as exc:
        hint = f"; put a key into {KEY_VARIABLE}" if exc.code in (401, 403) else ""
        raise RecordsError(f"{source}: answers {exc.code} {exc.reason}{hint}") from None
    except OSError as exc:
        raise RecordsError(f"{source}: cannot be read ({exc})") from None
    if len(content) > MAX_BYTES:
        raise RecordsError(f"{source}: is over {MAX_BYTES / 1e6:.0f} MB; a service keeps less than that")
    return content.decode("utf-8", "replace")


def field_networks(table: LatencyTable, space: SearchSpace, text: str, device: str | None = None) -> FieldNetworks:
    """The networks that reports of one device are about.

    Args:
        text: CSV with `architecture`, `latency_ms` and `device`.
        device: whose reports to take; None if there is only one.

    Raises:
        RecordsError: naming the row that is wrong, the devices to choose from, or how many reports are implausible.
        LatencyTableError: if the table has no layers to calibrate.
    """
    if not table.layers:
        raise LatencyTableError(
            f"the table of {table.device.name} has no layers to calibrate; use `pnag latency learn`"
        )
    by_device = _by_device(space, text)
    if device is None and len(by_device) == 1:
        (device,) = by_device
    if device not in by_device:
        found = ", ".join(f"{name} ({sum(map(len, by_device[name].values()))})" for name in list(by_device)[:10])
        raise RecordsError(
            f"--device-name is {device or 'not given'}; the reports are of {found or 'no device: there are none'}"
        )
    reports = by_device[device]
    predicted = dict(zip(reports, predict(table, space, list(reports)).tolist(), strict=True))
    networks, num_reports, num_left_out = [], 0, 0
    for encoding, latencies_ms in reports.items():
        near = sorted(ms for ms in latencies_ms if 1 / PLAUSIBLE <= ms / predicted[encoding] <= PLAUSIBLE)
        num_reports += len(latencies_ms)
        num_left_out += len(latencies_ms) - len(near)
        if near:
            slower = near[len(near) // 2 :]
            networks.append(NetworkLatency(encoding, statistics.median(near), statistics.median(slower)))
    if num_left_out > MAX_LEFT_OUT * num_reports:
        raise RecordsError(
            f"{num_left_out} of {num_reports} reports are more than {PLAUSIBLE:g} times away from the table's "
            f"prediction; {device!r} is not the table's device {table.device.name!r}: measure it"
        )
    return FieldNetworks(device, tuple(networks), num_reports, num_left_out)


def fit_reports(
    path: Path, source: str, device: str | None, num_calibration: int, coverage: float, seed: int
) -> tuple[LatencyTable, FieldNetworks]:
    """The table of a file, fitted to reports behind a path or a URL, and what the reports came down to."""
    table = LatencyTable.load(path)
    space = table.measured_space(get_space(table.space))
    found = field_networks(table, space, read_reports(source), device)
    return fit(table, space, found, num_calibration, coverage, seed), found


def fit(
    table: LatencyTable, space: SearchSpace, found: FieldNetworks, num_calibration: int, coverage: float, seed: int
) -> LatencyTable:
    """The table calibrated on some of the reported networks, drawn by `seed`, and bounded by the others.

    Raises:
        BudgetError: if too few networks are left for `coverage`; says how many are needed.
        LatencyTableError: if too few are left to calibrate.
    """
    order = np.random.default_rng(seed).permutation(len(found.networks))
    networks = [found.networks[i] for i in order]
    calibrating, bounding = networks[:num_calibration], networks[num_calibration:]
    UpperBound(coverage, (1.0,) * len(bounding)).factor(coverage)  # too few: that is what to say first
    fitted = bound(calibrate(table, space, calibrating), space, bounding, coverage)
    assert fitted.calibration is not None
    method = f"{fitted.calibration.method}; networks as {found.device} reported them"
    return replace(fitted, calibration=replace(fitted.calibration, method=method), networks=tuple(networks), drift=None)


def _by_device(space: SearchSpace, text: str) -> dict[str, dict[str, list[float]]]:
    """Reported ms by device and canonical encoding, in the order they come."""
    rows = csv.DictReader(io.StringIO(text))
    missing = {"architecture", "latency_ms", "device"} - set(rows.fieldnames or ())
    if missing:
        raise RecordsError(f"the reports have no column {sorted(missing)[0]!r}; ask the service with Accept: text/csv")
    found: dict[str, dict[str, list[float]]] = {}
    for number, row in enumerate(rows, start=1):
        try:
            encoding = space.encode(space.decode(row["architecture"] or ""))
            latency_ms = float(row["latency_ms"] or "nan")
        except (EncodingError, ValueError) as exc:
            raise RecordsError(f"reports, row {number}: {exc}") from None
        if not 0 < latency_ms < float("inf"):
            raise RecordsError(f"reports, row {number}: latency_ms is {row['latency_ms']!r}; expected a number above 0")
        device = (row["device"] or "").removeprefix("'")  # which keeps a spreadsheet from running it
        found.setdefault(device, {}).setdefault(encoding, []).append(latency_ms)
    return found
