"""Makes docs/load.md of what load.sh measured; on stdout."""

import argparse
import json
import os
import platform
from collections import defaultdict
from pathlib import Path
from statistics import median

HEAD = """# Load

Written by `make load`: wrk with one thread against the compose stack (images as in docs/deploy.md, keys on, Redis on),
everything on one machine with {cores} cores that wrk, nginx, Redis, Prometheus and the replicas share; the host was
shared with other work too. Read the ratios. {system}, Python {python}.

## Requests per second

64 connections, {rounds} interleaved rounds of {round_s} s, medians. *hit*: one of 100 budgets that were asked before.
*miss*: budgets that never were; the generator samples 32 candidates for each. One replica is asked directly; two are
asked through nginx. *not 200*: answered with something else, such as 503; *broken*: not answered at all.

| | | requests/s | p50 ms | p99 ms | not 200 | broken |
|---|---|---|---|---|---|---|"""

SOAK = """
## Soak

{minutes:.0f} minutes through nginx on two replicas, 4 connections at a modest rate, every fifth budget a new one:
{answered:,} requests, {per_s:.0f} per second, p50 {p50_ms} ms, p99 {p99_ms} ms, slowest {max_ms} ms, {not_200} not 200,
{num_broken} broken. Open files of the replicas before and after: {before}; {after}.

Memory of the containers in MB. The rounds above have filled what a replica remembers (10 000 answers); Redis and
Prometheus still fill up. The last column is the slope of a line through the second half.

| | at 1 min | at half | at the end | MB per hour, second half |
|---|---|---|---|---|"""


def main() -> None:
    """Read, and print Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path)
    parser.add_argument("--soak", type=Path)
    parser.add_argument("--memory", type=Path)
    parser.add_argument("--open-files", nargs=2)
    parser.add_argument("--round-s")
    options = parser.parse_args()
    rows: dict[tuple[str, str], list[dict[str, float]]] = defaultdict(list)
    for line in options.results.read_text().splitlines():
        where, mode, figures = line.split("\t")
        rows[where, mode].append(json.loads(figures))
    text = [
        HEAD.format(
            cores=os.cpu_count(),
            python=platform.python_version(),
            system=platform.system(),
            rounds=len(next(iter(rows.values()))),
            round_s=options.round_s,
        )
    ]
    for (where, mode), runs in rows.items():
        middle = {name: median(run[name] for run in runs) for name in ("per_s", "p50_ms", "p99_ms")}
        lost = [str(sum(int(run[name]) for run in runs)) for name in ("not_200", "broken")]
        cells = [where, mode, f"{middle['per_s']:.0f}", f"{middle['p50_ms']:.1f}", f"{middle['p99_ms']:.1f}", *lost]
        text.append(f"| {' | '.join(cells)} |")
    soak = json.loads(options.soak.read_text())
    before, after = (" and ".join(files.split()) for files in options.open_files)
    num_broken = sum(soak["broken"].values())
    text.append(
        SOAK.format(
            minutes=soak["seconds"] / 60,
            per_s=soak["answered"] / soak["seconds"],
            not_200=soak["failed"] - num_broken,
            num_broken=num_broken,
            before=before,
            after=after,
            **soak,
        )
    )
    samples: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for line in options.memory.read_text().splitlines():
        at, name, size = line.split("\t")
        samples[name].append((float(at), float(size)))
    for name, points in sorted(samples.items()):
        end = points[-1][0]
        at = [min(points, key=lambda point: abs(point[0] - moment))[1] for moment in (60, end / 2, end)]
        per_hour = _slope([point for point in points if point[0] >= end / 2]) * 3600
        text.append(f"| {' | '.join([name, *(f'{size:.1f}' for size in at), f'{per_hour:+.1f}'])} |")
    print("\n".join(text))  # noqa: T201


def _slope(points: list[tuple[float, float]]) -> float:
    """Least squares; 0 for fewer than two points."""
    if len(points) < 2:
        return 0.0
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / sum((x - mean_x) ** 2 for x, _ in points)


if __name__ == "__main__":
    main()
