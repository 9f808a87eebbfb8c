"""The machine that times: its name, its processor, what else it did meanwhile."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime as ort

NOISY_ELSEWHERE_PERCENT = 10.0
NOISY_SPREAD = 0.25


@dataclass(frozen=True)
class Setup:
    """The way graphs are run."""

    threads: int = 1
    batch_size: int = 1
    execution_provider: str = "CPUExecutionProvider"
    precision: str = "fp32"

    @property
    def on_cpu(self) -> bool:
        """True if the processor's clock has a bearing on the times."""
        return self.execution_provider == "CPUExecutionProvider"


class HostLoad:
    """The load of the machine from now on, from /proc where there is one."""

    def __init__(self) -> None:
        self._started, self._own_before = time.time(), time.process_time()
        self._before, self._load_before = _cpu_jiffies(), _load_average()

    def report(self) -> dict[str, Any]:
        """JSON values; percentages are of one CPU."""
        report: dict[str, Any] = {
            "wall_s": round(time.time() - self._started, 1),
            "load_average_before": self._load_before,
            "load_average_after": _load_average(),
            "cpus": os.cpu_count(),
        }
        after = _cpu_jiffies()
        if self._before is not None and after is not None:
            ticks = os.sysconf("SC_CLK_TCK")
            wall = max(time.time() - self._started, 1e-9)
            busy, steal = ((b - a) / ticks for a, b in zip(self._before, after))  # noqa: B905 (3.9)
            own = time.process_time() - self._own_before
            report["busy_elsewhere_percent"] = round(max(0.0, busy - own) / wall * 100, 1)
            report["steal_percent"] = round(max(0.0, steal) / wall * 100, 1)
        return report


@contextlib.contextmanager
def pinned(threads: int) -> Iterator[bool]:
    """Keep this process on as many CPUs as it has threads, where the system allows; yields whether it does."""
    try:
        before = os.sched_getaffinity(0)  # type: ignore[attr-defined,unused-ignore]
    except AttributeError:
        yield False
        return
    # From the top: the lowest CPU usually serves the interrupts.
    os.sched_setaffinity(0, sorted(before)[-threads:])
    try:
        yield True
    finally:
        os.sched_setaffinity(0, before)


def describe_device(setup: Setup, name: str | None = None) -> dict[str, Any]:
    """The device as the latency table records it; the host's name is left out on purpose."""
    processor = processor_name()
    short = setup.execution_provider.replace("ExecutionProvider", "")
    parts = [processor, f"{setup.threads} thread{'s' if setup.threads != 1 else ''}", f"ONNX Runtime {short}"]
    if setup.batch_size != 1:
        parts.append(f"batch {setup.batch_size}")
    if setup.precision != "fp32":
        parts.append(setup.precision)
    return {
        "name": name or ", ".join(parts),
        "processor": processor,
        "runtime": f"onnxruntime {ort.__version__}",
        "execution_provider": setup.execution_provider,
        "threads": setup.threads,
        "batch_size": setup.batch_size,
        "precision": setup.precision,
        "os": f"{platform.system()} {platform.release()}",
    }


def processor_name() -> str:
    """The processor as the system calls it, e.g. `Intel Xeon Processor (family 6 model 207)`."""
    facts: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            facts.setdefault(key.strip(), value.strip())
    name = facts.get("model name") or facts.get("Model") or facts.get("Hardware")
    if not name:
        with contextlib.suppress(OSError):
            name = Path("/sys/firmware/devicetree/base/model").read_text(errors="replace").strip("\x00\n ")
    name = name or platform.processor() or platform.machine() or "unknown processor"
    name = re.sub(r"\s+", " ", re.sub(r"\((R|TM|tm)\)", "", name)).strip()
    if not re.search(r"\d", name) and "model" in facts:  # virtual machines hide the product's number
        name += f" (family {facts.get('cpu family', '?')} model {facts['model']})"
    return name


def session_memory() -> int:
    """Bytes that open sessions may take together: a quarter of what is free where the system says, else 400 MB."""
    with contextlib.suppress(OSError, AttributeError, StopIteration, ValueError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]) * 1024
        return min(free // 4, 4_000_000_000)
    return 400_000_000


def host_load_is_noisy(host_load: Mapping[str, Any]) -> bool:
    """True if something else had a share of the machine that shows."""
    return bool(
        max(host_load.get("busy_elsewhere_percent", 0), host_load.get("steal_percent", 0)) > NOISY_ELSEWHERE_PERCENT
        or host_load.get("median_spread", 0) > NOISY_SPREAD
    )


def _cpu_jiffies() -> tuple[float, float] | None:
    """(busy, stolen) ticks of all CPUs since boot."""
    try:
        numbers = [float(n) for n in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        user, nice, system, _idle, _iowait, irq, softirq, steal = numbers
    except (OSError, ValueError, IndexError):
        return None
    return user + nice + system + irq + softirq, steal


def _load_average() -> float | None:
    try:
        return round(os.getloadavg()[0], 2)
    except (OSError, AttributeError):
        return None
