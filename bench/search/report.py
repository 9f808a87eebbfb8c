"""A comparison as a table for a terminal, as Markdown, and as JSON."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from pnag.bench.markdown import table
from pnag.bench.search.front import CLIFF_FRACTION, Answers, Reference, score
from pnag.bench.search.methods.registry import METHODS
from pnag.bench.search.problem import Problem

_COLUMNS = (
    # key, heading, digits
    ("mean_regret", "mean regret", 4),
    ("max_regret", "max", 3),
    ("mean_regret_above_cliff", f"mean above {CLIFF_FRACTION:.0%}", 4),
    ("max_regret_above_cliff", "max", 3),
    ("hypervolume_percent", "hypervolume %", 2),
    ("true_mean_regret", "true mean regret", 3),
    ("true_max_regret", "max", 2),
    ("violations", "over budget", 0),
    ("unanswered", "no answer", 0),
    ("fit_calls", "calls", 0),
    ("answer_calls", "calls to answer", 0),
    ("seconds", "seconds", 1),
)


def summarise(problem: Problem, reference: Reference, runs: Sequence[Answers]) -> dict[str, Any]:
    """Sum up, as JSON: per method the mean and the deviation over seeds, and each seed's figures."""
    methods: dict[str, Any] = {}
    for name in dict.fromkeys(answers.method for answers in runs):
        mine = [answers for answers in runs if answers.method == name]
        figures = [score(problem, reference, answers) for answers in mine]
        methods[name] = {
            "about": METHODS[name].about,
            "seeds": [answers.seed for answers in mine],
            "mean": {k: float(np.mean([f[k] for f in figures])) for k in figures[0]},
            "deviation": {k: float(np.std([f[k] for f in figures])) for k in figures[0]},
            "runs": figures,
        }
    evaluator = {k: v for k, v in problem.evaluator_figures.items() if not isinstance(v, dict)}
    return {
        "setting": {
            "name": problem.name,
            "space": problem.space.name,
            "num_architectures": problem.space.num_architectures,
            "device": problem.device,
            "unit": problem.unit,
            "range": [problem.low, problem.high],
            "budgets": len(problem.budgets_B),
            "records": problem.records.source,
            "num_records": len(problem.records),
            "reference": reference.kind,
            "reference_points": len(reference.cost_F),
        },
        "evaluator": evaluator,
        "methods": methods,
    }


def terminal(summary: dict[str, Any], console: Console) -> None:
    """Print the table; the best of each figure stands out."""
    console.print(f"[bold]{summary['setting']['name']}[/bold]: {headline(summary)}")
    columns = _present(summary)
    grid = Table(show_edge=False, header_style="bold")
    grid.add_column("method", no_wrap=True)
    for _, heading, _ in columns:
        grid.add_column(heading, justify="right")
    for row in _rows(summary, columns):
        style = "bold green" if row[0].startswith("elite-imitation") else None
        grid.add_row(*row, style=style)
    console.print(grid)


def markdown(summary: dict[str, Any]) -> str:
    """Give the same table for a page."""
    columns = _present(summary)
    headings = ["method", *(heading for _, heading, _ in columns)]
    return "\n".join(table(headings, _rows(summary, columns), "l" + "r" * len(columns))) + "\n"


def headline(summary: dict[str, Any]) -> str:
    """Say in a sentence or two which things were compared, and on what."""
    setting, evaluator = summary["setting"], summary["evaluator"]
    seeds = max(len(m["seeds"]) for m in summary["methods"].values())
    return (
        f"{setting['space']} ({setting['num_architectures']:.3g} networks), {setting['device']}, "
        f"{setting['range'][0]:.3g} to {setting['range'][1]:.3g} {setting['unit']}; {setting['budgets']} budgets never "
        f"trained on, {_counted(seeds, 'seed')}. "
        f"Evaluator from {setting['num_records']} records of {setting['records']}: "
        f"Kendall tau {evaluator['kendall_tau']:.3f} (MACs alone {evaluator['macs_only_kendall_tau']:.3f}), mean error "
        f"{evaluator['mae_percent']:.3f} points. "
        f"Reference: {setting['reference']} ({setting['reference_points']} points)."
    )


def _present(summary: dict[str, Any]) -> list[tuple[str, str, int]]:
    known = set().union(*(m["mean"] for m in summary["methods"].values()))
    all_answered = all(m["mean"]["unanswered"] == 0 for m in summary["methods"].values())
    return [c for c in _COLUMNS if c[0] in known and not (c[0] == "unanswered" and all_answered)]


def _rows(summary: dict[str, Any], columns: Sequence[tuple[str, str, int]]) -> list[list[str]]:
    order = sorted(summary["methods"].items(), key=lambda item: item[1]["mean"]["mean_regret"])
    rows = []
    for name, method in order:
        row = [name]
        for key, _, digits in columns:
            mean, deviation = method["mean"][key], method["deviation"][key]
            text = f"{mean:,.{digits}f}".replace(",", " ")
            shows_deviation = key in ("mean_regret", "hypervolume_percent", "true_mean_regret")
            row.append(f"{text} ±{deviation:.{digits}f}" if shows_deviation and len(method["seeds"]) > 1 else text)
        rows.append(row)
    return rows


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")
