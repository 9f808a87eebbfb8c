"""Labels are those of the network they belong to, whoever measures them and whatever is killed meanwhile."""

import csv
import io
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from pnag.cli.label import app
from pnag.models.cost.additive import LayerCost
from pnag.models.errors import RecordsError, TrainingError, WeightsError
from pnag.models.space.registry import get_space
from pnag.trainer.data.images import read_images
from pnag.trainer.data.records import read_records
from pnag.trainer.label import measure as module
from pnag.trainer.label.ask_tell import Request
from pnag.trainer.label.cluster import run_on_cluster
from pnag.trainer.label.measure import Task, measure_labels, run_here
from pnag.trainer.supernet.plain_network import ConvUnit
from pnag.trainer.supernet.score import ScoreConfig, Scorer
from pnag.trainer.supernet.single_path import SinglePathSupernet
from pnag.trainer.supernet.supernet import subnet
from pnag.trainer.supernet.weights_file import SupernetWeights

SPACE = get_space("nas-bench-macro")
COST = LayerCost(SPACE, lambda layer: layer.macs / 1e6)
SCORE = ScoreConfig(recalibration_images=6, validation_images=20)


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    """Untrained weights, whose accuracies still differ, and 40 images."""
    folder = tmp_path_factory.mktemp("task")
    rng, files = np.random.default_rng(0), []
    for _ in range(40):
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(file, "PNG")
        files.append(file.getvalue())
    pq.write_table(pa.table({"image": files, "label": [i % 2 for i in range(40)]}), folder / "images.parquet")
    images = read_images(folder / "images.parquet", 32)
    torch.manual_seed(0)
    supernet = SinglePathSupernet(SPACE)
    with torch.no_grad():  # of ten classes two remain, or all would score near 0
        for name, tensor in supernet.named_parameters():
            if name.endswith("linear.bias"):
                tensor[2:] = -100
    mean, std = images.normalisation()
    SupernetWeights(SPACE.name, supernet.state_dict(), mean, std, images.sha256, 20, {}).save(folder / "supernet.pt")
    return Task(SPACE.name, str(folder / "supernet.pt"), str(folder / "images.parquet"), SCORE)


@pytest.fixture
def scorer(task: Task) -> Scorer:
    """One that has scored nothing yet."""
    return module._scorer.__wrapped__(task)


def _measure(task: Task, out: Path, strategy: str = "random", total: int = 8, run: module.Run = run_here) -> int:
    return measure_labels(task, out, COST, Request(strategy, total), run)


def _rows(path: Path) -> dict[str, str]:
    rows = list(csv.reader(path.read_text().splitlines()))[1:]
    assert len(dict(rows)) == len(rows), "a row came twice"
    return dict(rows)


def test_the_score_is_the_recalibrated_networks_accuracy_from_the_definition(scorer: Scorer) -> None:
    tokens_D = SPACE.decode("12021011")
    network = subnet(scorer.supernet, tokens_D)
    for part in network.modules():
        if isinstance(part, ConvUnit):
            part.bn = _StatisticsOfTheFirst(part.bn, len(scorer._seen_NCHW))  # type: ignore[assignment, arg-type]
    with torch.no_grad():
        expected = network(torch.cat([scorer._seen_NCHW, scorer._scored_NCHW]))[len(scorer._seen_NCHW) :]
        got = scorer.recalibrated(tokens_D)(scorer._scored_NCHW)
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)
    assert scorer(tokens_D) == float((expected.argmax(1) == scorer._labels_N).double().mean())


class _StatisticsOfTheFirst(nn.Module):
    """Batch norm by the mean and variance of a batch's first images: the others' variance is that of the population."""

    def __init__(self, bn: nn.BatchNorm2d, count: int) -> None:
        super().__init__()
        self.bn, self.count = bn, count

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        first = features[: self.count].transpose(0, 1).flatten(1)
        variances = (
            first.var(1, correction=0).expand(self.count, -1),
            first.var(1).expand(len(features) - self.count, -1),
        )
        variance = torch.cat(variances)[:, :, None, None]
        scaled = (features - first.mean(1)[:, None, None]) / (variance + self.bn.eps).sqrt()
        return scaled * self.bn.weight[:, None, None] + self.bn.bias[:, None, None]


def test_scores_in_bfloat16_are_nearly_those_in_float32(task: Task, scorer: Scorer) -> None:
    half = module._scorer.__wrapped__(replace(task, config=replace(SCORE, precision="bf16")))
    for encoding in ("12021011", "12021012", "00000000"):
        tokens_D = SPACE.decode(encoding)
        scorer(tokens_D), half(tokens_D)
        expected, got = scorer._steps[-1].scored_NCHW, half._steps[-1].scored_NCHW
        assert not torch.equal(expected, got.float())
        torch.testing.assert_close(got.float(), expected, rtol=0, atol=0.1 * float(expected.std()))
    with pytest.raises(TrainingError, match=r"precision is 'fp16'; choose from fp32, bf16"):
        ScoreConfig(precision="fp16")


def test_a_score_does_not_depend_on_what_was_scored_before(task: Task, scorer: Scorer) -> None:
    encodings = ["00000000", "00000001", "00120001", "22222222", "22222221", "00000000"]
    in_a_row = [scorer(SPACE.decode(encoding)) for encoding in encodings]
    logits = scorer._steps[-1].scored_NCHW
    alone = module._scorer.__wrapped__(task)
    assert alone(SPACE.decode("00000000")) == in_a_row[0] == in_a_row[-1]
    assert torch.equal(alone._steps[-1].scored_NCHW, logits), "to the bit"
    assert len(set(in_a_row)) > 1


