"""The search spaces by name."""

from collections.abc import Callable
from functools import partial
from typing import Any

from models.errors import SearchSpaceError
from models.search_space import SearchSpace
from models.spaces.nas_bench_macro import NasBenchMacro
from models.spaces.ofa_mobilenetv3 import OfaMobileNetV3

SPACES: dict[str, Callable[[], SearchSpace]] = {
    "ofa-mobilenetv3-w1.0": partial(OfaMobileNetV3, "1.0"),
    "ofa-mobilenetv3-w1.2": partial(OfaMobileNetV3, "1.2"),
    "nas-bench-macro": NasBenchMacro,
}


def get_space(name: str) -> SearchSpace:
    """A search space by name.

    Raises:
        SearchSpaceError: listing the names there are.
    """
    if name not in SPACES:
        raise SearchSpaceError(f"unknown search space {name!r}; choose from {sorted(SPACES)}")
    return SPACES[name]()


def space_from_dict(document: dict[str, Any]) -> SearchSpace:
    """Rebuild the space that `SearchSpace.to_dict` wrote, options restricted as they were.

    Raises:
        SearchSpaceError: if the name is unknown or the decisions are not those of the registered space.
    """
    space = get_space(str(document.get("name")))
    try:
        listed = {str(d["name"]): tuple(d["options"]) for d in document["decisions"]}
    except (KeyError, TypeError):
        raise SearchSpaceError(f"{space.name}: decisions must be a list of {{name, options}}") from None
    if list(listed) != [d.name for d in space.decisions]:
        raise SearchSpaceError(f"{space.name}: the decisions differ from the registered space's")
    return space.restrict(listed)
