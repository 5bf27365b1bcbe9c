"""Other ways to compute a convolution's gradient, for shapes that a library computes wrong.

In bfloat16 some kernels of oneDNN 3.13 (torch 2.15) leave parts of a weight gradient unwritten: on a
processor with avx512_bf16 and without AMX, 18 of the 27 taps of a 3×3×3 kernel over a map of depth 2; with
AMX, 3×3 kernels of stride 2 over maps of one pixel. What was in memory before stands there. Which shapes are
wrong depends on processor, library and number of threads, so ``kernel_check`` finds out, and
``RoutedConvolutions`` computes what was found wrong in another of the ways below. All give the same sums, in
another order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad
from torch.overrides import TorchFunctionMode

from foveate.device import channels_last

Way = Literal["library", "padded", "product", "wide", "float32"]

WAYS: dict[Way, str] = {
    "library": "as the library does",
    "padded": "weight gradient from a map padded beforehand",
    "product": "weight gradient as a matrix product for each tap",
    "wide": "weight gradient in float32",
    "float32": "whole layer in float32",
}
_NAMES = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")  # of ``torch.conv2d``
_DEFAULTS = {"bias": None, "stride": 1, "padding": 0, "dilation": 1, "groups": 1}
_CALLS = {torch.conv1d: 1, torch.conv2d: 2, torch.conv3d: 3}  # and their spatial axes
Sizes = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Convolution:
    """One convolution as a training computes it, shapes and all.

    Attributes:
        image: ``(B, C, *space)`` shape of what comes in.
        kernel: ``(K, C / groups, *taps)`` shape of the weights.
        stride, padding, dilation: along each spatial axis.
        groups: that do not see each other.
        dtype: in which it is computed, such as ``bfloat16``.
        channels_last: whether the map that comes in, or the kernel, has channels last in memory.
    """

    image: Sizes
    kernel: Sizes
    stride: Sizes
    padding: Sizes
    dilation: Sizes
    groups: int
    dtype: str
    channels_last: bool

    def words(self) -> str:
        """For a person: kernel, channels, map."""
        taps, space = ("×".join(map(str, sizes[2:])) for sizes in (self.kernel, self.image))
        stride = "" if set(self.stride) == {1} else f", stride {'×'.join(map(str, self.stride))}"
        grouped = "" if self.groups == 1 else f", {self.groups} groups"
        channels = f"{self.image[1]} to {self.kernel[0]} channels"
        return f"{taps} kernel{stride}{grouped}, {channels}, {self.image[0]} maps of {space}"

    @property
    def key(self) -> str:
        """All of it as text."""
        parts = (self.image, self.kernel, self.stride, self.padding, self.dilation)
        sizes = "/".join("x".join(map(str, part)) for part in parts)
        return f"{sizes}/{self.groups}/{self.dtype}/{'last' if self.channels_last else 'first'}"

    def forward(self, image: Tensor, kernel: Tensor, bias: Tensor | None = None) -> Tensor:
        """``(B, K, *space)`` as the library computes it, from tensors of these shapes."""
        none = (0,) * len(self.stride)
        return torch.convolution(
            image, kernel, bias, self.stride, self.padding, self.dilation, False, none, self.groups
        )

    def image_gradient(self, image: Tensor, kernel: Tensor, gradient: Tensor) -> Tensor:
        """Gradient of what came in, as the library computes it."""
        return cast(Tensor, self._backward(image, kernel, gradient, self.padding, (True, False))[0])

    def kernel_gradient(self, way: Way, image: Tensor, kernel: Tensor, gradient: Tensor) -> Tensor:
        """Gradient of the weights.

        Args:
            way: how; ``float32`` is for whole layers, and does here what ``wide`` does.
            image: ``(B, C, *space)``.
            kernel: ``(K, C / groups, *taps)``, for its shape.
            gradient: ``(B, K, *space)`` of the output.
        """
        if way == "product":
            return self._product(image, gradient)
        padding = self.padding
        if way == "padded":
            image = channels_last(
                pad(image, [side for width in reversed(padding) for side in (width, width)])
            )
            padding = (0,) * len(padding)
        elif way in ("wide", "float32"):
            image, gradient = image.float(), gradient.float()
        of_kernel = self._backward(image, kernel.to(image.dtype), gradient, padding, (False, True))[1]
        return cast(Tensor, of_kernel).to(kernel.dtype)

    def ways(self) -> tuple[Way, ...]:
        """The other ways that there are for its weight gradient."""
        padded: tuple[Way, ...] = ("padded",) if any(self.padding) else ()
        return (*padded, "product", "wide") if self.groups == 1 else (*padded, "wide")

    def _backward(
        self, image: Tensor, kernel: Tensor, gradient: Tensor, padding: Sizes, wanted: tuple[bool, bool]
    ) -> tuple[Tensor | None, Tensor | None]:
        none, mask = (0,) * len(padding), [*wanted, False]
        of_image, of_kernel, _ = torch.ops.aten.convolution_backward(
            gradient, image, kernel, None, self.stride, padding, self.dilation, False, none, self.groups, mask
        )
        return of_image, of_kernel

    def _product(self, image: Tensor, gradient: Tensor) -> Tensor:
        """For each tap, the output's gradient times the pixels that the tap saw."""
        padded = pad(image, [side for width in reversed(self.padding) for side in (width, width)])
        pixels, taps = gradient.movedim(1, -1).flatten(0, -2), self.kernel[2:]
        found = gradient.new_empty((*taps, self.kernel[0], self.kernel[1]))
        for tap in product(*map(range, taps)):
            seen = padded
            for axis, place in enumerate(tap):
                start, step, count = place * self.dilation[axis], self.stride[axis], gradient.shape[axis + 2]
                seen = seen.narrow(axis + 2, start, (count - 1) * step + 1)[
                    (slice(None),) * (axis + 2) + (slice(None, None, step),)
                ]
            found[tap] = pixels.t() @ seen.movedim(1, -1).flatten(0, -2)
        return found.movedim((-2, -1), (0, 1)).contiguous()


