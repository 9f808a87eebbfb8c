"""Measured architectures from a file, checked row by row before anything is trained on them.

CSV or Parquet with the column `architecture` (of a space without layers also one column per decision), `top1_percent`
or `accuracy` (a fraction), optionally `latency_ms`, `macs`, `params`, `num_evaluations`; or NAS-Bench-Macro's own JSON
(`{encoding: {mean_acc, ...}}`). A CSV is read as text, so that an option called `NA`, `no` or `007` stays what it is;
numbers are made of the measured columns alone.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pnag.models.errors import EncodingError, RecordsError
from pnag.models.space.metric import Metric
from pnag.models.space.search_space import Option, SearchSpace, Tokens

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]


class Column(NamedTuple):
    """A measured column: low < value <= high, what that is in words, what turns it into the stored unit."""

    low: float
    high: float
    allowed: str
    unit: float = 1.0


COLUMNS: Mapping[str, Column] = {
    "top1_percent": Column(1.0, 100.0, "percent, above 1 and at most 100", 0.01),
    "accuracy": Column(0.0, 1.0, "a fraction, above 0 and at most 1"),
    "latency_ms": Column(0.0, 1e6, "milliseconds, above 0"),
    "macs": Column(0.0, 1e15, "multiply-accumulates, above 0"),
    "macs_m": Column(0.0, 1e9, "millions of multiply-accumulates, above 0", 1e6),
    "params": Column(0.0, 1e15, "parameters, above 0"),
    "params_m": Column(0.0, 1e9, "millions of parameters, above 0", 1e6),
    "num_evaluations": Column(0.0, 1e9, "a count, at least 1"),
}
ACCURACY = ("top1_percent", "accuracy")


@dataclass(frozen=True)
class Records:
    """N measured architectures of one space.

    Attributes:
        tokens_ND: canonical tokens.
        encodings: canonical encodings, all different.
        accuracy_N: top-1 as a fraction, None when the file has no accuracy.
        latency_ms_N: measured whole-network latency, None when the file has none.
        source: the file's name.
        macs_N, params_N: measured sizes of a table-only space's architectures, None when the file has none.
        metric: what stands for accuracy in a table-only space, with its range in the file; None = accuracy itself.
    """

    tokens_ND: Tokens
    encodings: tuple[str, ...]
    accuracy_N: Floats | None
    latency_ms_N: Floats | None
    source: str
    macs_N: Floats | None = None
    params_N: Floats | None = None
    metric: Metric | None = None

    def __len__(self) -> int:
        return len(self.encodings)

    def within(self, space: SearchSpace) -> "Records":
        """Translate the tokens to those of a restricted space; every option they use must be left in it."""
        return replace(self, tokens_ND=np.stack([space.decode(encoding) for encoding in self.encodings]))

    def require_accuracy(self) -> Floats:
        """Accuracies as fractions, shape [N]; raises RecordsError if the file had none."""
        if self.accuracy_N is None:
            raise RecordsError(f"{self.source}: no accuracy column; add top1_percent or accuracy (a fraction)")
        return self.accuracy_N

    def require_latency(self) -> Floats:
        """Latencies in ms, shape [N]; raises RecordsError if the file had none."""
        if self.latency_ms_N is None:
            raise RecordsError(f"{self.source}: no latency_ms column; add one with milliseconds")
        return self.latency_ms_N

    def column(self, name: str) -> Floats | None:
        """`accuracy`, `latency_ms`, `macs` or `params`, shape [N], NaN where a candidate's is unknown."""
        values: Floats | None = getattr(self, f"{name}_N")
        return values

    def with_columns(self, columns: Mapping[str, Floats | None]) -> "Records":
        """Replace some columns."""
        return replace(self, **{f"{name}_N": values for name, values in columns.items()})  # type: ignore[arg-type]

    def points(self) -> list[dict[str, Any]]:
        """Encodings and accuracies as JSON values."""
        pairs = zip(self.encodings, self.require_accuracy(), strict=True)
        return [{"encoding": encoding, "accuracy": float(accuracy)} for encoding, accuracy in pairs]


