"""Kernel gradients of small convolutions as one matrix product.

The gradient of a kernel is a product of two matrices: the output's gradient, one row per output pixel of the
batch, and the patches of the input that each pixel saw (im2col; Chellapilla, Puri and Simard, 2006). For the
deep layers of a network, with few pixels and many channels, oneDNN's convolution takes two to five times as
long for it as the product: with 512 channels on 4×4 pixels 27 ms against 5 ms (bfloat16, AMX, batch 32).
In the wide early layers it is the other way round, so the shapes decide.

The sums are the same up to their order: of bfloat16 factors, added in float32 and rounded once.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

Pair = tuple[int, int]


class MatmulGradConv2d(nn.Conv2d):
    """``nn.Conv2d`` with the same parameters and output; in training its kernel's gradient is a product."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not (torch.is_grad_enabled() and weight.requires_grad):
            plain: Tensor = super()._conv_forward(input, weight, bias)
            return plain
        device = input.device.type
        if torch.is_autocast_enabled(device):
            half = torch.get_autocast_dtype(device)
            input, weight = input.to(half), weight.to(half)
            bias = None if bias is None else bias.to(half)
        result: Tensor = _Convolution.apply(input, weight, bias, self.stride, self.padding)
        return result


def with_matmul_gradients(model: nn.Module) -> int:
    """Let every plain 2-D convolution of a model take its kernel's gradient so; returns how many there are.

    Grouped and dilated ones, other paddings than zeros, and subclasses stay as they are. Parameters, buffers
    and their names do not change.
    """
    found = [module for module in model.modules() if _is_plain(module)]
    for module in found:
        module.__class__ = MatmulGradConv2d
    return len(found)


def _is_plain(module: nn.Module) -> bool:
    return (
        type(module) is nn.Conv2d
        and module.groups == 1
        and module.dilation == (1, 1)
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
    )


class _Convolution(torch.autograd.Function):
    """A convolution whose kernel gradient is a matrix product where that is faster."""

    @staticmethod
    def forward(
        ctx: Any,
        image: Float[Tensor, "B C H W"],
        kernel: Float[Tensor, "K C r c"],
        bias: Float[Tensor, "K"] | None,
        stride: Pair,
        padding: Pair,
    ) -> Float[Tensor, "B K h w"]:
        ctx.save_for_backward(image, kernel)
        ctx.stride, ctx.padding, ctx.biased = stride, padding, bias is not None
        return torch.convolution(image, kernel, bias, stride, padding, (1, 1), False, (0, 0), 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        image, kernel = ctx.saved_tensors
        as_product = _is_faster(gradient, kernel, ctx.stride)
        wanted = [ctx.needs_input_grad[0], ctx.needs_input_grad[1] and not as_product, False]
        of_image, of_kernel = None, None
        if any(wanted):
            of_image, of_kernel, _ = torch.ops.aten.convolution_backward(
                gradient, image, kernel, None, ctx.stride, ctx.padding, (1, 1), False, (0, 0), 1, wanted
            )
        if as_product:
            of_kernel = kernel_gradient(
                image, gradient, (kernel.shape[2], kernel.shape[3]), ctx.stride, ctx.padding
            )
        of_bias = gradient.sum(dim=(0, 2, 3)) if ctx.biased else None
        return of_image, of_kernel, of_bias, None, None


def kernel_gradient(image: Tensor, gradient: Tensor, size: Pair, stride: Pair, padding: Pair) -> Tensor:
    """The gradient of a convolution's kernel.

    Args:
        image: ``(B, C, H, W)`` input of the convolution.
        gradient: ``(B, K, h, w)`` of its output.
        size: rows and columns of the kernel.
        stride, padding: of the convolution, along rows and columns.

    Returns:
        ``(K, C, *size)``, channels last.
    """
    (down, right), (rows, columns) = padding, gradient.shape[2:]
    padded = (
        pad(image.permute(0, 2, 3, 1), (0, 0, right, right, down, down))
        if any(padding)
        else image.permute(0, 2, 3, 1)
    )
    windows = padded.unfold(1, size[0], stride[0]).unfold(2, size[1], stride[1])[:, :rows, :columns]
    patches = windows.permute(0, 1, 2, 4, 5, 3).reshape(-1, size[0] * size[1] * image.shape[1])
    flat = gradient.permute(0, 2, 3, 1).reshape(-1, gradient.shape[1])
    return torch.mm(flat.t(), patches).view(-1, *size, image.shape[1]).permute(0, 3, 1, 2)


def _is_faster(gradient: Tensor, kernel: Tensor, stride: Pair) -> bool:
    """Measured: no patches need be copied, or there are four times as many weights per channel as pixels."""
    pixels = gradient.shape[0] * gradient.shape[2] * gradient.shape[3]
    taps = kernel[0].numel()
    one_pixel = kernel.shape[2:] == (1, 1) and tuple(stride) == (1, 1)
    return one_pixel or taps >= 4 * pixels
