"""Records of table-only spaces: either form, any mistake with its row, costs learned from them."""

from pathlib import Path

import numpy as np
import pytest

from pnag.models.cost.tabular import NetworkCosts
from pnag.models.errors import LatencyTableError, RecordsError, TrainingError
from pnag.models.space.tabular import TableSpace
from pnag.trainer.checks.validate import validate
from pnag.trainer.data.records import Records
from pnag.trainer.tabular.costs import learn_cost
from pnag.trainer.tabular.inputs import Choices, read_table_inputs, search_objective
from pnag.trainer.tabular.records import read_table
from pnag.trainer.tabular.space_file import parse_space

SPACE = (
    "name: s\ndecisions:\n  a: ['0', '1', no]\n  b: {options: [conv, pool], active_if: {a: ['1', no]}}\n  c: [x, NA]\n"
)
HEADER = "a,b,c,accuracy,latency_ms\n"
ROWS = ("0,,x,.5,1\n", "1,conv,x,.6,2\n", "no,pool,NA,.7,3\n")


@pytest.fixture
def space() -> TableSpace:
    return parse_space(SPACE)


def read(tmp_path: Path, space: TableSpace, text: str) -> Records:
    path = tmp_path / "r.csv"
    path.write_text(text)
    return read_table(path, space).checked()


def problems_of(tmp_path: Path, space: TableSpace, text: str) -> list[str]:
    """Every problem of a file; of one that is no table, the one it is refused with."""
    path = tmp_path / "r.csv"
    path.write_text(text)
    try:
        return read_table(path, space).problems.sentences
    except RecordsError as exc:
        return [str(exc)]


def test_both_forms_of_a_table_read_the_same(tmp_path: Path, space: TableSpace) -> None:
    columns = read(tmp_path, space, HEADER + "".join(ROWS))
    joined = read(tmp_path, space, "architecture,accuracy,latency_ms\n0::x,.5,1\n1:conv:x,.6,2\nno:pool:NA,.7,3\n")
    for reading in (columns, joined):
        assert reading.encodings == ("0::x", "1:conv:x", "no:pool:NA")
        assert reading.accuracy_N is not None
        assert reading.accuracy_N.tolist() == [0.5, 0.6, 0.7]
    assert np.array_equal(columns.tokens_ND, joined.tokens_ND)


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("byte_order_mark", [b"", b"\xef\xbb\xbf"])
def test_a_spreadsheets_csv_reads_the_same(
    tmp_path: Path, space: TableSpace, byte_order_mark: bytes, line_end: bytes
) -> None:
    text = HEADER.replace("a,", '"a",') + "".join(ROWS)
    (tmp_path / "r.csv").write_bytes(byte_order_mark + text.encode().replace(b"\n", line_end))
    reading = read_table(tmp_path / "r.csv", space).checked()
    assert reading.encodings == ("0::x", "1:conv:x", "no:pool:NA")
    assert reading.latency_ms_N is not None
    assert reading.latency_ms_N.tolist() == [1, 2, 3]


