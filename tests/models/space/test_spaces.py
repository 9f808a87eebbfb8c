"""The shipped spaces against published counts: a few rows as facts, the whole files where they are at hand."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from pnag.models.cost.additive import macs_cost, params_cost
from pnag.models.errors import EncodingError
from pnag.models.space.registry import get_space

# Guo et al., PNAG: MAdds (M), params (M) of the five mobile networks, width 1.2; encodings of guoyongcs/PNAG (MIT).
PUBLISHED_PNAG = {
    "2,3,3,3,3:3,3,0,0,3,5,3,0,3,3,5,0,3,3,5,0,5,5,7,0:3,3,0,0,4,3,3,0,4,4,4,0,4,6,6,0,6,6,3,0": (349, 7.3),
    "2,3,3,4,4:5,3,0,0,5,3,3,0,3,5,5,0,5,5,5,3,7,5,7,5:3,4,0,0,3,4,4,0,3,3,6,0,4,6,6,6,6,6,6,6": (451, 9.9),
    "2,4,4,4,4:5,3,0,0,5,5,5,3,5,5,5,5,3,5,5,5,7,5,5,5:4,3,0,0,4,4,4,6,6,3,6,3,6,6,4,6,6,6,6,3": (492, 9.2),
    "3,4,4,4,4:5,3,7,0,5,5,5,5,5,5,5,5,3,5,5,3,7,5,5,5:4,4,6,0,4,4,6,6,6,4,6,6,6,6,4,6,6,6,6,6": (606, 10.0),
    "4,4,4,4,4:5,5,5,5,5,7,3,5,7,5,5,3,3,5,5,3,5,3,3,5:6,6,6,6,4,6,6,6,6,6,6,6,6,6,6,6,6,6,6,6": (724, 10.4),
}
# DyNAS-T's OFA records (width 1.0, 224 px): exact MACs and params.
OFA_ROWS = {
    "2,3,2,4,3:5,7,0,0,3,3,3,0,5,5,0,0,7,3,3,3,5,5,5,0:4,3,0,0,4,6,3,0,4,3,0,0,3,6,6,6,4,3,4,0": (255502624, 5029656),
    "3,3,3,4,3:5,5,5,0,3,7,7,0,7,5,7,0,3,3,5,5,5,7,5,0:4,3,6,0,6,6,3,0,6,4,4,0,3,4,3,6,4,4,3,0": (297261792, 4761632),
    "3,2,2,3,4:3,5,7,0,7,5,0,0,3,3,0,0,5,5,7,0,5,7,3,3:4,3,6,0,4,6,0,0,6,4,0,0,4,3,3,0,6,6,3,4": (261675008, 5215592),
}
MACRO_ROWS = {"02012100": (47327744, 890666), "11111221": (65012224, 2181386)}


def _counts(space_name: str, encoding: str) -> tuple[int, int]:
    layers = get_space(space_name).layers(encoding)
    return sum(layer.macs for layer in layers), sum(layer.params for layer in layers)


@pytest.mark.parametrize(("encoding", "published"), PUBLISHED_PNAG.items())
def test_the_published_pnag_networks_have_their_published_size(encoding: str, published: tuple[float, float]) -> None:
    macs, params = _counts("ofa-mobilenetv3-w1.2", encoding)
    assert macs / 1e6 == pytest.approx(published[0], rel=0.005)
    assert params / 1e6 == pytest.approx(published[1], abs=0.1)


@pytest.mark.parametrize(("encoding", "counts"), OFA_ROWS.items())
def test_ofa_rows_are_exact(encoding: str, counts: tuple[int, int]) -> None:
    assert _counts("ofa-mobilenetv3-w1.0", encoding) == counts


@pytest.mark.parametrize(("encoding", "counts"), MACRO_ROWS.items())
def test_macro_rows_are_exact(encoding: str, counts: tuple[int, int]) -> None:
    assert _counts("nas-bench-macro", encoding) == counts


def test_every_published_ofa_row_is_exact(data_dir: Path) -> None:
    space = get_space("ofa-mobilenetv3-w1.0")
    with open(data_dir / "ofa_mbv3_w1.0_r224_imagenet.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    tokens_ND = np.stack([space.decode(row["architecture"]) for row in rows])
    assert len(rows) == 1357
    assert macs_cost(space)(tokens_ND).tolist() == [int(row["macs"]) for row in rows]
    assert params_cost(space)(tokens_ND).tolist() == [int(row["params"]) for row in rows]


def test_every_published_macro_row_is_exact(data_dir: Path) -> None:
    space = get_space("nas-bench-macro")
    published = json.loads((data_dir / "nas-bench-macro_cifar10.json").read_text())
    tokens_ND = np.stack([space.decode(encoding) for encoding in published])
    assert len(published) == space.num_architectures == 6561
    assert macs_cost(space)(tokens_ND).tolist() == [row["flops"] for row in published.values()]
    assert params_cost(space)(tokens_ND).tolist() == [row["params"] for row in published.values()]


def test_a_layer_counts_iff_its_number_is_below_the_depth() -> None:
    """The pitfall: off by one here gives plausible nonsense."""
    encoding = next(iter(OFA_ROWS))
    blocks = [layer for layer in get_space("ofa-mobilenetv3-w1.0").layers(encoding) if layer.kind == "mbconv"]
    assert len(blocks) == 1 + 2 + 3 + 2 + 4 + 3
    assert [b.kernel_size for b in blocks[1:]] == [5, 7, 3, 3, 3, 5, 5, 7, 3, 3, 3, 5, 5, 5]


def test_a_smaller_image_keeps_the_params_and_halves_by_ceiling() -> None:
    encoding = next(iter(OFA_ROWS))
    whole, small = _counts("ofa-mobilenetv3-w1.0", encoding), _counts("ofa-mobilenetv3-w1.0", f"{encoding}@132")
    assert small[1] == whole[1]
    assert small[0] < whole[0] * (160 / 224) ** 2
    sizes = [layer.input_size for layer in get_space("ofa-mobilenetv3-w1.0").layers(f"{encoding}@132")]
    assert sorted(set(sizes), reverse=True) == [132, 66, 33, 17, 9, 5, 1]


def test_224_is_not_spelled_out() -> None:
    encoding = next(iter(OFA_ROWS))
    space = get_space("ofa-mobilenetv3-w1.0")
    assert space.architecture(f"{encoding}@224") == space.architecture(encoding)
    assert space.architecture(f"{encoding}@128").encoding == f"{encoding}@128"


GOOD = "2,2,2,2,2:3,3,0,0,3,3,0,0,3,3,0,0,3,3,0,0,3,3,0,0:3,3,0,0,3,3,0,0,3,3,0,0,3,3,0,0,3,3,0,0"


@pytest.mark.parametrize(
    ("encoding", "message"),
    [
        ("", "is not `depths:kernel_sizes:expand_ratios`"),
        ("1,2:3:4", "depths has 2 numbers; expected 5"),
        (GOOD.replace("2,2,2,2,2:", "2,2,2,2,5:"), r"unit5.depth is 5; choose from \[2, 3, 4\]"),
        (GOOD.replace(":3,3,0,0", ":4,3,0,0", 1), r"unit1.layer1.kernel_size is 4; choose from \[3, 5, 7\]"),
        (
            GOOD.replace(":3,3,0,0", ":3,3,5,0", 1),
            "unit1.layer3.kernel_size is inactive here but has 5",
        ),
        (GOOD.replace(":3,3,0,0", ":0,3,0,0", 1), "unit1.layer1.kernel_size is blank"),
        (GOOD + ",0", "expand_ratios has 21 numbers; expected 20"),
        (GOOD.replace(":3,3,0,0", ":x,3,0,0", 1), "kernel_sizes number 1 is 'x'; expected a whole number"),
        (GOOD.replace(":3,3,0,0", ":²,3,0,0", 1), "kernel_sizes number 1 is '²'; expected a whole number"),
        (GOOD + "@225", "resolution is 225; choose from"),
        (GOOD + "@", "resolution number 1 is ''; expected a whole number"),
        (GOOD + "@-128", "resolution number 1 is '-128'; expected a whole number"),
    ],
)
def test_a_bad_ofa_encoding_names_the_place_and_the_choices(encoding: str, message: str) -> None:
    with pytest.raises(EncodingError, match=message):
        get_space("ofa-mobilenetv3-w1.0").decode(encoding)


@pytest.mark.parametrize(
    ("encoding", "message"),
    [
        ("0201210", "has 7 digits; expected 8"),
        ("02012103", "digit 8 is '3'; choose from 0, 1, 2"),
        ("0201210२", "digit 8"),
    ],
)
def test_a_bad_macro_encoding_names_the_digit(encoding: str, message: str) -> None:
    with pytest.raises(EncodingError, match=message):
        get_space("nas-bench-macro").decode(encoding)


def test_describe_leaves_inactive_layers_out() -> None:
    space = get_space("ofa-mobilenetv3-w1.0")
    described = space.describe(space.architecture(next(iter(OFA_ROWS))))
    assert described["depths"] == [2, 3, 2, 4, 3]
    assert [len(unit) for unit in described["kernel_sizes"]] == described["depths"]
    assert described["expand_ratios"][3] == [3, 6, 6, 6]
    assert described["resolution"] == 224
