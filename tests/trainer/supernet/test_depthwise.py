"""The quick gradients are the slow ones."""

import pytest
import torch
from torch import nn

from pnag.trainer.supernet.depthwise import DepthwiseConv2d


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


@pytest.mark.parametrize("kernel_size", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [2, 8])
def test_gradients_in_bfloat16_are_the_float32_ones_rounded(kernel_size: int, stride: int, size: int) -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(4, 4, kernel_size, stride, kernel_size // 2, groups=4, bias=False).bfloat16().float()
    quick = DepthwiseConv2d(4, 4, kernel_size, stride, kernel_size // 2, groups=4, bias=False)
    quick.load_state_dict(plain.state_dict())
    images = torch.randn(3, 4, size, size).bfloat16().float()
    results = []
    for module, is_half in ((plain, False), (quick, True)):
        inputs = images.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=is_half):
            output = module(inputs)
        assert output.dtype == (torch.bfloat16 if is_half else torch.float32)
        output.backward(torch.linspace(-1, 1, output.numel()).view_as(output).bfloat16().to(output.dtype))
        results.append((output.float(), inputs.grad, module.weight.grad))
    for expected, got in zip(*results, strict=True):
        expected, got = expected.detach(), got.detach()
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, expected, rtol=0.01, atol=0.01 * float(expected.abs().max()))
