"""Files a reader sees whole or not at all, and JSON that becomes typed objects or is refused with a clear error."""

import json
import math
import os
import tempfile
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeGuard, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from pnag.models.errors import PnagError

Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
"""A finite int or float of a JSON file; texts and booleans are refused."""
NonNegative = Annotated[float, Field(strict=True, allow_inf_nan=False, ge=0)]
Positive = Annotated[float, Field(strict=True, allow_inf_nan=False, gt=0)]

_Parsed = TypeVar("_Parsed")
_KINDS = {"dataclass_type": "an object", "mapping_type": "an object", "dict_type": "an object", "tuple_type": "a list"}


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


def check_version(document: dict[str, Any], version: int, name: str, error: type[PnagError]) -> None:
    """Refuse a document of another format version.

    Raises:
        error: saying whether this program or the file is the older one.
    """
    found = document.get("format_version")
    if found != version:
        hint = "upgrade pnag" if is_number(found) and found > version else "write the file again"
        raise error(f"{name}: format_version is {found!r}; this pnag reads {version}: {hint}")


def parse_object(schema: type[_Parsed], document: Any, name: str, error: type[PnagError]) -> _Parsed:
    """Turn parsed JSON into a dataclass, nested ones included.

    Args:
        schema: its annotations say what is allowed; keys it does not know are left alone.
        name: of the file, or of the part of it that `document` is.

    Raises:
        error: naming the first field that is wrong, what it holds and what is allowed.
    """
    try:
        parsed: _Parsed = _adapter(schema).validate_python(document)  # type: ignore[arg-type]  # classes are hashable
        return parsed
    except ValidationError as exc:
        first = exc.errors(include_url=False)[0]
    field = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).removeprefix(".")
    if first["type"] == "missing":
        raise error(f"{name}: {field} is missing")
    if first["type"] == "value_error":  # of one of our own validators
        raise error(f"{name}: {field}: {first['ctx']['error']}")
    allowed = first["msg"].replace("a valid ", "a ").replace("Tuple", "it").replace("Input", "it")
    if first["type"] in _KINDS:
        allowed = f"it should be {_KINDS[first['type']]}"
    raise error(f"{name}: {field or 'the whole'} is {first['input']!r:.80}; {allowed}")


@cache
def _adapter(schema: Any) -> TypeAdapter[Any]:
    return TypeAdapter(schema)  # made when first needed: it takes milliseconds, and few processes read every format


def is_number(value: Any) -> TypeGuard[float]:
    """A finite int or float; True and False are not numbers here."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
