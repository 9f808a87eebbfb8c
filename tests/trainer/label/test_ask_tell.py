"""Asking and telling for a space from YAML: rows of the candidates out, measured rows in, nothing twice."""

import csv
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pnag.cli.label import app
from pnag.models.errors import RecordsError
from pnag.models.space.tabular import TableSpace
from pnag.trainer.label.active import NUM_STRATIFIED
from pnag.trainer.label.ask_tell import Request, ask_table, tell
from pnag.trainer.tabular.space_file import parse_space

SPACE = "name: s\ndecisions: {a: [p, q, r, s, t], b: [p, q, r, s, t], c: [x, y, z]}\n"


@pytest.fixture
def space() -> TableSpace:
    return parse_space(SPACE)


@pytest.fixture
def candidates(tmp_path: Path, space: TableSpace) -> Path:
    tokens_ND = space.all_architectures()
    assert tokens_ND is not None
    lines = [
        f"{':'.join(str(d.options[t]) for d, t in zip(space.decisions, row, strict=True))},{1 + row.sum()},7"
        for row in tokens_ND[::-1]
    ]
    path = tmp_path / "all.csv"
    path.write_text("\n".join(["architecture,latency_ms,note", *lines]) + "\n")
    return path


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def fill_in(path: Path) -> None:
    rows = read(path)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        for row in rows:
            writer.writerow(row | {"accuracy": f"{0.5 + float(row['latency_ms']) / 100:.3f}"})


def test_rounds_of_asking_and_telling_measure_every_candidate_once(
    tmp_path: Path, space: TableSpace, candidates: Path
) -> None:
    records, out = tmp_path / "r.csv", tmp_path / "ask.csv"
    assert ask_table(space, records, candidates, out, Request("active", 60)) == (0, NUM_STRATIFIED)
    asked = read(out)
    assert {float(row["latency_ms"]) for row in asked} >= {1.0, 11.0}, "both ends of the range"
    assert all(row["accuracy"] == "" and row["note"] == "7" and row["reason"] for row in asked)
    fill_in(out)
    assert tell(space, records, out) == NUM_STRATIFIED
    assert tell(space, records, out) == 0, "telling twice does no harm"
    assert ask_table(space, records, candidates, out, Request("active", 100)) == (NUM_STRATIFIED, 75 - NUM_STRATIFIED)
    fill_in(out)
    assert tell(space, records, out) == 75 - NUM_STRATIFIED
    assert len({row["architecture"] for row in read(records)}) == 75


def test_what_cannot_be_told_or_asked_changes_nothing(tmp_path: Path, space: TableSpace, candidates: Path) -> None:
    records, out = tmp_path / "r.csv", tmp_path / "ask.csv"
    ask_table(space, records, candidates, out, Request("random", 5))
    with pytest.raises(RecordsError, match="no row has accuracy yet"):
        tell(space, records, out)
    fill_in(out)
    tell(space, records, out)
    before = records.read_text()
    out.write_text(out.read_text().replace(",0.5", ",0.6"))
    with pytest.raises(RecordsError, match=r"row 1 gives 0\.6.* for .*, r\.csv has 0\.5"):
        tell(space, records, out)
    assert records.read_text() == before
    candidates.write_text(candidates.read_text().replace(",7", ",").replace("latency_ms", "ms"))
    with pytest.raises(RecordsError, match="latency_ms in every row"):
        ask_table(space, records, candidates, out, Request("random", 5))


def test_the_command_asks_by_the_file(tmp_path: Path, candidates: Path) -> None:
    (tmp_path / "s.yaml").write_text(SPACE)
    words = [
        "ask",
        "--space",
        str(tmp_path / "s.yaml"),
        "--records",
        str(tmp_path / "r.csv"),
        "--out",
        str(tmp_path / "o.csv"),
    ]
    done = CliRunner().invoke(app, [*words, "--candidates", str(candidates), "--count", "3"])
    assert done.exit_code == 0, done.output
    assert "3 architectures to measure; fill in accuracy" in done.output
    assert len(read(tmp_path / "o.csv")) == 3
    refused = CliRunner().invoke(app, words)
    assert refused.exit_code == 2
    assert "candidates" in refused.output
