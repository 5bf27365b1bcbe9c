"""DICOM segmentations (SEG) and label maps become masks: frames are placed by their positions.

Frames of nothing are often left out, and frames of one place are as many as it has segments; neither the
number of frames nor their order says anything. Binary, fractional (inside from half of the maximum on) and
label maps are read (PS3.3 A.51, C.8.20).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from foveate.errors import InputRefused
from foveate.io.dicom import described_pixels, plane_of
from foveate.io.dicom_frames import require_pixels
from foveate.io.dicom_pixels import attribute, check_readable, read_values
from foveate.io.laying import (
    Bools,
    LaidMask,
    MaskGrid,
    StoredMask,
    VolumeGrid,
    as_volume,
    elsewhere,
    nearest,
    step_between,
)
from foveate.io.source import check_pixels
from foveate.io.stack import SlicePlane, geometry_of, plane_geometry
from foveate.io.stored import as_stored
from foveate.types import Array, Geometry

ALL = "*"
"""Names all segments of a mask together."""

_ANOTHER = 0.5  # slices from which on a frame belongs to another picture
_EVEN = 0.1  # share of the step between frames that a frame may lie from its place


@dataclass(frozen=True, slots=True, eq=False)
class FramesMask(StoredMask):
    """Marked planes in the patient; what lies outside them is not marked.

    Attributes:
        frames: ``(F, H, W)``.
        planes: where each lies.
    """

    frames: Bools
    planes: tuple[SlicePlane, ...]

    @property
    def inside(self) -> Bools:
        """The frames, in the order of the file."""
        return self.frames

    def _over(self, target: Geometry, image: Geometry, index: int | None, grid: MaskGrid) -> LaidMask:
        if target.affine is None:
            raise InputRefused(
                "a segmentation is placed in the patient, and its image does not say where it lies",
                where=self.source,
                fix="give the image as the DICOM series or NIfTI file that the segmentation was drawn on",
                code="mask-elsewhere",
            )
        wanted, shape = as_volume(target), self.frames.shape[1:]
        inside, reached = np.zeros(wanted.shape, dtype=np.bool_), False
        if len(target.shape) == 2 and index is None:  # the affine of a picture says nothing of slices
            wanted.affine[:3, 0] *= self._gap() / np.linalg.norm(wanted.affine[:3, 0])
        for values, plane in zip(self.frames, self.planes, strict=True):
            mine = VolumeGrid((1, *shape), np.asarray(plane_geometry(plane, shape).affine))
            if len(target.shape) == 2 and abs(_slices_away(mine, wanted)) > _ANOTHER:
                continue
            step = step_between(mine, wanted)
            if step is None:
                return self._resampled(target, wanted, grid)
            reached |= step.reaches(mine.shape, wanted.shape)
            step.carry(values[None], inside)
        if len(target.shape) == 3 and not reached:
            raise elsewhere(self.source, self._geometry(), target, apart=True)
        return LaidMask(inside.reshape(target.shape), "by-position")

    def _gap(self) -> float:
        """Millimetres from slice to slice: the thickness of frames, if they lie multiples of it apart."""
        thickness = self.planes[0].thickness
        gaps = np.diff(np.unique(np.round(self._heights(), 4)))
        if not len(gaps):
            return thickness or 1.0
        least = float(gaps.min())
        whole = thickness is not None and abs(least / thickness - round(least / thickness)) < _EVEN
        return thickness if whole and thickness is not None and least > thickness else least

    def _heights(self) -> NDArray[np.float64]:
        return np.array([plane.position @ self.planes[0].normal for plane in self.planes])

    def _resampled(self, target: Geometry, wanted: VolumeGrid, grid: MaskGrid) -> LaidMask:
        """The nearest voxels of all frames together, if that is allowed and they make an even stack."""
        mine = self._geometry()
        if grid != "resample" or mine.affine is None:
            raise elsewhere(self.source, mine, target)
        whole = np.zeros(mine.shape, dtype=np.bool_)
        places = np.rint((self._heights() - self._heights().min()) / self._gap()).astype(int)
        for place, values in zip(places, self.frames, strict=True):
            whole[place] |= values
        found = nearest(whole, as_volume(mine), wanted)
        if found is None:
            raise elsewhere(self.source, mine, target, apart=True)
        return LaidMask(found.reshape(target.shape), "resampled")

    def _geometry(self) -> Geometry:
        """Geometry of all frames as one stack, left-out ones included; without affine if not even."""
        heights, gap = self._heights(), self._gap()
        steps = (heights - heights.min()) / gap
        first = self.planes[int(heights.argmin())]
        shape = (int(np.rint(steps.max())) + 1, *self.frames.shape[1:])
        cosines = np.array([(*plane.right, *plane.down, *plane.spacing) for plane in self.planes])
        places = first.position + np.rint(steps)[:, None] * gap * first.normal
        away = np.linalg.norm(np.array([plane.position for plane in self.planes]) - places, axis=1)
        if np.ptp(cosines, axis=0).max() > 1e-3 or away.max() > _EVEN * gap:
            return Geometry(shape)
        affine = np.array(plane_geometry(first, (1, 1)).affine)
        affine[:3, 0] *= gap / np.linalg.norm(affine[:3, 0])
        return geometry_of(affine, shape)


def _slices_away(frame: VolumeGrid, picture: VolumeGrid) -> float:
    """How many slices a frame lies away from a picture, along the picture's normal."""
    across = np.linalg.inv(picture.affine)
    return float((across @ frame.affine[:, 3])[0])