class RoutedConvolutions(TorchFunctionMode):
    """While it is entered, convolutions of some shapes are computed another way; all shapes are noted.

    It costs some microseconds for every operation of the forward pass, so a step enters it only where there
    is something to route.

    Args:
        ways: what to compute how; others as the library does.

    Attributes:
        seen: how often each convolution was computed.
    """

    def __init__(self, ways: Mapping[Convolution, Way]) -> None:
        super().__init__()
        self.seen: dict[Convolution, int] = {}
        self._ways = ways

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Route a convolution; let everything else pass."""
        plainly = partial(func, *args, **(kwargs or {}))
        if func not in _CALLS:
            return plainly()
        call = {**_DEFAULTS, **dict(zip(_NAMES, args, strict=False)), **(kwargs or {})}
        if (shape := _described(_CALLS[func], call)) is None:
            return plainly()
        self.seen[shape] = self.seen.get(shape, 0) + 1
        way, dtype = self._ways.get(shape, "library"), cast(torch.dtype, getattr(torch, shape.dtype))
        if way == "library" or not torch.is_grad_enabled():
            return plainly()
        tensors = [call[name] for name in _NAMES[:3]]
        if way == "float32":
            with torch.autocast(call["input"].device.type, enabled=False):
                wide = (None if item is None else item.float() for item in tensors)
                return shape.forward(*cast(tuple[Tensor, Tensor, Tensor | None], tuple(wide))).to(dtype)
        return _Routed.apply(*(item if item is None else item.to(dtype) for item in tensors), shape, way)


class _Routed(torch.autograd.Function):
    """A convolution whose weight gradient is computed another way."""

    @staticmethod
    def forward(
        ctx: Any, image: Tensor, kernel: Tensor, bias: Tensor | None, shape: Convolution, way: Way
    ) -> Tensor:
        ctx.save_for_backward(image, kernel)
        ctx.shape, ctx.way = shape, way
        return shape.forward(image, kernel, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (image, kernel), shape = ctx.saved_tensors, ctx.shape
        wants_image, wants_kernel, wants_bias = ctx.needs_input_grad[:3]
        of_image = shape.image_gradient(image, kernel, gradient) if wants_image else None
        of_kernel = shape.kernel_gradient(ctx.way, image, kernel, gradient) if wants_kernel else None
        of_bias = gradient.sum(dim=[0, *range(2, gradient.ndim)]) if wants_bias else None
        return of_image, of_kernel, of_bias, None, None


def _described(axes: int, call: Mapping[str, Any]) -> Convolution | None:
    """The shapes of a call of ``torch.conv2d`` and its like.

    None for what cannot be routed: maps without a batch axis, and padding that differs from side to side.
    """
    image, kernel, dilation = call["input"], call["weight"], _each(call["dilation"], axes)
    padding = _sides(call["padding"], kernel.shape[2:], dilation, axes)
    if image.ndim != axes + 2 or padding is None:
        return None
    kind = image.device.type
    half = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    dtype = torch.get_autocast_dtype(kind) if half else image.dtype
    return Convolution(
        image=tuple(image.shape),
        kernel=tuple(kernel.shape),
        stride=_each(call["stride"], axes),
        padding=padding,
        dilation=dilation,
        groups=call["groups"],
        dtype=str(dtype).removeprefix("torch."),
        channels_last=_is_last(image) or _is_last(kernel),  # either makes the library take that kernel
    )


def _is_last(values: Tensor) -> bool:
    """Whether channels are last in memory, and are not both first and last."""
    return not values.is_contiguous() and channels_last(values) is values


def _each(value: int | Sequence[int], axes: int) -> Sizes:
    """One number for each spatial axis; one alone is for all."""
    numbers = (value,) if isinstance(value, int) else tuple(value)
    return numbers * axes if len(numbers) == 1 else numbers


def _sides(
    padding: str | int | Sequence[int], taps: Sequence[int], dilation: Sizes, axes: int
) -> Sizes | None:
    """Zeros on both sides of each axis; None if the sides differ."""
    if padding == "valid":
        return (0,) * axes
    if padding == "same":
        whole = [step * (count - 1) for count, step in zip(taps, dilation, strict=True)]
        return None if any(width % 2 for width in whole) else tuple(width // 2 for width in whole)
    return _each(cast(int | Sequence[int], padding), axes)
