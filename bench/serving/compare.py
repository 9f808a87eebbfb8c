"""Compare serving: wrk asks each contender in turn, round after round, while the others are stopped in their tracks.

Medians over rounds; ratios are taken within a round, where both sides saw the same machine. Every contender but the two
hellos gives the same answer, made by the same code (servers/generator.py): only what is around it differs. That code
remembers what it predicted of a network, for everybody alike.
"""

import contextlib
import http.client
import os
import platform
import re
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from pnag.bench.serving.contenders import SERVERS, Contender, contenders, environment_of, start, version_of
from pnag.bench.serving.running_service import RunningService
from pnag.models.bundle.bundle import Bundle
from pnag.models.errors import PnagError
from pnag.trainer.latency.timing.host import processor_name
from pnag.trainer.progress import Progress

BASELINES = {"pnag, cached": ("bare uvicorn ASGI hello", "FastAPI hello world", "FastAPI, request read")}
"""Whom ours is compared with. The uncached ones are compared with the other servers of models."""

OURS = "pnag, uncached"
OURS_TWICE = f"{OURS}, 2 workers"
PEERS = ("LitServe", "BentoML", "MLServer")
LATE_S = 10


class ServingError(PnagError):
    """A contender did not start, or a tool is missing."""


@dataclass(frozen=True)
class Load:
    """How everybody is asked."""

    rounds: int = 5
    seconds: int = 5
    connections: int = 64
    num_candidates: int = 16
    max_batch_size: int = 16


@dataclass(frozen=True)
class Round:
    """One contender, asked for some seconds."""

    requests_per_s: float
    p50_ms: float
    p99_ms: float
    cpu_ms_per_request: float
    refused: int = 0
    """Answered, but not with 200: a full queue, a deadline."""
    broken: int = 0
    """Connections that could not be made, read or written."""
    late: int = 0
    """Not answered within LATE_S."""


class Running:
    """A contender that has been started."""

    def __init__(self, contender: Contender, port: int, environments: Path, folder: Path) -> None:
        self.contender = contender
        self.port = port
        self.log = folder / f"{re.sub(r'[^a-z]+', '-', contender.name.lower())}.log"
        self._process = start(contender, port, environments, self.log)
        self.rounds: list[Round] = []
        self.memory_mb = self.largest_mb = 0.0
        self.last = "no answer"

    def wait(self, budget_ms: float) -> None:
        """Until it answers a budget."""
        body = self.contender.template.replace("%BUDGET%", str(budget_ms))
        for _ in range(600):
            if self._process.poll() is not None:
                break
            with contextlib.suppress(OSError, http.client.HTTPException):
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
                connection.request("POST", self.contender.path, body, {"content-type": "application/json"})
                response = connection.getresponse()
                content = response.read()
                if response.status == 200:
                    return
                self.last = f"{response.status}: {content[:500]!r}"
            time.sleep(0.2)
        raise ServingError(f"{self.contender.name} did not start ({self.last}):\n{self.log.read_text()[-3000:]}")

    def processes(self) -> list[psutil.Process]:
        """It and its children."""
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

    def ask(self, seconds: float, connections: int, low_ms: float, high_ms: float, first: int = 0) -> Round:
        """Load it for a while; the budgets are those of a long series from its number `first` on."""
        low, high = ((low_ms + high_ms) / 2,) * 2 if self.contender.is_cached else (low_ms, high_ms)
        url = f"http://127.0.0.1:{self.port}{self.contender.path}"
        command = [
            "wrk",
            "-t1",
            f"-c{connections}",
            f"-d{seconds}s",
            f"--timeout={LATE_S}s",
            "--latency",
            "-s",
            str(SERVERS / "budgets.lua"),
            url,
        ]
        before = self.cpu_s()
        output = subprocess.run(
            [*command, "--", str(low), str(high), str(first), self.contender.template],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        cpu_s = self.cpu_s() - before
        sizes_mb = [process.memory_info().rss / 1e6 for process in self.processes()]
        self.memory_mb, self.largest_mb = max(self.memory_mb, sum(sizes_mb)), max(self.largest_mb, *sizes_mb)
        count = int(_found(r"(\d+) requests in", output))
        errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", output)
        *broken, late = map(int, errors.groups()) if errors else (0,)
        refused = re.search(r"Non-2xx or 3xx responses: (\d+)", output)
        return Round(
            float(_found(r"Requests/sec:\s+([\d.]+)", output)),
            _milliseconds(_found(r"^\s+50%\s+(\S+)", output)),
            _milliseconds(_found(r"^\s+99%\s+(\S+)", output)),
            cpu_s / max(count, 1) * 1e3,
            int(refused[1]) if refused else 0,
            sum(broken),
            late,
        )

    def figures(self) -> dict[str, Any]:
        """Medians over rounds, all failures, the most memory seen after a round, and the rounds themselves."""
        names = ("requests_per_s", "p50_ms", "p99_ms", "cpu_ms_per_request")
        medians = {name: statistics.median(getattr(r, name) for r in self.rounds) for name in names}
        return {
            **medians,
            **{name: sum(getattr(r, name) for r in self.rounds) for name in ("refused", "broken", "late")},
            "memory_mb": round(self.memory_mb, 1),
            "largest_mb": round(self.largest_mb, 1),
            "rounds": [asdict(r) for r in self.rounds],
        }

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


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text, re.MULTILINE)
    if match is None:
        raise ValueError(f"wrk says:\n{text}")
    return match[1]


