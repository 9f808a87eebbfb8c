"""A long mixed load on one worker, while its memory and open files are watched: are they flat?

Half of the requests were asked before, a fifth are new, the rest are fronts, batches, and requests that are wrong;
every few seconds the bundle is loaded again. The worker keeps few answers, so that its memory is full early on. A
service that runs already is asked the same, but nothing is loaded again there.
"""

import contextlib
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from pnag.bench.serving.load import Asked, offer, percentile_ms
from pnag.bench.serving.requests import mixed_requests
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
    """Memory and files of the processes at one moment."""

    at_s: float
    rss_mb: float
    num_files: int


def soak(bundle_folder: Path, seconds: float, per_s: float, progress: Progress) -> dict[str, Any]:
    """Soak a worker of our own; the report as JSON.

    Raises:
        NotRunningError: if the service does not start.
    """
    reloads: list[int] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(shutil.copytree(bundle_folder, Path(name) / bundle_folder.name))
        service = RunningService(folder, Path(name) / "log", cache_entries=CACHE_ENTRIES)

        def reload(at_s: float) -> None:
            if at_s >= RELOAD_EVERY_S * (len(reloads) + 1):
                (folder / MANIFEST).touch()
                reloads.append(service.ask("POST", "/admin/reload")[0])

        with service, watching([service.seen], seconds, progress, reload) as samples:
            asked = offer(service.url, mixed_requests(Bundle.load(folder)), per_s, seconds)
    return _report(seconds, per_s, asked, samples, reloads)


def soak_url(
    bundle: Bundle, seconds: float, per_s: float, url: str, key: str, pids: Sequence[int], progress: Progress
) -> dict[str, Any]:
    """Soak a service that runs already and serves this bundle; memory and files are the sums over its processes."""
    with watching([psutil.Process(pid) for pid in pids], seconds, progress) as samples:
        asked = offer(url, mixed_requests(bundle, key=key), per_s, seconds)
    return _report(seconds, per_s, asked, samples, [])


@contextlib.contextmanager
def watching(
    processes: Sequence[psutil.Process],
    seconds: float,
    progress: Progress,
    also: Callable[[float], None] | None = None,
) -> Iterator[list[Sample]]:
    """Look at processes every two seconds, in a thread, for as long as the block runs, and then do something else."""
    samples: list[Sample] = []
    over = threading.Event()
    with progress.stage("soak", round(seconds)) as bar:

        def watch() -> None:
            start = time.monotonic()
            while not over.wait(SAMPLE_EVERY_S):
                at_s = time.monotonic() - start
                rss_mb = sum(process.memory_info().rss for process in processes) / 1e6
                samples.append(Sample(round(at_s, 1), rss_mb, sum(map(_num_files, processes))))
                bar.step(round(SAMPLE_EVERY_S), f"{rss_mb:.0f} MB")
                if also is not None:
                    also(at_s)

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield samples
        finally:
            over.set()
            thread.join()


def _num_files(process: psutil.Process) -> int:
    """Open file descriptors, sockets included; 0 of a process of somebody else, who does not tell."""
    with contextlib.suppress(psutil.AccessDenied):
        return int(process.num_fds())
    return 0


def _report(
    seconds: float, per_s: float, asked: Sequence[Asked], samples: list[Sample], reloads: Sequence[int]
) -> dict[str, Any]:
    statuses: dict[str, Counter[int]] = {}
    for one in asked:
        statuses.setdefault(one.kind, Counter())[one.status] += 1
    return {
        "seconds": seconds,
        "per_s": per_s,
        "requests": len(asked),
        "statuses": {kind: dict(sorted(counts.items())) for kind, counts in sorted(statuses.items())},
        "unexpected": sum(one.is_wrong for one in asked),
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
