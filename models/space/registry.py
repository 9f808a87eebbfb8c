"""Search spaces by name: those that ship, those that packages add, and those that a document describes.

A package adds spaces with an entry point in the group `pnag.search_spaces`: its name is the space's, its value a
function without arguments that returns a `SearchSpace` (docs/write-a-search-space.md; `pnag spaces check NAME`).
"""

from collections.abc import Callable
from functools import partial
from importlib.metadata import entry_points
from typing import Any

from pnag.models.errors import SearchSpaceError
from pnag.models.space.nas_bench_macro import NasBenchMacro
from pnag.models.space.ofa_mobilenetv3 import OfaMobileNetV3
from pnag.models.space.search_space import SearchSpace
from pnag.models.space.tabular import KIND as TABLE
from pnag.models.space.tabular import TableSpace

SPACES: dict[str, Callable[[], SearchSpace]] = {
    "ofa-mobilenetv3-w1.0": partial(OfaMobileNetV3, "1.0"),
    "ofa-mobilenetv3-w1.2": partial(OfaMobileNetV3, "1.2"),
    "nas-bench-macro": NasBenchMacro,
}
ENTRY_POINTS = "pnag.search_spaces"


def space_names() -> list[str]:
    """Every name that `get_space` knows, plug-ins included (they are not imported for this)."""
    return sorted({*SPACES, *(point.name for point in entry_points(group=ENTRY_POINTS))})


def get_space(name: str) -> SearchSpace:
    """A search space by name.

    Raises:
        SearchSpaceError: listing the names there are; or naming the plug-in that cannot be used.
    """
    if name in SPACES:
        return SPACES[name]()
    points = list(entry_points(group=ENTRY_POINTS, name=name))
    if not points:
        raise SearchSpaceError(f"unknown search space {name!r}; choose from {space_names()}")
    (point, *others) = points
    if others:
        raise SearchSpaceError(
            f"search space {name!r} is offered by {[p.value for p in points]}; uninstall all but one"
        )
    try:
        space = point.load()()
    except SearchSpaceError:
        raise
    except Exception as exc:  # a stranger's code may raise anything
        raise SearchSpaceError(f"search space {name!r}: its plug-in {point.value} fails: {exc!r}") from exc
    if not isinstance(space, SearchSpace) or space.name != name:
        raise SearchSpaceError(
            f"search space {name!r}: its plug-in {point.value} gives {getattr(space, 'name', space)!r}; it must give a "
            "pnag.models.space.search_space.SearchSpace of that name"
        )
    return space


def space_from_dict(document: dict[str, Any]) -> SearchSpace:
    """Rebuild the space that `SearchSpace.to_dict` wrote, options restricted as they were.

    Raises:
        SearchSpaceError: if the name is unknown or the decisions are not those of the registered space.
    """
    if document.get("kind") == TABLE:
        return TableSpace.from_dict(document)
    space = get_space(str(document.get("name")))
    try:
        listed = {str(d["name"]): tuple(d["options"]) for d in document["decisions"]}
    except (KeyError, TypeError):
        raise SearchSpaceError(f"{space.name}: decisions must be a list of {{name, options}}") from None
    if list(listed) != [d.name for d in space.decisions]:
        raise SearchSpaceError(f"{space.name}: the decisions differ from the registered space's")
    return space.restrict(listed)
