"""True bounding boxes beside a manifest.

Columns: ``case_id, label, x, y, w, h`` and optionally ``view`` and, for volumes, ``z, d``. Lengths are
pixels of the original image; ``x, y, z`` is the first corner, counted from 0, and ``w, h, d`` the size.

With a column ``unit`` a box may stand in millimetres of the patient instead: ``mm-lps`` (DICOM, ITK: x
grows to the left, y to the back, z up) or ``mm-ras`` (NIfTI: x to the right, y to the front, z up); blank
or ``px`` are pixels. Then ``x, y, z`` is the corner with the lowest coordinates and ``w, h, d`` the size
along x, y, z. The affine of the case's first view takes the box to voxels; where image axes lean to those
of the patient, it becomes the smallest box of voxels around it, and of a slice the part within.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np

from foveate.data.manifest.identities import other_spellings
from foveate.data.manifest.rows import ManifestRow, closest, read_table
from foveate.data.manifest.words import plain
from foveate.errors import ManifestRefused
from foveate.types import Box, Case, Geometry

REQUIRED = ("case_id", "label", "x", "y", "w", "h")
_ROUNDING = 1.0  # pixels that a box may stick out: tables are rounded
_TO_RAS = {"mm-lps": (-1.0, -1.0, 1.0), "mm-ras": (1.0, 1.0, 1.0)}
_PIXELS = ("", "px", "pixels")
Geometries = Mapping[int, Mapping[str, Geometry]]


def read_boxes(
    path: Path, cases: Sequence[Case], geometries: Geometries, classes: Sequence[str]
) -> tuple[list[Case], list[tuple[int, str]]]:
    """Give each case its true boxes.

    Args:
        path: the CSV.
        cases: of the manifest.
        geometries: of each view, by the case's row and the view's name.
        classes: the labels that a box may have; an empty label is allowed.

    Returns:
        The cases with their boxes, and every problem as ``(line, text)``.

    Raises:
        InputRefused: there is no such file.
        ManifestRefused: it is not a table with the required columns.
    """
    table = read_table(path)
    absent = [name for name in REQUIRED if name not in table.columns]
    if absent:
        raise ManifestRefused(
            str(path),
            [f"header: no column {', '.join(absent)}; boxes need {', '.join(REQUIRED)} (and view, z, d)"],
        )
    known = {case.case_id: case for case in cases}
    boxes: dict[str, list[Box]] = defaultdict(list)
    problems = list(table.problems)
    for row in table.rows:
        try:
            case = _case(row, known)
            place = _BoxedCase(case, geometries.get(case.row, {}))
            box = _box(row) if (unit := _unit(row)) in _PIXELS else _from_mm(_box(row), unit, place)
            _check(box, row, place, classes)
            boxes[case.case_id].append(box)
        except ValueError as error:
            problems.append((row.number, str(error)))
    return [replace(case, boxes=tuple(boxes[case.case_id])) for case in cases], sorted(problems)


@dataclass(frozen=True, slots=True)
class _BoxedCase:
    """A case, and the geometries of its views."""

    case: Case
    views: Mapping[str, Geometry]

    def shape(self, view: str) -> tuple[int, ...] | None:
        """The shape that boxes of this view lie in; None if the image itself is faulty."""
        if view and view not in self.views:
            raise ValueError(
                f"the case '{self.case.case_id}' has no view '{view}'; it has {', '.join(self.views)}"
            )
        own = self.views.get(view) if view else next(iter(self.views.values()), None)
        return None if own is None else own.shape if self.case.slice_index is None else own.shape[1:]


def _case(row: ManifestRow, known: Mapping[str, Case]) -> Case:
    name = plain(row.values["case_id"])
    if name not in known:
        raise ValueError(f"there is no case '{name}' in the manifest{other_spellings(name, known)}")
    return known[name]


def _box(row: ManifestRow) -> Box:
    axes = (
        (("z", "d"), ("y", "h"), ("x", "w"))
        if row.values.get("z") or row.values.get("d")
        else (("y", "h"), ("x", "w"))
    )
    start = tuple(_number(row, corner) for corner, _ in axes)
    sizes = tuple(_number(row, size) for _, size in axes)
    for (_, name), size in zip(axes, sizes, strict=True):
        if size <= 0:
            raise ValueError(f"{name} is {size:g}: a box has a positive size")
    return Box(
        start, tuple(corner + size for corner, size in zip(start, sizes, strict=True)), row.values["label"]
    )


def _unit(row: ManifestRow) -> str:
    unit = row.values.get("unit", "").strip().lower()
    if unit in _PIXELS or unit in _TO_RAS:
        return unit
    raise ValueError(
        f"unit is '{unit}': write mm-lps (x to the left, y to the back, as in DICOM), mm-ras (x to the "
        "right, y to the front, as in NIfTI), or px"
    )


def _from_mm(box: Box, unit: str, place: _BoxedCase) -> Box:
    """A box ``(z, y, x)`` in millimetres of the patient as one in pixels of the case's first view."""
    geometry = next(iter(place.views.values()), None)
    if geometry is None or geometry.affine is None:
        raise ValueError("the image does not say where it lies in the patient, so a box needs pixels")
    if len(box.start) < 3:
        raise ValueError(f"a box in {unit} needs x, y, z, w, h, d")
    corners = np.array(list(product(*zip(box.start, box.stop, strict=True))))[:, ::-1]  # (8, 3): x, y, z
    back = np.linalg.inv(geometry.affine)
    voxels = (corners * _TO_RAS[unit]) @ back[:3, :3].T + back[:3, 3]
    low, high = voxels.min(axis=0), voxels.max(axis=0)
    if len(geometry.shape) == 3 and place.case.slice_index is None:
        return replace(box, start=tuple((low + 0.5).tolist()), stop=tuple((high + 0.5).tolist()))
    index = place.case.slice_index or 0
    if not low[0] <= index <= high[0]:
        raise ValueError("the box does not reach the slice that is the case")
    return replace(box, start=tuple((low[1:] + 0.5).tolist()), stop=tuple((high[1:] + 0.5).tolist()))


def _number(row: ManifestRow, name: str) -> float:
    text = row.values.get(name, "")
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{name} is '{text}': it must be a number")
    return value


def _check(box: Box, row: ManifestRow, place: _BoxedCase, classes: Sequence[str]) -> None:
    if box.label and box.label not in classes:
        raise ValueError(f"unknown label '{box.label}': {closest(box.label, classes)}")
    shape = place.shape(row.values.get("view", ""))
    if shape is None:
        return
    if len(shape) != len(box.start):
        need = "x, y, w, h" if len(shape) == 2 else "x, y, z, w, h, d"
        raise ValueError(f"the image has {len(shape)} dimensions, so a box needs {need}")
    inside = zip(box.start, box.stop, shape, strict=True)
    if any(low < -_ROUNDING or high > length + _ROUNDING for low, high, length in inside):
        size = " × ".join(str(length) for length in reversed(shape))
        raise ValueError(
            f"the box reaches outside the image ({size} pixels): are these the pixels of the original?"
        )
