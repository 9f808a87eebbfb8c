"""A space that trains in milliseconds, and images whose classes a network can tell apart."""

from collections.abc import Callable

import numpy as np
import pytest

from pnag.models.layers import Layer
from pnag.models.search_space import CostGroup, Decision, Option, SearchSpace
from pnag.trainer.supernet.images import Images

SIZE, NUM_CLASSES = 8, 3


class TinySpace(SearchSpace):
    """Three layers x {identity, MBConv k3, MBConv k5} on 8x8 images; encodings are three digits."""

    def __init__(self) -> None:
        decisions = [Decision(f"layer{i}", (0, 1, 2)) for i in range(3)]

        def stem() -> tuple[Layer, ...]:
            return (Layer("conv", SIZE, 3, 8, kernel_size=3, stride=2, activation="relu"),)

        def block(choice: int) -> tuple[Layer, ...]:
            if choice == 0:
                return ()
            return (
                Layer(
                    "mbconv", SIZE // 2, 8, 8, kernel_size=2 * choice + 1, activation="relu", expanded_channels=16,
                    has_residual=True,
                ),
            )  # fmt: skip

        def head() -> tuple[Layer, ...]:
            return (Layer("linear", SIZE // 2, 8, NUM_CLASSES, has_pool=True),)

        groups = [CostGroup((), stem), *(CostGroup((d.name,), block) for d in decisions), CostGroup((), head)]
        super().__init__("tiny", decisions, groups)

    def format_values(self, values) -> str:  # type: ignore[no-untyped-def]
        return "".join(map(str, values))

    def parse_values(self, encoding: str) -> list[Option | None]:
        return [int(digit) for digit in encoding]


@pytest.fixture(scope="session")
def tiny_space() -> SearchSpace:
    return TinySpace()


@pytest.fixture(scope="session")
def tiny_images() -> Callable[..., Images]:
    """Noise whose brightest colour channel is the class."""

    def make(count: int = 120, seed: int = 0) -> Images:
        rng = np.random.default_rng(seed)
        labels_N = np.arange(count) % NUM_CLASSES
        pixels = rng.integers(0, 160, (count, 3, SIZE, SIZE))
        pixels[np.arange(count), labels_N] += 80
        return Images(pixels.astype(np.uint8), labels_N.astype(np.int64))

    return make
