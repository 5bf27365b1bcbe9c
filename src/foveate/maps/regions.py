"""Regions of an image: masks with the boxes of their parts, overlap of boxes, evidence inside an organ.

Truth and finding are the same kind of thing, so one class serves both. Parts of a mask are connected over
corners: 8-connectivity in 2-D, 26-connectivity in 3-D. All functions work in 2-D and 3-D.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from foveate.errors import InputRefused, RunFailed, UsageError
from foveate.types import Box

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Region:
    """A part of an image, or several.

    Attributes:
        mask: ``(H, W)`` or ``(D, H, W)``, True inside.
        boxes: one per part.
        outlined: whether the mask follows the outline; False where it only fills the boxes.
    """

    mask: Mask
    boxes: tuple[Box, ...]
    outlined: bool = True

    @classmethod
    def from_mask(cls, mask: Mask, label: str = "") -> Self:
        """A region from its outline: one box for each connected component.

        Args:
            mask: ``(H, W)`` or ``(D, H, W)``, True inside.
            label: the class or finding that the boxes enclose.
        """
        parts, _ = components(mask)
        boxes = tuple(as_box(found, label) for found in ndimage.find_objects(parts))
        return cls(np.asarray(mask, dtype=bool), boxes)

    @classmethod
    def from_boxes(cls, boxes: Sequence[Box], shape: tuple[int, ...]) -> Self:
        """A region of which only boxes are known; the mask fills them.

        A pixel is inside a box if its centre is; a box too small to hold a centre fills the pixel it lies in.

        Args:
            boxes: in the pixels of the image.
            shape: spatial shape of the image.

        Raises:
            InputRefused: a box has other dimensions than the image, no extent, or lies outside the image.
        """
        mask = np.zeros(shape, dtype=bool)
        for box in boxes:
            mask[_filled(box, shape)] = True
        return cls(mask, tuple(boxes), outlined=False)


def components(mask: Mask) -> tuple[NDArray[np.int32], int]:
    """Label the connected components of a mask.

    Returns:
        ``(H, W)`` or ``(D, H, W)`` labels, 0 outside and 1 … n inside, and n.
    """
    labels, count = ndimage.label(mask, structure=np.ones((3,) * np.ndim(mask)))
    return labels, int(count)


def as_box(place: tuple[slice, ...], label: str = "", score: float = float("nan")) -> Box:
    """The box of an array section, as ``scipy.ndimage.find_objects`` names it."""
    return Box(tuple(float(s.start) for s in place), tuple(float(s.stop) for s in place), label, score)


def extent(mask: Mask) -> tuple[slice, ...]:
    """The smallest section of an array that holds a mask; the mask is not empty."""
    axes = range(mask.ndim)
    lines = [np.flatnonzero(mask.any(axis=tuple(o for o in axes if o != axis))) for axis in axes]
    return tuple(slice(int(line[0]), int(line[-1]) + 1) for line in lines)


def shifted(box: Box, offset: Sequence[float]) -> Box:
    """The same box, so many pixels further along each axis."""
    start, stop = (tuple(float(at) for at in np.add(edge, offset)) for edge in (box.start, box.stop))
    return Box(start, stop, box.label, box.score)


def volume(box: Box) -> float:
    """Area or volume of a box in pixels; 0 if it is inside out."""
    return float(np.prod(np.maximum(np.subtract(box.stop, box.start), 0.0)))


def intersection(first: Box, second: Box) -> float:
    """Area or volume in pixels that two boxes share."""
    return volume(
        Box(tuple(np.maximum(first.start, second.start)), tuple(np.minimum(first.stop, second.stop)))
    )


def box_iou(first: Box, second: Box) -> float:
    """Intersection over union of two boxes, in [0, 1]."""
    shared = intersection(first, second)
    union = volume(first) + volume(second) - shared
    return shared / union if union > 0 else 0.0


def box_iobb(found: Box, true: Box) -> float:
    """Intersection over the found box: the share of it that lies inside the true one (Wang et al. 2017)."""
    return intersection(found, true) / volume(found) if volume(found) > 0 else 0.0


def overlaps(found: Sequence[Box], true: Sequence[Box]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """``(N, M)`` IoU and IoBB of every found box with every true one; see ``box_iou`` and ``box_iobb``."""
    low, high = (np.array([getattr(box, edge) for box in found])[:, None] for edge in ("start", "stop"))
    start, stop = (np.array([getattr(box, edge) for box in true])[None] for edge in ("start", "stop"))
    shared = np.maximum(np.minimum(high, stop) - np.maximum(low, start), 0.0).prod(axis=-1)
    own, other = (high - low).prod(axis=-1), (stop - start).prod(axis=-1)
    return shared / (own + other - shared), shared / own


def nearest(found: Box, true: Sequence[Box]) -> Box:
    """The true box that overlaps a found one most, by IoU; the first of equals."""
    return max(true, key=lambda box: box_iou(found, box))


def positive_evidence(values: NDArray[np.floating[Any]], organ: Mask | None = None) -> NDArray[np.float64]:
    """What speaks for the class: ``max(values, 0)``, and 0 outside the organ.

    Raises:
        RunFailed: the map holds values that are not finite.
        UsageError: the organ mask has another shape.
    """
    if not np.isfinite(values).all():
        raise RunFailed("the heat map holds values that are not finite", code="heatmap-not-finite")
    evidence: NDArray[np.float64] = np.maximum(values, 0).astype(np.float64)
    if organ is None:
        return evidence
    if organ.shape != evidence.shape:
        raise UsageError(
            f"the organ mask has shape {organ.shape}, the heat map {evidence.shape}",
            fix="bring both to the pixels of the original image",
        )
    evidence[~organ] = 0.0
    return evidence


def _filled(box: Box, shape: tuple[int, ...]) -> tuple[slice, ...]:
    if len(box.start) != len(shape):
        raise InputRefused(
            f"a box in {len(box.start)} dimensions cannot lie in an image of shape {shape}",
            fix="give z and d for boxes in volumes, and leave them out for planes",
            code="box-dimensions",
        )
    outside = any(
        stop <= 0 or start >= size for start, stop, size in zip(box.start, box.stop, shape, strict=True)
    )
    if outside or volume(box) == 0:
        raise InputRefused(
            f"the box {box.start} to {box.stop} has no extent or lies outside the image of shape {shape}",
            fix="give x, y of the corner, width and height in pixels of the original image",
            code="box-outside-image",
        )
    return tuple(
        _span(start, stop, size) for start, stop, size in zip(box.start, box.stop, shape, strict=True)
    )


def _span(start: float, stop: float, size: int) -> slice:
    """Indices whose pixel centres ``index + 0.5`` lie in ``start <= centre < stop``, at least one."""
    first, last = int(np.ceil(start - 0.5)), int(np.ceil(stop - 0.5))
    if first >= last:
        first = int(np.floor((start + stop) / 2))
        last = first + 1
    first = min(max(first, 0), size - 1)
    return slice(first, max(min(last, size), first + 1))
