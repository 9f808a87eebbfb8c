"""Files a reader sees whole or not at all, and JSON that is refused with a clear error."""

import json
import math
import os
import tempfile
from pathlib import Path
from typing import Any, TypeGuard

from pnag.models.errors import PnagError


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write to a temporary name beside `path`, flush to disk, then rename over it."""
    data = content.encode() if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)  # mkstemp makes 0600, which a service under another user could not read
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def to_json(document: Any, indent: int | None = 1) -> str:
    """JSON with a final newline; refuses NaN and infinity, which are not JSON."""
    return json.dumps(document, indent=indent, allow_nan=False, ensure_ascii=False) + "\n"


def read_json_object(data: bytes, name: str, error: type[PnagError]) -> dict[str, Any]:
    """Parse a JSON object from a file's content.

    Raises:
        error: if it is not valid UTF-8 JSON, not an object, or holds NaN or infinity; the message names the file.
    """

    def refuse_constant(text: str) -> float:
        raise error(f"{name}: holds {text}, which is not a number; measure or remove that entry")

    try:
        document = json.loads(data, parse_constant=refuse_constant)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise error(f"{name}: not valid JSON ({exc}); was the file cut off?") from None
    if not isinstance(document, dict):
        raise error(f"{name}: holds a {type(document).__name__}; expected a JSON object")
    return document


def is_number(value: Any) -> TypeGuard[float]:
    """A finite int or float; True and False are not numbers here."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
