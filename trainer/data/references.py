"""Networks that people know by a name, for a bundle's manifest: the page shows them beside the front."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pnag.models.errors import RecordsError
from pnag.models.space.search_space import SearchSpace, Tokens
from pnag.trainer.data.records import Problems, check_distinct, decode_column, read_frame


def read_references(
    path: Path, space: SearchSpace, allowed: Callable[[Tokens], NDArray[np.bool_]]
) -> list[dict[str, str]]:
    """`name` and `encoding` of each row of a CSV or Parquet file with the columns name and architecture.

    Args:
        allowed: tokens [N, D] -> which of them the bundle may speak of, [N].

    Raises:
        RecordsError: naming the column or the row; an architecture with an option that no record has is refused too.
    """
    frame = read_frame(path)
    missing = [column for column in ("name", "architecture") if column not in frame.columns]
    if missing:
        raise RecordsError(f"{path.name}: has columns {list(frame.columns)}; references need name and architecture")
    names = [
        "" if blank else str(name).strip() for name, blank in zip(frame["name"], frame["name"].isna(), strict=True)
    ]
    for row, name in enumerate(names, start=1):
        if not name or name in names[: row - 1]:
            raise RecordsError(f"{path.name}, row {row}: name is {name!r}; give each reference a name of its own")
    problems = Problems(path.name)
    tokens_ND, encodings = decode_column(frame["architecture"], space, problems)
    check_distinct(encodings, problems)
    problems.refuse()
    refused = np.flatnonzero(~allowed(tokens_ND))
    if len(refused):
        raise RecordsError(
            f"{path.name}, row {refused[0] + 1}: {encodings[refused[0]]} is not among the architectures that this "
            "bundle may answer; leave it out"
        )
    return [{"name": name, "encoding": encoding} for name, encoding in zip(names, encodings, strict=True)]
