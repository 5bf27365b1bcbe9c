"""The geometric steps of preprocessing, in two and three dimensions; MONAI keeps the way back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from monai.data.meta_tensor import MetaTensor
from monai.transforms.croppad.array import BorderPad, SpatialCrop
from monai.transforms.spatial.array import Resize
from numpy.typing import NDArray
from torch import Tensor

from foveate.types import Box

How = Literal["linear", "area"]
LINEAR = {2: "bilinear", 3: "trilinear"}  # torch's names by number of axes


class TracedResize(Resize):  # type: ignore[misc]
    """A resize of ours that MONAI undoes by linear interpolation.

    Args:
        size: ``(H, W)`` or ``(D, H, W)``.
        how: see ``resize``.
    """

    def __init__(self, size: Sequence[int], how: How) -> None:
        super().__init__(size, mode=LINEAR[len(size)])
        self.how = how

    def __call__(self, img: MetaTensor, lazy: bool | None = None) -> MetaTensor:
        """Resize ``(C, *space)``, and record it as MONAI does (never lazily)."""
        recorded = super().__call__(img)
        values = resize(img.as_tensor(), self.spatial_size, self.how)
        return MetaTensor(values, applied_operations=recorded.applied_operations)


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


def crop_to(organ: NDArray[np.bool_], margin: int) -> SpatialCrop:
    """Crop to the bounding box of an organ, with a margin in pixels along each axis, inside the image.

    Args:
        organ: ``(H, W)`` or ``(D, H, W)``, not empty.
        margin: at least 0.
    """
    axes = range(organ.ndim)
    inside = [
        np.flatnonzero(organ.any(axis=tuple(other for other in axes if other != axis))) for axis in axes
    ]
    start = [max(int(index[0]) - margin, 0) for index in inside]
    stop = [min(int(index[-1]) + 1 + margin, side) for index, side in zip(inside, organ.shape, strict=True)]
    return SpatialCrop(roi_start=start, roi_end=stop)


def cropped_shape(crop: SpatialCrop) -> tuple[int, ...]:
    """Spatial shape of what a crop leaves."""
    return tuple(each.stop - each.start for each in crop.slices)


def seen_field(steps: Iterable[object], shape: Sequence[int]) -> Box:
    """Where the model's field lies, in pixels of the original image.

    Padding may reach over the image's edge, or over pixels that the crop to the organ left out.

    Args:
        steps: the geometric transforms in the order they ran: crop, padding, resize.
        shape: of the original image.
    """
    start, stop = [0.0] * len(shape), [float(side) for side in shape]
    for step in steps:
        if isinstance(step, SpatialCrop):
            start, stop = ([float(getattr(each, edge)) for each in step.slices] for edge in ("start", "stop"))
        elif isinstance(step, BorderPad):
            start = [at - before for at, before in zip(start, step.spatial_border[::2], strict=True)]
            stop = [at + after for at, after in zip(stop, step.spatial_border[1::2], strict=True)]
    return Box(tuple(start), tuple(stop))


def border(shape: Sequence[int], size: Sequence[int]) -> BorderPad | None:
    """Zeros on both sides of the axis that is too short for the aspect of ``size``; None if none is.

    Only the last two axes count: how far apart slices lie says nothing about their number.

    Args:
        shape: ``(H, W)`` or ``(D, H, W)`` of the image.
        size: of the same length, that it will be resized to.
    """
    plane, wanted = shape[-2:], size[-2:]
    scale = max(have / want for have, want in zip(plane, wanted, strict=True))
    missing = [max(round(scale * want) - have, 0) for have, want in zip(plane, wanted, strict=True)]
    if not any(missing):
        return None
    sides = [side for gap in missing for side in (gap // 2, gap - gap // 2)]
    return BorderPad([0, 0] * (len(shape) - 2) + sides)


def _smooth(values: Float[Tensor, "N C H W"], size: Sequence[int]) -> Float[Tensor, "N C h w"]:
    return torch.nn.functional.interpolate(
        values, tuple(size), mode="bilinear", align_corners=False, antialias=True
    )