def test_scoring_leaves_the_supernet_alone(scorer: Scorer) -> None:
    before = {name: tensor.clone() for name, tensor in scorer.supernet.state_dict().items()}
    scorer(SPACE.decode("11111111"))
    assert all(torch.equal(tensor, before[name]) for name, tensor in scorer.supernet.state_dict().items())


@pytest.mark.parametrize("strategy", ["random", "stratified", "active"])
def test_labelling_stopped_anywhere_goes_on_and_doubles_nothing(
    task: Task, tmp_path: Path, strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK", 3)

    def breaks(after: int) -> module.Run:
        def run(task: Task, chunks: Sequence[Sequence[str]]) -> Iterator[list[tuple[str, float]]]:
            for number, scores in enumerate(run_here(task, chunks)):
                if number == after:
                    raise OSError("power cut")
                yield scores

        return run

    assert _measure(task, tmp_path / "whole.csv", strategy) == 8
    for after in (0, 1, 4):
        with pytest.raises(OSError, match="power cut"):
            _measure(task, tmp_path / "broken.csv", strategy, run=breaks(after))
    with (tmp_path / "broken.csv").open("a") as file:
        file.write("2222")  # the row that was being written
    assert _measure(task, tmp_path / "broken.csv", strategy) == 3
    assert _measure(task, tmp_path / "broken.csv", strategy) == 0
    whole, broken = _rows(tmp_path / "whole.csv"), _rows(tmp_path / "broken.csv")
    assert len(whole) == 8
    if strategy != "active":  # which asks again after each break, knowing more
        assert broken == whole
    assert len(broken) == 8
    assert len(read_records(tmp_path / "broken.csv", SPACE)) == 8


def test_records_of_other_weights_or_images_are_not_mixed(task: Task, tmp_path: Path) -> None:
    _measure(task, tmp_path / "records.csv", total=2)
    other = Task(task.space, task.weights, task.images, ScoreConfig(6, 10))
    with pytest.raises(RecordsError, match=r"validation_images \(20 there, 10 here\); name another file"):
        _measure(other, tmp_path / "records.csv")
    (tmp_path / "mine.csv").write_text("architecture,top1_percent\n")
    with pytest.raises(RecordsError, match="nobody knows what it was measured with"):
        _measure(task, tmp_path / "mine.csv")
    images = tmp_path / "images.parquet"
    table = pq.read_table(task.images)
    pq.write_table(table.slice(1), images)
    with pytest.raises(WeightsError, match="not the images that the weights were trained on"):
        _measure(Task(task.space, task.weights, str(images), SCORE), tmp_path / "other.csv")


def test_strategies_need_a_count_and_spaces_an_end(task: Task, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="choose from all, active"):
        _measure(task, tmp_path / "records.csv", "best")


def test_all_is_every_architecture_in_chunks(task: Task, tmp_path: Path) -> None:
    asked: list[str] = []

    def run(_task: Task, chunks: Sequence[Sequence[str]]) -> Iterator[list[tuple[str, float]]]:
        for chunk in chunks:
            asked.extend(chunk)
            yield [(encoding, 0.5) for encoding in chunk]

    assert _measure(task, tmp_path / "records.csv", "all", run=run) == 6561
    assert len(set(asked)) == 6561


def test_the_command_writes_records(task: Task, tmp_path: Path) -> None:
    arguments = [
        "measure", "--space", SPACE.name, "--weights", task.weights, "--images", task.images,
        "--out", str(tmp_path / "r.csv"),
        "--strategy", "random", "--count", "3", "--validation-images", "20", "--recalibration-images", "6", "--json",
    ]  # fmt: skip
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert '"measured": 3' in result.stdout
    assert len(_rows(tmp_path / "r.csv")) == 3
    assert CliRunner().invoke(app, [*arguments, "--records", "known.csv"]).exit_code == 2


@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore:Port:UserWarning")
def test_a_killed_worker_loses_nothing_and_changes_no_row(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK", 2)
    _measure(task, tmp_path / "here.csv", total=20)
    workers: list[int] = []

    def workers_of(client: object) -> None:
        workers.extend(client.run(os.getpid).values())  # type: ignore[attr-defined]

    run = run_on_cluster(2, started=workers_of)

    def kills(task: Task, chunks: Sequence[Sequence[str]]) -> Iterator[list[tuple[str, float]]]:
        for number, scores in enumerate(run(task, chunks)):
            if number == 1:
                os.kill(workers[0], signal.SIGKILL)
            yield scores

    assert _measure(task, tmp_path / "there.csv", total=20, run=kills) == 20
    assert _rows(tmp_path / "there.csv") == _rows(tmp_path / "here.csv")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_labelling_killed_at_random_points_ends_with_the_same_rows(task: Task, tmp_path: Path) -> None:
    def start(out: Path) -> "subprocess.Popen[bytes]":
        command = [
            sys.executable, "-m", "pnag", "label", "--space", SPACE.name, "--weights", task.weights,
            "--images", task.images, "--out", str(out), "--strategy", "random", "--count", "60",
            "--validation-images", "20", "--recalibration-images", "6",
        ]  # fmt: skip
        return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})

    started = time.monotonic()
    assert start(tmp_path / "whole.csv").wait() == 0
    seconds = time.monotonic() - started
    draw = random.Random(0)
    for _ in range(4):
        process = start(tmp_path / "killed.csv")
        try:
            process.wait(draw.uniform(0.5, 1.0) * seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    assert start(tmp_path / "killed.csv").wait() == 0
    assert _rows(tmp_path / "killed.csv") == _rows(tmp_path / "whole.csv")
