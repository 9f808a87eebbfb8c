"""Faults around the service, done to a real one under load, and the requests that failed of it, counted.

Needs `redis-server` and `nginx`; a part whose program is missing is refused, not left out.
"""

import json
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

from pnag.bench.serving.load import Asked, ask_in_turn, offer, percentile_ms
from pnag.bench.serving.requests import mixed_requests
from pnag.bench.serving.running_service import NotRunningError, RunningService, free_port
from pnag.models.bundle.bundle import MANIFEST, Bundle
from pnag.models.files import to_json
from pnag.trainer.progress import Progress

IN_HASTE = {"max_waiting": 2, "max_batch_size": 2}
"""PNAG_MAX_WAITING and PNAG_MAX_BATCH_SIZE of an operator to whom an answer is worth something for 20 ms."""

RECOVERY_S = 2.0
"""After an overload; the service keeps its queue short for half of it (service/engine/inference_queue.py)."""

PER_S = 60.0
"""Requests under which things break; a fraction of what one worker can do."""

NGINX = """
daemon off; pid {folder}/pid; error_log {folder}/error.log; worker_processes 1;
events {{ worker_connections 512; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  upstream replicas {{ {servers} keepalive 16; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://replicas; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_next_upstream error timeout http_503 non_idempotent; proxy_connect_timeout 2s;
    }}
  }}
}}
"""


def all_faults(bundle_folder: Path, progress: Progress) -> dict[str, Any]:
    """Do every part in turn; the report as JSON.

    Raises:
        NotRunningError: if something does not start, or does not get where it should.
    """
    parts = (redis_killed, bundles_swapped, replicas_ended, many_reloads, overload, overload_in_haste)
    report: dict[str, Any] = {}
    with progress.stage("faults", len(parts)) as bar:
        for part in parts:
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                bundle = Path(shutil.copytree(bundle_folder, folder / "bundles" / bundle_folder.name))
                report[part.__name__] = part(bundle, folder)
            bar.step(1, part.__name__)
    return report


def redis_killed(bundle: Path, folder: Path) -> dict[str, Any]:
    """Redis is killed and comes back; every answer must look into it, because the worker itself keeps none."""
    port = free_port()
    command = [_program("redis-server"), "--port", str(port), "--save", "", "--dir", str(folder)]
    redis = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    service = RunningService(bundle, folder / "log", redis_url=f"redis://127.0.0.1:{port}/0", cache_entries=0)
    up: list[float] = []

    def break_it() -> None:
        nonlocal redis
        for _ in range(3):
            time.sleep(4)
            redis.kill()
            redis.wait()
            time.sleep(4)
            up.append(service.metric("pnag_redis_up"))
            redis = subprocess.Popen(command, stdout=subprocess.DEVNULL)
            _until(lambda: service.metric("pnag_redis_up") == 1, "Redis is back and the service does not use it")

    try:
        _until(lambda: service.wait().metric("pnag_redis_up") == 1, "the service does not use Redis")
        asked = _load_while(service.url, bundle, break_it)
    finally:
        service.close()
        redis.kill()
        redis.wait()
    return {"killed": len(up), "noticed": sum(value == 0 for value in up), **_counts(asked)}


def bundles_swapped(bundle: Path, folder: Path, swaps: int = 50) -> dict[str, Any]:
    """Another version is put in the bundle's place, and loaded, again and again."""
    manifest = json.loads((bundle / MANIFEST).read_text())
    service = RunningService(bundle, folder / "log")
    served: set[str] = set()

    def swap() -> None:
        for number in range(swaps):
            fresh = Path(shutil.copytree(bundle, folder / "fresh"))
            (fresh / MANIFEST).write_text(to_json({**manifest, "version": f"swap-{number}"}))
            bundle.rename(folder / "old")
            fresh.rename(bundle)
            shutil.rmtree(folder / "old")
            status, content = service.ask("POST", "/admin/reload")
            if status != 200:
                raise NotRunningError(f"swap {number} was refused: {content!r}")
            served.add(json.loads(service.ask("GET", "/bundles")[1])["bundles"][0]["version"])

    with service:
        asked = _load_while(service.url, bundle, swap)
    return {"swaps": len(served), **_counts(asked)}


