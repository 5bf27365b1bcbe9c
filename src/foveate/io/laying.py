"""A mask is laid over an image by where both lie in the patient, not by the order of their arrays.

| mask and image | becomes |
|---|---|
| one grid, axes in any order and direction | turned onto the image's array, exactly |
| a grid that the image is a part of, such as a volume over one of its slices | the part |
| another grid | refused with both geometries; with ``resample`` the nearest voxel of the mask |
| the same shape in another place | refused likewise |
| one of them without an affine | by array, if the shapes agree; told by the code ``mask-by-array`` |

Two grids are one if every voxel centre of the image lies within ``TOLERANCE`` voxels of a voxel centre of
the mask.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from foveate.errors import InputRefused
from foveate.types import Geometry

Bools = NDArray[np.bool_]
MaskGrid = Literal["same", "resample", "array"]
"""How masks may meet images: on the same grid, resampled to it where it is another, or by array alone."""

TOLERANCE = 0.1
"""Voxels of the mask that voxel centres of one grid may be apart: rounded affines stay far below it."""


@dataclass(frozen=True, slots=True)
class LaidMask:
    """A mask over an image.

    Attributes:
        inside: ``(H, W)`` or ``(D, H, W)``, in the pixels of the image.
        how: ``as-stored``, ``turned``, ``part`` or ``resampled``; ``by-array`` where only arrays could be
            compared; ``by-position`` of frames and contours.
    """

    inside: Bools
    how: str


@dataclass(frozen=True, slots=True, eq=False)
class StoredMask(ABC):
    """What a file marks, as the file has it. It is no array, so that nobody lays it on by index unawares.

    Attributes:
        source: path as the user gave it.
        warnings: codes of what was noticed and tolerated.
    """

    source: str
    warnings: tuple[str, ...]

    def over(self, image: Geometry, slice_index: int | None = None, *, grid: MaskGrid = "same") -> LaidMask:
        """Lay it over an image, or over one slice of a volume.

        Args:
            image: geometry of the image or volume.
            slice_index: 0-based slice of the volume; None for all of it.
            grid: what to do with a mask on another grid.

        Raises:
            InputRefused: the mask does not lie on the image's grid, or (by array) has another shape.
        """
        index = slice_index if len(image.shape) == 3 else None
        return self._over(image if index is None else slice_of(image, index), image, index, grid)

    @property
    @abstractmethod
    def inside(self) -> Bools:
        """True where something is marked, in the file's own order: ``(H, W)``, ``(D, H, W)`` or a stack."""

    def sum(self) -> int:
        """How many pixels are marked."""
        return int(self.inside.sum())

    @abstractmethod
    def _over(self, target: Geometry, image: Geometry, index: int | None, grid: MaskGrid) -> LaidMask:
        """Lay it over ``target``, which is the image or its slice ``index``."""


@dataclass(frozen=True, slots=True, eq=False)
class ArrayMask(StoredMask):
    """A mask that is a picture or a volume.

    Attributes:
        pixels: ``(H, W)`` or ``(D, H, W)``.
        geometry: of its pixels.
    """

    pixels: Bools
    geometry: Geometry

    @property
    def inside(self) -> Bools:
        """The pixels."""
        return self.pixels

    def _over(self, target: Geometry, image: Geometry, index: int | None, grid: MaskGrid) -> LaidMask:
        unplaced = [own.affine is None for own in (target, self.geometry)]
        if any(unplaced) or grid == "array":
            return LaidMask(self._by_array(image, index), "as-stored" if all(unplaced) else "by-array")
        mine, wanted = as_volume(self.geometry), as_volume(target)
        step = step_between(wanted, mine)
        if step is not None and step.covers(wanted.shape, mine.shape):
            inside = np.zeros(wanted.shape, dtype=np.bool_)
            step.carry_back(self.pixels.reshape(mine.shape), inside)
            turned = step.how if sorted(mine.shape) == sorted(wanted.shape) else "part"
            return LaidMask(inside.reshape(target.shape), turned)
        if grid != "resample":
            raise elsewhere(self.source, self.geometry, target)
        found = nearest(self.pixels.reshape(mine.shape), mine, wanted)
        if found is None:
            raise elsewhere(self.source, self.geometry, target, apart=True)
        return LaidMask(found.reshape(target.shape), "resampled")

    def _by_array(self, image: Geometry, index: int | None) -> Bools:
        shape = self.pixels.shape
        if index is not None and shape == image.shape:
            return np.asarray(self.pixels[index])
        if shape != (image.shape if index is None else image.shape[1:]):
            raise InputRefused(
                f"the mask has shape {shape}, its image {image.shape}",
                where=self.source,
                fix="give masks with the pixels of their images",
                code="mask-shape",
            )
        return self.pixels


