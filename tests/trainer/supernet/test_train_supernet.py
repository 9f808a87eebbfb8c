"""A supernet trains, does so to the same bits whenever it is stopped, and refuses what does not fit."""

import csv
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from pnag.models.errors import TrainingError, WeightsError
from pnag.models.space.registry import get_space
from pnag.models.space.search_space import SearchSpace
from pnag.trainer.data.images import Images
from pnag.trainer.supernet import train_supernet as module
from pnag.trainer.supernet.distributed import Group
from pnag.trainer.supernet.supernet import subnet
from pnag.trainer.supernet.train_supernet import SupernetConfig, fair_paths, train_supernet
from pnag.trainer.supernet.weights_file import SupernetWeights

CONFIG = SupernetConfig(epochs=4, batch_size=30, sizes=((0.0, 0.5), (0.5, 1.0)))
STEPS = 12  # 4 epochs of 90 images


@pytest.fixture
def images(tiny_images: Callable[..., Images]) -> Images:
    return tiny_images()


def _is_equal(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def _train(space: SearchSpace, images: Images, out: Path, config: SupernetConfig = CONFIG) -> SupernetWeights:
    return train_supernet(space, images, config, out, num_held_out=30, checkpoint_every_s=0)


def test_fair_paths_use_each_option_once() -> None:
    space = get_space("nas-bench-macro")
    paths_PD = fair_paths(space, np.random.default_rng(0))
    assert (np.sort(paths_PD, axis=0) == np.arange(3)[:, None]).all()
    assert not (paths_PD == paths_PD[:, :1]).all(), "decisions are drawn apart from each other"


def test_what_is_learnt_holds_for_images_not_trained_on(
    tmp_path: Path, tiny_space: SearchSpace, tiny_images: Callable[..., Images]
) -> None:
    config = replace(CONFIG, epochs=20, sizes=((0.0, 1.0),))
    weights = _train(tiny_space, tiny_images(300), tmp_path, config)
    fresh = tiny_images(90, seed=1)
    network = subnet(weights.supernet(tiny_space), tiny_space.decode("121"))
    accuracy = (network(weights.normalise()(fresh.pixels_NCHW)).argmax(1).numpy() == fresh.labels_N).mean()
    assert accuracy > 0.9
    loaded = SupernetWeights.load(tmp_path / "supernet.pt")
    assert _is_equal(loaded.state, weights.state)
    assert loaded.report["images_seen"] == 20 * 270
    rows = list(csv.DictReader((tmp_path / "curves.csv").read_text().splitlines()))
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])


@pytest.mark.parametrize(
    "changes", [{}, {"precision": "bf16"}, {"optimizer": "adamw", "lr": 0.01, "ema_decay": 0.9, "paths": "uniform"}]
)
def test_a_training_stopped_anywhere_ends_with_the_same_bits(
    tmp_path: Path, tiny_space: SearchSpace, images: Images, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object]
) -> None:
    config = replace(CONFIG, **changes)  # type: ignore[arg-type]
    whole = _train(tiny_space, images, tmp_path / "whole", config)
    step = module._Run._step
    budget = {"steps": 0}

    def limited(run, share):
        if budget["steps"] == 0:
            raise OSError("power cut")
        budget["steps"] -= 1
        return step(run, share)

    monkeypatch.setattr(module._Run, "_step", limited)
    for steps in (1, 4, 0, 3):
        budget["steps"] = steps
        with pytest.raises(OSError, match="power cut"):
            _train(tiny_space, images, tmp_path / "stopped", config)
    budget["steps"] = STEPS
    stopped = _train(tiny_space, images, tmp_path / "stopped", config)
    assert budget["steps"] == 8, "what was done is not done again"
    assert _is_equal(stopped.state, whole.state)


def test_a_seed_decides_all_and_another_seed_differs(tmp_path: Path, tiny_space: SearchSpace, images: Images) -> None:
    states = [
        _train(tiny_space, images, tmp_path / str(i), replace(CONFIG, epochs=1, seed=seed)).state
        for i, seed in enumerate((0, 0, 1))
    ]
    assert _is_equal(states[0], states[1])
    assert not _is_equal(states[0], states[2])


def test_a_longer_schedule_goes_on_where_the_shorter_one_ended(
    tmp_path: Path, tiny_space: SearchSpace, images: Images
) -> None:
    _train(tiny_space, images, tmp_path, replace(CONFIG, epochs=2))
    longer = _train(tiny_space, images, tmp_path, replace(CONFIG, epochs=4))
    assert longer.report["images_seen"] == 4 * 90
    with pytest.raises(TrainingError, match="belongs to another run, which differs in config"):
        _train(tiny_space, images, tmp_path, replace(CONFIG, lr=0.1))


def test_processes_that_would_go_on_from_different_steps_do_not(
    tmp_path: Path, tiny_space: SearchSpace, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Group, "from_first", lambda _group, step: [step + 5])
    with pytest.raises(TrainingError, match="process 0 goes on from step 0, process 0 from step 5; is another run"):
        _train(tiny_space, images, tmp_path)


