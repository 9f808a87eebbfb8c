"""Search spaces from YAML: what is read, and what every mistake is answered with."""

import pytest

from pnag.models.errors import SearchSpaceError
from pnag.trainer.tabular.space_file import load_space, parse_space
from pnag.trainer.tabular.starting_project import SPACE


def test_scalars_stay_the_text_that_was_written() -> None:
    space = parse_space("name: s\ndecisions:\n  a: [no, on, 1e3, 007, 1.10, null]\n  b: [x, y]\n")
    assert space.decisions[0].options == ("no", "on", "1e3", "007", "1.10", "null")


def test_the_starting_project_holds_what_it_explains() -> None:
    space = parse_space(SPACE)
    assert [d.name for d in space.decisions] == ["stem", "op1", "op2", "attention"]
    assert space.num_architectures == 2 * (3 * 2 * 2 + 3 - 1)


def test_a_list_of_decisions_means_the_same_as_a_mapping() -> None:
    mapping = parse_space("name: s\ndecisions: {a: [x, y], b: {options: [u, v], active_if: {a: x}}}")
    listing = parse_space(
        "name: s\ndecisions:\n  - {name: a, options: [x, y]}\n  - {name: b, options: [u, v], active_if: {a: x}}"
    )
    assert mapping.to_dict() == listing.to_dict()


D = "name: s\ndecisions: {a: [x, y], b: [u, v]}\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "expected `key: value` lines, got nothing"),
        ("name: s", "decisions is missing; it is needed"),
        ("name: s\ndecisions: x", "decisions is 'x'; expected `key: value` lines"),
        ("name: s\ndecisions: {}", "decisions is {}; expected at least one"),
        ("name: s\ndecisons: {a: [x]}", "unknown key 'decisons' (did you mean 'decisions'?)"),
        ("name: s\ndecisions: {a: {option: [x]}}", "unknown key 'option' (did you mean 'options'?)"),
        ("name: s\ndecisions: {a: [x, x]}", "'x' is listed twice"),
        ("name: s\ndecisions:\n  a: [x]\n  a: [y]", "line 4: 'a' is listed twice"),
        ("name: s\ndecisions: {a: {options: {x: {latency_ms: 1}, y: }}}", "latency_ms is given for some options but not for a=y"),  # noqa: E501
        ("name: s\ndecisions: {a: []}", "options must be a list"),
        ("name: s\ndecisions: {a: x}", "a: options must be a list"),
        ("name: s\ndecisions: {a: }", "a: options must be a list"),
        ("name: s\ndecisions: {a: {options: [x, y], active_if: {a: x}}}", "a -> a; break it"),
        ("name: s\ndecisions: {a: {options: [x, y], activeif: {b: u}}}", "unknown key 'activeif' (did you mean 'active_if'?)"),  # noqa: E501
        ("name: s\ndecisions: [", "line 2: not valid YAML"),
        ("name: nas-bench-macro\ndecisions: {a: [x]}", "ships with pnag"),
        ("name: s|t\ndecisions: {a: [x]}", "must not hold |"),
        ("name: s\ndecisions: {accuracy: [x, y]}", "has a meaning of its own"),
        ("name: s\ndecisions: {a: {options: [x], column: c}, b: {options: [y], column: c}}", "both read the column 'c'"),  # noqa: E501
        ("name: s\ndecisions: {a: {options: [x, y], active_if: {b: u}}, b: {options: [u], active_if: {a: x}}}", "a -> b -> a"),  # noqa: E501
        ("name: s\ndecisions: {a: {options: [x, y], active_if: {b: u}}, b: [u, v]}", "list b before it"),
        ("name: s\ndecisions: {a: [x, y], b: {options: [u], active_if: {aa: x}}}", "did you mean 'a'"),
        ("name: s\ndecisions: {a: [conv, y], b: {options: [u], active_if: {a: cony}}}", "did you mean 'conv'"),
        (
            "name: s\ndecisions: {a: [x, y], b: {options: [u, v], active_if: {a: x}}, "
            "c: {options: [p, q], active_if: {b: u, a: y}}}",
            "c can never be active",
        ),
        (D + "forbidden: [{a: x}, {a: y}]", "rules out every combination"),
        (D + "forbidden: [{a: x}]", "a = 'x' can never be chosen"),
        (D + "forbidden: [{a: z, b: u}]", "forbidden names a = 'z'"),
        (D + "forbidden: [{c: z}]", "no decision 'c'"),
        (D + "forbidden: {a: x}", "forbidden is {'a': 'x'}; expected a list of combinations"),
        (D + "forbidden: [{a: }]", "forbidden: 1: a"),
        (D + "forbidden: [x]", "forbidden: 1 is 'x'; expected `key: value` lines"),
        (D + "metric: {name: e}", "metric: column is missing; it is needed"),
        ("name: s\ndecisions: {a: {options: {x: {latency_ms: fast}}}}", "decisions: a: options: x: latency_ms is 'fast'; expected a number, at least 0"),  # noqa: E501
        ("name: s\ndecisions: [{options: [x]}]", "decisions must each have a name of its own"),
        ("decisions: {a: [x]}", "name is missing; it is needed"),
        (D + "forbidden: [{}]", "empty rule"),
        (D + "metric: {column: e, unti: mm}", "unknown key 'unti' (did you mean 'unit'?)"),
        (D + "metric: {column: e, goal: lower}", "goal is 'lower'; it should be 'maximise' or 'minimise'"),
        (D + "metric: {column: accuracy, goal: minimise}", "accuracy is to be maximised"),
        (D + "costs: {latency_ms: -1}", "expected a number, at least 0"),
        (D + "separator: ab", "one visible character"),
    ],
)  # fmt: skip
def test_a_mistake_is_named(text: str, said: str) -> None:
    with pytest.raises(SearchSpaceError) as caught:
        parse_space(text)
    assert said in str(caught.value)
    assert str(caught.value).count("space.yaml") == 1, "the file is named once"


def test_a_name_nobody_registered_gets_the_nearest() -> None:
    with pytest.raises(SearchSpaceError, match="did you mean 'nas-bench-macro'"):
        load_space("nas-bench-marco")
