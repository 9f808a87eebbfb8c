"""Ask and tell through CSV files: proposals out, measured rows in; nothing is proposed or kept twice."""

import csv
import io
from pathlib import Path

import numpy as np

from pnag.models.cost.additive import GroupedCost, LayerCost
from pnag.models.cost.latency_table import LatencyTable
from pnag.models.errors import RecordsError
from pnag.models.files import write_atomic
from pnag.models.space.registry import get_space
from pnag.models.space.search_space import SearchSpace
from pnag.trainer.data.records import read_records
from pnag.trainer.label.active import Labeller

COLUMNS = ("architecture", "top1_percent")


def ask(
    space_name: str, records_path: Path, out: Path, table_path: Path | None, strategy: str, count: int, seed: int
) -> tuple[int, int]:
    """Write `count` proposals to `out`; returns how many architectures are known and how many were proposed.

    Raises:
        RecordsError, LatencyTableError, TrainingError: naming what cannot be used; `out` is then left alone.
    """
    space, cost = cost_of(get_space(space_name), table_path)
    known_ND = np.zeros((0, len(space.decisions)), dtype=np.int64)
    accuracy_N = np.zeros(0)
    if records_path.exists():
        records = read_records(records_path, get_space(space_name)).within(space)
        known_ND, accuracy_N = records.tokens_ND, records.require_accuracy()
    proposals = Labeller(space, cost, seed).propose(strategy, count, known_ND, accuracy_N)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*COLUMNS, "cost", "reason"])
    for proposal in proposals:
        proposed_cost = float(cost(proposal.tokens_D[np.newaxis])[0])
        writer.writerow([space.encode(proposal.tokens_D), "", f"{proposed_cost:.6g}", proposal.reason])
    write_atomic(out, text.getvalue())
    return len(known_ND), len(proposals)


def cost_of(space: SearchSpace, table_path: Path | None) -> tuple[SearchSpace, GroupedCost]:
    """What the strategies spread over: latency of the part of the space that was measured, or MACs in millions."""
    if table_path is None:
        return space, LayerCost(space, lambda layer: layer.macs / 1e6)
    table = LatencyTable.load(table_path)
    space = table.measured_space(space)
    return space, table.cost(space)


def tell_measured(space_name: str, records_path: Path, told_path: Path) -> int:
    """Add the rows of `told_path` that were measured to the records, whole or not at all; returns how many were new.

    Rows whose top1_percent is blank are still to be measured and are passed over. A row that is known already with the
    same value is passed over too, so that telling twice does no harm.

    Raises:
        RecordsError: if a value is out of range, or contradicts what is known.
    """
    space = get_space(space_name)
    told = _rows(told_path)
    measured = [(row["architecture"], row["top1_percent"].strip()) for row in told if row["top1_percent"].strip()]
    if not measured:
        raise RecordsError(f"{told_path.name}: no row has a top1_percent yet; measure the architectures and fill it in")
    kept: dict[str, str] = {}
    if records_path.exists():
        for row in _rows(records_path):
            kept[space.architecture(row["architecture"]).encoding] = row["top1_percent"]
    before = len(kept)
    for number, (text, value) in enumerate(measured, start=1):
        encoding = space.architecture(text).encoding
        if encoding in kept and float(kept[encoding]) != float(value):
            raise RecordsError(
                f"{told_path.name}: measured row {number} gives {value} for {encoding}, {records_path.name} has "
                f"{kept[encoding]}; average the two there, and drop the row here"
            )
        kept.setdefault(encoding, value)
    joined = io.StringIO()
    writer = csv.writer(joined, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(kept.items())
    draft = records_path.with_name(f".{records_path.name}.told.csv")
    write_atomic(draft, joined.getvalue())
    try:
        read_records(draft, space)  # every value in range, before anything is replaced
        write_atomic(records_path, joined.getvalue())
    finally:
        draft.unlink(missing_ok=True)
    return len(kept) - before


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        rows = list(csv.DictReader(path.read_text().splitlines()))
    except OSError as exc:
        raise RecordsError(f"{path}: cannot be read ({exc.strerror})") from None
    for number, row in enumerate(rows, start=1):
        missing = [name for name in COLUMNS if row.get(name) is None]
        if missing:
            raise RecordsError(f"{path.name}: row {number} has no column {missing[0]}; it needs {', '.join(COLUMNS)}")
        value = row["top1_percent"].strip()
        try:
            float(value or 0)
        except ValueError:
            raise RecordsError(f"{path.name}: row {number}, top1_percent is {value!r}; expected a number") from None
    return rows
