"""Views of one case on one grid: each is resampled onto that of the reference view, with a way back.

Where a voxel of one volume lies in another follows from their affines: index of the reference → millimetres
in the patient → (a registration, if asked) → index of the view. Linear interpolation by SciPy; a view that is
finer than the reference is smoothed first, so that nothing is skipped.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foveate.errors import InputRefused, UndoImpossible
from foveate.prepare.geometry import FieldOfView
from foveate.types import Array, Geometry, Image

Floats = NDArray[np.float64]
_SAME = 0.01  # voxels by which two grids may differ at a corner and are one


@dataclass(frozen=True, slots=True)
class AlignedField:
    """What a model sees of a view that was brought onto the grid of another.

    Attributes:
        reference: where the model's field lies in the reference view.
        matrix: ``(4, 4)`` from array index ``(z, y, x, 1)`` of the reference to that of this view.
        shape: ``(D, H, W)`` of this view.
    """

    reference: FieldOfView
    matrix: Floats
    shape: tuple[int, ...]

    @property
    def turned(self) -> tuple[int, ...]:
        """Shape that the model's field is taken from, along its own axes."""
        return self.reference.turned

    def onto(self, values: Array) -> NDArray[np.float32]:
        """Bring this view, or a mask of it, onto the reference's grid; zero where it does not reach.

        Args:
            values: ``(C, *shape)``.

        Returns:
            ``(C, *reference.shape)``.
        """
        return sampled(values, self.matrix, self.reference.shape)

    def back(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Bring a map over the field to this view's own voxels, ``shape``; see ``FieldOfView.back``."""
        there = np.asarray(np.linalg.inv(self.matrix), dtype=np.float64)
        seen: NDArray[np.float32] = sampled(
            self.reference.back(values)[None], there, self.shape, smooth=False
        )[0]
        return seen


Field = FieldOfView | AlignedField


def grid_matrix(reference: Geometry, view: Geometry, moved: Floats | None = None) -> Floats:
    """Where the voxels of one volume lie in another: ``(4, 4)``, from index to index, array order.

    Args:
        reference, view: with affines.
        moved: ``(4, 4)`` where a place of the reference in mm (RAS+) is found in the view; None: where it is.

    Raises:
        UndoImpossible: one of them has no affine.
    """
    if reference.affine is None or view.affine is None:
        raise UndoImpossible("volumes without affines lie in no common space")
    place = reference.affine if moved is None else moved @ reference.affine
    return np.asarray(np.linalg.inv(view.affine) @ place, dtype=np.float64)


def aligned(image: Image, reference: Image, field: FieldOfView, moved: Floats | None = None) -> Field:
    """Where the field of the reference lies in another view of its case.

    Args:
        image: the view.
        reference: the view whose grid counts.
        field: of the reference.
        moved: as for ``grid_matrix``.

    Returns:
        ``field`` itself if both have one grid.

    Raises:
        InputRefused: one of them does not tell how it lies in the patient, or they lie nowhere together.
    """
    refuse_unplaced(reference, image)
    matrix = grid_matrix(reference.geometry, image.geometry, moved)
    if image.geometry.shape == field.shape and _is_identity(matrix, field.shape):
        return field
    found = AlignedField(field, matrix, image.geometry.shape)
    if not _inside(matrix, field.shape, image.geometry.shape).any():
        raise InputRefused(
            f"this view and {reference.source} show no place together: by their affines they lie apart",
            where=image.source,
            fix="give views of one patient and one examination, or correct their geometry",
            code="views-apart",
        )
    return found


def refuse_unplaced(*images: Image) -> None:
    """Refuse images that do not tell how they lie in the patient."""
    for each in images:
        if each.geometry.affine is None:
            raise InputRefused(
                "the study brings views onto one grid, and this one does not say how it lies in the patient "
                "(it has no affine)",
                where=each.source,
                fix="give a file with its geometry; if the views are registered, set preprocess.align: none",
                code="no-affine",
            )


def same_grid(one: Geometry, other: Geometry) -> bool:
    """Whether two images have their voxels in the same places; of those without affines, as many."""
    if one.affine is None or other.affine is None:
        return one.shape == other.shape and one.affine is other.affine
    return one.shape == other.shape and _is_identity(grid_matrix(one, other), one.shape)


def sampled(
    values: Array, matrix: Floats, shape: tuple[int, ...], *, smooth: bool = True
) -> NDArray[np.float32]:
    """Interpolate volumes linearly at the places of another grid.

    Args:
        values: ``(C, *own)``.
        matrix: ``(4, 4)`` from index of the other grid to index of ``values``.
        shape: of the other grid.
        smooth: blur axes along which the other grid is coarser, by what linear interpolation leaves out.

    Returns:
        ``(C, *shape)``; zero outside the volume, that is more than half a voxel from its outermost centres.
    """
    from scipy.ndimage import affine_transform, convolve1d

    inside = _inside(matrix, shape, values.shape[1:])
    found = np.empty((len(values), *shape), np.float32)
    for channel, plane in enumerate(values.astype(np.float32)):
        for axis, ratio in enumerate(np.linalg.norm(matrix[:3, :3], axis=1) if smooth else ()):
            if ratio > 1 + _SAME:
                plane = convolve1d(plane, _triangle(float(ratio)), axis=axis, mode="nearest")
        affine_transform(plane, matrix[:3, :3], matrix[:3, 3], shape, found[channel], order=1, mode="nearest")
    return found * inside


def _triangle(ratio: float) -> NDArray[np.float32]:
    """A kernel that, with linear interpolation, is about as wide as a triangle over ``ratio`` voxels a side.

    Variances add, and that of a triangle is its half-width squared over 6.
    """
    width = np.sqrt(ratio**2 - 1)
    reach = int(np.ceil(width))
    weights = np.maximum(1 - np.abs(np.arange(-reach, reach + 1)) / max(width, 1e-6), 0)
    return np.asarray(weights / weights.sum(), dtype=np.float32)


def _inside(matrix: Floats, shape: tuple[int, ...], own: tuple[int, ...]) -> NDArray[np.bool_]:
    """Which voxels of a grid lie in a volume of shape ``own``."""
    found = np.ones(shape, dtype=bool)
    indices = np.ogrid[tuple(slice(side) for side in shape)]
    for axis, side in enumerate(own):
        place = matrix[axis, 3] + sum(
            matrix[axis, other] * index.astype(np.float32) for other, index in enumerate(indices)
        )
        found &= (place > -0.5) & (place < side - 0.5)
    return found


def _is_identity(matrix: Floats, shape: tuple[int, ...]) -> bool:
    """Whether no corner of a grid is moved by a noticeable share of a voxel."""
    ends = [(0, side - 1) for side in shape]
    corners = np.array([[z, y, x, 1] for z in ends[0] for y in ends[1] for x in ends[2]], dtype=np.float64)
    return bool(np.abs(corners @ (matrix - np.eye(4)).T).max() < _SAME)
