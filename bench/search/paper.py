"""The paper's table with our rows: latency, top-1, top-5, parameters, MAdds and what the search cost.

The published rows are cited, not measured here; their latencies are of a Snapdragon 821 phone, ours of the device whose
table is used, and our accuracies are the evaluator's predictions for the shared weights, without fine-tuning.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pnag.bench.search.front import Answers
from pnag.bench.search.problem import Problem
from pnag.models.cost.additive import macs_cost, params_cost

OUR_METHODS = ("evo", "nas-mo", "elite-imitation")
_PLACES = (0.1, 0.3, 0.5, 0.7, 0.9)

# Network, latency in ms, top-1, top-5, params in M, MAdds in M, search cost in GPU days; None = not published.
PUBLISHED: tuple[tuple[str, float | None, float, float | None, float, float, str], ...] = (
    ("MobileNetV3-Large 0.75x", 93.0, 73.3, None, 4.0, 155, "-"),
    ("MobileNetV3-Large 1.0x", 107.7, 75.2, None, 5.4, 219, "-"),
    ("FBNet-C", 135.2, 74.9, None, 5.5, 375, "9.0"),
    ("P-DARTS", 168.7, 75.6, 92.6, 4.9, 577, "3.8"),
    ("Cream-L", None, 80.0, 94.7, 9.7, 604, "12"),
    ("OFA", 201.9, 80.2, 95.1, 9.1, 743, "51.7"),
    ("EVO-80", 76.8, 77.1, 93.3, 6.1, 350, "0.7"),
    ("EVO-110", 109.3, 78.4, 94.0, 10.2, 482, "0.7"),
    ("EVO-140", 133.7, 78.7, 94.1, 9.1, 488, "0.7"),
    ("EVO-170", 168.3, 79.2, 94.4, 10.7, 661, "0.7"),
    ("EVO-200", 195.9, 79.8, 94.5, 11.0, 783, "0.7"),
    ("NAS-MO-80", 77.6, 76.6, 93.2, 7.9, 340, "0.7"),
    ("NAS-MO-110", 106.3, 78.0, 93.8, 8.4, 478, "0.7"),
    ("NAS-MO-140", 139.0, 78.6, 94.0, 9.5, 486, "0.7"),
    ("NAS-MO-170", 165.0, 78.7, 94.4, 8.5, 584, "0.7"),
    ("NAS-MO-200", 187.4, 79.2, 94.4, 9.1, 630, "0.7"),
    ("PNAG-80", 79.9, 78.3, 94.0, 7.3, 349, "0.7 in all"),
    ("PNAG-110", 106.8, 79.4, 94.5, 9.9, 451, "0.7 in all"),
    ("PNAG-140", 127.8, 79.8, 94.7, 9.2, 492, "0.7 in all"),
    ("PNAG-170", 167.1, 80.3, 95.0, 10.0, 606, "0.7 in all"),
    ("PNAG-200", 193.9, 80.5, 95.2, 10.4, 724, "0.7 in all"),
)


def our_rows(problem: Problem, runs: Sequence[Answers]) -> list[dict[str, Any]]:
    """Five budgets per method, from its first seed; the search's cost is in seconds of one core."""
    macs, params = macs_cost(problem.space), params_cost(problem.space)
    places = [round(p * (len(problem.budgets_B) - 1)) for p in _PLACES]
    rows = []
    for name in OUR_METHODS:
        answers = next((a for a in runs if a.method == name), None)
        if answers is None:
            continue
        # One search per budget costs its part of the whole; one generator serves them all.
        seconds = answers.fit_seconds / (1 if name == "elite-imitation" else len(problem.budgets_B))
        for place in places:
            encoding = answers.encodings[place]
            if encoding is None:
                continue
            tokens = problem.space.decode(encoding)[np.newaxis]
            rows.append(
                {
                    "method": name,
                    "budget": float(problem.budgets_B[place]),
                    "cost": float(answers.cost_B[place]),
                    "top1_percent": 100 * float(answers.accuracy_B[place]),
                    "params_m": float(params(tokens)[0]) / 1e6,
                    "macs_m": float(macs(tokens)[0]) / 1e6,
                    "search_seconds": seconds,
                    "encoding": encoding,
                }
            )
    return rows


def paper_markdown(problem: Problem, rows: Sequence[dict[str, Any]]) -> str:
    """Our rows, then the published ones."""
    lines = [
        f"Ours: {problem.space.name}, {problem.device}; top-1 predicted from shared weights, without fine-tuning; "
        "search cost in seconds on one core of this machine, given the evaluator.",
        "",
        f"| method and budget | latency {problem.unit} | top-1 % | params M | MAdds M | search |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        shared = " in all" if row["method"] == "elite-imitation" else ""
        lines.append(
            f"| {row['method']}, {row['budget']:.1f} {problem.unit} | {row['cost']:.2f} | {row['top1_percent']:.2f} "
            f"| {row['params_m']:.1f} | {row['macs_m']:.0f} | {row['search_seconds']:.1f} s{shared} |"
        )
    lines += [
        "",
        "Published (arXiv 2210.07634, ImageNet, Snapdragon 821 phone; fine-tuned, width 1.2 for PNAG and OFA). "
        "Neither latency nor accuracy compares with the rows above.",
        "",
        "| network | latency ms | top-1 % | top-5 % | params M | MAdds M | search, GPU days |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, latency, top1, top5, params, macs, cost in PUBLISHED:
        lines.append(f"| {name} | {_or_dash(latency)} | {top1} | {_or_dash(top5)} | {params} | {macs:g} | {cost} |")
    return "\n".join(lines) + "\n"


def _or_dash(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"
