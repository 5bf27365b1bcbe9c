"""RT structure sets become masks: closed planar contours are filled on the slices of the image.

A pixel is inside if its centre is, by the even-odd rule over all contours of its slice, so that a contour
within another one is a hole (as CLOSEDPLANAR_XOR says, and keyhole contours give the same). Contours are
points in the patient (PS3.3 C.8.8.6); the image's affine takes them to pixels, whatever its orientation.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from foveate.errors import InputRefused
from foveate.io.laying import TOLERANCE, Bools, LaidMask, MaskGrid, StoredMask, as_volume
from foveate.io.segmentation import chosen_numbers
from foveate.types import Geometry

Points = NDArray[np.float64]

_CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")


@dataclass(frozen=True, slots=True, eq=False)
class ContourMask(StoredMask):
    """Outlines in the patient.

    Attributes:
        contours: each ``(N, 3)``, mm, RAS+.
    """

    contours: tuple[Points, ...]

    @property
    def inside(self) -> Bools:
        """Not known without an image.

        Raises:
            InputRefused: always.
        """
        raise InputRefused(
            "contours have no pixels of their own",
            where=self.source,
            fix="lay them over an image",
            code="contours",
        )

    def _over(self, target: Geometry, image: Geometry, index: int | None, grid: MaskGrid) -> LaidMask:
        if target.affine is None:
            raise InputRefused(
                "contours are placed in the patient, and their image does not say where it lies",
                where=self.source,
                fix="give the image as the DICOM series or NIfTI file that they were drawn on",
                code="mask-elsewhere",
            )
        wanted = as_volume(target)
        back = np.linalg.inv(wanted.affine)
        places = [points @ back[:3, :3].T + back[:3, 3] for points in self.contours]
        axis = _across(places, wanted.shape)
        inside = np.moveaxis(np.zeros(wanted.shape, dtype=np.bool_), axis, 0)
        for points in places:
            plane = float(np.median(points[:, axis]))
            off = np.abs(points[:, axis] - np.rint(plane)).max()
            if off > TOLERANCE and len(target.shape) == 3 and grid != "resample":
                raise self._between(off)
            row = int(np.rint(plane))
            if 0 <= row < len(inside) and (off <= TOLERANCE or grid == "resample"):
                inside[row] ^= filled(np.delete(points, axis, axis=1), inside.shape[1:])
        return LaidMask(np.moveaxis(inside, 0, axis).reshape(target.shape), "by-position")

    def _between(self, off: float) -> InputRefused:
        return InputRefused(
            f"a contour lies {off:.2g} voxels away from the nearest slice of its image, or leans to it",
            where=self.source,
            fix="give the image that the contours were drawn on; or let each count for the nearest slice, "
            "with preprocess: {mask_grid: resample}",
            code="mask-elsewhere",
        )


def _across(places: list[Points], shape: tuple[int, ...]) -> int:
    """The array axis along which contours do not extend: that of their planes."""
    if shape[0] == 1:
        return 0
    spreads = np.median([np.ptp(points, axis=0) for points in places], axis=0)
    return int(spreads.argmin())


def filled(points: Points, shape: tuple[int, ...]) -> Bools:
    """Fill a polygon by the even-odd rule at pixel centres.

    Args:
        points: ``(N, 2)`` corners, ``(row, column)``, in pixels; closed by itself.
        shape: ``(H, W)``.

    Returns:
        ``(H, W)``. A centre on an edge belongs to the side of higher indices.
    """
    rows = np.arange(shape[0], dtype=np.float64)[:, None]
    (y, x), (below, beside) = points.T, np.roll(points, -1, axis=0).T
    crosses = (y <= rows) != (below <= rows)  # (H, N): which edges a row of centres crosses
    with np.errstate(divide="ignore", invalid="ignore"):
        at = x + (rows - y) / (below - y) * (beside - x)
    first = np.where(crosses, np.clip(np.ceil(np.where(crosses, at, 0)), 0, shape[1]), 0).astype(np.int64)
    turns = np.zeros((shape[0], shape[1] + 1), dtype=np.int64)
    np.add.at(
        turns, (np.broadcast_to(np.arange(shape[0])[:, None], crosses.shape)[crosses], first[crosses]), 1
    )
    return np.asarray(np.cumsum(turns, axis=1)[:, :-1] % 2 == 1)


def read_contours(dataset: Dataset, segment: str, where: str) -> ContourMask:
    """Read the contours of one region of an RT structure set.

    Args:
        dataset: the structure set.
        segment: name or number of the region, or ``*``; may be empty if there is but one.
        where: the file, for errors.

    Raises:
        InputRefused: no such region, or it has no closed contours.
    """
    names = {
        int(item.ROINumber): (str(item.get("ROIName") or ""),)
        for item in dataset.get("StructureSetROISequence") or ()
    }
    chosen = chosen_numbers(names, segment, where)
    contours = tuple(_contours(dataset, chosen))
    if not contours:
        listed = ", ".join(names[number][0] or str(number) for number in chosen)
        raise InputRefused(
            f"the region {listed} has no closed contours",
            where=where,
            fix="name another region, or leave the mask of this case empty",
            code="mask-empty",
        )
    return ContourMask(where, (), contours)


def _contours(dataset: Dataset, chosen: list[int]) -> Iterator[Points]:
    for roi in dataset.get("ROIContourSequence") or ():
        if int(roi.ReferencedROINumber) not in chosen:
            continue
        for contour in roi.get("ContourSequence") or ():
            if str(contour.get("ContourGeometricType")) in _CLOSED:
                points = np.array(contour.ContourData, dtype=np.float64).reshape(-1, 3)
                if len(points) > 2:
                    yield points * (-1, -1, 1)  # LPS to RAS