class Problems:
    """Sentences about a file; of one kind in one column only the first few rows are spelled out."""

    MAX_ROWS = 3

    def __init__(self, source: str) -> None:
        self.source = source
        self.sentences: list[str] = []

    def add(self, sentence: str) -> None:
        """One complaint about the whole file."""
        self.sentences.append(f"{self.source}: {sentence}")

    def add_rows(self, rows: Sequence[int], column: str, sentences: Sequence[str]) -> None:
        """One complaint per row (0-based), the first few of them in full."""
        for row, sentence in list(zip(rows, sentences, strict=True))[: self.MAX_ROWS]:
            self.add(f"row {row + 1}, {column}{sentence}")
        if len(rows) > self.MAX_ROWS:
            others = ", ".join(str(row + 1) for row in rows[self.MAX_ROWS : self.MAX_ROWS + 5])
            self.add(f"{column}: the same in {len(rows) - self.MAX_ROWS} further rows ({others}, …)")

    def refuse(self) -> None:
        """Raise RecordsError with the first problem, and how many more there are; do nothing if there is none."""
        if self.sentences:
            more = f" (and {len(self.sentences) - 1} more; `pnag validate` lists them)" if self.sentences[1:] else ""
            raise RecordsError(self.sentences[0] + more)


class Reading(NamedTuple):
    """A records file as far as it can be used, what is wrong with it, and what is not wrong but worth knowing."""

    records: Records
    problems: Problems
    notes: Sequence[str] = ()

    def checked(self) -> Records:
        """The records; raises RecordsError if anything is wrong with them."""
        self.problems.refuse()
        return self.records


def read_records(path: Path, space: SearchSpace) -> Records:
    """Read and check a records file of a space with layers.

    Raises:
        RecordsError: naming file, row (1 = the first after the header) and column of the first thing that is wrong.
    """
    return examine_records(path, space).checked()


def examine_records(path: Path, space: SearchSpace) -> Reading:
    """Read a file of a space with layers, collecting problems instead of stopping at the first.

    Raises:
        RecordsError: if it is no table, or one without architectures.
    """
    frame, problems = read_frame(path), Problems(path.name)
    if "architecture" not in frame.columns:
        raise RecordsError(f"{path.name}: has no column 'architecture'; it has {list(frame.columns)}")
    if all(name in frame.columns for name in ACCURACY):
        problems.add("has both top1_percent and accuracy; keep one")
    values = {name: read_numbers(frame, name, problems) for name in COLUMNS if name in frame.columns}
    tokens_ND, encodings = decode_column(frame["architecture"], space, problems)
    check_distinct(encodings, problems)
    percent_N = values.get("top1_percent")
    records = Records(
        tokens_ND, encodings, values.get("accuracy") if percent_N is None else percent_N / 100,
        values.get("latency_ms"), path.name,
    )  # fmt: skip
    return Reading(records, problems)


def options_seen(space: SearchSpace, tokens_ND: Tokens) -> dict[str, tuple[Option, ...]]:
    """Per decision the options that occur in the records: nothing was measured about the others.

    A decision that is inactive in every record keeps its options, which nothing can reach then.
    """
    return {
        d.name: tuple(o for i, o in enumerate(d.options) if np.any(tokens_ND[:, column] == i)) or d.options
        for column, d in enumerate(space.decisions)
    }


