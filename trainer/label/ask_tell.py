"""Ask and tell through CSV files: proposals out, measured rows in; nothing is proposed or kept twice."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pnag.models.cost.additive import GroupedCost, LayerCost
from pnag.models.cost.latency_table import LatencyTable
from pnag.models.cost.tabular import Rows
from pnag.models.errors import RecordsError
from pnag.models.files import write_atomic
from pnag.models.space.search_space import SearchSpace
from pnag.models.space.tabular import TableSpace
from pnag.trainer.data.records import Problems, Records, decode_column, to_numbers
from pnag.trainer.label.active import Labeller, Proposal
from pnag.trainer.tabular.records import encode_all, read, read_table, read_text, read_tokens

if TYPE_CHECKING:
    import pandas as pd

COST, REASON = "cost", "reason"
"""Columns for people, which telling passes over."""


@dataclass(frozen=True)
class Request:
    """A number of architectures, and the one of `STRATEGIES` to choose them by."""

    strategy: str = "active"
    count: int = 20
    seed: int = 0


def measured_column(space: SearchSpace) -> str:
    """The column to fill in."""
    if not isinstance(space, TableSpace):
        return "top1_percent"
    return space.metric.column if space.metric else "accuracy"


def cost_of(space: SearchSpace, table_path: Path | None) -> tuple[SearchSpace, GroupedCost]:
    """The cost to spread over: latency of the part of the space that was measured, or MACs in millions."""
    if table_path is None:
        return space, LayerCost(space, lambda layer: layer.macs / 1e6)
    table = LatencyTable.load(table_path)
    space = table.measured_space(space)
    return space, table.cost(space)


def ask(
    space: SearchSpace, records_path: Path, out: Path, table_path: Path | None, request: Request
) -> tuple[int, int]:
    """Write proposals for a space with layers to `out`.

    Returns:
        How many architectures are known, and how many were proposed.

    Raises:
        RecordsError, LatencyTableError, TrainingError: naming what cannot be used; `out` is then left alone.
    """
    import pandas as pd

    restricted, cost = cost_of(space, table_path)
    known = read(records_path, space).checked().within(restricted) if records_path.exists() else None
    proposals = _propose(Labeller(restricted, cost, request.seed), known, request)
    costs = [f"{float(cost(p.tokens_D[np.newaxis])[0]):.6g}" for p in proposals]
    columns = ("architecture", measured_column(space), COST, REASON)
    rows = [(restricted.encode(p.tokens_D), "", c, p.reason) for p, c in zip(proposals, costs, strict=True)]
    write_atomic(out, pd.DataFrame(rows, columns=columns).to_csv(index=False))
    return 0 if known is None else len(known), len(proposals)


def ask_table(
    space: TableSpace, records_path: Path, candidates_path: Path, out: Path, request: Request
) -> tuple[int, int]:
    """Write some of the candidates to `out`, as they are but for a blank accuracy and a reason; as `ask` does."""
    listed = read_table(candidates_path, space, needs_accuracy=False).checked()
    latency_ms_N = listed.latency_ms_N
    if latency_ms_N is None or np.isnan(latency_ms_N).any():
        raise RecordsError(
            f"{candidates_path.name}: what to measure is spread over latency; it needs latency_ms in every row"
        )
    known = read_table(records_path, space).checked() if records_path.exists() else None
    rows = Rows(space, listed.tokens_ND)
    labeller = Labeller(space, lambda tokens_ND: latency_ms_N[rows.find(tokens_ND)], request.seed, listed.tokens_ND)
    proposals = _propose(labeller, known, request)
    places = [int(rows.find(proposal.tokens_D[np.newaxis])[0]) for proposal in proposals]
    frame = read_text(candidates_path).iloc[places].drop(columns=["accuracy", "top1_percent"], errors="ignore")
    frame[measured_column(space)] = ""
    frame[REASON] = [proposal.reason for proposal in proposals]
    write_atomic(out, frame.to_csv(index=False))
    return 0 if known is None else len(known), len(proposals)


def _propose(labeller: Labeller, known: Records | None, request: Request) -> list[Proposal]:
    known_ND, accuracy_N = np.zeros((0, len(labeller.space.decisions)), dtype=np.int64), np.zeros(0)
    if known is not None:
        known_ND, accuracy_N = known.tokens_ND, known.require_accuracy()
    return labeller.propose(request.strategy, request.count, known_ND, accuracy_N)


def tell(space: SearchSpace, records_path: Path, told_path: Path) -> int:
    """Add the rows of `told_path` that were measured to the records, whole or not at all; returns how many were new.

    Rows whose measured column is blank are still to be measured and are passed over. A row that is known already with
    the same value is passed over too, so that telling twice does no harm.

    Raises:
        RecordsError: if nothing is measured yet, or a value is out of range or contradicts what is known.
    """
    import pandas as pd

    column, told = measured_column(space), read_text(told_path, may_be_empty=True)
    if column not in told.columns:
        raise RecordsError(f"{told_path.name}: has no column {column!r}; `pnag label ask` writes one to fill in")
    encodings = _encodings(told, space, told_path.name)
    measured = np.flatnonzero((told[column].str.strip() != "").to_numpy())
    if not len(measured):
        raise RecordsError(f"{told_path.name}: no row has {column} yet; measure the architectures and fill it in")
    kept = told.iloc[:0].drop(columns=[COST, REASON], errors="ignore")
    if records_path.exists():
        kept = read_text(records_path, may_be_empty=True)
        if column not in kept.columns:
            raise RecordsError(f"{records_path.name}: has no column {column!r}; it has {list(kept.columns)}")
        missing = [c for c in kept.columns if c not in told.columns]
        if missing:
            raise RecordsError(f"{told_path.name}: has no column {missing[0]!r}, which {records_path.name} has")
    known = dict(zip(_encodings(kept, space, records_path.name), kept[column], strict=True))
    new: list[int] = []
    values_N, known_values = to_numbers(told, column), dict(zip(known, to_numbers(kept, column), strict=True))
    for row in measured.tolist():
        encoding, value = encodings[row], told[column].iloc[row]
        if encoding not in known:
            new.append(row)
            known[encoding], known_values[encoding] = value, values_N[row]
        elif known_values[encoding] != values_N[row]:
            raise RecordsError(
                f"{told_path.name}: row {row + 1} gives {value} for {encoding}, {records_path.name} has "
                f"{known[encoding]}; average the two there, and drop the row here"
            )
    text: str = pd.concat([kept, told.loc[new, list(kept.columns)]]).to_csv(index=False)
    with tempfile.TemporaryDirectory() as folder:  # every value in range, before anything is replaced
        draft = Path(folder) / f"{records_path.stem}.csv"
        draft.write_text(text)
        read(draft, space).checked()
    write_atomic(records_path, text)
    return len(new)


def _encodings(frame: "pd.DataFrame", space: SearchSpace, source: str) -> tuple[str, ...]:
    """Canonical encodings of a table's rows; an architecture that is none is a RecordsError."""
    problems = Problems(source)
    if isinstance(space, TableSpace):
        tokens_ND = read_tokens(frame, space, problems)
        problems.refuse()
        assert tokens_ND is not None
        return encode_all(tokens_ND, space)
    if "architecture" not in frame.columns:
        raise RecordsError(f"{source}: has no column architecture; it has {list(frame.columns)}")
    encodings = decode_column(frame["architecture"], space, problems)[1]
    problems.refuse()
    return encodings
