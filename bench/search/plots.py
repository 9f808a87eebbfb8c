"""The pictures of a comparison: fronts with what is behind them, regret against budget, and the paper's two figures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pnag.bench.search.front import CLIFF_FRACTION, Answers, Reference, regret_by_budget
from pnag.bench.search.problem import Problem
from pnag.models.pareto import pareto_front

Floats = NDArray[np.float64]

OURS = "elite-imitation"
COLOURS = {
    "elite-imitation": "#0b7285",
    "elite-imitation+front": "#15aabf",
    "archive": "#5c7cfa",
    "reinforce": "#e8590c",
    "nas-mo": "#c2255c",
    "evo": "#9c36b5",
    "nsga2": "#2f9e44",
    "official-pnag": "#868e96",
    "random": "#adb5bd",
    "macs-only": "#f59f00",
    "exhaustive": "#212529",
}
_GREY, _INK = "#ced4da", "#343a40"
_LINEAR_BELOW = 0.01
"""Regrets below this are drawn to a linear scale, so that none at all has its place."""


def draw_all(problem: Problem, reference: Reference, runs: Sequence[Answers], folder: Path) -> list[Path]:
    """Write every picture as PNG; returns the files."""
    cloud = _cloud(problem)
    first = {a.method: a for a in reversed(runs)}
    drawn = {
        "fronts.png": _fronts(problem, reference, first, cloud),
        "regret.png": _regret(problem, reference, runs),
    }
    if OURS in first:
        drawn["answers.png"] = _answers_in_cloud(problem, reference, first[OURS], cloud)
        if "nas-mo" in first:
            drawn["against_nas_mo.png"] = _against_nas_mo(problem, reference, first)
    paths = []
    for name, figure in drawn.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=120, metadata={"Software": None})
        paths.append(path)
    return paths


def _figure(width: float = 7.6, height: float = 4.8) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#868e96")
    axes.tick_params(colors=_INK, labelsize=9)
    axes.grid(color="#f1f3f5", linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def _cloud(problem: Problem) -> tuple[Floats, Floats]:
    """Cost and predicted accuracy of networks from all over the space."""
    if problem.is_enumerable:
        tokens_ND = problem.everything()
    else:
        rng = np.random.default_rng(0)
        tokens_ND = np.concatenate([problem.space.sample(3000, rng), problem.records.tokens_ND])
    return problem.cost(tokens_ND), 100 * problem.accuracy(tokens_ND)


def _label_axes(axes: Axes, problem: Problem, title: str) -> None:
    axes.set_xlabel("latency, ms" if problem.unit == "ms" else "multiply-accumulates, millions", color=_INK)
    axes.set_ylabel("predicted top-1, %", color=_INK)
    axes.set_title(title, loc="left", fontsize=11, color=_INK, fontweight="bold", pad=18)
    axes.text(
        0.0, 1.015, f"{problem.space.name}, {problem.device}", transform=axes.transAxes, va="bottom", fontsize=8,
        color="#868e96",
    )  # fmt: skip


def _frame(axes: Axes, problem: Problem, reference: Reference) -> None:
    """Look at the front, not at the depths of the cloud."""
    span = problem.high - problem.low
    axes.set_xlim(problem.low - 0.02 * span, problem.high + 0.02 * span)
    top = 100 * reference.accuracy_F.max()
    visible = 100 * float(np.quantile(reference.accuracy_F, 0.02))
    axes.set_ylim(visible - 0.25 * (top - visible), top + 0.08 * (top - visible))


def _staircase(axes: Axes, cost: Floats, percent: Floats, end: float, **style: Any) -> None:
    front = pareto_front(cost, percent)
    axes.step(np.append(cost[front], end), np.append(percent[front], percent[front][-1]), where="post", **style)


def _fronts(problem: Problem, reference: Reference, first: dict[str, Answers], cloud: tuple[Floats, Floats]) -> Figure:
    figure, axes = _figure()
    axes.scatter(*cloud, s=3, color=_GREY, alpha=0.5, linewidths=0, label="networks of the space", rasterized=True)
    for name, answers in first.items():
        if name in ("exhaustive", "elite-imitation+front"):
            continue
        known = np.isfinite(answers.cost_B)
        _staircase(
            axes, answers.cost_B[known], 100 * answers.accuracy_B[known], problem.high,
            color=COLOURS[name], linewidth=2.2 if name == OURS else 1.2, label=name, zorder=5 if name == OURS else 3,
        )  # fmt: skip
    _staircase(
        axes, reference.cost_F, 100 * reference.accuracy_F, problem.high, color=_INK, linewidth=0.9,
        linestyle=(0, (4, 2)), label="reference", zorder=6,
    )  # fmt: skip
    _frame(axes, problem, reference)
    _label_axes(axes, problem, "What each method answers")
    axes.legend(frameon=False, fontsize=8, loc="lower right", ncols=2)
    return figure


def _regret(problem: Problem, reference: Reference, runs: Sequence[Answers]) -> Figure:
    figure, axes = _figure()
    edge = problem.low + CLIFF_FRACTION * (problem.high - problem.low)
    axes.axvspan(problem.low, edge, color="#fff3bf", linewidth=0, zorder=0)
    axes.text((problem.low + edge) / 2, 0.98, f"cheapest {CLIFF_FRACTION:.0%} of the range", rotation=90, va="top",
              transform=axes.get_xaxis_transform(), fontsize=7, ha="center", color="#e67700")  # fmt: skip
    for name in dict.fromkeys(a.method for a in runs):
        if name == "exhaustive":
            continue
        mine = [regret_by_budget(problem, reference, a) for a in runs if a.method == name]
        mean = np.mean(mine, axis=0)
        is_ours = name.startswith(OURS)
        axes.plot(problem.budgets_B, mean, color=COLOURS[name], linewidth=2.2 if is_ours else 1.3, label=name,
                  marker="o", markersize=2.5, zorder=5 if is_ours else 3)  # fmt: skip
    axes.set_yscale("symlog", linthresh=_LINEAR_BELOW, linscale=0.6)
    ticks = [0, 0.01, 0.1, 1, 10]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_ylim(bottom=-0.1 * _LINEAR_BELOW)
    _label_axes(axes, problem, "Regret against budget, mean over seeds")
    axes.set_ylabel("points below the best known", color=_INK)
    axes.legend(frameon=False, fontsize=8, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.14))
    return figure


def _answers_in_cloud(problem: Problem, reference: Reference, answers: Answers, cloud: tuple[Floats, Floats]) -> Figure:
    figure, axes = _figure()
    axes.scatter(*cloud, s=4, color="#a5d8ff", alpha=0.55, linewidths=0, label="networks of the space", rasterized=True)
    _staircase(
        axes, reference.cost_F, 100 * reference.accuracy_F, problem.high, color=_INK, linewidth=0.9, label="best known"
    )
    axes.scatter(
        answers.cost_B, 100 * answers.accuracy_B, s=26, color=COLOURS[OURS], edgecolors="white", linewidths=0.7,
        zorder=5, label=f"PNAG's answers to {len(answers.cost_B)} budgets",
    )  # fmt: skip
    _frame(axes, problem, reference)
    axes.set_ylim(bottom=max(axes.get_ylim()[0], float(np.quantile(cloud[1], 0.01))))
    _label_axes(axes, problem, "PNAG's answers among the architectures")
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    return figure


def _against_nas_mo(problem: Problem, reference: Reference, first: dict[str, Answers]) -> Figure:
    figure, axes = _figure()
    for name, label, marker in ((OURS, "PNAG: one generator for every budget", "o"), ("nas-mo", "NAS-MO: a search per budget", "^")):  # fmt: skip # noqa: E501
        answers = first[name]
        known = np.isfinite(answers.cost_B)
        cost, percent = answers.cost_B[known], 100 * answers.accuracy_B[known]
        _staircase(axes, cost, percent, problem.high, color=COLOURS[name], linewidth=1.4)
        axes.scatter(cost, percent, s=24, color=COLOURS[name], marker=marker, edgecolors="white", linewidths=0.6,
                     label=label, zorder=5)  # fmt: skip
    _frame(axes, problem, reference)
    _label_axes(axes, problem, "PNAG's front against NAS-MO's, same evaluator, same calls")
    axes.legend(frameon=False, fontsize=9, loc="lower right")
    return figure