@dataclass(frozen=True, slots=True)
class VolumeGrid:
    """Voxels in the patient: shape ``(D, H, W)``, and the affine from their indices to mm, RAS+."""

    shape: tuple[int, ...]
    affine: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class GridStep:
    """How the indices of one grid are those of another: ``other = axes @ one + offset``.

    Attributes:
        axes: ``(3, 3)`` signed permutation.
        offset: ``(3,)`` whole numbers.
    """

    axes: NDArray[np.int64]
    offset: NDArray[np.int64]

    @property
    def how(self) -> str:
        """``as-stored`` if both have the same order, else ``turned``."""
        return "as-stored" if (self.axes == np.eye(3)).all() and not self.offset.any() else "turned"

    def covers(self, one: Sequence[int], other: Sequence[int]) -> bool:
        """Whether every index of a grid of shape ``one`` is there in the other one."""
        mine, _ = self._overlap(one, other)
        return all(side.stop - side.start == length for side, length in zip(mine, one, strict=True))

    def carry_back(self, other: Bools, one: Bools) -> None:
        """Mark in ``one`` what is marked at its places in ``other``."""
        mine, theirs = self._overlap(one.shape, other.shape)
        one[mine] |= other[theirs].transpose(np.abs(self.axes).argmax(axis=0))

    def carry(self, one: Bools, other: Bools) -> None:
        """Mark in ``other`` what is marked in ``one``, as far as it reaches there."""
        mine, theirs = self._overlap(one.shape, other.shape)
        other[theirs] |= one[mine].transpose(np.abs(self.axes).argmax(axis=1))

    def reaches(self, one: Sequence[int], other: Sequence[int]) -> bool:
        """Whether some index of a grid of shape ``one`` is there in the other one."""
        return all(side.stop > side.start for side in self._overlap(one, other)[0])

    def _overlap(
        self, one: Sequence[int], other: Sequence[int]
    ) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
        """The places of both that are the same, in each one's own axes; empty slices where there are none."""
        mine, theirs = [slice(0, 0)] * 3, [slice(0, 0)] * 3
        for row in range(3):
            axis = int(np.abs(self.axes[row]).argmax())
            sign, first = int(self.axes[row, axis]), int(self.offset[row])
            low = max(0, -first if sign > 0 else first - other[row] + 1)
            high = max(low, min(one[axis], other[row] - first if sign > 0 else first + 1))
            start, stop = first + sign * low, first + sign * high
            mine[axis] = slice(low, high)
            empty = high == low
            theirs[row] = slice(0, 0) if empty else slice(start, None if stop < 0 else stop, sign)
        return tuple(mine), tuple(theirs)


def as_volume(geometry: Geometry) -> VolumeGrid:
    """The grid of a geometry with an affine; a picture is a volume of one slice."""
    assert geometry.affine is not None
    return VolumeGrid((1, *geometry.shape)[-3:], np.array(geometry.affine, dtype=np.float64))


def slice_of(volume: Geometry, index: int) -> Geometry:
    """Geometry of one slice of a volume as a picture."""
    spacing = None if volume.spacing is None else volume.spacing[1:]
    orientation = None if volume.orientation is None else volume.orientation[1:]
    if volume.affine is None:
        return Geometry(volume.shape[1:], spacing, None, orientation)
    affine = np.array(volume.affine, dtype=np.float64)
    affine[:, 3] = affine @ np.array([index, 0, 0, 1])
    return Geometry(volume.shape[1:], spacing, affine, orientation)


