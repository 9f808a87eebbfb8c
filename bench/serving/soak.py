"""A long mixed load on one worker, while its memory and open files are watched: are they flat?

Half of the requests were asked before, a fifth are new, the rest are fronts, batches, and requests that are wrong;
every few seconds the bundle is loaded again. The worker keeps few answers, so that its memory is full early on.
"""

import itertools
import random
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pnag.bench.serving.load import Request, offer, percentile_ms, request
from pnag.bench.serving.running_service import RunningService
from pnag.models.bundle.bundle import MANIFEST, Bundle
from pnag.trainer.progress import Progress

RELOAD_EVERY_S = 10.0
SAMPLE_EVERY_S = 2.0
CACHE_ENTRIES = 500
FLAT = 1.03
"""The last quarter may hold so much more memory than the second one."""


@dataclass(frozen=True)
class Sample:
    """What the system said of the process at one moment."""

    at_s: float
    rss_mb: float
    num_files: int


def mixed_requests(bundle: Bundle, seed: int = 0) -> Iterator[Request]:
    """Requests without end; the kind `bad` must be refused (4xx), all others answered with 200."""
    rng = random.Random(seed)
    low_ms, high_ms = bundle.front[0].latency_ms * 1.3, bundle.front[-1].latency_ms
    known = [round(rng.uniform(low_ms, high_ms), 3) for _ in range(50)]
    bad = [
        request("POST", "/generate", b'{"budget_ms": '),
        request("POST", "/generate", {"budget_ms": -1}),
        request("POST", "/generate", {"budget_ms": low_ms / 100}),
        request("POST", "/generate", {"budget_ms": low_ms, "bundle": "nobody"}),
        request("POST", "/predict", {"encoding": "nonsense"}),
        request("GET", "/nowhere"),
    ]
    for number in itertools.count():
        budgets = [rng.uniform(low_ms, high_ms) for _ in range(4)]
        share = rng.random()
        if share < 0.5:
            yield "hit", request("POST", "/generate", {"budget_ms": rng.choice(known)})
        elif share < 0.7:
            yield "miss", request("POST", "/generate", {"budget_ms": budgets[0]})
        elif share < 0.8:
            yield "front", request("GET", f"/pareto-front?points={10 + number % 40}")
        elif share < 0.9:
            yield "batch", request("POST", "/generate/batch", {"budgets_ms": budgets})
        else:
            yield "bad", rng.choice(bad)


def soak(bundle_folder: Path, seconds: float, per_s: float, progress: Progress) -> dict[str, Any]:
    """Run it; the report as JSON.

    Raises:
        NotRunningError: if the service does not start.
    """
    samples: list[Sample] = []
    reloads: list[int] = []
    over = threading.Event()
    with tempfile.TemporaryDirectory() as name, progress.stage("soak", round(seconds)) as bar:
        folder = Path(shutil.copytree(bundle_folder, Path(name) / bundle_folder.name))
        service = RunningService(folder, Path(name) / "log", cache_entries=CACHE_ENTRIES)

        def watch() -> None:
            start = time.monotonic()
            next_reload = RELOAD_EVERY_S
            while not over.wait(SAMPLE_EVERY_S):
                at_s = time.monotonic() - start
                samples.append(Sample(round(at_s, 1), service.rss_mb, service.num_files))
                bar.step(round(SAMPLE_EVERY_S), f"{samples[-1].rss_mb:.0f} MB")
                if at_s >= next_reload:
                    next_reload += RELOAD_EVERY_S
                    (folder / MANIFEST).touch()
                    reloads.append(service.ask("POST", "/admin/reload")[0])

        watching = threading.Thread(target=watch)
        try:
            service.wait()
            watching.start()
            asked = offer(service.port, mixed_requests(Bundle.load(folder)), per_s, seconds)
        finally:
            over.set()
            if watching.ident is not None:
                watching.join()
            service.close()
    statuses: dict[str, Counter[int]] = {}
    for one in asked:
        statuses.setdefault(one.kind, Counter())[one.status] += 1
    return {
        "seconds": seconds,
        "per_s": per_s,
        "requests": len(asked),
        "statuses": {kind: dict(sorted(counts.items())) for kind, counts in sorted(statuses.items())},
        "unexpected": sum(
            1 for one in asked if not (400 <= one.status < 500 if one.kind == "bad" else one.status == 200)
        ),
        "reloads": len(reloads),
        "failed_reloads": sum(status != 200 for status in reloads),
        "p50_ms": percentile_ms(asked, 50),
        "p99_ms": percentile_ms(asked, 99),
        **judge(samples),
        "samples": [asdict(sample) for sample in samples],
    }


def judge(samples: list[Sample]) -> dict[str, Any]:
    """Medians of the second and the last quarter, and the slope over the second half."""
    quarters = np.array_split(np.array([(s.at_s, s.rss_mb, s.num_files) for s in samples]), 4)
    early, late = (np.median(quarter, axis=0) for quarter in (quarters[1], quarters[3]))
    half = np.concatenate(quarters[2:])
    slope = float(np.polyfit(half[:, 0], half[:, 1], 1)[0]) * 3600
    return {
        "rss_mb": {"second_quarter": float(early[1]), "last_quarter": float(late[1]), "slope_per_hour": slope},
        "most_rss_mb": max(s.rss_mb for s in samples),
        "files": {"second_quarter": float(early[2]), "last_quarter": float(late[2])},
        "is_flat": bool(late[1] <= early[1] * FLAT and late[2] <= early[2] + 2),
    }


def soak_markdown(report: dict[str, Any]) -> str:
    """The report for people."""
    rss, files = report["rss_mb"], report["files"]
    lines = [
        f"{report['seconds'] / 60:g} minutes at {report['per_s']:g} requests/s, {report['requests']} in all, "
        f"p50 {report['p50_ms']:.1f} ms, p99 {report['p99_ms']:.1f} ms; the bundle loaded again {report['reloads']} "
        f"times ({report['failed_reloads']} failed); answered otherwise than they should be: {report['unexpected']}.",
        "",
        "| kind | " + "answers by status (0: none) |",
        "|---|---|",
        *(
            f"| {kind} | {', '.join(f'{status}: {count}' for status, count in counts.items())} |"
            for kind, counts in report["statuses"].items()
        ),
        "",
        f"Resident memory {rss['second_quarter']:.1f} MB in the second quarter, {rss['last_quarter']:.1f} MB in "
        f"the last ({rss['slope_per_hour']:+.1f} MB per hour over the second half), {report['most_rss_mb']:.1f} MB at "
        f"most; open files {files['second_quarter']:g} and {files['last_quarter']:g}: "
        + ("flat." if report["is_flat"] else "**not flat**."),
    ]
    return "\n".join(lines) + "\n"
