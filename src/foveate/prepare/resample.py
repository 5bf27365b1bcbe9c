"""The interpolation on the way into the model's field, in two and three dimensions, by torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from foveate.prepare.align import AlignedField, Field
from foveate.prepare.geometry import FieldOfView, How
from foveate.types import Array

LINEAR = {2: "bilinear", 3: "trilinear"}  # torch's names by number of axes


def to_field(values: Array, field: Field) -> Float[Tensor, "C *size"]:
    """Bring an image, or a mask of it, into the model's field.

    Args:
        values: ``(C, *field.shape)``.
        field: where to.

    Returns:
        ``(C, *size)`` float32.
    """
    if isinstance(field, AlignedField):
        return to_field(field.onto(values), field.reference)
    cut = torch.from_numpy(np.ascontiguousarray(field.cut(values), dtype=np.float32))
    return _in_fixed(cut, field) if field.fixed else resize(cut, field.size, field.how)


def resize(
    values: Float[Tensor, "C *space"], size: Sequence[int], how: How = "linear"
) -> Float[Tensor, "C *size"]:
    """Bring an image to another size.

    Args:
        values: ``(C, H, W)`` or ``(C, D, H, W)``.
        size: as many numbers as there are axes in space.
        how: ``linear``: torch's bilinear interpolation with antialiasing on the way down (MONAI's blurs
            more), in volumes within the slices first and then along them. ``area``: the mean of all
            that falls into a pixel, as MONAI's default resize and OpenCV's ``INTER_AREA`` have it.
    """
    if how == "area":
        return torch.nn.functional.interpolate(values[None], tuple(size), mode="area")[0]
    if len(size) == 2:
        return _smooth(values[None], size)[0]
    planes = _smooth(values, size[1:])  # slices take the place of channels
    columns = planes.flatten(2)  # and then each pixel of a slice is a column of its own
    return _smooth(columns[None], (size[0], columns.shape[-1]))[0].reshape(len(values), *size)


def _in_fixed(values: Float[Tensor, "C *space"], field: FieldOfView) -> Float[Tensor, "C *size"]:
    """Interpolate axis after axis into a field that need not begin and end between two pixels."""
    for axis, size in enumerate(field.size, start=1):
        weights = _weights(
            values.shape[axis], size, field.before[axis - 1], field.padded[axis - 1], field.how
        )
        values = torch.tensordot(torch.from_numpy(weights), values, dims=([1], [axis])).movedim(0, axis)
    return values.contiguous()


def _weights(have: int, want: int, before: float, padded: float, how: How) -> NDArray[np.float32]:
    """Weights of each of ``have`` pixels in each of ``want``, which cover ``padded`` pixels.

    As torch's: triangles as wide as the coarser pixels, or the share of what falls into a pixel; at the edges
    of the image only what lies inside counts. A pixel whose centre lies outside the image is zero.

    Args:
        have: pixels of the image.
        want: pixels of the model's grid.
        before: how far the grid begins before the image, in its pixels.
        padded: length of the grid in pixels of the image.
        how: see ``resize``.
    """
    ratio = padded / want
    centre = (np.arange(want)[:, None] + 0.5) * ratio - before  # first edge of the image is 0
    pixels = np.arange(have)[None]
    if how == "linear":
        weights = np.maximum(1 - np.abs(pixels + 0.5 - centre) / max(ratio, 1), 0)
    else:
        low, high = centre - ratio / 2, centre + ratio / 2
        weights = np.maximum(np.minimum(high, pixels + 1) - np.maximum(low, pixels), 0)
    weights[((centre < 0) | (centre > have))[:, 0]] = 0
    total = weights.sum(axis=1, keepdims=True)
    return np.asarray(weights / np.where(total > 0, total, 1), dtype=np.float32)


def _smooth(values: Float[Tensor, "N C H W"], size: Sequence[int]) -> Float[Tensor, "N C h w"]:
    return torch.nn.functional.interpolate(
        values, tuple(size), mode="bilinear", align_corners=False, antialias=True
    )