def step_between(one: VolumeGrid, other: VolumeGrid) -> GridStep | None:
    """How the indices of one grid are those of another; None if they are not, within ``TOLERANCE``.

    Along an axis of length 1 the step between voxels says nothing and is not compared.
    """
    across = np.linalg.inv(other.affine) @ one.affine
    axes = np.zeros((3, 3), dtype=np.int64)
    for axis in (axis for axis in range(3) if one.shape[axis] > 1):
        axes[:, axis] = np.rint(np.clip(across[:3, axis], -9, 9))
    for axis in (axis for axis in range(3) if one.shape[axis] == 1):
        free = np.abs(axes).sum(axis=1) == 0
        if free.any():
            axes[int(np.argmax(np.where(free, np.abs(across[:3, axis]), -1))), axis] = 1
    if (np.abs(axes).sum(axis=0) != 1).any() or (np.abs(axes).sum(axis=1) != 1).any():
        return None
    corners = np.array(list(product(*((0, length - 1) for length in one.shape))), dtype=np.float64)
    away = corners @ across[:3, :3].T + across[:3, 3] - corners @ axes.T
    offset = np.rint(away.mean(axis=0))
    if not np.abs(away - offset).max() <= TOLERANCE:
        return None
    return GridStep(axes, offset.astype(np.int64))


def nearest(values: Bools, grid: VolumeGrid, wanted: VolumeGrid) -> Bools | None:
    """Values of the nearest voxels of a grid at the voxels of another; None if none lies within the first.

    What lies more than half a voxel outside is not marked. Slice by slice, so that memory stays bounded.
    """
    across = np.linalg.inv(grid.affine) @ wanted.affine
    found, within = np.zeros(wanted.shape, dtype=np.bool_), False
    rows = np.arange(wanted.shape[1])[:, None, None] * across[:3, 1]
    columns = np.arange(wanted.shape[2])[None, :, None] * across[:3, 2]
    limits = np.array(grid.shape)
    for index in range(wanted.shape[0]):
        place = np.rint(rows + columns + (index * across[:3, 0] + across[:3, 3])).astype(np.int64)
        there: Bools = np.all((place >= 0) & (place < limits), axis=-1)
        within |= bool(there.any())
        z, y, x = np.moveaxis(np.where(there[..., None], place, 0), -1, 0)
        found[index] = values[z, y, x] & there
    return found if within else None


MISPLACED = ("mask-elsewhere", "mask-shape")
"""Codes of refusals of a mask that does not lie on its image; of several views it may be that of another."""


def same_grid(one: Geometry, other: Geometry) -> bool:
    """Whether two images have their pixels in the same places; without affines, whether shapes agree."""
    if one.shape != other.shape or one.affine is None or other.affine is None:
        return one.shape == other.shape
    step = step_between(as_volume(one), as_volume(other))
    return step is not None and step.how == "as-stored"


def elsewhere(source: str, mask: Geometry, image: Geometry, *, apart: bool = False) -> InputRefused:
    """The refusal of a mask that does not lie on its image's grid, with both geometries."""
    same = mask.shape == image.shape
    what = (
        "has its image's shape but lies in another place" if same else "lies on another grid than its image"
    )
    what = "lies nowhere near its image" if apart else what
    ways = "" if apart else "; or allow the nearest voxel to be taken, with preprocess: {mask_grid: resample}"
    return InputRefused(
        f"the mask {what}\n  - image: {in_words(image)}\n  - mask:  {in_words(mask)}",
        where=source,
        fix=f"draw or save the mask on the grid of its image{ways}; where an affine is known to be wrong, "
        "preprocess: {mask_grid: array} goes by the array alone",
        code="mask-elsewhere",
    )


def in_words(geometry: Geometry) -> str:
    """A geometry on a line: size, spacing, directions, and the centre of its first voxel in the patient."""
    size = " × ".join(str(length) for length in reversed(geometry.shape))
    parts = [f"{size} voxels" if len(geometry.shape) == 3 else f"{size} pixels"]
    if geometry.spacing is not None:
        parts.append(f"{' × '.join(f'{step:.4g}' for step in reversed(geometry.spacing))} mm")
    if geometry.orientation is not None:
        parts.append(f"axes to {', '.join(reversed(geometry.orientation))}")
    if geometry.affine is not None:
        parts.append(f"first at ({', '.join(f'{value:.4g}' for value in geometry.affine[:3, 3])}) mm RAS")
    return ", ".join(parts)
