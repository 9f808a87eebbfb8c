"""Records of a table-only space: one column per decision or one `architecture`, and every problem with its row.

Axis letters: N = rows, D = decisions.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pnag.models.errors import EncodingError
from pnag.models.space.metric import Metric
from pnag.models.space.search_space import INACTIVE, SearchSpace, Tokens
from pnag.models.space.tabular import TableSpace, nearest, shown
from pnag.trainer.data.records import (
    ACCURACY,
    COLUMNS,
    Problems,
    Reading,
    Records,
    check_distinct,
    examine_records,
    read_frame,
    read_numbers,
    to_numbers,
)

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]

_COSTS = {"latency_ms": ("latency_ms",), "params": ("params", "params_m"), "macs": ("macs", "macs_m")}
_BLANKS = ("", "-", "none", "nan", "null", "n/a")
"""Spellings of "inactive", for a decision that has no option of that name."""


def read_table(path: Path, space: TableSpace, *, needs_accuracy: bool = True) -> Reading:
    """Read a file, collecting problems instead of stopping at the first.

    Args:
        needs_accuracy: False for a list of candidates, whose accuracy is not looked at.

    Raises:
        RecordsError: if it is no table at all.
    """
    frame, problems = read_text(path), Problems(path.name)
    tokens_ND = read_tokens(frame, space, problems)
    accuracy_N, metric = _accuracy(frame, space, problems) if needs_accuracy else (None, space.metric)
    costs: dict[str, Floats | None] = {}
    for cost, columns in _COSTS.items():
        there = [c for c in columns if c in frame.columns]
        if len(there) > 1:
            problems.add(f"has both {there[0]} and {there[1]}; keep one")
        # Of a candidate some costs may be known, others not.
        costs[cost] = _stored(frame, there[0], problems, may_be_blank=not needs_accuracy) if there else None
    if tokens_ND is None:
        tokens_ND = np.zeros((0, len(space.decisions)), dtype=np.int64)
    encodings = encode_all(tokens_ND, space)
    check_distinct(encodings, problems)
    known = {"architecture", *space.columns.values(), *COLUMNS}
    known |= {space.metric.column} if space.metric else set()
    unread = [c for c in frame.columns if c not in known]
    notes = [f"{path.name}: columns that nothing reads: {shown(unread)}"] if unread else []
    latency_ms_N, macs_N, params_N = (costs[c] for c in ("latency_ms", "macs", "params"))
    records = Records(tokens_ND, encodings, accuracy_N, latency_ms_N, path.name, macs_N, params_N, metric)
    return Reading(records, problems, notes)


def read(path: Path, space: SearchSpace, *, needs_accuracy: bool = True) -> Reading:
    """Read a file of any space, as `read_table` does where it has no layers."""
    if isinstance(space, TableSpace):
        return read_table(path, space, needs_accuracy=needs_accuracy)
    return examine_records(path, space)


def read_text(path: Path, *, may_be_empty: bool = False) -> "pd.DataFrame":
    """A file's cells as text; raises as `read_frame` does."""
    frame = read_frame(path, may_be_empty=may_be_empty)
    return frame.map(lambda value: "" if value is None or value != value else str(value))


def _stored(frame: "pd.DataFrame", name: str, problems: Problems, *, may_be_blank: bool = False) -> Floats | None:
    """A measured column in the unit it is stored in."""
    values_N = read_numbers(frame, name, problems, may_be_blank=may_be_blank)
    return None if values_N is None else values_N * COLUMNS[name].unit


def encode_all(tokens_ND: Tokens, space: TableSpace) -> tuple[str, ...]:
    """Encodings of canonical tokens, quicker than one by one."""
    options = [np.array([*map(str, d.options), ""], dtype=object) for d in space.decisions]
    texts = [names[tokens_ND[:, i]] for i, names in enumerate(options)]
    return tuple(space.separator.join(row) for row in zip(*texts, strict=True))


def read_tokens(frame: "pd.DataFrame", space: TableSpace, problems: Problems) -> Tokens | None:
    """Tokens [N, D] of a table of text in either form; None if a row is wrong, which is then a problem."""
    columns = [space.columns[d.name] for d in space.decisions]
    missing = [c for c in columns if c not in frame.columns]
    if "architecture" in frame.columns:
        if not missing:
            problems.add("has both an architecture column and one per decision; keep one form")
            return None
        parts = [str(text).strip().split(space.separator) for text in frame["architecture"]]
        wrong = [row for row, part in enumerate(parts) if len(part) != len(columns)]
        if wrong:
            expected = f"; expected {len(columns)} parts between {space.separator!r}: {space.separator.join(columns)}"
            texts = [f" is {frame['architecture'].iloc[row][:60]!r}{expected}" for row in wrong]
            problems.add_rows(wrong, "architecture", texts)
            return None
        texts_ND = np.array(parts, dtype=object).reshape(len(parts), len(columns))
    elif missing:
        near = [nearest(c, [f for f in frame.columns if f not in columns]) for c in missing]
        problems.add(
            f"has no column {missing[0]!r}{near[0]}; it needs {shown(columns)}, or one column `architecture`; it has "
            f"{shown(frame.columns)}"
        )
        return None
    else:
        texts_ND = frame[columns].to_numpy(dtype=object)
    return _match(texts_ND, space, problems)