def replicas_ended(bundle: Path, folder: Path, rounds: int = 4) -> dict[str, Any]:
    """Two replicas behind nginx get SIGTERM in turn and are started again: a rolling update."""
    replicas = [RunningService(bundle, folder / f"log{number}", drain_s=1) for number in range(2)]
    port = free_port()
    servers = " ".join(f"server 127.0.0.1:{replica.port} max_fails=0;" for replica in replicas)
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder, port=port, servers=servers))
    proxy = subprocess.Popen([_program("nginx"), "-c", folder / "nginx.conf", "-p", folder, "-e", folder / "error.log"])
    codes: list[int] = []

    def update() -> None:
        for number in range(2 * rounds):
            old = replicas[number % 2]
            codes.append(old.end())
            replicas[number % 2] = RunningService(bundle, folder / f"log{number % 2}", old.port, drain_s=1).wait()

    try:
        for replica in replicas:
            replica.wait()
        asked = _load_while(f"http://127.0.0.1:{port}", bundle, update)
    finally:
        proxy.terminate()
        proxy.wait()
        for replica in replicas:
            replica.close()
    return {"sigterms": len(codes), "exit_codes": sorted(set(codes)), **_counts(asked)}


def many_reloads(bundle: Path, folder: Path, reloads: int = 200) -> dict[str, Any]:
    """Load the same bundle again and again; resident memory afterwards."""
    with RunningService(bundle, folder / "log") as service:
        sizes_mb = [service.rss_mb]
        for _ in range(reloads):
            (bundle / MANIFEST).touch()
            status, content = service.ask("POST", "/admin/reload")
            if status != 200 or not json.loads(content)["loaded"]:
                raise NotRunningError(f"a reload was not done: {content!r}")
            sizes_mb.append(service.rss_mb)
        return {"reloads": reloads, "rss_mb_after": {n: sizes_mb[n] for n in (0, 1, 10, 20, 50, 100, 150, reloads)}}


def overload_in_haste(bundle: Path, folder: Path) -> dict[str, Any]:
    """Overload where late answers are worthless: short runs, and hardly anybody waits."""
    return overload(bundle, folder, connections=IN_HASTE["max_waiting"] + 2 * IN_HASTE["max_batch_size"], **IN_HASTE)


def overload(
    bundle: Path,
    folder: Path,
    times: float = 3,
    seconds: float = 8,
    rounds: int = 3,
    connections: int = 64,
    **settings: Any,
) -> dict[str, Any]:
    """Budgets that all differ, at three times what one worker can answer: medians of interleaved rounds.

    Args:
        connections: in a closed loop, for the capacity: so many that all have room.
    """
    wanted = (one for one in mixed_requests(Bundle.load(bundle), seed=1) if one[0] == "miss")
    with RunningService(bundle, folder / "log", cache_entries=0, **settings) as service:
        ask_in_turn(service.url, wanted, connections, 3)  # warm
        found = []
        for _ in range(rounds):
            time.sleep(RECOVERY_S)
            capacity_per_s = _per_s(ask_in_turn(service.url, wanted, connections, seconds / 2), seconds / 2)
            calm = offer(service.url, wanted, capacity_per_s / 5, seconds / 2)
            # Made up before the clock runs: it takes the client about as long as sending them.
            many = list(islice(wanted, round(times * capacity_per_s * seconds)))
            busy = offer(service.url, many, times * capacity_per_s, seconds)
            found.append(
                {
                    "capacity_per_s": capacity_per_s,
                    "unloaded_p99_ms": percentile_ms(calm, 99),
                    "overloaded_p50_ms": percentile_ms(busy, 50),
                    "overloaded_p99_ms": percentile_ms(busy, 99),
                    "p99_ratio": percentile_ms(busy, 99) / percentile_ms(calm, 99),
                    "goodput": _per_s(busy, seconds) / capacity_per_s,
                    "shed": sum(one.status == 503 for one in busy) / len(busy),
                    "failed": sum(one.status not in (200, 503) for one in busy),
                }
            )
        return {name: statistics.median(one[name] for one in found) for name in found[0]} | {"rounds": found}


def _load_while(url: str, bundle: Path, do: Callable[[], None]) -> list[Asked]:
    """Offer a mixed load until `do` is done; what it raises is raised."""
    source = mixed_requests(Bundle.load(bundle))  # the bundle is read before it is swapped

    def work() -> None:
        time.sleep(1)
        do()

    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(work)
        asked = offer(url, takewhile(lambda _: not job.done(), source), PER_S, 600)
        job.result()
    return asked


def _counts(asked: Sequence[Asked]) -> dict[str, Any]:
    return {
        "requests": len(asked),
        "failed": sum(one.is_wrong for one in asked),
        "p50_ms": percentile_ms(asked, 50),
        "p99_ms": percentile_ms(asked, 99),
        "slowest_ms": max(one.ms for one in asked),
    }


def _per_s(asked: Sequence[Asked], seconds: float) -> float:
    return sum(one.status == 200 for one in asked) / seconds


def _program(name: str) -> str:
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if path is None:
        raise NotRunningError(f"`{name}` is not installed; apt-get install {name}")
    return path


def _until(condition: Callable[[], bool], what: str) -> None:
    for _ in range(300):
        if condition():
            return
        time.sleep(0.1)
    raise NotRunningError(what)
