"""Properties that every search space has, on the ones that ship and on a small one made to be awkward."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pnag.models.errors import EncodingError, SearchSpaceError
from pnag.models.space.registry import SPACES, get_space, space_from_dict
from pnag.models.space.search_space import INACTIVE, Decision, SearchSpace
from tests.fixtures.spaces import Awkward


@pytest.fixture(params=[*SPACES, "awkward"])
def space(request: pytest.FixtureRequest) -> SearchSpace:
    return Awkward() if request.param == "awkward" else get_space(request.param)


def _all(space: SearchSpace) -> set[tuple[int, ...]]:
    """Every canonical architecture, from the definition."""
    found = set()
    for raw in product(*(range(len(d.options)) for d in space.decisions)):
        tokens = list(raw)
        for i, d in enumerate(space.decisions):
            for parent, options in d.active_if.items():
                p = [x.name for x in space.decisions].index(parent)
                if tokens[p] == INACTIVE or space.decisions[p].options[tokens[p]] not in options:
                    tokens[i] = INACTIVE
        found.add(tuple(tokens))
    return found


def test_decode_undoes_encode(space: SearchSpace) -> None:
    for tokens_D in space.sample(200, np.random.default_rng(0)):
        assert np.array_equal(space.decode(space.encode(tokens_D)), tokens_D)


def test_what_is_sampled_is_valid(space: SearchSpace) -> None:
    space.validate(space.sample(300, np.random.default_rng(1)))


def test_canonical_is_idempotent(space: SearchSpace) -> None:
    raw = np.random.default_rng(2).integers(0, space.num_options_D, size=(300, len(space.decisions)))
    once = space.canonical(raw)
    assert np.array_equal(space.canonical(once), once)


def test_counting_and_sampling_agree_with_enumeration() -> None:
    space = Awkward()
    everything = _all(space)
    assert space.num_architectures == len(everything)
    sampled = {tuple(row) for row in space.sample(5000, np.random.default_rng(6)).tolist()}
    assert sampled == everything
    assert {tuple(row) for row in space.assignments([d.name for d in space.decisions]).tolist()} == everything


def test_assignments_of_some_decisions_are_the_projections_of_all_architectures() -> None:
    space = Awkward()
    for names in (["d"], ["a", "d"], ["c", "e"], ["b"], []):
        columns = [space.index(name) for name in names]
        expected = {tuple(row[c] for c in columns) for row in _all(space)}
        assert {tuple(row) for row in space.assignments(names).tolist()} == expected


def test_distinct_layers_are_those_of_all_architectures() -> None:
    space = Awkward()
    used = {layer.key for row in _all(space) for layer in space.layers(space.encode(np.array(row)))}
    assert {layer.key for layer in space.distinct_layers()} == used


@pytest.mark.parametrize("name", SPACES)
def test_a_space_survives_its_manifest(name: str) -> None:
    space = get_space(name)
    document = space.to_dict()
    again = space_from_dict(document)
    assert again.to_dict() == document
    assert again.distinct_layers() == space.distinct_layers()


def test_a_restricted_space_keeps_encodings_and_refuses_what_it_lost() -> None:
    space = get_space("ofa-mobilenetv3-w1.0")
    small = space.restrict({"resolution": (160, 224), "unit1.depth": (2,)})
    tokens_D = small.sample(1, np.random.default_rng(0))[0]
    encoding = small.encode(tokens_D)
    assert space.encode(space.decode(encoding)) == encoding
    assert small.layers(encoding) == space.layers(encoding)
    assert small.num_architectures < space.num_architectures
    assert len(small.distinct_layers()) < len(space.distinct_layers())
    other = space.restrict({"resolution": (128,)})
    with pytest.raises(EncodingError, match=r"resolution is 128; choose from \[160, 224\]"):
        small.decode(other.encode(other.sample(1, np.random.default_rng(0))[0]))


def test_restricting_to_an_unknown_option_or_to_none_is_refused() -> None:
    space = get_space("nas-bench-macro")
    for options in (("conv",), ()):
        with pytest.raises(SearchSpaceError, match="layer1: got .*choose from"):
            space.restrict({"layer1": options})
    with pytest.raises(SearchSpaceError, match="no decision 'layer9'"):
        space.restrict({"layer9": ("identity",)})


def test_the_id_is_the_hash_of_space_and_encoding() -> None:
    import hashlib

    architecture = get_space("nas-bench-macro").architecture(" 02012100 ")
    assert architecture.encoding == "02012100"
    assert architecture.id == hashlib.sha256(b"nas-bench-macro|02012100").hexdigest()[:16]


def test_validate_names_row_decision_and_what_is_allowed() -> None:
    space = Awkward()
    good = space.decode("zzz/1/qq/44/-")
    for column, value, message in (
        (0, 3, r"row 1, a is 3; allowed: 0\.\.2"),
        (0, -1, r"row 1, a is -1; allowed: 0\.\.2"),
        (4, 0, r"row 1, e is 0; allowed: -1 \(inactive\)"),
    ):
        bad = good.copy()
        bad[column] = value
        with pytest.raises(EncodingError, match=message):
            space.validate(np.stack([good, bad]))
    with pytest.raises(EncodingError, match=r"shape \(5,\); expected \[B, 5\]"):
        space.validate(good)


@pytest.mark.parametrize(
    ("decisions", "message"),
    [
        ([Decision("a", (1, 2)), Decision("a", (1,))], "listed twice"),
        ([Decision("a", ())], "no options"),
        ([Decision("a", (1, 1))], "lists an option twice"),
        ([Decision("a", (1,), {"b": (1,)}), Decision("b", (1,))], "must be an earlier decision"),
        ([Decision("b", (1,)), Decision("a", (1,), {"b": (7,)})], "is not one of its options"),
    ],
)
def test_a_space_that_contradicts_itself_is_refused(decisions: list[Decision], message: str) -> None:
    class Broken(Awkward):
        def __init__(self) -> None:
            SearchSpace.__init__(self, "broken", decisions, [])

    with pytest.raises(SearchSpaceError, match=message):
        Broken()


def test_an_unknown_space_lists_those_there_are() -> None:
    with pytest.raises(SearchSpaceError, match="unknown search space 'ofa'; choose from .*nas-bench-macro"):
        get_space("ofa")


SHIPPED = [get_space(name) for name in SPACES]


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=120))
def test_any_text_is_an_architecture_or_a_clear_error(text: str) -> None:
    for space in SHIPPED:
        try:
            encoding = space.architecture(text).encoding
        except EncodingError:
            continue
        assert space.architecture(encoding).encoding == encoding
