"""Run wrk, a load generator in C, and read what it counted (servers/budgets.lua prints it as JSON)."""

import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

LATE_S = 10
SCRIPT = Path(__file__).resolve().parent / "servers" / "budgets.lua"


@dataclass(frozen=True)
class Load:
    """Settings of the load, the same for everybody."""

    rounds: int = 5
    seconds: int = 5
    connections: int = 64
    num_candidates: int = 16
    max_batch_size: int = 16


@dataclass(frozen=True)
class Round:
    """One server, asked for some seconds."""

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


def run_wrk(
    url: str,
    template: str,
    budgets_ms: tuple[float, float],
    first: int,
    seconds: int,
    connections: int,
    key: str = "",
    cpu_s: Callable[[], float] = lambda: 0.0,
) -> Round:
    """Load a server for a while.

    Args:
        budgets_ms: lowest and highest; two equal ones ask the same again and again.
        first: number of the first budget in the long series of them.
        cpu_s: processor time that the server has used so far.
    """
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", f"--timeout={LATE_S}s", "-s", str(SCRIPT), url, "--"]
    low_ms, high_ms = budgets_ms
    before_s = cpu_s()
    done = subprocess.run(
        [*command, str(low_ms), str(high_ms), str(first), template, key], capture_output=True, text=True, check=True
    )
    used_s = cpu_s() - before_s
    found = json.loads(done.stdout.splitlines()[-1])
    return Round(cpu_ms_per_request=used_s / max(found.pop("requests"), 1) * 1e3, **found)
