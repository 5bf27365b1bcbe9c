"""Slices tiled into one picture become a volume, and frames that are tiles of one picture become the picture.

| in the file | becomes |
|---|---|
| Siemens mosaic (Image Type ``MOSAIC``): all slices of an EPI volume in one picture | ``(D, H, W)`` |
| a mosaic without that header, one of United Imaging (``VFRAME``) | refused by name |
| tiles of a whole slide (Total Pixel Matrix), one focal plane and optical path | one picture ``(H, W)`` |
| a slide with several planes or paths, or with tiles left out | refused by name |

Mosaic: Image Position is that of the corner of the whole picture, as if it were one slice of that size around
the same centre; the CSA header (private, group 0029) has the number of slices and the direction in which they
follow.
Slides: DICOM PS3.3 C.7.6.17.3 (organization of tiles) and C.8.12.14 (their positions).
"""

from __future__ import annotations

import struct
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, isqrt
from typing import Any

import numpy as np
from pydicom import Dataset

from foveate.errors import InputRefused
from foveate.io.dicom_frames import PixelHeader
from foveate.io.stack import SlicePlane, stack_planes
from foveate.types import Array, Geometry


@dataclass(frozen=True, slots=True)
class Mosaic:
    """How the slices of a volume lie in one picture.

    Attributes:
        order: which tile is which slice.
        across: tiles beside each other, and below each other.
        geometry: of the volume.
    """

    order: Sequence[int]
    across: int
    geometry: Geometry

    def arrange(self, pixels: Array) -> Array:
        """``(C, 1, rows, columns)`` to ``(C, D, H, W)``."""
        _, high, wide = self.geometry.shape
        tiles = pixels.reshape(len(pixels), self.across, high, self.across, wide).swapaxes(2, 3)
        volume: Array = tiles.reshape(len(pixels), -1, high, wide)[:, list(self.order)]
        return volume


@dataclass(frozen=True, slots=True)
class SlideTiles:
    """How the frames of a file lie in one picture.

    Attributes:
        corners: first row and column of each frame.
        geometry: of the picture.
    """

    corners: Sequence[tuple[int, int]]
    geometry: Geometry

    def arrange(self, pixels: Array) -> Array:
        """``(C, F, rows, columns)`` to ``(C, H, W)``; what reaches over the edge is cut off."""
        whole = np.zeros((len(pixels), *self.geometry.shape), dtype=pixels.dtype)
        for frame, (top, left) in enumerate(self.corners):
            place = whole[:, top : top + pixels.shape[2], left : left + pixels.shape[3]]
            place[:] = pixels[:, frame, : place.shape[1], : place.shape[2]]
        return whole


def mosaic_of(dataset: Dataset, header: PixelHeader, plane: SlicePlane | None, where: str) -> Mosaic | None:
    """How slices lie in a file's one frame, or None if it shows but one.

    Args:
        dataset: of one file.
        header: of ``dataset``.
        plane: where the whole picture would lie if it were one slice; None if the file does not say.
        where: the file, for errors.

    Raises:
        InputRefused: it is a mosaic, but lacks what tells its slices apart.
    """
    kinds = [str(kind) for kind in _listed(dataset.get("ImageType"))]
    if "VFRAME" in kinds and _united_imaging_slices(dataset) > 1:
        raise _refused("a mosaic of United Imaging (Image Type VFRAME)", "there is no rule for it", where)
    if "MOSAIC" not in kinds or header.frames != 1:
        return None
    count, normal = _csa(dataset)
    if not count or normal is None or plane is None:
        missing = "the place of its slices" if count else "the number of its slices"
        raise _refused("a mosaic (Image Type MOSAIC)", f"its CSA header does not say {missing}", where)
    across = isqrt(count - 1) + 1
    high, wide = header.rows // across, header.columns // across
    if (high * across, wide * across) != (header.rows, header.columns):
        size = f"{header.rows} × {header.columns}"
        raise _refused("a mosaic (Image Type MOSAIC)", f"{size} pixels cannot hold {count} slices", where)
    step = _step(dataset, plane)
    # The picture's corner is as far from the centre as that of a slice of its size would be.
    inwards = np.array([header.rows - high, header.columns - wide]) / 2
    corner = plane.position + inwards[0] * plane.spacing[0] * plane.down
    corner = corner + inwards[1] * plane.spacing[1] * plane.right
    planes = [
        replace(plane, name=f"slice {k + 1} of the mosaic", position=corner + k * step * normal)
        for k in range(count)
    ]
    order, geometry, _ = stack_planes(planes, (high, wide), where)
    return Mosaic(order, across, geometry)


