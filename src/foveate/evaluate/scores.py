"""The scores of single heat maps as a file, so that figures can be computed anew, or paired, later."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import astuple, fields
from pathlib import Path
from typing import Any

from foveate.errors import InputRefused
from foveate.evaluate.localization import CaseScore
from foveate.files import write_atomic

_COLUMNS = tuple(item.name for item in fields(CaseScore))
_TEXTS = ("case_id", "patient_id", "label", "method", "answer")
_LISTS = ("false_iou", "false_iobb", "largest_ious", "any_ious")
_SINCE = (
    "best_iou",
    "best_iobb",
    "dice",
    "pixel_ap",
    "centre_inside",
    "half_inside",
    "area",
    "answer",
    "cell_hit",
    "cell_chance",
    "plane_pointing",
    "plane_chance",
    "plane_iou",
    "depth_error",
    "depth_error_mm",
    *_LISTS,
)


def write_scores(path: Path, rows: Sequence[CaseScore]) -> None:
    """Write ``localization.csv``: one row per case, class, view and method, the columns of ``CaseScore``."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(_COLUMNS)
    writer.writerows([_cell(value) for value in astuple(row)] for row in rows)
    write_atomic(path, stream.getvalue())


def read_scores(path: Path) -> list[CaseScore]:
    """Read ``localization.csv``; the same numbers as were written, and none where an older version wrote it.

    Raises:
        InputRefused: this is not such a file.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            return [_row(row) for row in csv.DictReader(stream)]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise InputRefused(
            f"these scores cannot be read ({error})",
            where=str(path),
            fix="write the file again with `foveate localize`",
            code="damaged-run-file",
        ) from error


def _cell(value: object) -> object:
    return ";".join(map(str, value)) if isinstance(value, tuple) else value


def _row(row: dict[str, str]) -> CaseScore:
    values: dict[str, Any] = {}
    for name in _COLUMNS:
        if name in _SINCE and name not in row:
            continue
        text = row[name]
        if name in _TEXTS:
            values[name] = text
        elif name in _LISTS:
            values[name] = tuple(float(part) for part in text.split(";") if part)
        elif name == "empty":
            values[name] = {"True": True, "False": False}[text]
        else:
            values[name] = float(text)
    return CaseScore(**values)
