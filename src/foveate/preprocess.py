"""An image becomes what the model sees, with a trace that leads every heat map back to original pixels.

The same object serves training, prediction, and export. Its two halves are

* ``prepare``: choose the slice, scale to [0, 1], crop to the organ, pad to the aspect, resize. Done once
  per case; the result is what the cache holds, rounded to float16 so that cached and fresh are one.
* ``normalize``: three channels, mean and standard deviation. Done per batch, after augmentation.

The geometric steps are MONAI transforms, whose inverses ``undo`` runs in reverse order.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from monai.data.meta_tensor import MetaTensor
from monai.transforms.compose import Compose
from monai.transforms.croppad.array import BorderPad, SpatialCrop
from monai.transforms.spatial.array import Resize
from numpy.typing import NDArray
from torch import Tensor

from foveate.contract import InputSpec
from foveate.errors import InputRefused, UndoImpossible, UsageError
from foveate.settings import PreprocessConfig
from foveate.types import Array, Image

_VERSION = 1  # part of every cache key: raise it when prepare() starts to give other numbers
_LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601


@dataclass(frozen=True, slots=True)
class Trace:
    """What was done to one image, enough to undo it.

    Attributes:
        shape: ``(H, W)`` of the original image or slice.
        steps: the geometric transforms in the order they ran.
        applied: MONAI's record of each step with its parameters.
    """

    shape: tuple[int, int]
    steps: Compose
    applied: tuple[dict[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Prepared:
    """One view, ready for the cache or the model.

    Attributes:
        tensor: ``(C, H, W)`` float16 in [0, 1]; C is 1 (grey), 3 (colour, or slice with neighbours).
        trace: the way back.
    """

    tensor: Tensor
    trace: Trace


class AntialiasedResize(Resize):  # type: ignore[misc]
    """MONAI's invertible bilinear resize, with torch's antialiasing on the way down (MONAI's blurs more)."""

    def __call__(self, img: MetaTensor, lazy: bool | None = None) -> MetaTensor:
        """Resize ``(C, H, W)`` to the spatial size, and record it as MONAI does (never lazily)."""
        recorded = super().__call__(img)
        smooth = torch.nn.functional.interpolate(
            img.as_tensor()[None], self.spatial_size, mode="bilinear", align_corners=False, antialias=True
        )
        return MetaTensor(smooth[0], applied_operations=recorded.applied_operations)


class Preprocess:
    """One study's preprocessing.

    Args:
        config: the study's choices.
    """

    def __init__(self, config: PreprocessConfig) -> None:
        self.config = config
        self._mean = torch.tensor(config.mean).view(1, 3, 1, 1)
        self._std = torch.tensor(config.std).view(1, 3, 1, 1)

    @property
    def key(self) -> str:
        """Short hash of all that changes the result of ``prepare``; names the cache."""
        relevant = self.config.model_dump(exclude={"mean", "std"})
        return hashlib.sha256(json.dumps([_VERSION, relevant]).encode()).hexdigest()[:16]

    def input_spec(self, views: tuple[str, ...]) -> InputSpec:
        """What this preprocessing feeds a model with these views."""
        dimensions: Literal["2", "2.5"] = "2.5" if self.config.neighbours else "2"
        return InputSpec(views=views, dimensions=dimensions, size=self.config.size)

    def prepare(
        self, image: Image, *, slice_index: int | None = None, organ_mask: NDArray[np.bool_] | None = None
    ) -> Prepared:
        """Turn an image into ``(C, *size)`` in [0, 1].

        Args:
            image: as read.
            slice_index: 0-based slice to classify, if the image is a volume.
            organ_mask: ``(H, W)``, or ``(D, H, W)`` for a volume; needed if the study crops to the organ.

        Raises:
            UsageError: the study's choices do not fit the image (both sides are named).
            InputRefused: the organ mask is empty or of another shape.
        """
        low, high = self.limits(image)
        planes = self._planes(image, slice_index).astype(np.float32)
        span = max(high - low, float(np.finfo(np.float32).tiny))  # a constant image becomes all zero
        unit = np.clip((planes - low) / span, 0, 1)
        if self.config.colour == "grey" and image.channels == 3:
            unit = np.tensordot(_LUMINANCE, unit, axes=1)[None]
        steps: list[Any] = []
        shape = (unit.shape[1], unit.shape[2])
        if self.config.organ_crop:
            organ = self._organ_plane(image, organ_mask, slice_index, shape)
            unit = unit * organ
            crop = _crop_to(organ, self.config.organ_margin)
            steps.append(crop)
            shape = (crop.slices[0].stop - crop.slices[0].start, crop.slices[1].stop - crop.slices[1].start)
        if self.config.keep_aspect and (border := _border(shape, self.config.size)) is not None:
            steps.append(border)
        steps.append(AntialiasedResize(self.config.size, mode="bilinear"))
        return _run(unit, Compose(steps))

    def normalize(self, batch: Float[Tensor, "B C H W"]) -> Float[Tensor, "B 3 H W"]:
        """Repeat grey to three channels, subtract the mean and divide by the standard deviation."""
        if batch.shape[1] == 1:
            batch = batch.expand(-1, 3, -1, -1)
        return (batch.float() - self._mean.to(batch.device)) / self._std.to(batch.device)

    def undo(self, values: NDArray[np.float32], trace: Trace) -> NDArray[np.float32]:
        """Bring a map back to the pixels of the original image or slice.

        Args:
            values: ``(h, w)`` at any resolution, over the field that the model saw.
            trace: of the ``prepare`` call that made the model's input.

        Returns:
            ``(H, W)`` float32, bilinear; zero where the model did not look (outside the organ's crop).

        Raises:
            UndoImpossible: the map is not a plane, or a step has no inverse.
        """
        if values.ndim != 2:
            raise UndoImpossible(f"a map of shape {values.shape} does not lie over a plane")
        grid = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))[None, None]
        seen = torch.nn.functional.interpolate(grid, self.config.size, mode="bilinear", align_corners=False)
        try:
            applied = MetaTensor(seen[0], applied_operations=[dict(step) for step in trace.applied])
            original = trace.steps.inverse(applied)
        except (RuntimeError, NotImplementedError, ValueError) as error:
            raise UndoImpossible(f"a preprocessing step cannot be undone: {error}") from error
        result: NDArray[np.float32] = original.as_tensor()[0].numpy()
        if result.shape != trace.shape:
            raise UndoImpossible(f"the way back led to {result.shape} instead of {trace.shape}")
        return result

    def limits(self, image: Image) -> tuple[float, float]:
        """Values that become 0 and 1: the window, else the 8-bit range, else the image's percentiles."""
        if self.config.window is not None:
            return self.config.window
        if image.value_range is not None and image.pixels.dtype == np.uint8:
            return image.value_range
        low, high = np.percentile(image.pixels, self.config.percentiles)
        return float(low), float(high)

    def _planes(self, image: Image, slice_index: int | None) -> Array:
        """``(C, H, W)``: the image itself, or the slice with its neighbours (edges replicated)."""
        reach = self.config.neighbours
        if image.dimensions == 2:
            if reach:
                raise UsageError(
                    "the study asks for neighbouring slices, but this is a single image",
                    where=image.source,
                    fix="set preprocess.neighbours: 0, or give volumes (NIfTI or a DICOM series)",
                )
            return image.pixels
        depth = image.pixels.shape[1]
        if slice_index is None:
            raise UsageError(
                f"this is a volume of {depth} slices, and the manifest does not say which one to classify",
                where=image.source,
                fix="add a column 'slice' (0-based) to the manifest",
            )
        if not 0 <= slice_index < depth:
            raise InputRefused(
                f"slice {slice_index} does not exist: the volume has {depth} slices, 0 to {depth - 1}",
                where=image.source,
                fix="correct the column 'slice'",
                code="slice-outside-volume",
            )
        if image.channels != 1 and reach:
            raise UsageError("neighbouring slices as channels need a grey volume", where=image.source)
        chosen = np.clip(np.arange(slice_index - reach, slice_index + reach + 1), 0, depth - 1)
        return image.pixels[0, chosen] if image.channels == 1 else image.pixels[:, slice_index]

    def _organ_plane(
        self, image: Image, mask: NDArray[np.bool_] | None, slice_index: int | None, shape: tuple[int, int]
    ) -> NDArray[np.bool_]:
        """The organ mask of the chosen plane, checked."""
        if mask is None:
            raise UsageError(
                "the study crops to the organ, but this case has no organ mask",
                where=image.source,
                fix="fill the column 'organ_mask', or set preprocess.organ_crop: false",
            )
        plane = mask[slice_index] if mask.ndim == 3 and slice_index is not None else mask
        if plane.shape != shape:
            raise InputRefused(
                f"the organ mask has shape {plane.shape}, the image {shape}",
                where=image.source,
                fix="give a mask with the pixels of its image",
                code="mask-shape",
            )
        if not plane.any():
            raise InputRefused(
                "the organ mask is empty", where=image.source, fix="leave this case out", code="mask-empty"
            )
        return plane


