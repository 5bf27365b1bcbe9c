"""The ``heatmaps/`` folder of a run: one ``.npz`` per case and view, and ``index.csv`` that lists them.

Maps are stored raw and signed, in the pixels of the original image. Beside them lie a small picture to
draw them over and, where the cohort has one, the true mask.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from foveate.files import replacing, write_atomic
from foveate.types import Array, Heatmap

PICTURE_SIDE = 512  # pixels; enough for a report, small enough for thousands of cases


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of ``index.csv``.

    Attributes:
        case_id, patient_id, split, view: of the case.
        explainer: name in the ``EXPLAINERS`` table.
        targets: explained classes, in the order of the maps.
        truth_class: true classes, joined by ``;`` (empty where unknown).
        predicted_class: the most probable class.
        probability: its probability.
        file: name of the ``.npz`` in the folder.
    """

    case_id: str
    patient_id: str
    split: str
    view: str
    explainer: str
    targets: tuple[str, ...]
    truth_class: str
    predicted_class: str
    probability: float
    file: str


@dataclass(frozen=True, slots=True)
class CaseMaps:
    """The content of one ``.npz``.

    Attributes:
        values: ``(T, H, W)`` float32, raw and signed, in original pixels.
        targets: T class names.
        picture: ``(h, w)`` or ``(h, w, 3)`` uint8, the whole image reduced for display.
        truth: ``(H, W)`` true mask, or None.
    """

    values: NDArray[np.float32]
    targets: tuple[str, ...]
    picture: NDArray[np.uint8]
    truth: NDArray[np.bool_] | None


def file_name(case_id: str, view: str) -> str:
    """A file name that is safe on every system and differs for different cases and views."""
    readable = re.sub(r"[^A-Za-z0-9._-]+", "_", f"{case_id}_{view}")[:60].lstrip(".")
    return f"{readable}-{hashlib.sha256(json.dumps([case_id, view]).encode()).hexdigest()[:8]}.npz"


def write_case(
    path: Path, maps: Sequence[Heatmap], picture: NDArray[np.uint8], truth: NDArray[np.bool_] | None
) -> None:
    """Write the maps of one view of one case.

    Args:
        path: of the ``.npz``.
        maps: one per target, all of the same shape.
        picture: ``(h, w)`` or ``(h, w, 3)``.
        truth: ``(H, W)`` or None.
    """
    content: dict[str, Array] = {
        "values": np.stack([item.values for item in maps]).astype(np.float32),
        "targets": np.array([item.target for item in maps]),
        "picture": picture,
    }
    if truth is not None:
        content["truth"] = truth
    with replacing(path) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, allow_pickle=False, **content)


def read_case(path: Path) -> CaseMaps:
    """Read what ``write_case`` wrote."""
    with np.load(path, allow_pickle=False) as content:
        truth = content["truth"].astype(bool) if "truth" in content else None
        targets = tuple(str(name) for name in content["targets"])
        return CaseMaps(content["values"], targets, content["picture"], truth)


def write_index(folder: Path, entries: Iterable[Entry]) -> None:
    """Write ``index.csv``; it comes last, so that it never names a map that is not there."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Entry)], lineterminator="\n")
    writer.writeheader()
    for entry in entries:
        writer.writerow(asdict(entry) | {"targets": ";".join(entry.targets)})
    write_atomic(folder / "index.csv", text.getvalue())


def read_index(folder: Path) -> list[Entry]:
    """Read ``index.csv``."""
    with (folder / "index.csv").open(encoding="utf-8", newline="") as stream:
        return [_entry(row) for row in csv.DictReader(stream)]


def _entry(row: Mapping[str, str]) -> Entry:
    plain = {name: row[name] for name in ("case_id", "patient_id", "split", "view", "explainer")}
    return Entry(
        **plain,
        targets=tuple(row["targets"].split(";")),
        truth_class=row["truth_class"],
        predicted_class=row["predicted_class"],
        probability=float(row["probability"]),
        file=row["file"],
    )


def display_picture(pixels: Array, limits: tuple[float, float]) -> NDArray[np.uint8]:
    """An 8-bit picture for people: ``limits`` become black and white, at most 512 pixels a side.

    Args:
        pixels: ``(1, H, W)`` or ``(3, H, W)`` of any type.
        limits: values that become 0 and 255.

    Returns:
        ``(h, w)`` or ``(h, w, 3)`` uint8, every n-th pixel of the original.
    """
    step = -(-max(pixels.shape[-2:]) // PICTURE_SIDE)
    low, high = limits
    small = pixels[:, ::step, ::step].astype(np.float32)
    grey = (np.clip((small - low) / max(high - low, 1e-12), 0, 1) * 255).round().astype(np.uint8)
    return grey[0] if len(grey) == 1 else np.moveaxis(grey, 0, -1)