def test_parquet_numbers_are_their_options(tmp_path: Path) -> None:
    import pandas as pd

    space = parse_space("name: s\ndecisions: {k: [3, 5], e: ['True', 'False']}")
    frame = pd.DataFrame({"k": [3.0, 5.0], "e": [True, False], "accuracy": [0.5, 0.6], "latency_ms": [1, 2]})
    frame.to_parquet(tmp_path / "r.parquet")
    assert read_table(tmp_path / "r.parquet", space).checked().encodings == ("3:True", "5:False")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (HEADER, "has no rows"),
        (HEADER.replace(",", ";") + "1;conv;x;.6;2\n", "r.csv: its columns are separated by semicolons"),
        (HEADER.replace(",", "\t") + "1\tconv\tx\t.6\t2\n", "r.csv: its columns are separated by tabs"),
        (HEADER + "1,convv,x,.6,2\n", "row 1, b is 'convv' (did you mean 'conv'?); choose from conv, pool"),
        (HEADER + ROWS[0] + "1,,x,.6,2\n", "row 2, b is blank"),
        (HEADER + "0,conv,x,.6,2\n", "row 1, b is 'conv'; leave it blank, it counts only if a in ['1', 'no']"),
        (HEADER + ROWS[1] * 2, "row 2, architecture repeats row 1 (1:conv:x)"),
        (HEADER + "1,conv,x,60,2\n", "row 1, accuracy is '60'; expected a fraction, above 0 and at most 1: it looks like a percentage"),  # noqa: E501
        (HEADER + "1,conv,x,.6,0\n", "row 1, latency_ms is '0'"),
        (HEADER + "1,conv,x,.6,nan\n", "row 1, latency_ms is 'nan'"),
        (HEADER + '1,conv,x,"0,6",2\n', "write the decimal point as a point"),
        ("a,b,accuracy,latency_ms\n1,conv,.5,1\n", "has no column 'c'"),
        ("a,bb,c,accuracy\n1,conv,x,.5\n", "has no column 'b' (did you mean 'bb'?)"),
        ("a,b,c,accuracyy\n1,conv,x,.5\n", "no accuracy column (did you mean 'accuracyy'?)"),
        ("a,b,c,accuracy,accuracy\n1,conv,x,.5,.5\n", "has the column 'accuracy' twice"),
        ("a,b,c,accuracy,top1_percent\n1,conv,x,.5,50\n", "keep one"),
        ("architecture,a,b,c,accuracy\n1:conv:x,1,conv,x,.5\n", "both an architecture column and one per decision"),
        ("architecture,accuracy\n1:conv,.5\n", "row 1, architecture is '1:conv'; expected 3 parts"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_row(tmp_path: Path, space: TableSpace, text: str, said: str) -> None:
    problems = problems_of(tmp_path, space, text)
    assert any(said in problem for problem in problems), problems
    with pytest.raises(RecordsError):
        read(tmp_path, space, text)


def test_all_mistakes_are_told_and_many_alike_are_counted(tmp_path: Path, space: TableSpace) -> None:
    bad = "".join(f"1,conv,x{i},.6,2\n" for i in range(6)) + "2,conv,x,2,0\n"
    problems = problems_of(tmp_path, space, HEADER + bad)
    assert len([p for p in problems if "row" in p and " c is " in p]) == 3
    assert any("the same in 3 further rows (4, 5, 6" in p for p in problems)
    assert any("row 7, a is '2'" in p for p in problems)
    assert any("row 7, accuracy" in p for p in problems)
    assert any("row 7, latency_ms" in p for p in problems)


def test_a_metric_to_minimise_turns_around(tmp_path: Path) -> None:
    space = parse_space(SPACE + "metric: {column: rmse, goal: minimize}")
    reading = read(tmp_path, space, "a,b,c,rmse\n0,,x,9\n1,conv,x,4\n1,pool,x,-2\n")
    assert reading.metric is not None
    assert reading.accuracy_N is not None
    assert np.argsort(reading.accuracy_N).tolist() == [0, 1, 2]
    assert reading.metric.value(float(reading.accuracy_N[0])) == pytest.approx(9)
    with pytest.raises(RecordsError, match="nothing to learn"):
        read(tmp_path, space, "a,b,c,rmse\n0,,x,9\n1,conv,x,9\n")


def many(space: TableSpace, tmp_path: Path, *, latency: bool = True, name: str = "many.csv") -> Path:
    """Every architecture, its latency twice as long under `no`, whose convolution alone is free."""
    everything = space.all_architectures()
    assert everything is not None
    lines = ["a,b,c,accuracy" + (",latency_ms" if latency else "")]
    for number, tokens in enumerate(everything):
        values = ["" if t < 0 else str(d.options[t]) for d, t in zip(space.decisions, tokens, strict=True)]
        lines.append(",".join([*values, f"{0.5 + number / 100}"] + ([f"{1 + number}"] if latency else [])))
    (tmp_path / name).write_text("\n".join(lines) + "\n")
    return tmp_path / name


def test_an_additive_cost_is_learned_exactly_and_pairs_only_where_they_matter() -> None:
    rng = np.random.default_rng(0)
    space = parse_space("name: s\ndecisions: {a: [x, y, z], b: [x, y, z], c: [x, y, z], d: [x, y, z]}")
    tokens = space.all_architectures()
    assert tokens is not None
    gains = rng.random((4, 3))
    additive = 1.0 + sum(gains[i][tokens[:, i]] for i in range(4))
    assert isinstance(additive, np.ndarray)
    pairs = additive + 0.8 * (tokens[:, 0] == tokens[:, 1])
    for measured, is_pairwise in ((additive, False), (pairs, True)):
        learned = learn_cost(space, tokens, measured)
        assert learned.is_pairwise == is_pairwise
        assert learned.mape_percent < 1.0
        assert np.allclose(learned.cost(tokens), measured, rtol=0.02)
        assert np.median(learned.ratios) == pytest.approx(1.0, abs=0.01)


def test_the_bound_of_a_noisy_cost_covers_new_networks() -> None:
    rng = np.random.default_rng(1)
    space = parse_space("name: s\ndecisions: {a: [x, y, z], b: [x, y, z], c: [x, y, z], d: [x, y, z], e: [x, y, z]}")
    tokens = space.all_architectures()
    assert tokens is not None
    measured = (2.0 + tokens.sum(axis=1)) * np.exp(rng.normal(0, 0.1, len(tokens)))
    seen, new = np.split(rng.permutation(len(tokens)), [140])
    learned = learn_cost(space, tokens[seen], measured[seen])
    factor = np.quantile(learned.ratios, 0.95)
    assert np.mean(measured[new] <= factor * learned.cost(tokens[new])) > 0.88
    assert factor > 1.05, "noise of a tenth needs a margin"


def test_options_without_a_record_leave_the_space(tmp_path: Path, space: TableSpace) -> None:
    path = many(space, tmp_path)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if not line.startswith("no")))
    given = read_table_inputs(space, path, None)
    assert given.space.decisions[0].options == ("0", "1")
    assert given.records.encodings == tuple(given.space.encode(t) for t in given.records.tokens_ND)


