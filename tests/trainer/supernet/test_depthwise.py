"""The quick weight gradient is the slow one's."""

import pytest
import torch
from torch import nn

from trainer.supernet.depthwise import DepthwiseConv2d


@pytest.mark.parametrize("kernel_size", [3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 8])
def test_gradients_are_those_of_a_plain_convolution(kernel_size: int, stride: int, size: int) -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(4, 4, kernel_size, stride, kernel_size // 2, groups=4, bias=False).double()
    quick = DepthwiseConv2d(4, 4, kernel_size, stride, kernel_size // 2, groups=4, bias=False).double()
    quick.load_state_dict(plain.state_dict())
    images = torch.randn(3, 4, size, size, dtype=torch.double)
    results = []
    for module in (plain, quick):
        inputs = images.clone().requires_grad_()
        output = module(inputs)
        output.backward(torch.linspace(-1, 1, output.numel(), dtype=torch.double).view_as(output))
        results.append((output, inputs.grad, module.weight.grad))
    for expected, got in zip(*results, strict=True):
        torch.testing.assert_close(got, expected)
