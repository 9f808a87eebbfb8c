"""Depthwise convolution whose gradients are quick where oneDNN's are not.

Three cases were measured (ms on one core, 64 images, channels_last):

- the weight gradient where the kernel is wider than the output: 303 -> 7 (128 images, 1536 channels at 2x2, kernel 5);
- in bfloat16, the weight gradient of kernels from 5: 205 -> 54 (384 channels at 16x16), 118 -> 24 (768 at 8x8);
- in bfloat16, the input gradient at stride 2: 228 -> 28 (192 channels at 32x32), 187 -> 2 (768 at 8x8).

The weight gradient adds up the kernel's places one by one; the input gradient takes the way through float32. All else
is torch's own.

Axis letters: N = images, C = channels, H, W = rows and columns, K = the kernel's rows and columns.
"""

from typing import Any

import torch
from torch import Tensor, nn


class DepthwiseConv2d(nn.Conv2d):
    """A Conv2d with as many groups as channels and padding kernel_size // 2."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (torch's name)
        if not torch.is_grad_enabled():
            return super().forward(input)
        weight_C1KK = self.weight
        if torch.is_autocast_enabled("cpu"):  # does not reach into a Function
            kind = torch.get_autocast_dtype("cpu")
            input, weight_C1KK = input.to(kind), weight_C1KK.to(kind)
        output: Tensor = _Depthwise.apply(input, weight_C1KK, self.stride[0])  # type: ignore[no-untyped-call]
        return output


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images_NCHW: Tensor, weight_C1KK: Tensor, stride: int) -> Tensor:  # noqa: N803
        ctx.save_for_backward(images_NCHW, weight_C1KK)
        ctx.stride = stride
        channels, padding = len(weight_C1KK), weight_C1KK.shape[2] // 2
        return nn.functional.conv2d(images_NCHW, weight_C1KK, None, stride, padding, groups=channels)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        images_NCHW, weight_C1KK = ctx.saved_tensors
        (gradient_NCHW,) = gradients
        is_half, kernel_size = images_NCHW.dtype == torch.bfloat16, weight_C1KK.shape[2]
        input_gradient = weight_gradient = None
        if ctx.needs_input_grad[0]:
            kind = torch.float32 if is_half and ctx.stride > 1 else images_NCHW.dtype
            unread_NCHW = torch.empty_like(images_NCHW, dtype=kind)
            input_gradient = _gradients(gradient_NCHW.to(kind), unread_NCHW, weight_C1KK.to(kind), ctx.stride, 0)
            input_gradient = input_gradient.to(images_NCHW.dtype)
        if ctx.needs_input_grad[1]:
            if kernel_size > (4 if is_half else gradient_NCHW.shape[2]):
                weight_gradient = _sum_of_places(images_NCHW, gradient_NCHW, kernel_size, ctx.stride)
            else:
                weight_gradient = _gradients(gradient_NCHW, images_NCHW, weight_C1KK, ctx.stride, 1)
        return input_gradient, weight_gradient, None


def _gradients(gradient_NCHW: Tensor, images_NCHW: Tensor, weight_C1KK: Tensor, stride: int, of: int) -> Tensor:  # noqa: N803
    """torch's own: of the input (0) or of the weight (1)."""
    padding = weight_C1KK.shape[2] // 2
    results = torch.ops.aten.convolution_backward(
        gradient_NCHW, images_NCHW, weight_C1KK, None, [stride] * 2, [padding] * 2, [1, 1], False, [0, 0],
        len(weight_C1KK), [of == 0, of == 1, False],
    )  # fmt: skip
    return results[of]  # type: ignore[no-any-return]


def _sum_of_places(images_NCHW: Tensor, gradient_NCHW: Tensor, kernel_size: int, stride: int) -> Tensor:  # noqa: N803
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
