"""Images are read once, bad ones are named, and what is held out stays held out."""

import io
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pnag.models.errors import TrainingError
from pnag.trainer.data.images import Images, Normalise, augment, read_images

COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]


def _png(colour: tuple[int, int, int], width: int = 8, height: int = 8) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(file, "PNG")
    return file.getvalue()


def _parquet(path: Path, images: Sequence[object], labels: Sequence[object]) -> Path:
    pq.write_table(pa.table({"image": images, "label": labels}), path)
    return path


def _images(labels: list[int]) -> Images:
    return Images(np.zeros((len(labels), 3, 4, 4), np.uint8), np.array(labels, np.int64))


@pytest.mark.parametrize("wrap", [lambda data: data, lambda data: {"bytes": data, "path": None}])
def test_a_parquet_file_gives_pixels_and_labels(tmp_path: Path, wrap) -> None:
    path = _parquet(tmp_path / "images.parquet", [wrap(_png(c)) for c in COLOURS], [2, 0, 1])
    images = read_images(path, 8)
    assert images.pixels_NCHW.shape == (3, 3, 8, 8)
    assert images.pixels_NCHW[:, :, 0, 0].tolist() == [list(c) for c in COLOURS]
    assert images.labels_N.tolist() == [2, 0, 1]


def test_a_folder_per_class_gives_labels_in_the_order_of_names(tmp_path: Path) -> None:
    for name, colour in zip(("b", "a", "c"), COLOURS, strict=True):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(_png(colour))
        (tmp_path / name / "notes.txt").write_text("no image")
    images = read_images(tmp_path, 8)
    assert images.labels_N.tolist() == [0, 1, 2]
    assert images.pixels_NCHW[0, :, 0, 0].tolist() == list(COLOURS[1])


def test_images_of_another_size_are_cropped_to_the_middle_and_resized(tmp_path: Path) -> None:
    wide = Image.new("RGB", (30, 10), COLOURS[0])
    wide.paste(COLOURS[1], (10, 0, 20, 10))
    file = io.BytesIO()
    wide.save(file, "PNG")
    images = read_images(_parquet(tmp_path / "images.parquet", [file.getvalue()], [0]), 5)
    assert images.pixels_NCHW.shape == (1, 3, 5, 5)
    assert (images.pixels_NCHW[0, 1] == 255).all()


def test_an_image_that_does_not_decode_is_named_and_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data: list[object] = [_png(COLOURS[0])] * 200
    data[6] = data[6][:30]  # type: ignore[index]
    data[150] = None
    path = _parquet(tmp_path / "images.parquet", data, [0] * 200)
    with caplog.at_level(logging.WARNING):
        images = read_images(path, 8)
    assert (len(images), images.num_broken) == (198, 2)
    assert "2 images do not decode and are passed over: row 7, row 151" in caplog.text


def test_more_than_one_percent_broken_is_an_error(tmp_path: Path) -> None:
    path = _parquet(tmp_path / "images.parquet", [_png(COLOURS[0])] * 98 + [b"no image"] * 2, [0] * 100)
    with pytest.raises(TrainingError, match="2 of 100 images do not decode, the first is row 99"):
        read_images(path, 8)


def test_files_that_hold_no_images_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.parquet").write_text("no parquet")
    with pytest.raises(TrainingError, match="cannot be read as Parquet"):
        read_images(tmp_path / "text.parquet", 8)
    pq.write_table(pa.table({"image": [b""]}), tmp_path / "columns.parquet")
    with pytest.raises(TrainingError, match="has no column label"):
        read_images(tmp_path / "columns.parquet", 8)
    with pytest.raises(TrainingError, match="row 2 has label None"):
        read_images(_parquet(tmp_path / "label.parquet", [_png(COLOURS[0])] * 2, [0, None]), 8)
    (tmp_path / "empty").mkdir()
    with pytest.raises(TrainingError, match="has no folders"):
        read_images(tmp_path / "empty", 8)
    with pytest.raises(TrainingError, match="holds no image that decodes"):
        read_images(_parquet(tmp_path / "none.parquet", [b"", b""], [0, 0]), 8)


def test_classes_must_be_those_of_the_head() -> None:
    _images([0, 1, 2]).check_classes(3)
    with pytest.raises(TrainingError, match="image 2 has label 3; the network's head has 3 classes"):
        _images([0, 3]).check_classes(3)
    with pytest.raises(TrainingError, match="image 1 has label -1"):
        _images([-1, 0]).check_classes(3)
    with pytest.raises(TrainingError, match="class 1 has no image"):
        _images([0, 2]).check_classes(3)


def test_the_split_takes_each_image_once_and_is_always_the_same() -> None:
    images = Images(np.arange(50, dtype=np.uint8).reshape(50, 1, 1, 1), np.arange(50))
    training, held_out = images.split(10)
    assert (len(training), len(held_out)) == (40, 10)
    assert sorted([*training.labels_N, *held_out.labels_N]) == list(range(50))
    assert held_out.labels_N.tolist() == images.split(10)[1].labels_N.tolist()
    assert held_out.pixels_NCHW.ravel().tolist() == held_out.labels_N.tolist()
    for count in (0, 50):
        with pytest.raises(TrainingError, match="hold out at least 1, not all"):
            images.split(count)


def test_the_hash_tells_data_sets_apart() -> None:
    hashes = {_images([0, 1]).sha256, _images([1, 0]).sha256, _images([0, 1, 1]).sha256}
    assert len(hashes) == 3


def test_augmentation_moves_and_mirrors_whole_images() -> None:
    one = np.arange(3 * 6 * 6, dtype=np.uint8).reshape(1, 3, 6, 6)
    padded = np.pad(one, ((0, 0), (0, 0), (2, 2), (2, 2)), mode="edge")
    possible = set()
    for image in (padded, padded[..., ::-1]):
        possible |= {image[0, :, y : y + 6, x : x + 6].tobytes() for y in range(5) for x in range(5)}
    seen = {image.tobytes() for image in augment(np.repeat(one, 600, axis=0), np.random.default_rng(0), 2)}
    assert seen == possible


def test_normalised_training_images_have_mean_0_and_deviation_1() -> None:
    pixels = np.random.default_rng(0).integers(0, 200, (50, 3, 8, 8)).astype(np.uint8)
    images = Images(pixels, np.zeros(50, np.int64))
    values = Normalise(*images.normalisation())(pixels)
    assert values.mean(dim=(0, 2, 3)).tolist() == pytest.approx([0, 0, 0], abs=1e-3)
    assert values.std(dim=(0, 2, 3)).tolist() == pytest.approx([1, 1, 1], abs=1e-3)
    assert Normalise(*images.normalisation())(pixels, 4).shape == (50, 3, 4, 4)
