"""Depthwise convolution whose weight gradient is quick on small feature maps too.

oneDNN's weight gradient of a depthwise convolution whose kernel is wider than its output takes up to 75 times what
adding up the kernel's places one by one takes (128 images of 1536 channels at 2x2, kernel 5: 303 ms against 7 ms), and
would be most of a training step at low resolution. All else is torch's own.

Axis letters: N = images, C = channels, H, W = rows and columns.
"""

from typing import Any

import torch
from torch import Tensor, nn


class DepthwiseConv2d(nn.Conv2d):
    """A Conv2d with as many groups as channels and padding kernel_size // 2."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (torch's name)
        stride, kernel_size = self.stride[0], self.kernel_size[0]
        if self.weight.requires_grad and torch.is_grad_enabled() and kernel_size > -(-input.shape[2] // stride):
            output: Tensor = _SmallDepthwise.apply(input, self.weight, stride)  # type: ignore[no-untyped-call]
            return output
        return super().forward(input)


class _SmallDepthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images_NCHW: Tensor, weight_C1KK: Tensor, stride: int) -> Tensor:  # noqa: N803
        ctx.save_for_backward(images_NCHW, weight_C1KK)
        ctx.stride = stride
        channels, padding = len(weight_C1KK), weight_C1KK.shape[2] // 2
        return nn.functional.conv2d(images_NCHW, weight_C1KK, None, stride, padding, groups=channels)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, None]:
        images_NCHW, weight_C1KK = ctx.saved_tensors
        (gradient_NCHW,) = gradients
        stride, channels, padding = ctx.stride, len(weight_C1KK), weight_C1KK.shape[2] // 2
        input_gradient = None
        if ctx.needs_input_grad[0]:
            input_gradient = torch.ops.aten.convolution_backward(
                gradient_NCHW, images_NCHW, weight_C1KK, None, [stride] * 2, [padding] * 2, [1, 1], False, [0, 0],
                channels, [True, False, False],
            )[0]  # fmt: skip
        return input_gradient, _weight_gradient(images_NCHW, gradient_NCHW, weight_C1KK.shape[2], stride), None


def _weight_gradient(images_NCHW: Tensor, gradient_NCHW: Tensor, kernel_size: int, stride: int) -> Tensor:  # noqa: N803
    """Per place of the kernel: the output's gradient times the input it met there, summed over images and pixels."""
    result_CKK = images_NCHW.new_zeros(images_NCHW.shape[1], kernel_size, kernel_size)
    rows = [_overlap(i, kernel_size, stride, images_NCHW.shape[2], gradient_NCHW.shape[2]) for i in range(kernel_size)]
    columns = [
        _overlap(j, kernel_size, stride, images_NCHW.shape[3], gradient_NCHW.shape[3]) for j in range(kernel_size)
    ]
    for i, (rows_in, rows_out) in enumerate(rows):
        for j, (columns_in, columns_out) in enumerate(columns):
            met_NCHW = images_NCHW[:, :, rows_in, columns_in]
            result_CKK[:, i, j] = (met_NCHW * gradient_NCHW[:, :, rows_out, columns_out]).sum((0, 2, 3))
    return result_CKK.unsqueeze(1)


def _overlap(place: int, kernel_size: int, stride: int, size_in: int, size_out: int) -> tuple[slice, slice]:
    """The input's and the output's rows that meet at one place of the kernel; empty where it only meets padding."""
    shift = place - kernel_size // 2
    first = max(0, -(shift // stride))
    last = max(first, min(size_out, (size_in - 1 - shift) // stride + 1))
    return slice(first * stride + shift, max(0, last * stride + shift - stride + 1), stride), slice(first, last)
