"""Bodies of networks are kept for whoever asks next, and go with their search space."""

import gc

from pnag.models.space.search_space import Decision
from pnag.models.space.tabular import TableSpace
from pnag.service.contract import bodies


def _space() -> TableSpace:
    return TableSpace("kept", [Decision("a", ("x", "y")), Decision("b", ("v", "w"))])


def test_a_body_is_made_once_per_network_and_space() -> None:
    space, other = _space(), _space()
    first, second = (space.architecture(space.encode(row_D)) for row_D in space.assignments(["a", "b"])[:2])
    body = bodies.architecture_body(space, first)
    assert body["encoding"] == first.encoding
    assert bodies.architecture_body(space, first) is body
    assert bodies.architecture_body(space, second)["encoding"] == second.encoding
    assert bodies.architecture_body(other, first) is not body


def test_the_bodies_of_a_space_that_is_gone_are_forgotten() -> None:
    space = _space()
    bodies.architecture_body(space, space.architecture(space.encode(space.assignments(["a", "b"])[0])))
    before = len(bodies._BODIES)
    del space
    gc.collect()
    assert len(bodies._BODIES) < before
