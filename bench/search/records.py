"""`pnag bench records`: regret against the number of measured architectures, actively chosen or at random.

The truth is independent: records are labelled with one of NAS-Bench-Macro's three trainings, answers are scored with
the mean of the other two. The evaluator's answers are exhaustive, so what is left is the evaluator's error alone.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.stats import kendalltau

from pnag.bench.search.problem import best_of
from pnag.models.accuracy.features import ArchitectureFeatures
from pnag.models.cost.additive import GroupedCost
from pnag.models.errors import RecordsError
from pnag.models.pareto import hypervolume
from pnag.models.space.search_space import SearchSpace, Tokens
from pnag.trainer.config import EvaluatorConfig
from pnag.trainer.evaluator.gaussian_process import fit_gaussian_process
from pnag.trainer.label.active import Labeller, label_all
from pnag.trainer.progress import SILENT, Progress

Floats = NDArray[np.float64]

SIZES = (40, 60, 100, 200, 300)
NUM_TRAININGS = 3


def read_trainings(path: Path, space: SearchSpace) -> tuple[Tokens, Floats]:
    """Read all architectures of NAS-Bench-Macro's JSON and the accuracy of each training, shapes [N, D], [N, 3].

    Raises:
        RecordsError: if an architecture has no three `test_acc`.
    """
    try:
        document: dict[str, dict[str, Any]] = json.loads(path.read_text())
        accuracy_N3 = np.array([entry["test_acc"] for entry in document.values()], dtype=np.float64) / 100
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
        raise RecordsError(f"{path}: needs {{architecture: {{test_acc: [three numbers]}}}} ({exc})") from None
    if accuracy_N3.ndim != 2 or accuracy_N3.shape[1] != NUM_TRAININGS:
        raise RecordsError(f"{path}: test_acc has shape {accuracy_N3.shape}; every architecture needs {NUM_TRAININGS}")
    return np.stack([space.decode(encoding) for encoding in document]), accuracy_N3


def compare_labelling(
    space: SearchSpace, cost: GroupedCost, path: Path, sizes: Sequence[int], seeds: Sequence[int], progress: Progress,
    strategies: Sequence[str] = ("active", "random"), num_budgets: int = 50,
) -> dict[str, Any]:  # fmt: skip
    """Per strategy and number of records the true regret and hypervolume of the evaluator's answers, over seeds."""
    tokens_ND, accuracy_N3 = read_trainings(path, space)
    place = {key: n for n, key in enumerate(map(bytes, tokens_ND.astype(np.int8)))}
    cost_N = cost(tokens_ND)
    features = ArchitectureFeatures(space)
    features_NF = features(tokens_ND)
    budgets_B = np.linspace(cost_N.min(), cost_N.max(), num_budgets + 2)[1:-1]
    found: dict[str, dict[int, list[dict[str, float]]]] = {s: {n: [] for n in sizes} for s in strategies}
    with progress.stage("labelling", len(strategies) * len(seeds) * len(sizes)) as bar:
        for strategy in strategies:
            for seed in seeds:
                label_N = accuracy_N3[:, seed % NUM_TRAININGS]
                truth_N = np.delete(accuracy_N3, seed % NUM_TRAININGS, axis=1).mean(axis=1)

                def measure(asked_ND: Tokens, label_N: Floats = label_N) -> Floats:
                    return label_N[[place[key] for key in map(bytes, asked_ND.astype(np.int8))]]

                known_ND, known_N = label_all(Labeller(space, cost, seed), strategy, max(sizes), measure)
                for size in sizes:
                    model, _ = fit_gaussian_process(
                        features(known_ND[:size]), known_N[:size], EvaluatorConfig(), seed, SILENT
                    )
                    found[strategy][size].append(_score(model(features_NF), cost_N, truth_N, budgets_B))
                    bar.step(note=f"{strategy}, {size} records")
    return {
        "all_labels": [_all_labels(accuracy_N3, seed, cost_N, budgets_B) for seed in seeds],
        "space": space.name,
        "sizes": list(sizes),
        "seeds": len(seeds),
        "budgets": num_budgets,
        "strategies": {
            strategy: {
                str(size): {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
                | {"mean_regret_deviation": float(np.std([row["mean_regret"] for row in rows]))}
                for size, rows in by_size.items()
            }
            for strategy, by_size in found.items()
        },
    }


def _all_labels(accuracy_N3: Floats, seed: int, cost_N: Floats, budgets_B: Floats) -> float:
    """Mean regret of somebody who measured everything, once: what the noise of one training costs."""
    label_N = accuracy_N3[:, seed % NUM_TRAININGS]
    truth_N = np.delete(accuracy_N3, seed % NUM_TRAININGS, axis=1).mean(axis=1)
    return _score(label_N, cost_N, truth_N, budgets_B)["mean_regret"]


def _score(predicted_N: Floats, cost_N: Floats, truth_N: Floats, budgets_B: Floats) -> dict[str, float]:
    """Answers by prediction, scored by truth; regret in points."""
    answers, best = best_of(cost_N, predicted_N, budgets_B), best_of(cost_N, truth_N, budgets_B)
    regret_B = 100 * (truth_N[best] - truth_N[answers])
    corner = (float(cost_N.max()), float(truth_N[np.argmin(cost_N)]))
    reached = hypervolume(cost_N[answers], truth_N[answers], *corner)
    return {
        "mean_regret": float(regret_B.mean()),
        "max_regret": float(regret_B.max()),
        "hypervolume_percent": 100 * reached / hypervolume(cost_N[best], truth_N[best], *corner),
        "kendall_tau": float(kendalltau(predicted_N[::7], truth_N[::7]).statistic),
    }


def labelling_markdown(result: dict[str, Any]) -> str:
    """Regret by number of records, a column per strategy."""
    names = list(result["strategies"])
    lines = [
        "| records | " + " | ".join(f"{n}: mean regret | max | hypervolume %" for n in names) + " |",
        "|---:|" + "---:|---:|---:|" * len(names),
    ]
    for size in result["sizes"]:
        cells = []
        for name in names:
            row = result["strategies"][name][str(size)]
            cells.append(
                f"{row['mean_regret']:.3f} ±{row['mean_regret_deviation']:.3f} | {row['max_regret']:.2f} "
                f"| {row['hypervolume_percent']:.2f}"
            )
        lines.append(f"| {size} | " + " | ".join(cells) + " |")
    everything = float(np.mean(result["all_labels"]))
    lines += ["", f"Somebody who measured all networks once, and took the best label: mean regret {everything:.3f}."]
    return "\n".join(lines) + "\n"


def draw_labelling(result: dict[str, Any], path: Path) -> None:
    """Write the curve of regret against records as PNG."""
    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#f1f3f5")
    for (name, rows), colour in zip(result["strategies"].items(), ("#0b7285", "#e8590c", "#868e96"), strict=False):
        mean = np.array([rows[str(size)]["mean_regret"] for size in result["sizes"]])
        deviation = np.array([rows[str(size)]["mean_regret_deviation"] for size in result["sizes"]])
        axes.plot(result["sizes"], mean, color=colour, marker="o", markersize=4, linewidth=1.8, label=name)
        axes.fill_between(
            result["sizes"], np.maximum(mean - deviation, 1e-3), mean + deviation, color=colour, alpha=0.15, linewidth=0
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(result["sizes"], [str(s) for s in result["sizes"]])
    axes.minorticks_off()
    axes.set_xlabel("measured architectures")
    axes.set_ylabel("true mean regret, points")
    axes.set_title(f"Choosing what to measure: {result['space']}", loc="left", fontsize=11, fontweight="bold")
    axes.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, metadata={"Software": None})
