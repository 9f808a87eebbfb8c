"""A network trained further: it learns from images and teacher, and a stopped run ends with the same bits."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from pnag.models.errors import TrainingError
from pnag.models.space.search_space import SearchSpace
from pnag.trainer.checkpoint import CHECKPOINT, Checkpoint
from pnag.trainer.data.images import Images
from pnag.trainer.networks.export import Source
from pnag.trainer.networks.finetune import FinetuneConfig, Finetuned, finetune
from pnag.trainer.supernet.weights_file import build_supernet

ENCODING = "121"
CONFIG = FinetuneConfig(epochs=12, batch_size=16, lr=0.05, shift=0)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def source(tiny_space: SearchSpace) -> Source:
    torch.manual_seed(0)
    return Source("weights", build_supernet(tiny_space).eval(), [0.5] * 3, [0.25] * 3)


def _bits(done: Finetuned) -> bytes:
    return b"".join(tensor.numpy().tobytes() for tensor in done.network.state_dict().values())


def test_it_learns(source: Source, tiny_images: Callable[..., Images], tmp_path: Path) -> None:
    without = finetune(
        source, ENCODING, tiny_images(240), FinetuneConfig(**{**vars(CONFIG), "distillation": 0.0}), tmp_path
    )
    assert without.accuracy > max(0.9, without.accuracy_before)


def test_the_teacher_is_listened_to(source: Source, tiny_images: Callable[..., Images], tmp_path: Path) -> None:
    """With the teacher alone, labels do not matter: the network comes to say what the teacher says."""
    images = tiny_images(240)
    rng = np.random.default_rng(0)
    scrambled = Images(images.pixels_NCHW, rng.permutation(images.labels_N))
    alone = FinetuneConfig(**{**vars(CONFIG), "distillation": 1.0})
    one = finetune(source, ENCODING, images, alone, tmp_path / "one")
    other = finetune(source, ENCODING, scrambled, alone, tmp_path / "other")
    assert _bits(one) == _bits(other)
    half = FinetuneConfig(**{**vars(CONFIG), "distillation": 0.5})
    assert _bits(finetune(source, ENCODING, images, half, tmp_path / "half")) != _bits(one)


@pytest.mark.parametrize("stop_at", [1, 7, 30])
def test_a_stopped_run_goes_on_to_the_same_bits(
    source: Source, tiny_images: Callable[..., Images], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int
) -> None:
    images = tiny_images(120)
    whole = finetune(source, ENCODING, images, CONFIG, tmp_path / "whole")
    step_done, steps = Checkpoint.step_done, 0

    def stop(self: Checkpoint, **curve: float) -> bool:
        nonlocal steps
        steps += 1
        self._interrupted = steps == stop_at
        return step_done(self, **curve)

    with monkeypatch.context() as patched:
        patched.setattr(Checkpoint, "step_done", stop)
        with pytest.raises(KeyboardInterrupt):
            finetune(source, ENCODING, images, CONFIG, tmp_path / "stopped")
    assert (tmp_path / "stopped" / CHECKPOINT).exists()
    assert _bits(finetune(source, ENCODING, images, CONFIG, tmp_path / "stopped")) == _bits(whole)


def test_another_run_in_the_folder_is_refused_by_name(
    source: Source, tiny_images: Callable[..., Images], tmp_path: Path
) -> None:
    short = FinetuneConfig(epochs=1, batch_size=16)
    finetune(source, ENCODING, tiny_images(120), short, tmp_path)
    with pytest.raises(TrainingError, match="belongs to another run, which differs in architecture"):
        finetune(source, "222", tiny_images(120), short, tmp_path)


def test_images_that_do_not_fit_are_refused(source: Source, tiny_images: Callable[..., Images], tmp_path: Path) -> None:
    images = tiny_images(60)
    with pytest.raises(TrainingError, match="label 3; the network's head has 3 classes"):
        finetune(source, ENCODING, Images(images.pixels_NCHW, images.labels_N + 1), CONFIG, tmp_path)
    with pytest.raises(TrainingError, match="has no image"):
        finetune(source, ENCODING, Images(images.pixels_NCHW, images.labels_N * 0), CONFIG, tmp_path)
    with pytest.raises(TrainingError, match="fewer than a batch of 16"):
        finetune(source, ENCODING, tiny_images(20), CONFIG, tmp_path)
    with pytest.raises(TrainingError, match="distillation is 2"):
        FinetuneConfig(distillation=2)
