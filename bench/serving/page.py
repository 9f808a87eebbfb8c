"""docs/benchmarks-serving.md: what `pnag bench serve|faults|soak` found, beside the targets; not edited by hand."""

import json
from pathlib import Path
from typing import Any

from pnag.bench.markdown import table
from pnag.bench.serving.compare import OURS, OURS_TWICE, PEERS
from pnag.bench.serving.report import faults_markdown, serving_markdown, soak_markdown
from pnag.models.errors import PnagError
from pnag.models.files import write_atomic

_COMMANDS = ("serve", "faults", "soak")


def write_serving_page(results: Path, out: Path) -> Path:
    """Write the page.

    Raises:
        PnagError: naming the command whose result is missing.
    """
    reports = {}
    for name in _COMMANDS:
        path = results / f"{name}.json"
        if not path.exists():
            raise PnagError(f"{path}: is not there; run `pnag bench {name} --out {results}` first")
        reports[name] = json.loads(path.read_text())
    parts = [
        _INTRODUCTION,
        "## Targets\n",
        _targets(**reports),
        "## Beside other servers\n",
        _SERVERS,
        serving_markdown(reports["serve"]),
        "## Faults and overload\n",
        _FAULTS,
        faults_markdown(reports["faults"]),
        "## Soak\n",
        soak_markdown(reports["soak"]),
    ]
    stack = {name: results / "stack" / f"{name}.json" for name in ("serve", "soak")}
    if all(path.exists() for path in stack.values()):
        found = {name: json.loads(path.read_text()) for name, path in stack.items()}
        parts += [_STACK, serving_markdown(found["serve"]), soak_markdown(found["soak"])]
    write_atomic(out, "\n".join(parts))
    return out


def best_peer(report: dict[str, Any], *, has_two_workers: bool) -> str:
    """Name the one of the others with so many workers that answered most requests per second."""
    peers: dict[str, float] = {
        name: c["requests_per_s"]
        for name, c in report["contenders"].items()
        if name.startswith(PEERS) and name.endswith("2 workers") is has_two_workers
    }
    return max(peers, key=peers.__getitem__)


def _targets(serve: dict[str, Any], faults: dict[str, Any], soak: dict[str, Any]) -> str:
    ratios = {(r["of"], r["over"]): r for r in serve["ratios"]}
    cached = "pnag, cached"
    pairs = [(ours, best_peer(serve, has_two_workers=has_two)) for ours, has_two in ((OURS, False), (OURS_TWICE, True))]
    fastapi = ratios[cached, "FastAPI hello world"]["requests_per_s"]
    bare = ratios[cached, "bare uvicorn ASGI hello"]["requests_per_s"]
    memory_mb = max(c["largest_mb"] for name, c in serve["contenders"].items() if name.startswith("pnag"))
    failed = {name: faults[part]["failed"] for name, part in _FAULT_PARTS.items()}
    busy, rss = faults["overload_in_haste"], soak["rss_mb"]
    short = "3 times capacity, short queue"
    rows = [
        ("cached answers over a FastAPI hello world, requests/s", ">= 4", f"{fastapi:.2f}", fastapi >= 4),
        ("cached answers over a bare uvicorn hello, requests/s", ">= 0.9", f"{bare:.2f}", bare >= 0.9),
        *(
            (f"{ours} over {peer}, the best other of so many workers, requests/s", ">= 1.8",
             f"{ratios[ours, peer]['requests_per_s']:.2f}", ratios[ours, peer]["requests_per_s"] >= 1.8)
            for ours, peer in pairs
        ),
        *((f"{ours} over {peer}, p99", "<= 1", f"{ratios[ours, peer]['p99_ms']:.2f}",
           ratios[ours, peer]["p99_ms"] <= 1) for ours, peer in pairs),
        ("resident MB of a worker", "<= 150", f"{memory_mb:.0f}", memory_mb <= 150),
        *((f"failed: {name}", "0", f"{count}", not count) for name, count in failed.items()),
        (f"{short}: p99 of those accepted over the unloaded p99", "<= 3", f"{busy['p99_ratio']:.2f}",
         busy["p99_ratio"] <= 3),
        (f"{short}: goodput, % of capacity", ">= 80", f"{100 * busy['goodput']:.0f}", busy["goodput"] >= 0.8),
        (f"{soak['seconds'] / 60:g} minutes of soak: MB, second and last quarter", "flat",
         f"{rss['second_quarter']:.1f}, {rss['last_quarter']:.1f}", soak["is_flat"]),
    ]  # fmt: skip
    cells = [(what, target, found, "yes" if is_met else "**no**") for what, target, found, is_met in rows]
    return "\n".join(table(("what", "target", "measured", "met"), cells)) + "\n"


_FAULT_PARTS = {
    "Redis killed and back": "redis_killed",
    "50 bundles swapped": "bundles_swapped",
    "SIGTERM behind a retrying proxy": "replicas_ended",
}

_INTRODUCTION = """# Serving benchmarks

Written by `pnag bench serving-page` from what `pnag bench serve`, `faults` and `soak` measured; do not edit. Machines
differ: read the ratios.
"""

_SERVERS = """LitServe, BentoML and MLServer serve the same bundle: the same code (models/answer) answers a list of
budgets, in batches of the same size, and each server does the rest its own way. *cached* and the hellos are asked the
same again and again, the others for budgets that all differ. While one is asked, the others are stopped. Of several
processes, memory that they share is counted in each.
"""

_STACK = """## The stack in containers

Written by `make load`: the same load on the compose stack (keys on, Redis on), everything on one machine. One replica
is asked directly, two are asked through nginx; the soak goes through nginx, and memory is the sum of both replicas.
"""

_FAULTS = """A mixed load (known and new budgets, fronts, batches, wrong requests) while something breaks. *failed*:
refused what is right, accepted what is wrong, or said nothing.
"""
