"""Compare serving: wrk asks each contender in turn, round after round, while the others are stopped in their tracks.

Medians over rounds; ratios are taken within a round, where both sides saw the same machine. Every contender but the two
hellos gives the same answer, made by the same code (servers/served_bundle.py): only what is around it differs. That
code remembers what it predicted of a network, for everybody alike.
"""

import contextlib
import os
import platform
import re
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import psutil

from pnag.bench.serving.contenders import GENERATE, SERVERS, Contender, contenders, environment_of, start, version_of
from pnag.bench.serving.requests import budget_range_ms
from pnag.bench.serving.running_service import PLAINLY, NotRunningError, RunningService
from pnag.bench.serving.wrk import Load, Round, run_wrk
from pnag.models.bundle.bundle import Bundle
from pnag.trainer.latency.timing.host import processor_name
from pnag.trainer.progress import Progress

BASELINES = {"pnag, cached": ("bare uvicorn ASGI hello", "FastAPI hello world", "FastAPI, request read")}
"""Contenders that ours is compared with. The uncached ones are compared with the other servers of models."""

OURS = "pnag, uncached"
OURS_TWICE = f"{OURS}, 2 workers"
PEERS = ("LitServe", "BentoML", "MLServer")
MEDIANS = ("requests_per_s", "p50_ms", "p99_ms", "cpu_ms_per_request")


