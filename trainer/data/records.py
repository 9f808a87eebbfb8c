"""Measured architectures from a file, checked row by row before anything is trained on them.

CSV or Parquet with the columns `architecture` and `top1_percent` or `accuracy` (a fraction), optionally `latency_ms`,
`macs`, `params`, `num_evaluations`; or NAS-Bench-Macro's own JSON (`{encoding: {mean_acc, ...}}`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pnag.models.errors import EncodingError, RecordsError
from pnag.models.space.search_space import Option, SearchSpace, Tokens

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]

# Units are in the names; a value outside its range is refused. (low, high): low < value <= high.
_RANGES: Mapping[str, tuple[float, float, str]] = {
    "top1_percent": (1.0, 100.0, "percent, above 1 and at most 100"),
    "accuracy": (0.0, 1.0, "a fraction, above 0 and at most 1"),
    "latency_ms": (0.0, 1e6, "milliseconds, above 0"),
    "macs": (0.0, 1e15, "multiply-accumulates, above 0"),
    "params": (0.0, 1e15, "parameters, above 0"),
    "num_evaluations": (0.0, 1e9, "a count, at least 1"),
}


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
    """

    tokens_ND: Tokens
    encodings: tuple[str, ...]
    accuracy_N: Floats | None
    latency_ms_N: Floats | None
    source: str
    macs_N: Floats | None = None
    params_N: Floats | None = None

    def __len__(self) -> int:
        return len(self.encodings)

    def within(self, space: SearchSpace) -> "Records":
        """The same records with the tokens of a restricted space; every option they use must be left in it."""
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


def read_records(path: Path, space: SearchSpace) -> Records:
    """Read and check a records file.

    Raises:
        RecordsError: naming file, row (1 = the first after the header) and column of the first thing that is wrong.
    """
    frame = read_frame(path)
    if frame.empty:
        raise RecordsError(f"{path.name}: has no rows; it needs a header and at least one measured architecture")
    if "architecture" not in frame.columns:
        raise RecordsError(f"{path.name}: has no column 'architecture'; it has {list(frame.columns)}")
    if "top1_percent" in frame.columns and "accuracy" in frame.columns:
        raise RecordsError(f"{path.name}: has both top1_percent and accuracy; keep one")
    values = {name: _column(frame, name, path.name) for name in _RANGES if name in frame.columns}
    tokens, encodings = decode_column(frame["architecture"], space, path.name)
    accuracy = values["top1_percent"] / 100 if "top1_percent" in values else values.get("accuracy")
    return Records(tokens, encodings, accuracy, values.get("latency_ms"), path.name)


def options_seen(space: SearchSpace, tokens_ND: Tokens) -> dict[str, tuple[Option, ...]]:
    """Per decision the options that occur in the records: nothing was measured about the others.

    A decision that is inactive in every record keeps its options, which nothing can reach then.
    """
    return {
        d.name: tuple(o for i, o in enumerate(d.options) if np.any(tokens_ND[:, column] == i)) or d.options
        for column, d in enumerate(space.decisions)
    }


def read_frame(path: Path) -> "pd.DataFrame":
    """A CSV, Parquet or NAS-Bench-Macro JSON file as a table; what cannot be read is a RecordsError."""
    import pandas as pd

    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
        if path.suffix == ".json":
            table = pd.read_json(path, orient="index", dtype=False, convert_axes=False)
            return table.rename_axis("architecture").reset_index().rename(columns={"mean_acc": "top1_percent"})
        return pd.read_csv(path, dtype={"architecture": str}, skipinitialspace=True)
    except OSError as exc:
        raise RecordsError(f"{path}: cannot be read ({exc.strerror or exc})") from None
    except pd.errors.EmptyDataError:
        raise RecordsError(f"{path.name}: is empty; it needs a header and at least one measured architecture") from None
    except (ValueError, pd.errors.ParserError) as exc:
        raise RecordsError(f"{path.name}: is not a {path.suffix.lstrip('.') or 'csv'} table ({exc})") from None


def _column(frame: "pd.DataFrame", name: str, source: str) -> Floats:
    import pandas as pd

    low, high, allowed = _RANGES[name]
    numbers: Floats = pd.to_numeric(frame[name], errors="coerce").to_numpy(np.float64)
    wrong = np.flatnonzero(~((numbers > low) & (numbers <= high)))
    if len(wrong):
        row = int(wrong[0])
        hint = ""
        if name == "top1_percent" and 0 < numbers[row] <= 1:
            hint = ": it looks like a fraction; write 75.2, not 0.752, or name the column accuracy"
        elif name == "accuracy" and 1 < numbers[row] <= 100:
            hint = ": it looks like a percentage; write 0.752, not 75.2, or name the column top1_percent"
        raise RecordsError(f"{source}: row {row + 1}, {name} is {frame[name].iloc[row]!r}; expected {allowed}{hint}")
    return numbers


def decode_column(column: Any, space: SearchSpace, source: str) -> tuple[Tokens, tuple[str, ...]]:
    """Tokens [N, D] and encodings of a column `architecture`; an unknown or repeated row is a RecordsError."""
    tokens, rows = [], dict[str, int]()
    for row, text in enumerate(column, start=1):
        try:
            decoded = space.decode(str(text))
        except EncodingError as exc:
            raise RecordsError(f"{source}: row {row}, architecture: {exc}") from None
        encoding = space.encode(decoded)
        if encoding in rows:
            raise RecordsError(
                f"{source}: row {row} repeats the architecture of row {rows[encoding]} ({encoding}); "
                "average the two, or drop one"
            )
        rows[encoding] = row
        tokens.append(decoded)
    return np.stack(tokens), tuple(rows)
