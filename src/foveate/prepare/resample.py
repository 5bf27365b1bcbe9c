"""The interpolation on the way into the model's field, in two and three dimensions, by torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from foveate.prepare.geometry import FieldOfView, How
from foveate.types import Array

LINEAR = {2: "bilinear", 3: "trilinear"}  # torch's names by number of axes


def to_field(values: Array, field: FieldOfView) -> Float[Tensor, "C *size"]:
    """Bring an image, or a mask of it, into the model's field.

    Args:
        values: ``(C, *field.shape)``.
        field: where to.

    Returns:
        ``(C, *field.size)`` float32.
    """
    cut = np.ascontiguousarray(field.cut(values), dtype=np.float32)
    return resize(torch.from_numpy(cut), field.size, field.how)


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


def _smooth(values: Float[Tensor, "N C H W"], size: Sequence[int]) -> Float[Tensor, "N C h w"]:
    return torch.nn.functional.interpolate(
        values, tuple(size), mode="bilinear", align_corners=False, antialias=True
    )