class RunningContender:
    """A contender that has been started."""

    def __init__(self, contender: Contender, port: int, environments: Path, folder: Path) -> None:
        self.contender = contender
        self.url = f"http://127.0.0.1:{port}{contender.path}"
        self.log = folder / f"{re.sub(r'[^a-z]+', '-', contender.name.lower())}.log"
        self._process = start(contender, port, environments, self.log)
        self.rounds: list[Round] = []
        self.memory_mb = self.largest_mb = 0.0

    def wait(self, budget_ms: float) -> None:
        """Wait until it answers a budget."""
        body = self.contender.template.replace("%BUDGET%", str(budget_ms))
        last = "no answer"
        for _ in range(600):
            if self._process.poll() is not None:
                break
            with contextlib.suppress(httpx.TransportError):
                headers = {"content-type": "application/json"}
                response = httpx.post(self.url, content=body, headers=headers, **PLAINLY)
                if response.status_code == 200:
                    return
                last = f"{response.status_code}: {response.text[:500]!r}"
            time.sleep(0.2)
        raise NotRunningError(f"{self.contender.name} did not start ({last}):\n{self.log.read_text()[-3000:]}")

    def processes(self) -> list[psutil.Process]:
        """List it and its children."""
        try:
            parent = psutil.Process(self._process.pid)
            return [parent, *parent.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def signal(self, number: int) -> None:
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def cpu_s(self) -> float:
        times = [process.cpu_times() for process in self.processes()]
        return sum(t.user + t.system for t in times)

    def ask(self, load: Load, seconds: int, budgets_ms: tuple[float, float], first: int) -> Round:
        """Load it for a while; the budgets are those of a long series from its number `first` on."""
        if self.contender.is_cached:
            budgets_ms = (sum(budgets_ms) / 2,) * 2
        found = run_wrk(
            self.url, self.contender.template, budgets_ms, first, seconds, load.connections, cpu_s=self.cpu_s
        )
        sizes_mb = [process.memory_info().rss / 1e6 for process in self.processes()]
        self.memory_mb, self.largest_mb = max(self.memory_mb, sum(sizes_mb)), max(self.largest_mb, *sizes_mb)
        return found

    def figures(self) -> dict[str, Any]:
        """Give the figures of its rounds, and the most memory seen after one."""
        sizes = {"memory_mb": round(self.memory_mb, 1), "largest_mb": round(self.largest_mb, 1)}
        return figures(self.rounds) | sizes

    def stop(self) -> None:
        """End it and its children."""
        self.signal(signal.SIGCONT)
        processes = self.processes()
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.terminate()
        _, alive = psutil.wait_procs(processes, timeout=10)
        for process in alive:
            process.kill()


def figures(rounds: Sequence[Round]) -> dict[str, Any]:
    """Give medians over rounds, all failures, and the rounds themselves."""
    medians = {name: statistics.median(getattr(r, name) for r in rounds) for name in MEDIANS}
    sums = {name: sum(getattr(r, name) for r in rounds) for name in ("refused", "broken", "late")}
    return medians | sums | {"rounds": [asdict(r) for r in rounds]}


@contextlib.contextmanager
def running(
    wanted: Sequence[Contender], environments: Path, folder: Path, budget_ms: float
) -> Iterator[list[RunningContender]]:
    """Start all contenders, each stopped in its tracks."""
    started: list[RunningContender] = []
    try:
        for number, contender in enumerate(wanted):
            started.append(RunningContender(contender, 18_100 + number, environments, folder))
            started[-1].wait(budget_ms)
            started[-1].signal(signal.SIGSTOP)
        yield started
    finally:
        for one in started:
            one.stop()


def compare_serving(
    bundle_folder: Path, load: Load, environments: Path, progress: Progress, only: Sequence[str] = ()
) -> dict[str, Any]:
    """Ask everybody, or those whose name starts with one of `only`; the report as JSON.

    Raises:
        NotRunningError: naming who did not start, with the end of its log.
    """
    bundle = Bundle.load(bundle_folder)
    about = conditions(bundle, load)
    budgets_ms = budget_range_ms(bundle)
    everybody = contenders(bundle_folder.resolve(), load.num_candidates, load.max_batch_size)
    wanted = [c for c in everybody if not only or c.name.startswith(tuple(only))]
    for package in {c.package for c in wanted} - {""}:
        environment_of(package, environments)
    with (
        tempfile.TemporaryDirectory() as folder,
        running(wanted, environments, Path(folder), sum(budgets_ms) / 2) as all_running,
        progress.stage("serving", (load.rounds + 1) * len(wanted)) as bar,
    ):
        for number in range(-1, load.rounds):  # the first warms up and is not counted
            for one in all_running:
                one.signal(signal.SIGCONT)
                first = (number + 1) * 1_000_000  # nobody is asked in one round what it was asked in another
                result = one.ask(load, 2 if number < 0 else load.seconds, budgets_ms, first)
                one.signal(signal.SIGSTOP)
                bar.step(1)
                if number >= 0:
                    one.rounds.append(result)
    about["versions"] |= {p: version_of(p, environments) for p in sorted({c.package for c in wanted} - {""})}
    return {
        **about,
        "contenders": {one.contender.name: one.figures() for one in all_running},
        "ratios": _ratios({one.contender.name: one.rounds for one in all_running}),
    }


def compare_urls(
    bundle_folder: Path, load: Load, urls: Mapping[str, str], key: str, progress: Progress
) -> dict[str, Any]:
    """Ask services that run already, each the same again and again (cached) and for budgets that all differ.

    Args:
        bundle_folder: the bundle that they serve.
        urls: name -> address.
    """
    bundle = Bundle.load(bundle_folder)
    about = conditions(bundle, load)
    low_ms, high_ms = budget_range_ms(bundle)
    middle_ms = (low_ms + high_ms) / 2
    found: dict[str, list[Round]] = {}
    with progress.stage("serving", 2 * load.rounds * len(urls)) as bar:
        for _ in range(load.rounds):
            for name, url in urls.items():
                for kind, budgets_ms in (("cached", (middle_ms, middle_ms)), ("uncached", (low_ms, high_ms))):
                    # Not asked in this run, and hardly in one before: what is remembered would look fast.
                    first = time.time_ns() // 1000 % 10**9
                    result = run_wrk(
                        f"{url}/generate", GENERATE, budgets_ms, first, load.seconds, load.connections, key
                    )
                    found.setdefault(f"{name}, {kind}", []).append(result)
                    bar.step(1)
    return {**about, "contenders": {name: figures(rounds) for name, rounds in found.items()}, "ratios": []}


def conditions(bundle: Bundle, load: Load) -> dict[str, Any]:
    """Describe the machine, the versions and the load of a measurement that begins."""
    return {
        "machine": {
            "processor": processor_name(),
            "instructions": _instructions(),
            "system": platform.system(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
        },
        "measured_at": datetime.now(UTC).date().isoformat(),
        "load_average_before": round(os.getloadavg()[0], 2),
        "versions": {name: version(name) for name in ("fastapi", "uvicorn", "onnxruntime")},
        "load": {"tool": "wrk, 1 thread", "bundle": bundle.name, **asdict(load)},
    }


def _instructions() -> list[str]:
    """List the processor's instruction sets that matrix products run on."""
    path = Path("/proc/cpuinfo")
    flags = set(path.read_text().split()) if path.exists() else set()
    return [name for name in ("avx2", "avx512f", "amx_tile") if name in flags]


def check_kserve(bundle_folder: Path, environments: Path) -> str:
    """Ask our service with `tritonclient[http]`, every way it knows to send and receive; what the check says.

    Raises:
        NotRunningError: if an answer is not as it should be.
    """
    python = environment_of("tritonclient", environments) / "bin" / "python"
    with tempfile.TemporaryDirectory() as folder, RunningService(bundle_folder, Path(folder) / "log") as service:
        name = Bundle.load(bundle_folder).name
        script = str(SERVERS / "check_kserve_client.py")
        command = [str(python), script, "--url", f"127.0.0.1:{service.port}", "--model", name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotRunningError(f"tritonclient[http] is not content:\n{done.stderr[-2000:]}")
    return f"tritonclient {version_of('tritonclient', environments)}: {done.stdout.strip()}"


def _ratios(rounds: dict[str, list[Round]]) -> list[dict[str, Any]]:
    """Ours over each it is compared with: medians over rounds of what both did in the same one."""
    pairs = [(ours, other) for ours, others in BASELINES.items() for other in others]
    for other in rounds:
        if other.startswith(PEERS):
            pairs.append((OURS, other))
            if other.endswith("2 workers"):
                pairs.append((OURS_TWICE, other))
    result = []
    for ours, other in pairs:
        if ours in rounds and other in rounds:
            both = list(zip(rounds[ours], rounds[other], strict=True))
            ratios = {name: statistics.median(getattr(a, name) / getattr(b, name) for a, b in both) for name in MEDIANS}
            result.append({"of": ours, "over": other, **ratios})
    return result
