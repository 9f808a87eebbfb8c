"""The whole path, trained for real in a few seconds."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pnag.cli import main as cli
from pnag.models.answer.question import Query
from pnag.models.answer.runtime import OnnxGenerator
from pnag.models.bundle.bundle import EVALUATOR, GENERATOR, LATENCY_TABLE, MANIFEST, Bundle
from pnag.models.errors import LatencyTableError, MissingLayerError, RecordsError, TrainingError
from pnag.trainer.progress import show_progress
from pnag.trainer.recipes import quick
from pnag.trainer.train_bundle import BundleRef, Job, Sources, retarget_bundle, train_bundle

WriteTable = Callable[..., Path]
WriteRecords = Callable[..., Path]
SPACE_NAME = "nas-bench-macro"


def _train(records: Path, table: Path, out: Path, space: str = SPACE_NAME) -> Bundle:
    with show_progress() as progress:
        job = Job(out, BundleRef(out.name, "1", "invented"), quick(), progress)
        return train_bundle(Sources(space, records, table), job)


def test_the_bundle_answers_and_its_self_test_comes_out_the_same(trained: Bundle) -> None:
    runtime = OnnxGenerator(trained)
    assert len(trained.manifest["self_test"]) == 5
    for recorded in trained.manifest["self_test"]:
        assert runtime.generate(Query(recorded["budget_ms"])).best.architecture.encoding == recorded["encoding"]


def test_metrics_say_what_was_measured(trained: Bundle) -> None:
    evaluator, generator = trained.manifest["metrics"]["evaluator"], trained.manifest["metrics"]["generator"]
    assert evaluator["num_held_out"] == 30
    assert evaluator["kendall_tau"] > evaluator["macs_only_kendall_tau"] > 0
    assert evaluator["mae_percent"] < evaluator["macs_only_mae_percent"]
    assert generator["samples_over_budget"] == 0
    assert 0 <= generator["mean_regret_percent"] < 1
    assert generator["hypervolume_percent"] > 90
    training = trained.manifest["training"]
    assert training["config"]["generator"]["steps"] == 60
    assert training["tokens_compared"] == 16 * 32 * 8
    assert set(training["versions"]) >= {"python", "torch", "onnxruntime", "pnag"}


def test_the_same_seed_gives_the_same_bundle(trained: Bundle, train_quickly: Callable[..., Bundle]) -> None:
    again = train_quickly("trained")
    for name in (GENERATOR, EVALUATOR, LATENCY_TABLE):
        assert again.contents[name] == trained.contents[name], name
    assert again.manifest["metrics"] == trained.manifest["metrics"]
    other = train_quickly("other", seed=1)
    assert other.contents[GENERATOR] != trained.contents[GENERATOR]


def test_retarget_keeps_the_evaluator_and_answers_for_the_new_device(
    trained: Bundle, tmp_path: Path, write_table: WriteTable
) -> None:
    table = write_table(tmp_path / "fast.json", speed=4.0)
    with show_progress() as progress:
        job = Job(tmp_path / "fast", BundleRef("fast", "1", "invented"), quick(), progress)
        made = retarget_bundle(trained, table, job)
    assert made.contents[EVALUATOR] == trained.contents[EVALUATOR]
    assert made.manifest["accuracy"] == trained.manifest["accuracy"]
    assert made.known == trained.known
    slow, fast = OnnxGenerator(trained), OnnxGenerator(made)
    assert fast.range_ms[0] < slow.range_ms[0] / 3
    encoding = trained.front[0].encoding
    assert slow.predict([encoding])[0].predicted.accuracy == fast.predict([encoding])[0].predicted.accuracy


def test_options_that_no_record_has_are_never_proposed(
    tmp_path: Path, write_table: WriteTable, write_records: WriteRecords
) -> None:
    records = write_records(tmp_path / "records.csv", count=400)
    lines = records.read_text().splitlines()
    records.write_text("\n".join([lines[0], *(x for x in lines[1:] if x[0] != "2")]) + "\n")
    bundle = _train(records, write_table(tmp_path / "table.json"), tmp_path / "out")
    assert bundle.space.decisions[0].options == ("identity", "mbconv_k3_e3")
    assert not any(point.encoding.startswith("2") for point in bundle.front)


@pytest.mark.parametrize(
    ("file", "spoil", "error", "message"),
    [
        ("records", lambda text: text.splitlines()[0], RecordsError, "has no rows"),
        ("records", lambda text: "\n".join(text.splitlines()[:11]), TrainingError, "10 records; .*at least 20"),
        ("records", lambda text: re.sub(r",[\d.]+", ",90", text), TrainingError, "every accuracy is"),
        ("table", lambda text: text.replace(SPACE_NAME, "other", 1), LatencyTableError, f"not '{SPACE_NAME}'"),
        (
            "table",
            lambda text: text.replace("conv-in:32x", "conv-in:33x", 1),
            MissingLayerError,
            "has no layer conv-in",
        ),
        ("table", lambda text: text.replace('"ms": 0', '"ms": -0', 1), LatencyTableError, r"\.ms is -0"),
        ("table", lambda text: text.replace('"unit": "ms"', '"unit": "s"'), LatencyTableError, "unit is 's'"),
        ("table", lambda text: re.sub(r'"ms": [\d.]+', '"ms": NaN', text, count=1), LatencyTableError, "NaN"),
        ("table", lambda text: text[:500], LatencyTableError, "not valid JSON"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(
    tmp_path: Path, write_table: WriteTable, write_records: WriteRecords,
    file: str, spoil: Callable[[str], str], error: type[Exception], message: str,
) -> None:  # fmt: skip
    records, table = write_records(tmp_path / "records.csv"), write_table(tmp_path / "table.json")
    spoiled = records if file == "records" else table
    spoiled.write_text(spoil(spoiled.read_text()))
    with pytest.raises(error, match=message):
        _train(records, table, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["records.csv", "table.json"]


def test_the_command_prints_a_summary_or_json(
    tmp_path: Path, write_table: WriteTable, write_records: WriteRecords, capsys: pytest.CaptureFixture[str]
) -> None:
    records, table = write_records(tmp_path / "records.csv"), write_table(tmp_path / "table.json")
    words = ["--space", SPACE_NAME, "--records", str(records), "--latency-table", str(table), "--recipe", "quick"]
    with pytest.raises(SystemExit) as done:
        cli.main(["train", *words, "--out", str(tmp_path / "mine"), "--json"])
    assert done.value.code == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["name"] == "mine"
    assert printed["metrics"]["generator"]["samples_over_budget"] == 0
    assert json.loads((tmp_path / "mine" / MANIFEST).read_text())["name"] == "mine"


@pytest.mark.parametrize(("words", "code"), [(["--recipe", "none"], 2), (["--records", "missing.csv"], 1)])
def test_exit_codes_tell_wrong_use_from_failure(
    tmp_path: Path, write_table: WriteTable, write_records: WriteRecords, words: list[str], code: int,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    records, table = write_records(tmp_path / "records.csv"), write_table(tmp_path / "table.json")
    given = [
        "--space",
        SPACE_NAME,
        "--records",
        str(records),
        "--latency-table",
        str(table),
        "--out",
        str(tmp_path / "b"),
    ]
    with pytest.raises(SystemExit) as done:
        cli.main(["train", *given, *words])
    assert done.value.code == code
    assert words[1] in capsys.readouterr().err


def test_the_gaussian_process_follows_the_truth_better_than_size_alone(trained: Bundle) -> None:
    runtime = OnnxGenerator(trained)
    tokens_ND = trained.space.sample(300, np.random.default_rng(9))
    encodings = [trained.space.encode(row) for row in tokens_ND]
    predicted = np.array([c.predicted.accuracy for c in runtime.predict(encodings)])
    weights = np.linspace(0.5, 1.5, 8)
    gain = ((tokens_ND == 1) * weights + 1.6 * (tokens_ND == 2) * weights).sum(axis=1)
    truth = 0.95 - 0.2 * np.exp(-0.15 * gain)
    assert np.mean(np.abs(predicted - truth)) < 0.003
