"""An image or volume becomes what the model sees, with a way back for every heat map.

The same object serves training, prediction, and export. Its two halves are

* ``prepare``: choose the slice or take the volume, scale to [0, 1], turn to the common orientation, crop to
  the organ, pad to the aspect (or take a field of a fixed extent in millimetres), resize. Done once per case;
  the result is what the cache holds, rounded to float16 so that cached and fresh are one.
* ``normalize``: mean and standard deviation, fixed or the image's own; pictures get three channels. Done
  per batch, after augmentation.

Views may differ in their settings (``PreprocessConfig.views``), never in their size, orientation or
spacing. Where the model's field lies in the image is a ``FieldOfView``, whose ``back`` takes a map over the
field to the pixels of the original.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from foveate.contract import InputSpec
from foveate.errors import InputRefused, UsageError
from foveate.io.laying import StoredMask
from foveate.prepare.align import AlignedField, Field, Floats, aligned, refuse_unplaced
from foveate.prepare.pixels import chosen_pixels, field_of, limits, plane_or_volume
from foveate.prepare.resample import to_field
from foveate.study.settings import PreprocessConfig
from foveate.types import Array, Image

if TYPE_CHECKING:
    from foveate.prepare.register import Registration

_VERSION = 4  # part of every cache key: raise it when prepare() starts to give other numbers
# 3: padding to an aspect rounds halves of a pixel exactly, as exported files do
# 4: pixels that DICOM declares to be padding are dark, and no part of percentiles
_LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601
_NOT_OF_PIXELS = {"mean", "std", "intensity", "views"}  # settings that prepare() does not look at
_LEVELS = 256  # grey levels among which Otsu's threshold is sought


@dataclass(frozen=True, slots=True)
class Prepared:
    """One view, ready for the cache or the model.

    Attributes:
        tensor: ``(C, H, W)`` float16 in [0, 1]; C is 1 (grey), 3 (colour, or slice with neighbours).
            Volumes: ``(1, D, H, W)``.
        field: which box of the original the tensor shows, and the way back to it.
    """

    tensor: Tensor
    field: Field


class Preprocess:
    """One study's preprocessing.

    Args:
        config: the study's choices.
    """

    def __init__(self, config: PreprocessConfig) -> None:
        self.config = config
        self._own = {name: config.for_view(name) for name in config.views}

    def settings(self, view: str | None = None) -> PreprocessConfig:
        """What holds for one view; None: for views without settings of their own."""
        return self.config if view is None else self._own.get(view, self.config)

    def reference(self, views: Collection[str]) -> str | None:
        """The view of a case onto whose grid its others are brought: the study's, or the first that is there.

        Args:
            views: that the case has.

        Returns:
            None if views keep their own grids.
        """
        if self.config.align == "none":
            return None
        return self.config.reference if self.config.reference in views else next(iter(views))

    def key(self, view: str | None = None) -> str:
        """Short hash of all that changes the result of ``prepare`` for a view; names its cache entries."""
        relevant = self.settings(view).spelt(exclude=_NOT_OF_PIXELS)
        return hashlib.sha256(json.dumps([_VERSION, relevant]).encode()).hexdigest()[:16]

    def input_spec(self, views: tuple[str, ...]) -> InputSpec:
        """What this preprocessing feeds a model with these views.

        Raises:
            UsageError: the settings name a view that is not among them.
        """
        if strangers := [name for name in self.config.views if name not in views]:
            raise UsageError(
                f"there is no view {', '.join(map(repr, strangers))}",
                where="preprocess.views",
                fix=f"the views are: {', '.join(views)}",
            )
        if self.config.reference not in (None, *views):
            raise UsageError(
                f"there is no view {self.config.reference!r}",
                where="preprocess.reference",
                fix=f"the views are: {', '.join(views)}",
            )
        size = self.config.size
        if self.config.volumes:
            return InputSpec(views=views, dimensions="3", size=size, channels=1)
        dimensions: Literal["2", "2.5"] = "2.5" if self.config.neighbours else "2"
        return InputSpec(views=views, dimensions=dimensions, size=size)

    def prepare(
        self,
        image: Image,
        *,
        view: str | None = None,
        slice_index: int | None = None,
        organ_mask: StoredMask | NDArray[np.bool_] | None = None,
        reference: Image | None = None,
        moved: Floats | None = None,
    ) -> Prepared:
        """Turn an image or volume into ``(C, *size)`` in [0, 1].

        Args:
            image: as read.
            view: which of the case's views it is, for settings of its own.
            slice_index: 0-based slice to classify, if the image is a volume and the model sees pictures.
            organ_mask: needed if the study crops to the organ; as read, or ``(H, W)`` in the pixels of the
                image, ``(D, H, W)`` for a volume. With a reference, over that.
            reference: the view of the case onto whose grid this one is brought; None: it keeps its own.
            moved: where a place of the reference in mm is found in this view, see ``registration``.

        Raises:
            UsageError: the study's choices do not fit the image (both sides are named).
            InputRefused: the organ mask is empty or of another shape, the image does not tell how it lies in
                the patient, or the result is not finite.
        """
        config = self.settings(view)
        unit = self._scaled(image, view, slice_index)
        if config.mask == "otsu_dark":
            unit = unit * _dark(unit)
        grid = image if reference is None else reference
        organ = None
        if config.organ_crop:
            organ = self._organ(grid, organ_mask, slice_index, plane_or_volume(grid, config).shape)
        own = field_of(grid, config, organ)
        field = own if reference is None else aligned(image, reference, own, moved)
        if isinstance(field, AlignedField):
            unit = field.onto(unit)
        return _in_field(unit if organ is None else unit * organ, field, image.source)

    def registration(self, image: Image, view: str, reference: Image, first: str) -> Registration | None:
        """How a view moved against the reference view; None unless the study registers views.

        Args:
            image: the view.
            view: its name.
            reference: the reference view.
            first: its name.

        Raises:
            InputRefused: a view has no affine, or the registration is not to be trusted.
            MissingExtra: SimpleITK is not installed.
        """
        if self.config.align != "rigid":
            return None
        from foveate.prepare.register import registered

        refuse_unplaced(reference, image)
        volumes = self._scaled(reference, first)[0], self._scaled(image, view)[0]
        grids, names = (reference.geometry, image.geometry), (reference.source, image.source)
        return registered(*volumes, grids, self.config.agreement, names)

    def _scaled(self, image: Image, view: str | None, slice_index: int | None = None) -> NDArray[np.float32]:
        """``(C, *space)`` in [0, 1], as the file lies; C is 1 where the model sees grey."""
        config = self.settings(view)
        unit = _unit(chosen_pixels(image, self.config, slice_index), self.limits(image, view))
        grey = image.channels == 3 and (config.colour == "grey" or config.volumes)
        return _luminance(unit)[None] if grey else unit

    def normalize(
        self, batch: Float[Tensor, "B C *space"], view: str | None = None
    ) -> Float[Tensor, "B c *space"]:
        """Subtract a mean and divide by a standard deviation; pictures get three channels, volumes keep one.

        ``zscore`` takes both from each case's own pixels (all channels together; a constant image becomes
        zero), ``fixed`` from the settings, per channel. Rows of NaN, which stand for missing views, stay NaN.

        Args:
            batch: prepared, maybe augmented, ``(B, C, *space)``.
            view: whose settings count.
        """
        config = self.settings(view)
        values = batch.float()
        if config.intensity == "zscore":
            inner = tuple(range(1, values.ndim))
            spread = values.std(dim=inner, correction=0, keepdim=True)
            values = (values - values.mean(dim=inner, keepdim=True)) / torch.where(spread == 0, 1, spread)
        channels = 1 if config.volumes else 3
        values = values.expand(-1, channels, *values.shape[2:])
        if config.intensity == "zscore":
            return values
        shape = (1, channels) + (1,) * (values.ndim - 2)
        mean, std = (values.new_tensor(each[:channels]).view(shape) for each in (config.mean, config.std))
        return (values - mean) / std

    def limits(self, image: Image, view: str | None = None) -> tuple[float, float]:
        """Values that become 0 and 1; see ``pixels.limits``."""
        return limits(image, self.settings(view))

    def _organ(
        self,
        image: Image,
        mask: StoredMask | NDArray[np.bool_] | None,
        slice_index: int | None,
        shape: tuple[int, ...],
    ) -> NDArray[np.bool_]:
        """The organ mask over the chosen plane or the volume, checked."""
        if mask is None:
            raise UsageError(
                "the study crops to the organ, but this case has no organ mask",
                where=image.source,
                fix="fill the column 'organ_mask', or set preprocess.organ_crop: false",
            )
        if isinstance(mask, StoredMask):
            mask = mask.over(image.geometry, slice_index, grid=self.config.mask_grid).inside
        organ = mask[slice_index] if mask.ndim == 3 and slice_index is not None else mask
        if organ.shape != shape:
            raise InputRefused(
                f"the organ mask has shape {organ.shape}, the image {shape}",
                where=image.source,
                fix="give a mask with the pixels of its image",
                code="mask-shape",
            )
        if not organ.any():
            raise InputRefused(
                "the organ mask is empty", where=image.source, fix="leave this case out", code="mask-empty"
            )
        return organ


def _unit(pixels: Array, limits: tuple[float, float]) -> NDArray[np.float32]:
    """Scale so that the limits become 0 and 1, and clip; a constant image becomes all zero."""
    low, high = limits
    span = max(high - low, float(np.finfo(np.float32).tiny))
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite then is refused at the end
        unit: NDArray[np.float32] = (pixels.astype(np.float32) - np.float32(low)) / np.float32(span)
    return np.clip(unit, 0, 1, out=unit)


def _luminance(unit: NDArray[np.float32]) -> NDArray[np.float32]:
    """``(C, *space)`` → ``(*space)``."""
    grey: NDArray[np.float32] = unit[0] if len(unit) == 1 else np.tensordot(_LUMINANCE, unit, axes=1)
    return grey


def _dark(unit: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Where a picture is dark: its luminance is at or below Otsu's threshold among 256 grey levels.

    The threshold has the greatest variance between the two classes that it makes (Otsu 1979, IEEE Trans.
    SMC 9:62, eq. 18). A picture of one grey level is dark everywhere.

    Args:
        unit: ``(C, H, W)`` in [0, 1].

    Returns:
        ``(H, W)``.
    """
    grey = np.rint(_luminance(unit) * (_LEVELS - 1)).astype(np.int64)
    counts = np.bincount(grey.ravel(), minlength=_LEVELS).astype(np.float64)
    below, sums = np.cumsum(counts), np.cumsum(counts * np.arange(_LEVELS))
    above, split = below[-1] - below, (below > 0) & (below < below[-1])
    if not split.any():
        return np.ones(grey.shape, dtype=np.bool_)
    between = np.full(_LEVELS, -1.0)
    distance = sums[split] / below[split] - (sums[-1] - sums[split]) / above[split]
    between[split] = below[split] * above[split] * distance**2
    return np.asarray(grey <= int(between.argmax()))


def _in_field(unit: NDArray[np.float32], field: Field, source: str) -> Prepared:
    """Bring ``(C, *shape)`` in [0, 1], on the reference's grid if there is one, into the model's field."""
    tensor = to_field(unit, field.reference if isinstance(field, AlignedField) else field).half()
    if not torch.isfinite(tensor).all():
        raise InputRefused(
            "scaled to [0, 1], some pixels are not finite: they hold NaN, infinities, or values too large",
            where=source,
            fix="correct the image, or leave this case out",
            code="not-finite",
        )
    return Prepared(tensor, field)