def _match(texts_ND: NDArray[Any], space: TableSpace, problems: Problems) -> Tokens | None:
    """Tokens of the options' texts; each distinct text of a column is looked at once."""
    tokens_ND = np.full(texts_ND.shape, INACTIVE, dtype=np.int64)
    is_bad_N = np.zeros(len(texts_ND), dtype=np.bool_)
    unknown = -2
    for index, decision in enumerate(space.decisions):
        complaints: dict[str, str] = {}
        meaning: dict[str, int] = {}
        for text in set(texts_ND[:, index]):
            try:
                meaning[text] = decision.options.index(space.option(decision, text))
            except EncodingError as exc:
                if text.strip().lower() in _BLANKS:
                    meaning[text] = INACTIVE
                else:
                    meaning[text] = unknown
                    complaints[text] = " is " + str(exc).partition(" is ")[2]
        tokens_ND[:, index] = [meaning[text] for text in texts_ND[:, index]]
        wrong = np.flatnonzero(tokens_ND[:, index] == unknown).tolist()
        problems.add_rows(wrong, space.columns[decision.name], [complaints[texts_ND[r, index]] for r in wrong])
        is_bad_N[wrong] = True
    active_ND = space.active(np.maximum(tokens_ND, INACTIVE))
    for index, decision in enumerate(space.decisions):
        column = space.columns[decision.name]
        blank = np.flatnonzero(active_ND[:, index] & (tokens_ND[:, index] == INACTIVE) & ~is_bad_N).tolist()
        choices = f" is blank; choose from {shown(decision.options)}"
        problems.add_rows(blank, column, [choices] * len(blank))
        conditions = " and ".join(f"{p} in {list(o)}" for p, o in decision.active_if.items())
        inactive = np.flatnonzero(~active_ND[:, index] & (tokens_ND[:, index] >= 0) & ~is_bad_N).tolist()
        texts = [f" is {texts_ND[r, index]!r}; leave it blank, it counts only if {conditions}" for r in inactive]
        problems.add_rows(inactive, column, texts)
        is_bad_N[[*blank, *inactive]] = True
    if is_bad_N.any():
        return None
    forbidden = np.flatnonzero(~space.allowed(tokens_ND)).tolist()
    reasons = []
    for row in forbidden[: Problems.MAX_ROWS]:
        try:
            space.validate(tokens_ND[row : row + 1])
        except EncodingError as exc:
            reasons.append(": " + str(exc).partition(": ")[2])
    problems.add_rows(forbidden, "architecture", reasons + [""] * (len(forbidden) - len(reasons)))
    return None if forbidden else tokens_ND


def _accuracy(frame: "pd.DataFrame", space: TableSpace, problems: Problems) -> tuple[Floats | None, Metric | None]:
    """Accuracies as fractions, and the metric they stand for with its range."""
    metric = space.metric
    if metric is None:
        there = [c for c in ACCURACY if c in frame.columns]
        if len(there) != 1:
            what = "has both top1_percent and accuracy; keep one"
            if not there:
                what = (
                    f"has no accuracy column{nearest('accuracy', frame.columns)}; add accuracy (a fraction) or "
                    "top1_percent, or declare another `metric` in the search space"
                )
            problems.add(what)
            return None, None
        return _stored(frame, there[0], problems), None
    if metric.column not in frame.columns:
        problems.add(
            f"has no column {metric.column!r}{nearest(metric.column, frame.columns)}, the space's metric; it has "
            f"{shown(frame.columns)}"
        )
        return None, metric
    values_N = to_numbers(frame, metric.column)
    wrong = np.flatnonzero(~np.isfinite(values_N)).tolist()
    problems.add_rows(
        wrong, metric.column, [f" is {frame[metric.column].iloc[r]!r}; expected a finite number" for r in wrong]
    )
    if wrong:
        return None, metric
    if np.ptp(values_N) == 0:
        problems.add(f"{metric.column} is {values_N[0]:g} in every row; there is nothing to learn")
        return None, metric
    metric = metric.fitted(values_N)
    return metric.to_fraction(values_N), metric