def _milliseconds(text: str) -> float:
    number, unit = re.fullmatch(r"([\d.]+)(us|ms|s|m)", text).groups()  # type: ignore[union-attr]
    return float(number) * {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4}[unit]


@contextlib.contextmanager
def running(wanted: Sequence[Contender], environments: Path, folder: Path, budget_ms: float) -> Iterator[list[Running]]:
    """All contenders, started and then stopped in their tracks."""
    started: list[Running] = []
    try:
        for number, contender in enumerate(wanted):
            started.append(Running(contender, 18_100 + number, environments, folder))
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
        ServingError: naming who did not start, with the end of its log.
    """
    bundle = Bundle.load(bundle_folder)
    load_before = round(os.getloadavg()[0], 2)
    # Feasible at any coverage, and below where every budget gets the same network.
    low_ms, high_ms = bundle.front[0].latency_ms * 1.3, bundle.front[-1].latency_ms
    everybody = contenders(bundle_folder.resolve(), load.num_candidates, load.max_batch_size)
    wanted = [c for c in everybody if not only or c.name.startswith(tuple(only))]
    for package in {c.package for c in wanted} - {""}:
        environment_of(package, environments)
    with (
        tempfile.TemporaryDirectory() as folder,
        running(wanted, environments, Path(folder), (low_ms + high_ms) / 2) as all_running,
        progress.stage("serving", (load.rounds + 1) * len(wanted)) as bar,
    ):
        for number in range(-1, load.rounds):  # the first warms up and is not counted
            for one in all_running:
                one.signal(signal.SIGCONT)
                first = (number + 1) * 1_000_000  # nobody is asked in one round what it was asked in another
                result = one.ask(2 if number < 0 else load.seconds, load.connections, low_ms, high_ms, first)
                one.signal(signal.SIGSTOP)
                bar.step(1)
                if number >= 0:
                    one.rounds.append(result)
    packages = ("fastapi", "uvicorn", "onnxruntime")
    versions = {name: version(name) for name in packages}
    versions |= {p: version_of(p, environments) for p in sorted({c.package for c in wanted} - {""})}
    return {
        "machine": {
            "processor": processor_name(),
            "instructions": _instructions(),
            "system": platform.system(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
        },
        "measured_at": datetime.now(UTC).date().isoformat(),
        "load_average_before": load_before,
        "versions": versions,
        "load": {"tool": "wrk, 1 thread", "bundle": bundle.name, **asdict(load)},
        "contenders": {one.contender.name: one.figures() for one in all_running},
        "ratios": _ratios({one.contender.name: one.rounds for one in all_running}),
    }


def _instructions() -> list[str]:
    """Those of the processor's instruction sets that matrix products run on."""
    path = Path("/proc/cpuinfo")
    flags = set(path.read_text().split()) if path.exists() else set()
    return [name for name in ("avx2", "avx512f", "amx_tile") if name in flags]