def test_the_schedule_ends_when_the_minutes_are_over(tmp_path: Path, tiny_space: SearchSpace, images: Images) -> None:
    weights = _train(tiny_space, images, tmp_path, replace(CONFIG, max_minutes=1e-9))
    assert weights.report["images_seen"] == 0


def test_a_full_disk_leaves_the_last_checkpoint_whole(
    tmp_path: Path, tiny_space: SearchSpace, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    _train(tiny_space, images, tmp_path, replace(CONFIG, epochs=2))
    before = (tmp_path / "checkpoint.pt").read_bytes()

    def full(_document: object, path: Path) -> None:
        Path(path).write_bytes(b"half")
        raise RuntimeError("PytorchStreamWriter failed writing file: No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(TrainingError, match=r"checkpoint\.pt: cannot be written .*No space left.*last one is kept"):
        _train(tiny_space, images, tmp_path)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before
    assert not list(tmp_path.glob("*.part"))


def test_images_that_do_not_fit_are_refused(tmp_path: Path, tiny_space: SearchSpace, images: Images) -> None:
    wide = Images(np.zeros((9, 3, 8, 9), np.uint8), images.labels_N[:9])
    with pytest.raises(TrainingError, match=r"images have shape \[3, 8, 9\]; tiny takes \[3, 8, 8\]"):
        _train(tiny_space, wide, tmp_path)
    with pytest.raises(TrainingError, match="class 2 has no image"):
        _train(tiny_space, images.take(np.flatnonzero(images.labels_N < 2)), tmp_path)
    with pytest.raises(TrainingError, match="3 classes, 0 to 2"):
        _train(tiny_space, Images(images.pixels_NCHW, images.labels_N + 1), tmp_path)


@pytest.mark.parametrize("changes", [{"optimizer": "lion"}, {"paths": "all"}, {"precision": "fp16"}])
def test_settings_that_do_not_exist_are_refused(changes: dict[str, str]) -> None:
    with pytest.raises(TrainingError, match="choose from"):
        SupernetConfig(**changes)  # type: ignore[arg-type]


def test_weights_that_do_not_fit_are_refused_by_name(tmp_path: Path, tiny_space: SearchSpace, images: Images) -> None:
    weights = _train(tiny_space, images, tmp_path, replace(CONFIG, epochs=1))
    with pytest.raises(WeightsError, match="weights are for tiny, not for nas-bench-macro"):
        weights.supernet(get_space("nas-bench-macro"))
    name = next(name for name in weights.state if name.endswith("project.conv.weight"))
    missing = replace(weights, state={n: t for n, t in weights.state.items() if n != name})
    with pytest.raises(WeightsError, match=name):
        missing.supernet(tiny_space)
    with pytest.raises(WeightsError, match="not the images that the weights were trained on"):
        weights.check_images(images.take(np.arange(100)))
    (tmp_path / "text.pt").write_text("no weights")
    for path, reason in (("text.pt", "holds no supernet"), ("none.pt", "cannot be read")):
        with pytest.raises(WeightsError, match=reason):
            SupernetWeights.load(tmp_path / path)


def _write_parquet(path: Path) -> Path:
    import io

    from PIL import Image

    rng = np.random.default_rng(0)
    rows = []
    for _ in range(60):
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(file, "PNG")
        rows.append(file.getvalue())
    pq.write_table(pa.table({"image": rows, "label": [i % 10 for i in range(60)]}), path)
    return path


def _state(out: Path) -> dict[str, Tensor]:
    return SupernetWeights.load(out / "supernet.pt").state


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("processes", [1, 2])
def test_processes_killed_at_random_points_end_with_the_same_bits(tmp_path: Path, processes: int) -> None:
    images = _write_parquet(tmp_path / "images.parquet")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"] if processes > 1 else []

    def start(out: Path) -> "subprocess.Popen[bytes]":
        command = [
            sys.executable, *launcher, "-m", "pnag", "supernet", "train", "--space", "nas-bench-macro",
            "--images", str(images), "--out", str(out), "--validation-images", "10", "--batch-size", "10",
            "--epochs", "4", "--checkpoint-minutes", "0", "--threads", "1",
        ]  # fmt: skip
        return subprocess.Popen(command, start_new_session=True, env={**os.environ, "OMP_NUM_THREADS": "1"})

    started = time.monotonic()
    assert start(tmp_path / "whole").wait() == 0
    seconds = time.monotonic() - started
    draw = random.Random(processes)
    for attempt in range(4):
        process = start(tmp_path / "killed")
        try:
            process.wait(draw.uniform(0.3, 1.0) * seconds)
        except subprocess.TimeoutExpired:
            number = signal.SIGINT if attempt % 2 else signal.SIGKILL
            os.killpg(process.pid, number)
            process.wait()
    assert start(tmp_path / "killed").wait() == 0
    assert _is_equal(_state(tmp_path / "killed"), _state(tmp_path / "whole"))
