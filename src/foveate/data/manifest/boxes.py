"""True bounding boxes beside a manifest.

Columns: ``case_id, label, x, y, w, h`` and optionally ``view`` and, for volumes, ``z, d``. Lengths are
pixels of the original image; ``x, y, z`` is the first corner, counted from 0, and ``w, h, d`` the size.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from foveate.data.manifest.identities import other_spellings
from foveate.data.manifest.rows import ManifestRow, closest, read_table
from foveate.data.manifest.words import plain
from foveate.errors import ManifestRefused
from foveate.types import Box, Case

REQUIRED = ("case_id", "label", "x", "y", "w", "h")
_ROUNDING = 1.0  # pixels that a box may stick out: tables are rounded
Shapes = Mapping[int, Mapping[str, tuple[int, ...]]]


def read_boxes(
    path: Path, cases: Sequence[Case], shapes: Shapes, classes: Sequence[str]
) -> tuple[list[Case], list[tuple[int, str]]]:
    """Give each case its true boxes.

    Args:
        path: the CSV.
        cases: of the manifest.
        shapes: spatial shape of each view, by the case's row and the view's name.
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
            box = _box(row)
            _check(box, row, _BoxedCase(case, shapes.get(case.row, {})), classes)
            boxes[case.case_id].append(box)
        except ValueError as error:
            problems.append((row.number, str(error)))
    return [replace(case, boxes=tuple(boxes[case.case_id])) for case in cases], sorted(problems)


@dataclass(frozen=True, slots=True)
class _BoxedCase:
    """A case, and the shapes of its views."""

    case: Case
    shapes: Mapping[str, tuple[int, ...]]

    def shape(self, view: str) -> tuple[int, ...] | None:
        """The shape that boxes of this view lie in; None if the image itself is faulty."""
        if view and view not in self.shapes:
            raise ValueError(
                f"the case '{self.case.case_id}' has no view '{view}'; it has {', '.join(self.shapes)}"
            )
        shape = self.shapes.get(view) if view else next(iter(self.shapes.values()), None)
        return shape if shape is None or self.case.slice_index is None else shape[1:]


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


def _number(row: ManifestRow, name: str) -> float:
    text = row.values.get(name, "")
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{name} is '{text}': it must be a number of pixels")
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
