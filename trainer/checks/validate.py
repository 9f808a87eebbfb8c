"""Find everything that is wrong with a search space and its files, before minutes of training find the first."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pnag.models.errors import PnagError
from pnag.models.space.tabular import TableSpace, shown
from pnag.trainer.config import EvaluatorConfig
from pnag.trainer.data.records import Records, options_seen
from pnag.trainer.tabular.costs import learn_cost
from pnag.trainer.tabular.records import read
from pnag.trainer.tabular.space_file import load_space


@dataclass
class ValidationReport:
    """Findings about a space and its files: facts and notes are fine, problems are not."""

    facts: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"ok": not self.problems, **asdict(self)}


def validate(space_name: str, records: Path | None, candidates: Path | None) -> ValidationReport:
    """Look at everything that can be looked at."""
    report = ValidationReport()
    try:
        space = load_space(space_name)
    except PnagError as exc:
        report.problems.append(str(exc))
        return report
    report.facts.append(f"{space.name}: {len(space.decisions)} decisions, {space.num_architectures} architectures")
    lone = [d.name for d in space.decisions if len(d.options) == 1]
    if lone:
        report.notes.append(f"decisions with one option say nothing: {shown(lone)}")
    for path, is_candidates in ((records, False), (candidates, True)):
        if path is None:
            continue
        try:
            reading = read(path, space, needs_accuracy=not is_candidates)
            report.problems += reading.problems.sentences
            report.notes += reading.notes
            if reading.problems.sentences:
                continue
            if isinstance(space, TableSpace):
                _look_at(reading.records, space, is_candidates, report)
            else:
                report.facts.append(f"{path.name}: {len(reading.records)} architectures")
        except PnagError as exc:
            report.problems.append(str(exc))
    return report


def _look_at(records: Records, space: TableSpace, is_candidates: bool, report: ValidationReport) -> None:
    name, count = records.source, len(records)
    report.facts.append(f"{name}: {count} architectures, {100 * count / space.num_architectures:.3g} % of the space")
    if is_candidates:
        return
    minimum = EvaluatorConfig().min_records
    if count < minimum:
        report.problems.append(f"{name}: {count} rows; training needs at least {minimum}")
    unseen = [
        f"{d.name}={o}"
        for d, seen in zip(space.decisions, options_seen(space, records.tokens_ND).values(), strict=True)
        for o in d.options
        if o not in seen
    ]
    if unseen:
        report.notes.append(f"{name}: options without a record, which no answer will use: {shown(unseen)}")
    if records.accuracy_N is not None and np.ptp(records.accuracy_N) == 0:
        report.problems.append(f"{name}: the accuracy is the same in every row; there is nothing to learn")
    latency_N = records.latency_ms_N
    if latency_N is None:
        if "latency_ms" not in space.option_costs:
            report.problems.append(
                f"{name}: no column latency_ms, and {space.name} gives no latency_ms per option; add one of the two, "
                "or train with --latency-table"
            )
        return
    if np.ptp(latency_N) == 0:
        report.problems.append(
            f"{name}: latency_ms is {latency_N[0]:g} in every row; a trade-off needs differing costs"
        )
        return
    learned = learn_cost(space, records.tokens_ND, latency_N)
    kind = "options and pairs of them" if learned.is_pairwise else "options alone"
    report.facts.append(f"{name}: latency_ms follows from {kind} within {learned.mape_percent:.2g} % (cross-validated)")
    if learned.mape_percent > 20:
        report.notes.append(f"{name}: latency_ms hardly follows from the options; is it the right column?")
