"""Slices become a volume: ordered by position along their common normal, or refused with the offenders named.

Positions and directions are those of DICOM PS3.3 C.7.6.2: pixel (row i, column j) of a slice lies at
``position + i · spacing[0] · down + j · spacing[1] · right`` millimetres in the patient's LPS frame
(x to the left, y to the back, z up). Affines are handed out in RAS+, the sign of x and y turned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from nibabel.orientations import aff2axcodes
from numpy.typing import NDArray

from foveate.errors import InputRefused
from foveate.types import Geometry

Vector = NDArray[np.float64]

STEP_TOLERANCE = 0.1
"""How far a slice may lie from its place in an even stack, as a share of the step between slices. Rounded
positions stay below it, a missing slice does not."""

_SAME_PLACE = 1e-3  # mm along the normal
_SAME_DIRECTION = 1e-3  # per direction cosine
_SAME_SPACING = 1e-3  # relative
_TILT = 0.01  # sideways share of the step above which a stack counts as sheared
_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_LISTED = 10


@dataclass(frozen=True, slots=True)
class SlicePlane:
    """Where one slice lies.

    Attributes:
        name: file or frame, for errors.
        position: ``(3,)`` centre of the first pixel, mm, LPS.
        right: ``(3,)`` unit vector in which the column index grows.
        down: ``(3,)`` unit vector in which the row index grows.
        spacing: mm between rows and between columns.
        thickness: mm, or None; only used where a single slice makes a volume.
    """

    name: str
    position: Vector
    right: Vector
    down: Vector
    spacing: tuple[float, float]
    thickness: float | None = None

    @property
    def normal(self) -> Vector:
        """``(3,)`` unit vector out of the slice."""
        return np.asarray(np.cross(self.right, self.down), dtype=np.float64)


def stack_planes(
    planes: Sequence[SlicePlane], shape: tuple[int, int], where: str
) -> tuple[list[int], Geometry, list[str]]:
    """Order slices along their normal and describe the volume they make.

    Args:
        planes: in any order, at least one.
        shape: ``(H, W)`` of every slice.
        where: the series, for errors.

    Returns:
        Indices into ``planes`` in slice order (the position along the normal grows), the geometry of the
        volume ``(D, H, W)``, and warning codes (``tilted-stack``, ``slice-step-unknown``).

    Raises:
        InputRefused: slices differ in orientation or spacing, lie in one place, or are not evenly spaced.
    """
    cosines = [(*plane.right, *plane.down) for plane in planes]
    _refuse_unlike(planes, cosines, _SAME_DIRECTION, "orientation", where)
    _refuse_unlike(
        planes, [tuple(np.log(plane.spacing)) for plane in planes], _SAME_SPACING, "pixel spacing", where
    )
    first = planes[0]
    heights = np.array([plane.position @ first.normal for plane in planes])
    order = [int(index) for index in np.argsort(heights, kind="stable")]
    ordered = [planes[index] for index in order]
    _refuse_same_place(ordered, heights[order], where)
    if len(ordered) == 1:
        step = None if first.thickness is None else first.normal * first.thickness
    else:
        step = (ordered[-1].position - ordered[0].position) / (len(ordered) - 1)
        _refuse_uneven(ordered, heights[order], step, where)
    full = (len(planes), *shape)
    if step is None:
        return order, Geometry(full), ["slice-step-unknown"]
    sideways = float(np.linalg.norm(step - (step @ first.normal) * first.normal))
    codes = ["tilted-stack"] if sideways > _TILT * float(np.linalg.norm(step)) else []
    return order, _geometry(ordered[0], step, full), codes


def plane_geometry(plane: SlicePlane, shape: tuple[int, int]) -> Geometry:
    """Geometry of one slice as an image ``(H, W)``; its affine takes ``(0, y, x, 1)``."""
    volume = _geometry(plane, plane.normal, (1, *shape))
    orientation = volume.orientation[1:] if volume.orientation else None
    return Geometry(shape, plane.spacing, volume.affine, orientation)


def geometry_of(affine: NDArray[np.float64], shape: tuple[int, ...]) -> Geometry:
    """Geometry of a volume ``(D, H, W)`` from its ``(4, 4)`` affine in array order, mm, RAS+."""
    spacing = tuple(float(size) for size in np.linalg.norm(affine[:3, :3], axis=0))
    return Geometry(shape, spacing, affine, tuple(str(code) for code in aff2axcodes(affine)))


def listing(names: Sequence[str]) -> str:
    """The first ten names, and how many more there are."""
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def _refuse_unlike(
    planes: Sequence[SlicePlane], traits: Sequence[tuple[float, ...]], tolerance: float, what: str, where: str
) -> None:
    """Refuse slices whose numbers differ, naming the smaller party."""
    values = np.array(traits)
    like_first = (np.abs(values - values[0]) <= tolerance).all(axis=1)
    if like_first.all():
        return
    odd = like_first if like_first.sum() * 2 < len(planes) else ~like_first
    names = [plane.name for plane, is_odd in zip(planes, odd, strict=True) if is_odd]
    raise InputRefused(
        f"the slices differ in {what}; {len(names)} of {len(planes)} are unlike the rest: {listing(names)}",
        where=where,
        fix="keep one series to a folder, and take localizers out",
        code=f"mixed-{what.replace(' ', '-')}",
    )


def _refuse_same_place(ordered: Sequence[SlicePlane], heights: Vector, where: str) -> None:
    twins = [f"{a.name} = {b.name}" for a, b, gap in _neighbours(ordered, heights) if gap < _SAME_PLACE]
    if twins:
        raise InputRefused(
            f"{len(twins)} slices lie where another one already does: {listing(twins)}",
            where=where,
            fix="give each phase, echo, time point or segment its own folder, and remove copies",
            code="duplicate-positions",
        )


def _refuse_uneven(ordered: Sequence[SlicePlane], heights: Vector, step: Vector, where: str) -> None:
    places = ordered[0].position + np.arange(len(ordered))[:, None] * step
    away = np.linalg.norm(np.stack([plane.position for plane in ordered]) - places, axis=1)
    if (away <= STEP_TOLERANCE * np.linalg.norm(step)).all():
        return
    usual = float(np.median(np.diff(heights)))
    gaps = [
        f"{gap:.3g} mm from {a.name} to {b.name}"
        for a, b, gap in _neighbours(ordered, heights)
        if abs(gap - usual) > STEP_TOLERANCE * usual
    ]
    worst = ordered[int(away.argmax())].name
    aside = [f"{worst} lies {away.max():.3g} mm from its place"]
    raise InputRefused(
        f"the slices are not evenly spaced (usually {usual:.3g} mm): {listing(gaps or aside)}",
        where=where,
        fix="add the missing slices, or resample the series to a NIfTI file",
        code="missing-slices" if gaps else "uneven-slices",
    )


def _neighbours(ordered: Sequence[SlicePlane], heights: Vector) -> list[tuple[SlicePlane, SlicePlane, float]]:
    gaps = np.diff(heights).tolist()
    return [(a, b, gap) for (a, b), gap in zip(pairwise(ordered), gaps, strict=True)]


def _geometry(first: SlicePlane, step: Vector, shape: tuple[int, ...]) -> Geometry:
    """Geometry of a volume whose slice 0 is ``first`` and whose next slices are each ``step`` mm away."""
    lps = np.eye(4)
    lps[:3, 0] = step
    lps[:3, 1] = first.down * first.spacing[0]
    lps[:3, 2] = first.right * first.spacing[1]
    lps[:3, 3] = first.position
    return geometry_of(_TO_RAS @ lps, shape)
