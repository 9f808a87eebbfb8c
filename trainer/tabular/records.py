"""Records of a table-only space: one column per decision or one `architecture`, and every problem with its row.

Read as text, so that an option called `NA`, `no` or `007` stays what it is; numbers are made of the measured columns
alone. Axis letters: N = rows, D = decisions.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pnag.models.errors import EncodingError, RecordsError
from pnag.models.space.metric import Metric
from pnag.models.space.search_space import INACTIVE, Tokens
from pnag.models.space.tabular import TableSpace, nearest, shown

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]

# Columns with a meaning: (low, high): low < value <= high, what that is, what turns it into the stored unit.
_RANGES = {
    "accuracy": (0.0, 1.0, "a fraction, above 0 and at most 1", 1.0),
    "top1_percent": (1.0, 100.0, "percent, above 1 and at most 100", 0.01),
    "latency_ms": (0.0, 1e6, "milliseconds, above 0", 1.0),
    "params": (0.0, 1e15, "a number of parameters, above 0", 1.0),
    "params_m": (0.0, 1e9, "millions of parameters, above 0", 1e6),
    "macs": (0.0, 1e15, "multiply-accumulates, above 0", 1.0),
    "macs_m": (0.0, 1e9, "millions of multiply-accumulates, above 0", 1e6),
}
_ACCURACY = ("accuracy", "top1_percent")
_SIZES = {"params": ("params", "params_m"), "macs": ("macs", "macs_m")}
_BLANKS = ("", "-", "none", "nan", "null", "n/a")
"""Spellings of "inactive", for a decision that has no option of that name."""
MAX_SHOWN = 20


@dataclass
class TableReading:
    """A records file as far as it can be used, and everything that is wrong with it.

    Attributes:
        problems: sentences; with rows where they have one (1 = the first after the header).
        notes: what is not wrong, but worth knowing.
    """

    tokens_ND: Tokens
    encodings: tuple[str, ...]
    accuracy_N: Floats | None = None
    latency_ms_N: Floats | None = None
    params_N: Floats | None = None
    macs_N: Floats | None = None
    metric: Metric | None = None
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_table(path: Path, space: TableSpace, *, needs_accuracy: bool = True) -> TableReading:
    """Read a file, collecting problems instead of stopping at the first.

    Args:
        needs_accuracy: False for a list of candidates, whose accuracy is not looked at.

    Raises:
        RecordsError: if it is no table at all.
    """
    frame = read_text(path)
    reading = TableReading(np.zeros((0, len(space.decisions)), dtype=np.int64), ())
    problems = _Problems(path.name)
    if frame.empty:
        reading.problems = [f"{path.name}: has no rows; it needs a header and at least one architecture"]
        return reading
    twice = [c for c, n in Counter(frame.columns).items() if n > 1]
    if twice:
        reading.problems = [f"{path.name}: has the column {twice[0]!r} twice; drop or rename one"]
        return reading
    if len(frame.columns) == 1 and any(mark in frame.columns[0] for mark in ";\t"):
        mark = "semicolons" if ";" in frame.columns[0] else "tabs"
        reading.problems = [f"{path.name}: its columns are separated by {mark}; separate them by commas"]
        return reading
    tokens_ND = _tokens(frame, space, problems)
    reading.metric = space.metric
    if needs_accuracy:
        reading.accuracy_N = _accuracy(frame, space, problems, reading)
    blank = not needs_accuracy  # of a candidate some costs may be known, others not
    if "latency_ms" in frame.columns:
        reading.latency_ms_N = _numbers(frame, "latency_ms", problems, may_be_blank=blank)
    sizes: dict[str, Floats | None] = {}
    for size, columns in _SIZES.items():
        there = [c for c in columns if c in frame.columns]
        if len(there) > 1:
            problems.add(f"has both {there[0]} and {there[1]}; keep one")
        sizes[size] = _numbers(frame, there[0], problems, may_be_blank=blank) if there else None
    reading.params_N, reading.macs_N = sizes["params"], sizes["macs"]
    if tokens_ND is not None:
        reading.tokens_ND = tokens_ND
        reading.encodings = _distinct(tokens_ND, space, problems)
    known = {"architecture", *space.columns.values(), *_RANGES, "num_evaluations"}
    known |= {space.metric.column} if space.metric else set()
    unread = [c for c in frame.columns if c not in known]
    if unread:
        reading.notes.append(f"{path.name}: columns that nothing reads: {shown(unread)}")
    reading.problems = problems.sentences()
    return reading


def refuse_problems(reading: TableReading) -> TableReading:
    """The reading, if nothing is wrong with it.

    Raises:
        RecordsError: with the first problem, and how many more there are.
    """
    if reading.problems:
        more = f" (and {len(reading.problems) - 1} more; `pnag validate` lists them)" if reading.problems[1:] else ""
        raise RecordsError(reading.problems[0] + more)
    return reading


class _Problems:
    """Sentences about a file; of one kind in one column only the first few rows are spelled out."""

    MAX_ROWS = 3

    def __init__(self, source: str) -> None:
        self.source = source
        self._sentences: list[str] = []

    def add(self, sentence: str) -> None:
        self._sentences.append(f"{self.source}: {sentence}")

    def add_rows(self, rows: Sequence[int], column: str, sentences: Sequence[str]) -> None:
        """One complaint per row (0-based), the first few of them in full."""
        for row, sentence in list(zip(rows, sentences, strict=True))[: self.MAX_ROWS]:
            self.add(f"row {row + 1}, {column}{sentence}")
        if len(rows) > self.MAX_ROWS:
            others = ", ".join(str(row + 1) for row in rows[self.MAX_ROWS : self.MAX_ROWS + 5])
            self.add(f"{column}: the same in {len(rows) - self.MAX_ROWS} further rows ({others}, …)")

    def sentences(self) -> list[str]:
        return self._sentences


def read_text(path: Path) -> "pd.DataFrame":
    """A file's cells as text.

    Raises:
        RecordsError: if it is no table.
    """
    import pandas as pd

    try:
        if path.suffix == ".parquet":
            frame = pd.read_parquet(path)
            return frame.map(lambda v: "" if v is None or v != v else str(v)).rename(columns=str)
        frame = pd.read_csv(path, dtype=str, keep_default_na=False, skipinitialspace=True, header=None)
    except OSError as exc:
        raise RecordsError(f"{path}: cannot be read ({exc.strerror or exc})") from None
    except pd.errors.EmptyDataError:
        raise RecordsError(f"{path.name}: is empty; it needs a header and at least one architecture") from None
    except (ValueError, pd.errors.ParserError) as exc:
        raise RecordsError(f"{path.name}: is not a {path.suffix.lstrip('.') or 'csv'} table ({exc})") from None
    # The header is read as a row: pandas would rename a column that is there twice.
    frame.columns = pd.Index([str(name).strip() for name in frame.iloc[0]])
    return frame.iloc[1:].reset_index(drop=True)


def _tokens(frame: "pd.DataFrame", space: TableSpace, problems: _Problems) -> Tokens | None:
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


def _match(texts_ND: NDArray[Any], space: TableSpace, problems: _Problems) -> Tokens | None:
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
        asleep = np.flatnonzero(~active_ND[:, index] & (tokens_ND[:, index] >= 0) & ~is_bad_N).tolist()
        texts = [f" is {texts_ND[r, index]!r}; leave it blank, it counts only if {conditions}" for r in asleep]
        problems.add_rows(asleep, column, texts)
        is_bad_N[[*blank, *asleep]] = True
    if is_bad_N.any():
        return None
    forbidden = np.flatnonzero(~space.allowed(tokens_ND)).tolist()
    reasons = []
    for row in forbidden[: _Problems.MAX_ROWS]:
        try:
            space.validate(tokens_ND[row : row + 1])
        except EncodingError as exc:
            reasons.append(": " + str(exc).partition(": ")[2])
    problems.add_rows(forbidden, "architecture", reasons + [""] * (len(forbidden) - len(reasons)))
    return None if forbidden else tokens_ND


def _distinct(tokens_ND: Tokens, space: TableSpace, problems: _Problems) -> tuple[str, ...]:
    options = [np.array([*map(str, d.options), ""], dtype=object) for d in space.decisions]
    texts = [names[tokens_ND[:, i]] for i, names in enumerate(options)]
    encodings = tuple(space.separator.join(row) for row in zip(*texts, strict=True))
    first: dict[str, int] = {}
    repeats = [row for row, encoding in enumerate(encodings) if first.setdefault(encoding, row) != row]
    sentences = [
        f" repeats row {first[encodings[r]] + 1} ({encodings[r]}); average the two, or drop one" for r in repeats
    ]
    problems.add_rows(repeats, "architecture", sentences)
    return encodings


def _accuracy(frame: "pd.DataFrame", space: TableSpace, problems: _Problems, reading: TableReading) -> Floats | None:
    metric = space.metric
    if metric is None:
        there = [c for c in _ACCURACY if c in frame.columns]
        if len(there) != 1:
            what = "has both top1_percent and accuracy; keep one"
            if not there:
                what = (
                    f"has no accuracy column{nearest('accuracy', frame.columns)}; add accuracy (a fraction) or "
                    "top1_percent, or declare another `metric` in the search space"
                )
            problems.add(what)
            return None
        return _numbers(frame, there[0], problems)
    if metric.column not in frame.columns:
        problems.add(
            f"has no column {metric.column!r}{nearest(metric.column, frame.columns)}, the space's metric; it has "
            f"{shown(frame.columns)}"
        )
        return None
    values_N = _to_numbers(frame, metric.column)
    wrong = np.flatnonzero(~np.isfinite(values_N)).tolist()
    problems.add_rows(
        wrong, metric.column, [f" is {frame[metric.column].iloc[r]!r}; expected a finite number" for r in wrong]
    )
    if wrong:
        return None
    if np.ptp(values_N) == 0:
        problems.add(f"{metric.column} is {values_N[0]:g} in every row; there is nothing to learn")
        return None
    reading.metric = metric.fitted(values_N)
    return reading.metric.to_fraction(values_N)


def _numbers(frame: "pd.DataFrame", column: str, problems: _Problems, *, may_be_blank: bool = False) -> Floats | None:
    """A measured column in its stored unit; None if a value is wrong, which is then a problem."""
    low, high, allowed, unit = _RANGES[column]
    values_N = _to_numbers(frame, column)
    is_right_N = (values_N > low) & (values_N <= high)
    if may_be_blank:
        is_right_N |= (frame[column].str.strip() == "").to_numpy()
    wrong = np.flatnonzero(~is_right_N).tolist()
    if not wrong:
        return values_N * unit
    hint = ""
    value = values_N[wrong[0]]
    if column == "accuracy" and 1 < value <= 100:
        hint = ": it looks like a percentage; name the column top1_percent"
    elif column == "top1_percent" and 0 < value <= 1:
        hint = ": it looks like a fraction; name the column accuracy"
    elif "," in str(frame[column].iloc[wrong[0]]):
        hint = ": write the decimal point as a point"
    problems.add_rows(wrong, column, [f" is {frame[column].iloc[row]!r}; expected {allowed}{hint}" for row in wrong])
    return None


def _to_numbers(frame: "pd.DataFrame", column: str) -> Floats:
    import pandas as pd

    values: Floats = pd.to_numeric(frame[column], errors="coerce").to_numpy(np.float64)
    return values
