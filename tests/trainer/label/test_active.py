"""Which architectures are proposed, and that asking and telling through files loses and doubles nothing."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from pnag.cli.label import app
from pnag.models.accuracy.features import ArchitectureFeatures
from pnag.models.cost.additive import LayerCost
from pnag.models.errors import RecordsError, TrainingError
from pnag.models.space.registry import get_space
from pnag.trainer.config import EvaluatorConfig
from pnag.trainer.evaluator.gaussian_process import fit_gaussian_process
from pnag.trainer.label.active import NUM_STRATIFIED, Labeller, label_all
from pnag.trainer.label.ask_tell import Request, ask, tell
from pnag.trainer.progress import SILENT

SPACE = get_space("nas-bench-macro")
COST = LayerCost(SPACE, lambda layer: layer.macs / 1e6)
WEIGHTS = np.random.default_rng(5).uniform(0.5, 1.5, 8)


def _accuracy(tokens_ND: np.ndarray) -> np.ndarray:
    return 0.9 - 0.3 * np.exp(-0.2 * ((tokens_ND > 0) * WEIGHTS + 0.5 * (tokens_ND > 1) * WEIGHTS).sum(axis=1))


def _keys(tokens_ND: np.ndarray) -> list[bytes]:
    return list(map(bytes, tokens_ND.astype(np.int8)))


@pytest.fixture(scope="module")
def known() -> tuple[np.ndarray, np.ndarray]:
    return label_all(Labeller(SPACE, COST), "active", NUM_STRATIFIED, _accuracy)


@pytest.mark.parametrize("strategy", ["active", "stratified", "random"])
def test_nothing_known_is_proposed_again(strategy: str, known: tuple[np.ndarray, np.ndarray]) -> None:
    proposals = Labeller(SPACE, COST).propose(strategy, 20, *known)
    keys = _keys(np.stack([p.tokens_D for p in proposals]))
    assert len(set(keys)) == 20
    assert not set(keys) & set(_keys(known[0]))


def test_the_first_records_are_spread_over_cost_with_both_ends(known: tuple[np.ndarray, np.ndarray]) -> None:
    labeller = Labeller(SPACE, COST)
    shares = (COST(known[0]) - labeller.low) / (labeller.high - labeller.low)
    assert shares.min() == pytest.approx(0)
    assert shares.max() == pytest.approx(1)
    assert np.diff(np.sort(shares)).max() < 0.12
    uniform = COST(SPACE.sample(40, np.random.default_rng(0)))
    assert ((uniform - labeller.low) / (labeller.high - labeller.low)).min() > 0.1  # what it is spread for


def test_the_same_records_and_seed_give_the_same_proposals(known: tuple[np.ndarray, np.ndarray]) -> None:
    first, again, other = (
        np.stack([p.tokens_D for p in Labeller(SPACE, COST, seed).propose("active", 12, *known)]) for seed in (0, 0, 1)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_half_of_a_round_looks_at_the_front_and_kappa_goes_round(known: tuple[np.ndarray, np.ndarray]) -> None:
    reasons = [p.reason for p in Labeller(SPACE, COST).propose("active", 16, *known)]
    assert sum("the front" in reason for reason in reasons) >= 6
    assert {reason.split()[2] for reason in reasons} == {"0", "0.5", "1", "2"}


def test_a_small_space_is_proposed_whole_and_then_nothing() -> None:
    space = SPACE.restrict({f"layer{i}": ("identity",) for i in range(1, 7)})
    cost = LayerCost(space, lambda layer: layer.macs / 1e6)
    tokens, _ = label_all(Labeller(space, cost), "random", 100, _accuracy)
    assert len(tokens) == 9
    assert Labeller(space, cost).propose("random", 5, tokens, _accuracy(tokens)) == []


def test_the_gaussian_process_is_surest_where_it_was_told() -> None:
    features = ArchitectureFeatures(SPACE)
    tokens = SPACE.sample(60, np.random.default_rng(0))
    x = features(tokens)
    model, _ = fit_gaussian_process(x, _accuracy(tokens), EvaluatorConfig(gp_steps=20), 0, SILENT)
    everywhere = features(SPACE.sample(300, np.random.default_rng(1)))
    assert model.deviation(x).mean() < model.deviation(everywhere).mean()
    # By the definition, one architecture at a time.
    gram = model._kernel(x) + model.noise * np.eye(len(x))
    for row in everywhere[:5]:
        to_known = model._kernel(row[np.newaxis])[0]
        z = (row - model.shift_F) / model.spread_F
        prior = model.outputscale + np.sum(model.linear_F * z * z)
        variance = prior - to_known @ np.linalg.solve(gram, to_known)
        assert model.deviation(row[np.newaxis])[0] == pytest.approx(model.scale * variance**0.5, rel=1e-5)


def test_one_cost_and_an_unknown_strategy_are_refused() -> None:
    with pytest.raises(TrainingError, match="every architecture costs 7"):
        Labeller(SPACE, LayerCost(SPACE, lambda _layer: 0.0, constant=7.0))
    with pytest.raises(TrainingError, match=r"'best'; choose from"):
        Labeller(SPACE, COST).propose("best", 1, np.zeros((0, 8), dtype=np.int64), np.zeros(0))


# -- through files -----------------------------------------------------------------------------------------------------


def _measure(path: Path, upto: int | None = None) -> None:
    """What a user's training job does: fill in top1_percent."""
    rows = list(csv.DictReader(path.read_text().splitlines()))
    for row in rows[:upto]:
        row["top1_percent"] = f"{100 * _accuracy(SPACE.decode(row['architecture'])[np.newaxis])[0]:.3f}"
    lines = [",".join(rows[0])] + [",".join(f'"{v}"' for v in row.values()) for row in rows]
    path.write_text("\n".join(lines) + "\n")