def read_segmentation(
    dataset: Dataset, segment: str, where: str, codes: list[str], max_pixels: int
) -> FramesMask:
    """Read the marks of a SEG or label map.

    Args:
        dataset: with pixels.
        segment: label or number of the segment, or ``ALL``; may be empty if there is but one.
        where: the file, for errors.
        codes: warning codes are added here.
        max_pixels: most that it may declare.

    Raises:
        InputRefused: no such segment, or several and none named; frames without position; or damaged.
    """
    as_stored(dataset, [])
    header = described_pixels(dataset, where)
    check_readable(header, where)
    check_pixels((header.frames, header.rows, header.columns), max_pixels, where)
    require_pixels(dataset, where)
    found = segments_in(dataset)
    chosen = chosen_numbers(found, segment, where)
    planes = [plane_of(dataset, frame, f"frame {frame + 1}") for frame in range(header.frames)]
    placed = [plane for plane in planes if plane is not None]
    if len(placed) < len(planes):
        raise InputRefused(
            f"of {len(planes)} frames of the segmentation, {len(placed)} say where they lie",
            where=f"{where}, tag (5200,9230) Per-frame Functional Groups Sequence",
            fix="export it again with positions; segmentations of whole slides have no rule yet",
            code="slice-without-position",
        )
    values = read_values(dataset, header, where, codes).pixels[0]
    kept, inside = _marked(dataset, values, chosen)
    return FramesMask(where, tuple(codes), inside, tuple(placed[frame] for frame in kept))


def _marked(dataset: Dataset, values: Array, chosen: Sequence[int]) -> tuple[list[int], Bools]:
    """The frames of the chosen segments, and what is marked in them."""
    kind = str(dataset.get("SegmentationType") or "BINARY")
    if kind == "LABELMAP":
        return list(range(len(values))), np.isin(values, list(chosen))
    group = "SegmentIdentificationSequence"
    numbers = [attribute(dataset, frame, group, "ReferencedSegmentNumber") for frame in range(len(values))]
    kept = [frame for frame, number in enumerate(numbers) if number in chosen]
    if not kept:  # all frames of the segment were left out, since nothing is marked
        return list(range(len(values))), np.zeros(values.shape, dtype=np.bool_)
    least = int(dataset.get("MaximumFractionalValue") or 255) / 2 if kind == "FRACTIONAL" else 0.5
    return kept, values[kept] >= least


def segments_in(dataset: Dataset) -> dict[int, tuple[str, ...]]:
    """By number, the names of each segment: its label, and the kind of thing that it is; no background."""
    found = {}
    for item in dataset.get("SegmentSequence") or ():
        kinds = [code.get("CodeMeaning", "") for code in item.get("SegmentedPropertyTypeCodeSequence") or ()]
        names = [str(name) for name in (item.get("SegmentLabel", ""), *kinds) if name]
        found[int(item.SegmentNumber)] = tuple(names)
    found.pop(0, None)
    return found


def chosen_numbers(found: Mapping[int, Sequence[str]], segment: str, where: str) -> list[int]:
    """Numbers of the segments that a manifest names.

    Args:
        found: names by number.
        segment: a number, a name in any case, ``ALL``, or nothing.
        where: the file, for errors.

    Raises:
        InputRefused: there is none of that name, several, or none was named and there are several.
    """
    if segment == ALL or (not segment and len(found) == 1):
        return list(found)
    wanted = segment.strip().casefold()
    hits = [number for number, names in found.items() if wanted == str(number)] or [
        number for number, names in found.items() if wanted in (name.strip().casefold() for name in names)
    ]
    if len(hits) == 1:
        return hits
    listed = ", ".join(
        f"{number} ({', '.join(names)})" if names else str(number) for number, names in found.items()
    )
    problem = (
        f"no single segment is called '{segment}'" if segment else f"the mask holds {len(found)} segments"
    )
    raise InputRefused(
        f"{problem}; there are: {listed or 'none'}",
        where=where,
        fix="name one by label or number in the column mask_segment (organ_mask_segment), "
        f"or all of them together with {ALL}",
        code="mask-segment",
    )
