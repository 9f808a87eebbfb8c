"""Comparison of a supernet's labels with the truth: their order, and what the bundle's answers lose by it.

Axis letters: N = architectures, D = decisions, B = budgets.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau

from pnag.bench.search.problem import best_of
from pnag.models.answer.question import Query
from pnag.models.answer.runtime import OnnxGenerator
from pnag.models.bundle.bundle import Bundle
from pnag.models.errors import RecordsError
from pnag.trainer.data.records import Records, read_records

Floats = NDArray[np.float64]


def compare_with_truth(
    bundle: Bundle, records_path: Path, truth_path: Path, out: Path, num_budgets: int = 50
) -> dict[str, Any]:
    """Kendall tau of records and predictions with the truth, true regret of the bundle's answers; writes a picture.

    Regret at a budget is the true accuracy of the best architecture that fits, less that of the one answered, in
    points.

    Raises:
        RecordsError: if the truth does not cover what was labelled or answered.
    """
    space = bundle.space
    records, truth = read_records(records_path, space), read_records(truth_path, space)
    cost = bundle.latency_table.cost(space)
    true_N = _look_up(truth, records.encodings)
    label_N, macs_N = records.require_accuracy(), _macs(bundle, records)
    runtime = OnnxGenerator(bundle)
    factor = bundle.latency_table.bound_factor(bundle.latency_table.default_coverage)
    cost_N = cost(truth.tokens_ND) * factor
    budgets_B = np.linspace(cost_N.min(), cost_N.max(), num_budgets + 2)[1:-1]
    answers = [runtime.generate(Query(float(budget))).best for budget in budgets_B]
    answered_B = _look_up(truth, [answer.architecture.encoding for answer in answers])
    best_B = truth.require_accuracy()[best_of(cost_N, truth.require_accuracy(), budgets_B)]
    regret_B = 100 * (best_B - answered_B)
    upper_B = np.array([answer.predicted.latency_upper_ms for answer in answers])
    predicted_N = np.array([c.predicted.accuracy for c in runtime.predict(list(truth.encodings))])
    best_labelled = best_of(cost(records.tokens_ND) * factor, label_N, budgets_B)
    _draw(out, label_N, true_N, budgets_B, best_B, answered_B)
    return {
        "architectures": len(records),
        "kendall_tau": round(float(kendalltau(label_N, true_N).statistic), 4),
        "kendall_tau_of_predictions": round(float(kendalltau(predicted_N, truth.require_accuracy()).statistic), 4),
        "kendall_tau_of_macs": round(float(kendalltau(macs_N, true_N).statistic), 4),
        "labels_percent": [round(100 * float(x), 2) for x in (label_N.min(), label_N.mean(), label_N.max())],
        "truth_percent": [round(100 * float(x), 2) for x in (true_N.min(), true_N.mean(), true_N.max())],
        "budgets": num_budgets,
        "regret_points": round(float(regret_B.mean()), 4),
        "largest_regret_points": round(float(regret_B.max()), 4),
        "regret_points_of_best_label": round(
            float(100 * (best_B - true_N[best_labelled])[best_labelled >= 0].mean()), 4
        ),
        "answers_over_budget": int(np.sum(upper_B > budgets_B * (1 + 1e-9))),
    }


def _macs(bundle: Bundle, records: Records) -> Floats:
    return np.array([sum(layer.macs for layer in bundle.space.layers(e)) for e in records.encodings], dtype=np.float64)


def _look_up(truth: Records, encodings: "tuple[str, ...] | list[str]") -> Floats:
    known = dict(zip(truth.encodings, truth.require_accuracy(), strict=True))
    missing = next((encoding for encoding in encodings if encoding not in known), None)
    if missing is not None:
        raise RecordsError(f"{truth.source}: has no truth for {missing}; it must cover the space")
    return np.array([known[encoding] for encoding in encodings])


def _draw(out: Path, label_N: Floats, true_N: Floats, budgets_B: Floats, best_B: Floats, answered_B: Floats) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    left.scatter(100 * label_N, 100 * true_N, s=6, alpha=0.5, linewidths=0, color="#0b7285")
    left.set_xlabel("top-1 with the supernet's weights (%)")
    left.set_ylabel("top-1 trained alone, mean of three (%)")
    right.step(budgets_B, 100 * best_B, where="post", color="#212529", label="best that fits, by the truth")
    right.plot(budgets_B, 100 * answered_B, "o", markersize=4, color="#0b7285", label="the bundle's answer")
    right.set_xlabel("budget (ms)")
    right.set_ylabel("top-1 trained alone (%)")
    right.legend(frameon=False, fontsize=9)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#f1f3f5", linewidth=0.8)
        axes.set_axisbelow(True)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=110, metadata={"Software": None})
