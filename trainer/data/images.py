"""Labelled images: read once into one array of bytes, held out, batched and augmented.

Axis letters: N = images, C = channels, H, W = rows and columns.
"""

import hashlib
import io
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pnag.models.errors import TrainingError
from pnag.models.space.search_space import SearchSpace

logger = logging.getLogger(__name__)

MAX_BROKEN = 0.01
"""Of all images; more that do not decode, and something is wrong with the data."""
SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm"}


@dataclass(frozen=True)
class Images:
    """Images of one size with their classes.

    Attributes:
        pixels_NCHW: 0 to 255.
        labels_N: classes, from 0.
        num_broken: images that were passed over because they do not decode.
    """

    pixels_NCHW: NDArray[np.uint8]
    labels_N: NDArray[np.int64]
    num_broken: int = 0

    def __len__(self) -> int:
        return len(self.labels_N)

    @property
    def sha256(self) -> str:
        """Of pixels and classes: tells data sets apart."""
        digest = hashlib.sha256(np.ascontiguousarray(self.pixels_NCHW).data)
        digest.update(np.ascontiguousarray(self.labels_N, dtype="<i8").data)
        return digest.hexdigest()

    def take(self, index_N: NDArray[np.int64]) -> "Images":  # noqa: N803 (the suffix is the shape)
        """Some of the images, in the order of the index."""
        return Images(self.pixels_NCHW[index_N], self.labels_N[index_N])

    def split(self, num_held_out: int) -> tuple["Images", "Images"]:
        """Split into images to train on and images to hold out, the same whatever the training's seed.

        Raises:
            TrainingError: if that leaves nothing to train on.
        """
        if not 0 < num_held_out < len(self):
            raise TrainingError(f"{num_held_out} images to hold out of {len(self)}; hold out at least 1, not all")
        order_N = np.random.default_rng(0).permutation(len(self))
        return self.take(np.sort(order_N[num_held_out:])), self.take(np.sort(order_N[:num_held_out]))

    def check_classes(self, num_classes: int) -> None:
        """Compare with the network's head.

        Raises:
            TrainingError: naming the label that is out of range, or the classes without an image.
        """
        counts = np.bincount(self.labels_N.clip(0), minlength=num_classes)
        if len(self) and (self.labels_N.min() < 0 or self.labels_N.max() >= num_classes):
            wrong = int(np.argmax((self.labels_N < 0) | (self.labels_N >= num_classes)))
            raise TrainingError(
                f"image {wrong + 1} has label {self.labels_N[wrong]}; the network's head has {num_classes} classes, "
                f"0 to {num_classes - 1}"
            )
        empty = np.flatnonzero(counts == 0)
        if len(empty):
            raise TrainingError(
                f"class {', '.join(map(str, empty))} has no image; the network's head has {num_classes} classes, and "
                "each needs some"
            )

    def normalisation(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation per channel, of values in [0, 1]."""
        sample = self.pixels_NCHW[:: max(1, len(self) // 5000)].astype(np.float64) / 255
        return (
            [round(float(x), 4) for x in sample.mean(axis=(0, 2, 3))],
            [round(max(float(x), 1e-4), 4) for x in sample.std(axis=(0, 2, 3))],
        )


def input_size(space: SearchSpace) -> int:
    """Side in pixels of the images that a space's architectures take; the largest, where it is a decision."""
    widest_D = space.canonical((space.num_options_D - 1)[np.newaxis])[0]
    return space.layers(space.encode(widest_D))[0].input_size


def read_images(path: Path, size: int) -> Images:
    """Read a Parquet file with columns `image` (an encoded file, or {bytes, path}) and `label`, or a folder per class.

    Args:
        size: side in pixels that each image is brought to.

    Raises:
        TrainingError: if there are none, a label is no number, or more than 1 % of the images do not decode.
    """
    if path.is_dir():
        items: Iterable[tuple[str, bytes, int]] = _from_folder(path)
    else:
        items = _from_parquet(path)
    pixels, labels, broken = [], [], []
    for name, data, label in items:
        decoded = _decode(data, size)
        if decoded is None:
            broken.append(name)
            continue
        pixels.append(decoded)
        labels.append(label)
    if not pixels:
        raise TrainingError(f"{path}: holds no image that decodes")
    if broken:
        logger.warning("%s: %d images do not decode and are passed over: %s", path, len(broken), ", ".join(broken[:5]))
    if len(broken) > MAX_BROKEN * (len(pixels) + len(broken)):
        raise TrainingError(
            f"{path}: {len(broken)} of {len(pixels) + len(broken)} images do not decode, the first is {broken[0]}; "
            "repair the data, or take them out"
        )
    return Images(np.stack(pixels), np.array(labels, dtype=np.int64), len(broken))


def _from_parquet(path: Path) -> Iterator[tuple[str, bytes, int]]:
    import pyarrow
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(path)
    except (OSError, pyarrow.ArrowInvalid) as exc:
        raise TrainingError(f"{path}: cannot be read as Parquet ({exc})") from None
    missing = {"image", "label"} - set(table.schema_arrow.names)
    if missing:
        raise TrainingError(f"{path}: has no column {', '.join(sorted(missing))}; it needs image and label")
    row = 0
    for batch in table.iter_batches(batch_size=1024, columns=["image", "label"]):
        for image, label in zip(batch.column(0).to_pylist(), batch.column(1).to_pylist(), strict=True):
            row += 1
            data = image.get("bytes") if isinstance(image, dict) else image
            if not isinstance(label, int):
                raise TrainingError(f"{path}: row {row} has label {label!r}; expected a whole number")
            yield f"row {row}", data if isinstance(data, bytes) else b"", label


def _from_folder(path: Path) -> Iterator[tuple[str, bytes, int]]:
    classes = sorted(child for child in path.iterdir() if child.is_dir())
    if not classes:
        raise TrainingError(f"{path}: has no folders; an image folder has one per class")
    for label, folder in enumerate(classes):
        for file in sorted(folder.rglob("*")):
            if file.suffix.lower() in SUFFIXES:
                yield str(file.relative_to(path)), file.read_bytes(), label


def _decode(data: bytes, size: int) -> NDArray[np.uint8] | None:
    from PIL import Image, UnidentifiedImageError

    try:
        image = Image.open(io.BytesIO(data)).convert("RGB")
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    if image.size != (size, size):
        short = min(image.size)
        left, top = (image.width - short) // 2, (image.height - short) // 2
        image = image.crop((left, top, left + short, top + short)).resize((size, size), Image.Resampling.BILINEAR)
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def augment(pixels_NCHW: NDArray[np.uint8], rng: np.random.Generator, shift: int) -> NDArray[np.uint8]:  # noqa: N803
    """Mirror half of the images, and move each by up to `shift` pixels either way; edges are repeated."""
    count, _, height, width = pixels_NCHW.shape
    rows_NH = np.clip(np.arange(height) + rng.integers(-shift, shift + 1, (count, 1)), 0, height - 1)
    columns_NW = np.clip(np.arange(width) + rng.integers(-shift, shift + 1, (count, 1)), 0, width - 1)
    columns_NW = np.where(rng.random((count, 1)) < 0.5, columns_NW[:, ::-1], columns_NW)
    image_N = np.arange(count)
    # Advanced indices apart from each other come out first: [N, H, W, C].
    picked = pixels_NCHW[image_N[:, None, None], :, rows_NH[:, :, None], columns_NW[:, None, :]]
    return np.ascontiguousarray(picked.transpose(0, 3, 1, 2))


class Normalise(nn.Module):
    """Bytes to what the network sees: (value / 255 - mean) / std, resized if asked, channels last."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, pixels_NCHW: NDArray[np.uint8], size: int | None = None) -> Tensor:  # noqa: N803
        values = (torch.from_numpy(pixels_NCHW).float() / 255 - self.mean) / self.std
        if size is not None and size != values.shape[-1]:
            values = nn.functional.interpolate(values, (size, size), mode="bilinear", antialias=True)
        return values.contiguous(memory_format=torch.channels_last)