def check_kserve(bundle_folder: Path, environments: Path) -> str:
    """Ask our service with `tritonclient[http]`, every way it knows to send and receive; what the check says.

    Raises:
        ServingError: if an answer is not as it should be.
    """
    python = environment_of("tritonclient", environments) / "bin" / "python"
    with tempfile.TemporaryDirectory() as folder:
        service = RunningService(bundle_folder, Path(folder) / "log")
        try:
            service.wait()
            name = Bundle.load(bundle_folder).name
            command = [
                str(python),
                str(SERVERS / "check_kserve_client.py"),
                "--url",
                f"127.0.0.1:{service.port}",
                "--model",
                name,
            ]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        finally:
            service.close()
    if done.returncode:
        raise ServingError(f"tritonclient[http] is not content:\n{done.stderr[-2000:]}")
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
            fields = ("requests_per_s", "p50_ms", "p99_ms", "cpu_ms_per_request")
            ratios = {name: statistics.median(getattr(a, name) / getattr(b, name) for a, b in both) for name in fields}
            result.append({"of": ours, "over": other, **ratios})
    return result


def serving_markdown(report: dict[str, Any]) -> str:
    """The report for people."""
    machine, load = report["machine"], report["load"]
    lines = [
        f"{report['measured_at']}, {machine['processor']} ({', '.join(machine['instructions'])}), {machine['system']}, "
        f"{machine['cores']} cores that wrk (one thread) shares, load average before {report['load_average_before']}. "
        f"{load['connections']} connections, {load['rounds']} interleaved rounds of {load['seconds']} s, medians; "
        f"{load['num_candidates']} candidates, batches of up to {load['max_batch_size']}; {load['bundle']}; "
        f"Python {machine['python']}, {', '.join(f'{name} {number}' for name, number in report['versions'].items())}.",
        "",
        "| server | requests/s | p50 ms | p99 ms | CPU ms per request | resident MB | largest process | "
        "refused, broken, late |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {name} | {c['requests_per_s']:.0f} | {c['p50_ms']:.1f} | {c['p99_ms']:.1f} "
        f"| {c['cpu_ms_per_request']:.3f} | {c['memory_mb']:.0f} | {c['largest_mb']:.0f} "
        f"| {c['refused']}, {c['broken']}, {c['late']} |"
        for name, c in report["contenders"].items()
    ]
    lines += ["", "| ratio, within each round | requests/s | p99 | CPU per request |", "|---|---|---|---|"]
    lines += [
        f"| {r['of']} / {r['over']} | {r['requests_per_s']:.2f} | {r['p99_ms']:.2f} | {r['cpu_ms_per_request']:.2f} |"
        for r in report["ratios"]
    ]
    if "kserve" in report:
        lines += ["", f"Open Inference Protocol: {report['kserve']}."]
    return "\n".join(lines) + "\n"


def draw_serving(report: dict[str, Any], path: Path) -> None:
    """Requests per second of everybody, each round a dot."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = list(report["contenders"])[::-1]
    figure = Figure(figsize=(7.6, 0.45 * len(names) + 1.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for place, name in enumerate(names):
        one = report["contenders"][name]
        axes.barh(place, one["requests_per_s"], color="#0b7285" if name.startswith("pnag") else "#ced4da", height=0.6)
        per_s = [r["requests_per_s"] for r in one["rounds"]]
        axes.scatter(per_s, [place] * len(per_s), s=10, color="#343a40", zorder=3)
    axes.set_yticks(range(len(names)), names, fontsize=9)
    axes.set_xscale("log")
    axes.set_xlabel("requests per second (logarithmic); dots are rounds")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120, metadata={"Software": None})
