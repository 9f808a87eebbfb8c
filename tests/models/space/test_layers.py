import pytest

from pnag.models.space.layers import Layer, make_divisible


@pytest.mark.parametrize(("channels", "rounded"), [(8, 8), (11, 16), (12, 16), (19, 24), (18, 24), (36, 40), (3, 8)])
def test_make_divisible_never_takes_more_than_a_tenth_away(channels: int, rounded: int) -> None:
    assert make_divisible(channels) == rounded
    assert make_divisible(channels) >= 0.9 * channels


def test_a_convolution_counts_one_mac_per_weight_and_output_pixel() -> None:
    layer = Layer("conv", 9, 3, 5, kernel_size=3, stride=2)
    assert layer.output_size == 5
    assert layer.macs == 5 * 5 * 3 * 3 * 3 * 5
    assert layer.params == 3 * 3 * 3 * 5 + 2 * 5


def test_an_inverted_residual_is_the_sum_of_its_convolutions() -> None:
    block = Layer("mbconv", 14, 8, 12, kernel_size=5, stride=2, expanded_channels=32, squeeze_channels=8)
    expand, project = Layer("conv", 14, 8, 32), Layer("conv", 7, 32, 12)
    depthwise_macs, depthwise_params = 7 * 7 * 25 * 32, 25 * 32 + 2 * 32
    squeeze_macs, squeeze_params = 2 * 32 * 8, 2 * 32 * 8 + 8 + 32
    assert block.macs == expand.macs + depthwise_macs + squeeze_macs + project.macs
    assert block.params == expand.params + depthwise_params + squeeze_params + project.params


def test_pooling_shrinks_the_output_to_one_pixel() -> None:
    head = Layer("linear", 7, 960, 1000, has_pool=True)
    assert (head.output_size, head.macs, head.params) == (1, 960_000, 961_000)


def test_a_residual_keeps_its_input_alive() -> None:
    plain = Layer("mbconv", 14, 8, 8, kernel_size=3, expanded_channels=32)
    residual = Layer("mbconv", 14, 8, 8, kernel_size=3, expanded_channels=32, has_residual=True)
    assert plain.peak_activations == 14 * 14 * (32 + 32)
    assert residual.peak_activations == plain.peak_activations + 14 * 14 * 8


@pytest.mark.parametrize(
    "change",
    [
        {"input_size": 7}, {"in_channels": 16}, {"out_channels": 16}, {"kernel_size": 5}, {"stride": 2},
        {"activation": "relu"}, {"expanded_channels": 48}, {"squeeze_channels": 8}, {"has_pool": True},
        {"has_residual": True},
    ],
)  # fmt: skip
def test_whatever_changes_the_latency_changes_the_key(change: dict[str, object]) -> None:
    base = {"kind": "mbconv", "input_size": 14, "in_channels": 8, "out_channels": 8, "kernel_size": 3,
            "expanded_channels": 32}  # fmt: skip
    assert Layer(**{**base, **change}).key != Layer(**base).key  # type: ignore[arg-type]
