"""Results of `pnag bench serve`, `soak` and `faults` for people: tables and a plot."""

from pathlib import Path
from typing import Any

from pnag.bench.markdown import table
from pnag.bench.serving.faults import IN_HASTE


def serving_markdown(report: dict[str, Any]) -> str:
    """Describe a comparison of servers; those that were only given by address have no processes to look at."""
    machine, load = report["machine"], report["load"]
    has_processes = any("memory_mb" in c for c in report["contenders"].values())
    sampling = f"{load['num_candidates']} candidates, batches of up to {load['max_batch_size']}; "
    sampling = sampling if has_processes else ""  # a service given by address has its own settings
    lines = [
        f"{report['measured_at']}, {machine['processor']} ({', '.join(machine['instructions'])}), {machine['system']}, "
        f"{machine['cores']} cores that wrk (one thread) shares, load average before {report['load_average_before']}. "
        f"{load['connections']} connections, {load['rounds']} interleaved rounds of {load['seconds']} s, medians; "
        f"{sampling}{load['bundle']}; "
        f"Python {machine['python']}, {', '.join(f'{name} {number}' for name, number in report['versions'].items())}.",
        "",
    ]
    headings = ["server", "requests/s", "p50 ms", "p99 ms"]
    headings += ["CPU ms per request", "resident MB", "largest process"] if has_processes else []
    rows = []
    for name, c in report["contenders"].items():
        cells = [name, f"{c['requests_per_s']:.0f}", f"{c['p50_ms']:.1f}", f"{c['p99_ms']:.1f}"]
        if has_processes:
            cells += [f"{c['cpu_ms_per_request']:.3f}", f"{c['memory_mb']:.0f}", f"{c['largest_mb']:.0f}"]
        rows.append([*cells, f"{c['refused']}, {c['broken']}, {c['late']}"])
    lines += table([*headings, "refused, broken, late"], rows)
    if report["ratios"]:
        ratios = [
            (
                f"{r['of']} / {r['over']}",
                *(f"{r[name]:.2f}" for name in ("requests_per_s", "p99_ms", "cpu_ms_per_request")),
            )
            for r in report["ratios"]
        ]
        lines += ["", *table(("ratio, within each round", "requests/s", "p99", "CPU per request"), ratios)]
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


def soak_markdown(report: dict[str, Any]) -> str:
    """Describe a soak."""
    rss, files = report["rss_mb"], report["files"]
    lines = [
        f"{report['seconds'] / 60:g} minutes at {report['per_s']:g} requests/s, {report['requests']} in all, "
        f"p50 {report['p50_ms']:.1f} ms, p99 {report['p99_ms']:.1f} ms; the bundle loaded again {report['reloads']} "
        f"times ({report['failed_reloads']} failed); answered otherwise than they should be: {report['unexpected']}.",
        "",
        *table(
            ("kind", "answers by status (0: none)"),
            [
                (kind, ", ".join(f"{status}: {count}" for status, count in counts.items()))
                for kind, counts in report["statuses"].items()
            ],
        ),
        "",
        f"Resident memory {rss['second_quarter']:.1f} MB in the second quarter, {rss['last_quarter']:.1f} MB in "
        f"the last ({rss['slope_per_hour']:+.1f} MB per hour over the second half), {report['most_rss_mb']:.1f} MB at "
        f"most; open files {files['second_quarter']:g} and {files['last_quarter']:g}: "
        + ("flat." if report["is_flat"] else "**not flat**."),
    ]
    return "\n".join(lines) + "\n"


def faults_markdown(report: dict[str, Any]) -> str:
    """Describe the faults, and the overload."""
    redis, swaps, ended = report["redis_killed"], report["bundles_swapped"], report["replicas_ended"]
    sizes = report["many_reloads"]["rss_mb_after"]
    haste = ", ".join(f"`PNAG_{name.upper()}={value}`" for name, value in IN_HASTE.items())
    broken = [
        (f"Redis killed {redis['killed']} times and back, noticed {redis['noticed']} times", redis),
        (f"{swaps['swaps']} bundles swapped", swaps),
        (f"{ended['sigterms']} SIGTERMs behind nginx, exit codes {ended['exit_codes']}", ended),
    ]
    broken_rows = [
        (
            what,
            f"{c['requests']}",
            f"{c['failed']}",
            f"{c['p50_ms']:.1f}",
            f"{c['p99_ms']:.1f}",
            f"{c['slowest_ms']:.0f}",
        )
        for what, c in broken
    ]
    overload_rows = [
        (settings, f"{c['capacity_per_s']:.0f}", f"{c['unloaded_p99_ms']:.1f}", f"{c['overloaded_p50_ms']:.0f}",
         f"{c['overloaded_p99_ms']:.0f}", f"{c['p99_ratio']:.1f}", f"{100 * c['goodput']:.0f}",
         f"{100 * c['shed']:.0f}", f"{c['failed']:g}")
        for settings, c in (("default", report["overload"]), (haste, report["overload_in_haste"]))
    ]  # fmt: skip
    reloads = ", ".join(f"{number}: {size:.1f}" for number, size in sizes.items())
    lines = [
        *table(("done under load", "requests", "failed", "p50 ms", "p99 ms", "slowest ms"), broken_rows),
        "",
        f"{report['many_reloads']['reloads']} reloads: resident MB after {reloads}.",
        "",
        "New budgets at 3 times capacity, in an open loop:",
        "",
        *table(
            ("settings", "capacity per s", "unloaded p99 ms", "accepted: p50 ms", "p99 ms", "p99 over unloaded",
             "goodput, % of capacity", "told 503, %", "failed"),
            overload_rows,
        ),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"