def _crop_to(organ: NDArray[np.bool_], margin: int) -> SpatialCrop:
    """Crop to the bounding box of the organ, with a margin in pixels, inside the image."""
    rows, columns = (np.flatnonzero(organ.any(axis=axis)) for axis in (1, 0))
    start = [max(int(index[0]) - margin, 0) for index in (rows, columns)]
    ends = zip((rows, columns), organ.shape, strict=True)
    stop = [min(int(index[-1]) + 1 + margin, size) for index, size in ends]
    return SpatialCrop(roi_start=start, roi_end=stop)


def _border(shape: tuple[int, int], size: tuple[int, int]) -> BorderPad | None:
    """Zeros on both sides of the axis that is too short for the aspect of ``size``; None if none is."""
    scale = max(shape[0] / size[0], shape[1] / size[1])
    wanted = [max(round(scale * side), have) for side, have in zip(size, shape, strict=True)]
    missing = [want - have for want, have in zip(wanted, shape, strict=True)]
    if not any(missing):
        return None
    return BorderPad([side for gap in missing for side in (gap // 2, gap - gap // 2)])


def _run(unit: NDArray[np.float32], steps: Compose) -> Prepared:
    """Run the geometric steps on ``(C, H, W)`` and keep MONAI's record of them."""
    after = steps(MetaTensor(torch.from_numpy(np.ascontiguousarray(unit, dtype=np.float32))))
    applied = tuple(dict(operation) for operation in after.applied_operations)
    return Prepared(after.as_tensor().half(), Trace((unit.shape[1], unit.shape[2]), steps, applied))
