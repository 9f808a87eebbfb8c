"""`supernet.pt`: the trained weights, what they were trained on, and the supernet they fit."""

import io
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pnag.models.errors import WeightsError
from pnag.models.files import write_atomic
from pnag.models.space.ofa_mobilenetv3 import OfaMobileNetV3
from pnag.models.space.search_space import SearchSpace
from pnag.trainer.data.images import Images, Normalise
from pnag.trainer.supernet.elastic import ElasticSupernet
from pnag.trainer.supernet.single_path import SinglePathSupernet
from pnag.trainer.supernet.supernet import Supernet

FORMAT_VERSION = 1


@dataclass(frozen=True)
class SupernetWeights:
    """A trained supernet.

    Attributes:
        mean, std: per channel; the network sees (value in [0, 1] - mean) / std.
        num_held_out: of the images, how many were not trained on (`Images.split` says which).
        report: config, images_seen, wall_seconds.
    """

    space: str
    state: dict[str, Tensor]
    mean: list[float]
    std: list[float]
    images_sha256: str
    num_held_out: int
    report: dict[str, Any]

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        buffer = io.BytesIO()
        torch.save({"format_version": FORMAT_VERSION, **self.__dict__}, buffer)
        write_atomic(path, buffer.getvalue())

    @classmethod
    def load(cls, path: Path) -> "SupernetWeights":
        """Read the file; holds data only, so an untrusted file runs no code.

        Raises:
            WeightsError: if it is not such a file, or a newer one.
        """
        try:
            document = torch.load(path, weights_only=True, map_location="cpu")
            version = document.pop("format_version")
            if version == FORMAT_VERSION:
                return cls(**document)
        except OSError as exc:
            raise WeightsError(f"{path}: cannot be read ({exc.strerror or exc})") from None
        except (RuntimeError, KeyError, TypeError, AttributeError, EOFError, pickle.UnpicklingError) as exc:
            raise WeightsError(f"{path}: holds no supernet of `pnag supernet train` ({exc})") from None
        raise WeightsError(f"{path}: format_version is {version}; this version of pnag reads {FORMAT_VERSION}")

    def supernet(self, space: SearchSpace) -> Supernet:
        """The supernet with these weights, in evaluation mode.

        Raises:
            WeightsError: naming entries that are missing, unknown or of another shape, or the other space.
        """
        if space.name != self.space:
            raise WeightsError(f"weights are for {self.space}, not for {space.name}")
        supernet = build_supernet(space)
        try:
            supernet.load_state_dict(self.state)
        except RuntimeError as exc:
            raise WeightsError(f"weights do not fit {space.name}: {' '.join(str(exc).split())}") from None
        return supernet.eval()

    def normalise(self) -> Normalise:
        """The preparation of images that the network was trained with."""
        return Normalise(self.mean, self.std)

    def check_images(self, images: Images) -> None:
        """Held-out images are only held out if they are the same ones.

        Raises:
            WeightsError: if the images are not those that were trained on.
        """
        if images.sha256 != self.images_sha256:
            raise WeightsError(
                "these are not the images that the weights were trained on, so none of them can be told to be held out"
            )


def build_supernet(space: SearchSpace) -> Supernet:
    """The supernet of a space with fresh weights: elastic for OFA's spaces, else one block per choice.

    Raises:
        SearchSpaceError: if the space has neither.
    """
    return ElasticSupernet(space) if isinstance(space, OfaMobileNetV3) else SinglePathSupernet(space)