def test_asking_and_telling_in_turns_collects_records(tmp_path: Path) -> None:
    records, asked = tmp_path / "records.csv", tmp_path / "ask.csv"
    known = ["--space", SPACE.name, "--records", str(records), "--json"]

    def run(*words: str) -> dict[str, object]:
        document: dict[str, object] = json.loads(CliRunner().invoke(app, words, catch_exceptions=False).stdout)
        return document

    assert run("ask", *known, "--out", str(asked), "--count", "25")["asked"] == 25
    _measure(asked)
    assert run("tell", *known, "--measured", str(asked))["told"] == 25
    assert run("ask", *known, "--out", str(asked), "--count", "15") == {"known": 25, "asked": 15, "out": str(asked)}
    _measure(asked)
    assert run("tell", *known, "--measured", str(asked))["told"] == 15
    assert run("ask", *known, "--out", str(asked), "--count", "8")["known"] == 40
    told = [row["architecture"] for row in csv.DictReader(records.read_text().splitlines())]
    assert len(set(told)) == 40
    assert not {row["architecture"] for row in csv.DictReader(asked.read_text().splitlines())} & set(told)


def test_telling_twice_and_blank_rows_do_no_harm(tmp_path: Path) -> None:
    records, asked = tmp_path / "records.csv", tmp_path / "ask.csv"
    ask(SPACE, records, asked, None, Request("random", 6))
    _measure(asked, upto=4)
    assert tell(SPACE, records, asked) == 4
    before = records.read_text()
    assert tell(SPACE, records, asked) == 0
    assert records.read_text() == before


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("02012100,\n", "no row has top1_percent yet"),
        ("02012100,91.5\n", r"gives 91.5 for 02012100, records.csv has 90.0"),
        ("02012101,0.915\n", "looks like a fraction"),
        ("02012101,good\n", "top1_percent is 'good'"),
        ("0201210x,90\n", "digit 8 is 'x'"),
    ],
)
def test_a_told_row_that_cannot_be_kept_leaves_the_records_alone(rows: str, message: str, tmp_path: Path) -> None:
    records, told = tmp_path / "records.csv", tmp_path / "told.csv"
    records.write_text("architecture,top1_percent\n02012100,90.0\n")
    told.write_text("architecture,top1_percent\n" + rows)
    with pytest.raises(ValueError, match=message):
        tell(SPACE, records, told)
    assert records.read_text() == "architecture,top1_percent\n02012100,90.0\n"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["records.csv", "told.csv"]


def test_records_without_an_architecture_column_are_refused(tmp_path: Path) -> None:
    told = tmp_path / "told.csv"
    told.write_text("network,top1_percent\n02012100,90\n")
    with pytest.raises(RecordsError, match="has no column architecture"):
        tell(SPACE, tmp_path / "records.csv", told)


@pytest.mark.parametrize(
    ("option", "name"), [("--count=5", "ask"), ("--tell", "tell"), ("--weights=supernet.pt", "measure")]
)
def test_a_call_in_the_old_form_names_the_new_command_and_does_nothing(option: str, name: str, tmp_path: Path) -> None:
    out = tmp_path / "ask.csv"
    words = ["--space", SPACE.name, "--records", str(tmp_path / "r.csv"), "--out", str(out), option, "x.csv"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2
    assert f"pnag label {name} --help" in result.stderr
    assert result.stderr.count("\n") == 1
    assert not out.exists()


def test_telling_keeps_what_else_the_records_hold_or_refuses(tmp_path: Path) -> None:
    records, told = tmp_path / "records.csv", tmp_path / "told.csv"
    records.write_text("architecture,top1_percent,latency_ms\n02012100,90,1.5\n")
    told.write_text("architecture,top1_percent\n02012101,91\n")
    with pytest.raises(RecordsError, match=r"told\.csv: has no column 'latency_ms', which records\.csv has"):
        tell(SPACE, records, told)
    told.write_text("architecture,latency_ms,top1_percent\n02012101,2.5,91\n02012101,2.5,91.0\n02012102,3,\n")
    assert tell(SPACE, records, told) == 1
    assert records.read_text() == "architecture,top1_percent,latency_ms\n02012100,90,1.5\n02012101,91,2.5\n"
