"""Ask and tell for a space without layers: of listed architectures whose latency is known, which to measure next."""

import tempfile
from pathlib import Path

import numpy as np

from pnag.models.cost.tabular import Rows
from pnag.models.errors import RecordsError
from pnag.models.files import write_atomic
from pnag.models.space.tabular import TableSpace
from pnag.trainer.label.active import Labeller
from pnag.trainer.tabular.records import read_table, read_text, refuse_problems

REASON = "reason"


def ask_table(
    space: TableSpace, records_path: Path, candidates_path: Path, out: Path, strategy: str, count: int, seed: int
) -> tuple[int, int]:
    """Write `count` of the candidates to `out`, as they are but for a blank accuracy and a reason.

    Returns:
        How many architectures are known, and how many were proposed.

    Raises:
        RecordsError, TrainingError: naming what cannot be used; `out` is then left alone.
    """
    listed = refuse_problems(read_table(candidates_path, space, needs_accuracy=False))
    latency_ms_N = listed.latency_ms_N
    if latency_ms_N is None or np.isnan(latency_ms_N).any():
        raise RecordsError(
            f"{candidates_path.name}: what to measure is spread over latency; it needs latency_ms in every row"
        )
    known_ND, accuracy_N = listed.tokens_ND[:0], np.zeros(0)
    if records_path.exists():
        known = refuse_problems(read_table(records_path, space))
        assert known.accuracy_N is not None
        known_ND, accuracy_N = known.tokens_ND, known.accuracy_N
    rows = Rows(space, listed.tokens_ND)
    labeller = Labeller(space, lambda tokens_ND: latency_ms_N[rows.find(tokens_ND)], seed, listed.tokens_ND)
    proposals = labeller.propose(strategy, count, known_ND, accuracy_N)
    places = [int(rows.find(proposal.tokens_D[np.newaxis])[0]) for proposal in proposals]
    frame = read_text(candidates_path).iloc[places].drop(columns=["accuracy", "top1_percent"], errors="ignore")
    frame[measured_column(space)] = ""
    frame[REASON] = [proposal.reason for proposal in proposals]
    write_atomic(out, frame.to_csv(index=False))
    return len(known_ND), len(proposals)


def tell_table(space: TableSpace, records_path: Path, told_path: Path) -> int:
    """Add the measured rows of `told_path` to the records, whole or not at all; returns how many were new.

    Raises:
        RecordsError: if nothing is measured yet, or a value is out of range or contradicts what is known.
    """
    import pandas as pd

    column, told = measured_column(space), read_text(told_path)
    if column not in told.columns:
        raise RecordsError(f"{told_path.name}: has no column {column!r}; `pnag label` writes one to fill in")
    told = told[told[column].str.strip() != ""].drop(columns=[REASON], errors="ignore")
    if told.empty:
        raise RecordsError(f"{told_path.name}: no row has {column} yet; measure the architectures and fill it in")
    joined, before = told, 0
    if records_path.exists():
        kept = read_text(records_path)
        missing = [c for c in kept.columns if c not in told.columns]
        if missing:
            raise RecordsError(f"{told_path.name}: has no column {missing[0]!r}, which {records_path.name} has")
        before = len(kept)
        joined = pd.concat([kept, told[kept.columns]])
    text = joined.drop_duplicates().to_csv(index=False)
    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder) / f"{records_path.stem}.csv"
        draft.write_text(text)
        total = len(refuse_problems(read_table(draft, space)).tokens_ND)  # before anything is replaced
    write_atomic(records_path, text)
    return total - before


def measured_column(space: TableSpace) -> str:
    """The column to fill in."""
    return space.metric.column if space.metric else "accuracy"