def slide_of(dataset: Dataset, header: PixelHeader, spacing: Any, where: str) -> SlideTiles | None:
    """How frames make one picture, or None if they do not.

    Args:
        dataset: of one file.
        header: of ``dataset``.
        spacing: between rows and between columns, mm, or None.
        where: the file, for errors.

    Raises:
        InputRefused: the tiles make several pictures, or not a whole one.
    """
    shape = tuple(int(dataset.get(f"TotalPixelMatrix{side}") or 0) for side in ("Rows", "Columns"))
    if not all(shape):
        return None
    layers = [int(dataset.get(name) or 1) for name in ("TotalPixelMatrixFocalPlanes", "NumberOfOpticalPaths")]
    if max(layers) > 1:
        what = f"{layers[0]} focal planes and {layers[1]} optical paths"
        raise _refused("a whole slide", f"it holds {what}, and an image is one", where)
    down, across = ceil(shape[0] / header.rows), ceil(shape[1] / header.columns)
    groups = dataset.get("PerFrameFunctionalGroupsSequence") or ()
    if dataset.get("DimensionOrganizationType") == "TILED_FULL" or not groups:
        corners = [
            (row * header.rows, column * header.columns) for row in range(down) for column in range(across)
        ]
    else:
        corners = [_corner(group, where) for group in groups]
    tiles = {(top // header.rows, left // header.columns) for top, left in corners}
    aligned = all(top % header.rows == 0 and left % header.columns == 0 for top, left in corners)
    if not len(corners) == header.frames == len(tiles) == down * across or not aligned:
        tile = f"{header.rows} × {header.columns}"
        what = f"{header.frames} frames of {tile} do not tile {shape[0]} × {shape[1]} once"
        raise _refused("a whole slide", what, where)
    return SlideTiles(corners, Geometry(shape, spacing))


def _corner(group: Dataset, where: str) -> tuple[int, int]:
    """First row and column of a frame, from 0."""
    place = (group.get("PlanePositionSlideSequence") or [Dataset()])[0]
    names = ("RowPositionInTotalImagePixelMatrix", "ColumnPositionInTotalImagePixelMatrix")
    top, left = (place.get(name) for name in names)
    if top is None or left is None or min(top, left) < 1:
        raise _refused("a whole slide", "not every frame says where it lies", where)
    return int(top) - 1, int(left) - 1


def _csa(dataset: Dataset) -> tuple[int, Array | None]:
    """Number of slices, and the direction in which they follow, ``(3,)`` LPS, from Siemens' CSA header."""
    with warnings.catch_warnings():  # nibabel says on import that its DICOM readers are experimental
        warnings.simplefilter("ignore")
        from nibabel.nicom import csareader
    try:
        header = csareader.get_csa_header(dataset, "image") or {"tags": {}}
    except (csareader.CSAReadError, struct.error):  # cut short, or emptied by an anonymizer
        return 0, None
    count, normal = (
        header["tags"].get(name, {}).get("items") for name in ("NumberOfImagesInMosaic", "SliceNormalVector")
    )
    direction = np.array(normal or [], dtype=np.float64)
    return int((count or [0])[0]), direction if direction.shape == (3,) and direction.any() else None


def _step(dataset: Dataset, plane: SlicePlane) -> float:
    """Millimetres from one slice of a mosaic to the next."""
    return float(dataset.get("SpacingBetweenSlices") or plane.thickness or 0)


def _united_imaging_slices(dataset: Dataset) -> int:
    """Slices of a VFRAME picture (private attribute MR VFrame Number, 0065,xx50)."""
    block = [element for element in dataset.group_dataset(0x0065) if element.tag.element & 0xFF == 0x50]
    return max((int(element.value) for element in block if str(element.value).isdecimal()), default=1)


def _listed(value: Any) -> Sequence[Any]:
    return [value] if isinstance(value, str) or value is None else value


def _refused(kind: str, why: str, where: str) -> InputRefused:
    return InputRefused(
        f"the file is {kind}: {why}",
        where=where,
        fix="convert it to NIfTI, for instance with dcm2niix"
        if "mosaic" in kind
        else "export one plane and path of it, or a region, as an image of its own",
        code="mosaic-unsupported" if "mosaic" in kind else "slide-unsupported",
    )
