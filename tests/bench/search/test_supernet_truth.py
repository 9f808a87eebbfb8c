"""Labels against a known truth."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from pnag.bench.search.supernet_truth import compare_with_truth
from pnag.cli.bench import app
from pnag.models.answer.runtime import OnnxGenerator
from pnag.models.bundle.bundle import Bundle
from pnag.models.errors import RecordsError


def _write(path: Path, encodings: list[str], accuracy_N: np.ndarray) -> Path:
    rows = [f"{encoding},{100 * accuracy:.6f}" for encoding, accuracy in zip(encodings, accuracy_N, strict=True)]
    path.write_text("\n".join(["architecture,top1_percent", *rows]) + "\n")
    return path


@pytest.fixture(scope="module")
def believed(trained: Bundle) -> tuple[list[str], np.ndarray]:
    """All architectures, and what the bundle believes of them."""
    space = trained.space
    encodings = [space.encode(tokens_D) for tokens_D in space.assignments([d.name for d in space.decisions])]
    return encodings, np.array([c.predicted.accuracy for c in OnnxGenerator(trained).predict(encodings)])


def test_a_truth_that_is_what_the_bundle_believes_leaves_no_regret(
    trained: Bundle, believed: tuple[list[str], np.ndarray], tmp_path: Path
) -> None:
    encodings, accuracy_N = believed
    truth = _write(tmp_path / "truth.csv", encodings, accuracy_N)
    records = _write(tmp_path / "records.csv", encodings[::9], accuracy_N[::9])
    result = compare_with_truth(trained, records, truth, tmp_path / "check.png", 20)
    assert result["kendall_tau"] == result["kendall_tau_of_predictions"] == pytest.approx(1)
    assert 0 <= result["regret_points"] < 0.05
    assert result["answers_over_budget"] == 0
    assert (tmp_path / "check.png").read_bytes().startswith(b"\x89PNG")


def test_a_truth_that_is_the_opposite_turns_all_round(
    trained: Bundle, believed: tuple[list[str], np.ndarray], tmp_path: Path
) -> None:
    encodings, accuracy_N = believed
    truth = _write(tmp_path / "truth.csv", encodings, 1 - accuracy_N)
    records = _write(tmp_path / "records.csv", encodings[::9], accuracy_N[::9])
    result = compare_with_truth(trained, records, truth, tmp_path / "check.png", 20)
    assert result["kendall_tau"] == result["kendall_tau_of_predictions"] == pytest.approx(-1)
    # Now the cheapest network is the best at any budget.
    spread = 100 * (accuracy_N.max() - accuracy_N.min())
    assert 0.5 * spread < result["largest_regret_points"] <= spread


def test_a_truth_with_gaps_is_refused(trained: Bundle, believed: tuple[list[str], np.ndarray], tmp_path: Path) -> None:
    encodings, accuracy_N = believed
    truth = _write(tmp_path / "truth.csv", encodings[:50], accuracy_N[:50])
    records = _write(tmp_path / "records.csv", encodings[-2:], accuracy_N[-2:])
    with pytest.raises(RecordsError, match=f"has no truth for {encodings[-2]}; it must cover the space"):
        compare_with_truth(trained, records, truth, tmp_path / "check.png")


@pytest.mark.parametrize("as_json", [True, False])
def test_the_command_sums_up(
    trained: Bundle,
    believed: tuple[list[str], np.ndarray],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    as_json: bool,
) -> None:
    monkeypatch.setattr(Bundle, "load", lambda _folder: trained)
    truth = str(_write(tmp_path / "truth.csv", *believed))
    arguments = ["labels", "--bundle", "trained", "--records", truth, "--truth", truth, "--budgets", "5"]
    arguments += ["--out", str(tmp_path / "check.png"), *(["--json"] if as_json else [])]
    output = CliRunner().invoke(app, arguments).stdout
    if as_json:
        assert json.loads(output)["architectures"] == 6561
    else:
        assert output.startswith("kendall tau 1.000 over 6561 labels")
