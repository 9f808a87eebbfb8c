"""Comparison of scores by the pairs they order right: the composite score, the paper's learned one, MACs alone.

All see the same records and are asked at the same budgets; pairs are those of eq. 5.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from pnag.bench.markdown import table
from pnag.bench.search.problem import load_problem, take
from pnag.models.cost.additive import macs_cost
from pnag.trainer.config import EvaluatorConfig, RankingConfig
from pnag.trainer.evaluator.dominance import composite_score, pair_agreement
from pnag.trainer.evaluator.ranking import train_ranking_evaluator
from pnag.trainer.evaluator.train import train_evaluator
from pnag.trainer.progress import Progress

_HELD_OUT, _MOST_HELD_OUT = 0.2, 300
_NUM_BUDGETS = 10
_COLUMNS = (
    # heading, key, format
    ("right pairs", "accuracy", ".2%"),
    ("Kendall tau", "kendall_tau", ".4f"),
    ("both fit: right", "feasible_accuracy", ".2%"),
    ("tau", "feasible_tau", ".4f"),
    ("not both fit: right", "infeasible_accuracy", ".2%"),
    ("tau", "infeasible_tau", ".4f"),
    ("misjudged budget", "misjudged_budget", ".2%"),
)


def compare_evaluators(
    space_name: str, records_path: Path, table_path: Path | None, num_records: int | None, seeds: Sequence[int],
    progress: Progress,
) -> dict[str, Any]:  # fmt: skip
    """Pair accuracy and Kendall tau of each score, mean over splits."""
    problem = load_problem(
        "evaluators", space_name, records_path, table_path, progress, num_records=num_records, fits=False
    )
    space, records = problem.space, problem.records
    accuracy_N, cost_N = records.require_accuracy(), problem.cost(records.tokens_ND)
    size_N = macs_cost(space)(records.tokens_ND)
    size_N = size_N / size_N.max()
    span = problem.high - problem.low
    budgets_K = np.linspace(cost_N.min(), cost_N.max(), _NUM_BUDGETS + 2)[1:-1]
    found: dict[str, list[dict[str, float]]] = {"composite": [], "ranking": [], "MACs as accuracy": []}
    for seed in seeds:
        order = np.random.default_rng([seed, 6]).permutation(len(records))
        held_out, fitted_on = np.split(order, [min(_MOST_HELD_OUT, round(_HELD_OUT * len(order)))])
        known = take(records, fitted_on)
        fitted = train_evaluator(space, known, EvaluatorConfig(), seed, progress)
        ranking = train_ranking_evaluator(
            space, known.tokens_ND, cost_N[fitted_on], accuracy_N[fitted_on], RankingConfig(), seed, progress
        )
        tokens_ND, cost, truth = records.tokens_ND[held_out], cost_N[held_out], accuracy_N[held_out]
        predicted = fitted.accuracy(tokens_ND)
        scores = {
            "composite": [composite_score(cost, predicted, np.full(len(cost), b), span) for b in budgets_K],
            "ranking": [ranking.score(tokens_ND, np.full(len(cost), b)) for b in budgets_K],
            "MACs as accuracy": [
                composite_score(cost, size_N[held_out], np.full(len(cost), b), span) for b in budgets_K
            ],
        }
        for name, rows in scores.items():
            found[name].append(asdict(pair_agreement(np.stack(rows), cost, truth, budgets_K)))
    return {
        "space": space.name,
        "device": problem.device,
        "num_records": len(records),
        "budgets": _NUM_BUDGETS,
        "splits": len(seeds),
        "scores": {
            name: {key: float(np.mean([row[key] for row in rows])) for key in rows[0]} for name, rows in found.items()
        },
    }


def evaluators_markdown(result: dict[str, Any]) -> str:
    """Give a row to each score."""
    rows = [[name, *(format(row[key], form) for _, key, form in _COLUMNS)] for name, row in result["scores"].items()]
    lines = [
        f"{result['space']}, {result['device']}: {result['num_records']} records, a fifth held out, {result['splits']} "
        f"splits, {result['budgets']} budgets.",
        "",
        *table(["score", *(heading for heading, _, _ in _COLUMNS)], rows, "lrrrrrrr"),
    ]
    return "\n".join(lines) + "\n"