def test_candidates_are_all_that_may_be_answered(tmp_path: Path, space: TableSpace) -> None:
    (tmp_path / "c.csv").write_text("a,b,c,latency_ms\n1,conv,x,\n0,,x,50\nno,pool,NA,\n")
    given = read_table_inputs(space, many(space, tmp_path), None, Choices(tmp_path / "c.csv"))
    costs = NetworkCosts.of(given.space, given.table, given.costs)
    assert isinstance(given.space, TableSpace)
    everything = given.space.all_architectures()
    assert everything is not None
    allowed = {given.space.encode(t) for t in everything[costs.allowed(everything)]}
    assert allowed == {"1:conv:x", "0::x", "no:pool:NA"}
    assert costs.latency_ms(given.space.decode("0::x")[np.newaxis]) == 50, "the candidates' own latency comes first"
    known = given.records.latency_ms_N
    assert known is not None
    place = given.records.encodings.index("1:conv:x")
    assert costs.latency_ms(given.space.decode("1:conv:x")[np.newaxis]) == known[place], "then the records'"
    objective = search_objective(given.space, costs, lambda tokens: np.full(len(tokens), 0.9))
    cost, accuracy = objective(everything)
    assert np.isinf(cost[~costs.allowed(everything)]).all()
    assert (accuracy[~costs.allowed(everything)] == 0).all()


def test_only_recorded_answers_with_what_was_measured(tmp_path: Path, space: TableSpace) -> None:
    given = read_table_inputs(space, many(space, tmp_path), None, Choices(only_recorded=True))
    costs = NetworkCosts.of(given.space, given.table, given.costs)
    assert costs.measured_accuracy is not None
    assert given.records.accuracy_N is not None
    assert np.array_equal(costs.measured_accuracy(given.records.tokens_ND), given.records.accuracy_N)
    assert given.table.bound_factor(0.95) == 1.0, "nothing is predicted, so nothing needs a margin"


def test_a_cost_must_come_from_somewhere_and_differ(tmp_path: Path, space: TableSpace) -> None:
    with pytest.raises(LatencyTableError, match="add a column latency_ms"):
        read_table_inputs(space, many(space, tmp_path, latency=False), None)
    path = many(space, tmp_path)
    header, *rows = path.read_text().splitlines()
    path.write_text("\n".join([header, *(row.rpartition(",")[0] + ",7" for row in rows)]))
    with pytest.raises(TrainingError, match="every architecture costs 7 ms"):
        read_table_inputs(space, path, None)


def test_costs_by_option_stand_in_for_measurements(tmp_path: Path) -> None:
    space = parse_space(
        "name: s\ncosts: {latency_ms: 1}\ndecisions:\n  a: {options: {x: {latency_ms: 2, params_m: 1}, y: {latency_ms: 3, params_m: 2}}}\n"  # noqa: E501
        "  b: {options: {u: {latency_ms: 0, params_m: 0}, v: {latency_ms: 5, params_m: 4}}}\n"
    )  # fmt: skip
    (tmp_path / "r.csv").write_text("a,b,accuracy\nx,u,.5\nx,v,.6\ny,u,.7\ny,v,.8\n")
    given = read_table_inputs(space, tmp_path / "r.csv", None)
    costs = NetworkCosts.of(given.space, given.table, given.costs)
    assert costs.params is not None
    assert np.allclose(costs.latency_ms(given.records.tokens_ND), [3, 8, 4, 9], atol=1e-5)
    assert costs.params(given.records.tokens_ND).tolist() == [1e6, 5e6, 2e6, 6e6]


def test_validate_tells_what_training_would_stumble_over(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(SPACE)
    (tmp_path / "r.csv").write_text(HEADER + "".join(ROWS))
    report = validate(str(tmp_path / "s.yaml"), tmp_path / "r.csv", None)
    assert any("3 rows; training needs at least 20" in p for p in report.problems)
    (tmp_path / "s.yaml").write_text("name: s\n")
    assert validate(str(tmp_path / "s.yaml"), None, None).problems
