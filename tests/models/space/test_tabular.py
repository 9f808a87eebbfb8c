"""Table-only spaces: text, rules, documents, and the costs that records tell."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pnag.models.cost.additive import GroupedCost
from pnag.models.cost.latency_table import Device, LatencyTable, LayerLatency
from pnag.models.cost.slack import SlackTable
from pnag.models.cost.tabular import NetworkCosts, Rows, TableCosts, additive_layers
from pnag.models.errors import EncodingError, SearchSpaceError
from pnag.models.files import to_json
from pnag.models.space.metric import Metric
from pnag.models.space.registry import space_from_dict
from pnag.models.space.search_space import Decision
from pnag.models.space.tabular import TableSpace
from tests.fixtures.spaces import small_space


def by_definition() -> set[str]:
    """Every architecture of `small_space`, from its rules by hand."""
    found = set()
    for a, b, c in itertools.product(("0", "1", "no"), ("x", "y", ""), ("p", "q", "r")):
        if (b == "") != (a == "0") or (a == "1" and c == "r") or (b == "y" and c in ("q", "r")):
            continue
        found.add(f"{a}:{b}:{c}")
    return found


def measured_costs(*, is_restricted: bool, count: int = 7) -> tuple[TableSpace, LatencyTable, TableCosts]:
    """A space with an additive cost of 1..., some rows of which were measured to cost something else."""
    space = small_space()
    everything = space.all_architectures()
    assert everything is not None
    tokens = everything[np.random.default_rng(3).permutation(len(everything))[:count]]
    learned = GroupedCost(
        [((0,), np.array([1.0, 2.0, 3.0, 0.0])), ((0, 2), np.arange(16.0).reshape(4, 4) / 10)], constant=0.5
    )
    constant, layers = additive_layers(space, learned)
    table = LatencyTable("small", Device("d"), "s", {k: LayerLatency(v) for k, v in layers.items()}, constant)
    encodings = tuple(space.encode(t) for t in tokens)
    measured = {"latency_ms": np.linspace(9.0, 2.0, count), "accuracy": np.linspace(0.7, 0.9, count)}
    return space, table, TableCosts(encodings, tokens, measured, {"latency_ms": learned}, is_restricted)


def test_all_architectures_are_those_of_the_rules() -> None:
    space = small_space()
    everything = space.all_architectures()
    assert everything is not None
    assert {space.encode(tokens) for tokens in everything} == by_definition()
    assert space.num_architectures == len(by_definition())


def test_samples_are_never_forbidden() -> None:
    space = small_space()
    tokens = space.sample(500, np.random.default_rng(0))
    assert len(tokens) == 500
    space.validate(tokens)


@pytest.mark.parametrize(
    ("encoding", "said"),
    [
        ("1:x:r", "is forbidden: a in ['1'] and c in ['r']"),
        ("0:x:p", "b is inactive here"),
        ("1::p", "b is blank"),
        ("1:X:p", "did you mean 'x'"),
        ("1:x", "has 2 parts"),
        ("No:x:p", "did you mean 'no'"),
        ("2:x:p", "choose from 0, 1, no"),
    ],
)
def test_a_wrong_encoding_is_refused_with_the_reason(encoding: str, said: str) -> None:
    with pytest.raises(EncodingError) as caught:
        small_space().decode(encoding)
    assert said in str(caught.value)


def test_numbers_in_another_spelling_are_the_same_option() -> None:
    assert small_space().architecture("1.0:x:p").encoding == "1:x:p"
    codes = TableSpace("codes", [Decision("link", ("0", "00", "000"))])
    assert codes.architecture("00").encoding == "00", "codes with leading zeros are text"


@given(st.data())
def test_tokens_survive_encoding_and_the_document(data: st.DataObject) -> None:
    space = small_space()
    everything = space.all_architectures()
    assert everything is not None
    tokens = everything[data.draw(st.integers(0, len(everything) - 1))]
    again = space_from_dict(space.to_dict())
    assert np.array_equal(again.decode(space.encode(tokens)), tokens)
    assert again.to_dict() == space.to_dict()


def test_restricting_keeps_rules_and_conditions_that_still_mean_something() -> None:
    narrow = small_space().restrict({"a": ("0", "no"), "c": ("p", "q")})
    everything = narrow.all_architectures()
    assert everything is not None
    kept = {e for e in by_definition() if e.split(":")[0] != "1" and e.split(":")[2] != "r"}
    assert {narrow.encode(tokens) for tokens in everything} == kept


@pytest.mark.parametrize(
    ("options", "said"),
    [(("a", "a:b"), "separator"), (("3", "3.0"), "one number"), (("a", " b"), "space"), (tuple(map(str, range(251))), "at most 250")],  # noqa: E501
)  # fmt: skip
def test_options_that_cannot_be_told_apart_in_text_are_refused(options: tuple[str, ...], said: str) -> None:
    with pytest.raises(SearchSpaceError, match=said):
        TableSpace("s", [Decision("d", options)])


def test_counts_of_shared_options_are_features() -> None:
    space = TableSpace("s", [Decision("a", ("x", "y")), Decision("b", ("x", "y")), Decision("c", ("x", "z"))])
    features = space.depth_features(np.array([[0, 0, 1], [0, 1, 1]]))
    assert features.tolist() == [[3, 2, 0], [3, 1, 1]]


def test_rows_are_found_wherever_they_stand() -> None:
    rng = np.random.default_rng(0)
    for width in (3, 60):  # 60 decisions do not fit one whole number
        space = TableSpace("s", [Decision(f"d{i}", ("x", "y", "z")) for i in range(width)])
        tokens = np.unique(space.sample(200, rng), axis=0)
        rng.shuffle(tokens)
        assert Rows(space, tokens).find(tokens).tolist() == list(range(len(tokens)))
        listed, rest = tokens[: len(tokens) // 2], tokens[len(tokens) // 2 :]
        assert (Rows(space, listed).find(rest) == -1).all()


def test_a_measured_cost_is_looked_up_and_the_rest_is_learned() -> None:
    space, table, recorded = measured_costs(is_restricted=False)
    costs = NetworkCosts.of(space, table, recorded)
    everything = space.all_architectures()
    assert everything is not None
    places = Rows(space, recorded.tokens_RD).find(everything)
    expected = np.where(
        places >= 0, recorded.measured["latency_ms"][places], recorded.learned["latency_ms"](everything)
    )
    assert np.array_equal(costs.latency_ms(everything), expected)
    assert costs.macs is None
    assert costs.measured_accuracy is None, "beyond the records accuracy is predicted for all alike"


@pytest.mark.parametrize("is_restricted", [True, False])
def test_the_mask_lets_through_exactly_what_may_be_answered_within_the_budget(is_restricted: bool) -> None:
    space, table, recorded = measured_costs(is_restricted=is_restricted)
    costs = NetworkCosts.of(space, table, recorded)
    slack = SlackTable.build(space, costs.lower_bounds())
    tokens = space.assignments([d.name for d in space.decisions])
    may = {space.encode(t) for t in (recorded.tokens_RD if is_restricted else space.all_architectures())}  # type: ignore[union-attr]  # noqa: E501
    for budget in (2.5, 3.0, 5.5, 20.0):
        floor = slack.base_K[0] + np.zeros(len(tokens), dtype=np.float32)
        entries = slack.entries(tokens) + np.maximum(tokens, 0)
        open_N = np.ones(len(tokens), dtype=bool)
        for t in range(tokens.shape[1]):
            floor = floor + slack.steps_RK[entries[:, t], 0]
            open_N &= floor <= budget
        through = {space.format_values(space._values(t)) for t in tokens[open_N]}
        fits = {space.encode(t) for t in space.all_architectures() if costs.latency_ms(t[np.newaxis])[0] <= budget}  # type: ignore[union-attr]  # noqa: E501
        assert through == may & fits


def test_beyond_the_joint_mask_no_cost_lies_below_its_floor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pnag.models.cost.tabular.MAX_JOINT", 0)
    space, table, recorded = measured_costs(is_restricted=False)
    costs = NetworkCosts.of(space, table, recorded)
    everything = space.all_architectures()
    assert everything is not None
    floor = costs.lower_bounds()[0]
    assert (floor(everything) <= costs.latency_ms(everything) + 1e-9).all()
    slack = SlackTable.build(space, costs.lower_bounds())
    forbidden = np.array([[1, 0, 2]])  # a=1, c=r
    assert np.isinf(slack.option_steps(forbidden)[0, 2, 2, 0]), "the last option of a forbidden combination is masked"


def test_costs_survive_their_file() -> None:
    space, _, recorded = measured_costs(is_restricted=True)
    recorded.measured["latency_ms"][2] = np.nan
    again = TableCosts.parse(to_json(recorded.to_dict(space)).encode(), space, "f")
    assert again.encodings == recorded.encodings
    assert again.is_restricted
    assert np.array_equal(again.measured["latency_ms"], recorded.measured["latency_ms"], equal_nan=True)
    tokens = space.sample(50, np.random.default_rng(0))
    assert np.allclose(again.learned["latency_ms"](tokens), recorded.learned["latency_ms"](tokens))


@given(st.lists(st.floats(-50, 50).map(lambda v: round(v, 3)), min_size=2, unique=True), st.booleans())
def test_a_metric_keeps_its_order_and_comes_back(values: list[float], lower_is_better: bool) -> None:
    metric = Metric("m", "m", "minimise" if lower_is_better else "maximise").fitted(np.array(values))
    fractions = metric.to_fraction(np.array(values))
    order = np.argsort(values)[::-1] if lower_is_better else np.argsort(values)
    assert (np.diff(fractions[order]) > 0).all()
    assert np.allclose([metric.value(f) for f in fractions], values, atol=1e-6 * (1 + np.abs(values).max()))