def read_frame(path: Path, *, may_be_empty: bool = False) -> "pd.DataFrame":
    """A CSV's cells as text, or a Parquet or NAS-Bench-Macro JSON file's as they are.

    Raises:
        RecordsError: if it is no table, has no rows, or has a column twice.
    """
    import pandas as pd

    try:
        if path.suffix == ".parquet":
            frame = pd.read_parquet(path).rename(columns=str)
        elif path.suffix == ".json":
            frame = pd.read_json(path, orient="index", dtype=False, convert_axes=False)
            frame = frame.rename_axis("architecture").reset_index().rename(columns={"mean_acc": "top1_percent"})
        else:
            # The header is read as a row: pandas would rename a column that is there twice.
            frame = pd.read_csv(path, dtype=str, keep_default_na=False, skipinitialspace=True, header=None)
            frame.columns = pd.Index([str(name).strip() for name in frame.iloc[0]])
            frame = frame.iloc[1:].reset_index(drop=True)
    except OSError as exc:
        raise RecordsError(f"{path}: cannot be read ({exc.strerror or exc})") from None
    except pd.errors.EmptyDataError:
        raise RecordsError(f"{path.name}: is empty; it needs a header and at least one architecture") from None
    except (ValueError, pd.errors.ParserError) as exc:
        raise RecordsError(f"{path.name}: is not a {path.suffix.lstrip('.') or 'csv'} table ({exc})") from None
    if frame.empty and not may_be_empty:
        raise RecordsError(f"{path.name}: has no rows; it needs a header and at least one architecture")
    twice = [c for c, n in Counter(frame.columns).items() if n > 1]
    if twice:
        raise RecordsError(f"{path.name}: has the column {twice[0]!r} twice; drop or rename one")
    if len(frame.columns) == 1 and any(mark in frame.columns[0] for mark in ";\t"):
        mark = "semicolons" if ";" in frame.columns[0] else "tabs"
        raise RecordsError(f"{path.name}: its columns are separated by {mark}; separate them by commas")
    return frame


def read_numbers(frame: "pd.DataFrame", name: str, problems: Problems, *, may_be_blank: bool = False) -> Floats | None:
    """A measured column in its own unit; None if a value is wrong, which is then a problem.

    Args:
        may_be_blank: a blank cell is NaN.
    """
    column = COLUMNS[name]
    values_N = to_numbers(frame, name)
    is_right_N = (values_N > column.low) & (values_N <= column.high)
    if may_be_blank:
        is_right_N |= (frame[name].astype(str).str.strip() == "").to_numpy()
    wrong = np.flatnonzero(~is_right_N).tolist()
    if not wrong:
        return values_N
    hint = _hint(name, values_N[wrong[0]], str(frame[name].iloc[wrong[0]]))
    problems.add_rows(wrong, name, [f" is {frame[name].iloc[r]!r}; expected {column.allowed}{hint}" for r in wrong])
    return None


def _hint(name: str, value: float, text: str) -> str:
    """Guess what the writer of a value that is out of range may have meant."""
    if name == "top1_percent" and 0 < value <= 1:
        return ": it looks like a fraction; write 75.2, not 0.752, or name the column accuracy"
    if name == "accuracy" and 1 < value <= 100:
        return ": it looks like a percentage; write 0.752, not 75.2, or name the column top1_percent"
    return ": write the decimal point as a point" if "," in text else ""


def to_numbers(frame: "pd.DataFrame", name: str) -> Floats:
    """A column's numbers, NaN where a cell is none."""
    import pandas as pd

    values: Floats = pd.to_numeric(frame[name], errors="coerce").to_numpy(np.float64)
    return values


def decode_column(column: Any, space: SearchSpace, problems: Problems) -> tuple[Tokens, tuple[str, ...]]:
    """Tokens [N, D] and encodings of a column `architecture`; a row that is none is a problem."""
    tokens, wrong, reasons = [], [], []
    for row, text in enumerate(column):
        try:
            tokens.append(space.decode(str(text)))
        except EncodingError as exc:
            wrong.append(row)
            reasons.append(f": {exc}")
    problems.add_rows(wrong, "architecture", reasons)
    encodings = tuple(space.encode(tokens_D) for tokens_D in tokens)
    tokens_ND = np.array(tokens, dtype=np.int64).reshape(len(tokens), len(space.decisions))
    return tokens_ND, encodings


def check_distinct(encodings: Sequence[str], problems: Problems) -> None:
    """A row that repeats the architecture of an earlier one is a problem."""
    first: dict[str, int] = {}
    repeats = [row for row, encoding in enumerate(encodings) if first.setdefault(encoding, row) != row]
    sentences = [
        f" repeats row {first[encodings[r]] + 1} ({encodings[r]}); average the two, or drop one" for r in repeats
    ]
    problems.add_rows(repeats, "architecture", sentences)
