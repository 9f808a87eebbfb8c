"""`pnag bench` from files to files."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pnag.cli.bench import app
from pnag.models.errors import LatencyTableError, PnagError, RecordsError

FRONT = ["front", "--space", "nas-bench-macro", "--seeds", "1", "--budgets", "8", "--calls", "200", "--samples", "4"]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, write_records: Callable[..., Path]) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("bench")
    records = write_records(folder / "records.csv", 60)
    arguments = [
        *FRONT,
        "--records",
        str(records),
        "--out",
        str(folder / "tiny"),
        "--methods",
        "archive,random,exhaustive",
    ]
    outcome = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert outcome.exit_code == 0
    return folder, outcome.stdout


def test_front_prints_a_table_and_leaves_json_markdown_and_pictures(results: tuple[Path, str]) -> None:
    folder, printed = results
    assert "exhaustive" in printed
    summary = json.loads((folder / "tiny" / "front.json").read_text())
    assert list(summary["methods"]) == ["archive", "random", "exhaustive"]
    assert summary["methods"]["exhaustive"]["mean"]["mean_regret"] == 0
    assert summary["setting"]["unit"] == "M MACs"
    for name in ("fronts.png", "regret.png"):
        assert (folder / "tiny" / name).read_bytes().startswith(b"\x89PNG")
    assert (folder / "tiny" / "front.md").read_text().startswith("| method | mean regret |")


def test_page_holds_every_result_and_its_pictures(results: tuple[Path, str]) -> None:
    folder, _ = results
    page = folder / "docs" / "benchmarks.md"
    assert CliRunner().invoke(app, ["page", "--results", str(folder), "--out", str(page)]).exit_code == 0
    text = page.read_text()
    assert "## tiny" in text
    for picture in ("benchmarks/tiny-fronts.png", "benchmarks/tiny-regret.png"):
        assert f"]({picture})" in text
        assert (page.parent / picture).exists()


def test_an_empty_folder_makes_no_page(tmp_path: Path) -> None:
    outcome = CliRunner().invoke(app, ["page", "--results", str(tmp_path), "--out", str(tmp_path / "page.md")])
    assert isinstance(outcome.exception, PnagError)
    assert "holds no comparison" in str(outcome.exception)
    assert not (tmp_path / "page.md").exists()


@pytest.mark.parametrize(
    ("extra", "kind", "message"),
    [
        (["--num-records", "61"], RecordsError, "61 records were asked for; the file has 60"),
        (["--latency-table", "missing.json"], LatencyTableError, "cannot read the latency table"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    extra: list[str], kind: type[Exception], message: str, tmp_path: Path, write_records: Callable[..., Path]
) -> None:
    records = write_records(tmp_path / "records.csv", 60)
    outcome = CliRunner().invoke(app, [*FRONT, "--records", str(records), "--out", str(tmp_path / "out"), *extra])
    assert isinstance(outcome.exception, kind)
    assert message in str(outcome.exception)


def test_an_unknown_method_is_wrong_use(tmp_path: Path) -> None:
    arguments = [*FRONT, "--records", "r.csv", "--out", str(tmp_path), "--methods", "archive,magic"]
    outcome = CliRunner().invoke(app, arguments)
    assert outcome.exit_code == 2
    assert "'magic'" in outcome.output


def test_references_are_counted_without_timing() -> None:
    outcome = CliRunner().invoke(app, ["references", "--check-only", "--json"], catch_exceptions=False)
    networks = {row["name"]: row for row in json.loads(outcome.stdout)["networks"]}
    assert networks["MobileNetV3-Large 1.0x"]["params_m"] == pytest.approx(5.48, abs=0.01)
    assert "latency_ms" not in networks["P-DARTS"]
