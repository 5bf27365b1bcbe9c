"""The ``heatmaps/`` folder of a run: one ``.npz`` per case and view, and ``index.csv`` that lists them.

Maps are stored raw and signed, in the pixels of the original image. Beside them lie a small picture to
draw them over and, where the cohort has them, the true mask and boxes. Maps of volumes also lie beside the
``.npz`` as ``.nii.gz``, one per class, in the geometry of the volume. ``shares.csv`` tells how much each view
of a case counts, where there are several.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from foveate.files import replacing, write_atomic
from foveate.types import Array, Box, Heatmap

PICTURE_SIDE = 512  # pixels; enough for a report, small enough for thousands of cases
SLICE_SIDE = 256  # of each slice of a volume
COARSE = 56  # cells along the longest side; finer maps are those of pixels


@dataclass(frozen=True, slots=True)
class MapEntry:
    """One row of ``index.csv``.

    Attributes:
        case_id, patient_id, split, view: of the case.
        explainer: name in the ``EXPLAINERS`` table.
        targets: explained classes, in the order of the maps.
        truth_class: true classes, joined by ``;`` (empty where unknown).
        predicted_class: the most probable class.
        probability: its probability.
        file: name of the ``.npz`` in the folder.
        completeness_gap: for integrated gradients, by how much the maps of all views of the case miss the
            rise of the score that they explain, for each target, in units of the score; else empty.
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
    completeness_gap: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class CaseMaps:
    """The content of one ``.npz``.

    Attributes:
        values: ``(T, H, W)`` or ``(T, D, H, W)`` float32, raw and signed, in original pixels.
        targets: T class names.
        picture: ``(h, w)`` or ``(h, w, 3)`` uint8, the whole image reduced for display; of a volume
            ``(D, h, w)`` or ``(D, h, w, 3)``, with every slice.
        truth: ``(H, W)`` or ``(D, H, W)`` true mask, or None.
        boxes: true boxes, in original pixels.
        grid: number of cells of the raw maps along each axis, before they were brought to original pixels;
            empty in files of older versions.
        field: where that grid lies, in original pixels; None in files of older versions.
        cells: ``(T, *grid)`` the raw maps themselves, if their grid is coarse; None for finer maps, and in
            files of older versions.
        spacing: millimetres per step along each axis of the maps; empty where the image does not say.
    """

    values: NDArray[np.float32]
    targets: tuple[str, ...]
    picture: NDArray[np.uint8]
    truth: NDArray[np.bool_] | None
    boxes: tuple[Box, ...] = ()
    grid: tuple[int, ...] = ()
    field: Box | None = None
    cells: NDArray[np.float32] | None = None
    spacing: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Share:
    """One row of ``shares.csv``: how much one view of a case counts for one class.

    Attributes:
        case_id, patient_id, split: of the case.
        target: the class.
        view: one that the case has.
        value: its Shapley value, in units of the logit; see ``foveate.explain.shares``.
        share: its share in the positive evidence of the heat maps of all views, in [0, 1].
        withheld: what stood for a view that is withheld: ``missing`` or ``blank``.
        sampled: whether the value is estimated from random orders of the views.
    """

    case_id: str
    patient_id: str
    split: str
    target: str
    view: str
    value: float
    share: float
    withheld: str
    sampled: bool = False


def file_name(case_id: str, view: str) -> str:
    """A file name that is safe on every system and differs for different cases and views."""
    readable = re.sub(r"[^A-Za-z0-9._-]+", "_", f"{case_id}_{view}")[:60].lstrip(".")
    return f"{readable}-{hashlib.sha256(json.dumps([case_id, view]).encode()).hexdigest()[:8]}.npz"


def volume_name(file: str, target: str) -> str:
    """Name of the ``.nii.gz`` of one class beside its ``.npz``; safe, and different for different classes."""
    readable = re.sub(r"[^A-Za-z0-9]+", "_", target)[:40]
    return f"{Path(file).stem}-{readable}-{hashlib.sha256(target.encode()).hexdigest()[:4]}.nii.gz"


def write_case(
    path: Path,
    maps: Sequence[Heatmap],
    picture: NDArray[np.uint8],
    truth: NDArray[np.bool_] | None,
    boxes: Sequence[Box] = (),
    *,
    cells: NDArray[np.float32] | None = None,
    field: Box | None = None,
    spacing: Sequence[float] | None = None,
) -> None:
    """Write the maps of one view of one case.

    Args:
        path: of the ``.npz``.
        maps: one per target, all of the same shape.
        picture: as in ``CaseMaps``.
        truth: of the maps' shape, or None.
        boxes: true boxes, in the pixels of the maps.
        cells: ``(T, *grid)`` the raw maps, coarse or not.
        field, spacing: as in ``CaseMaps``.
    """
    content: dict[str, Array] = {
        "values": np.stack([item.values for item in maps]).astype(np.float32),
        "targets": np.array([item.target for item in maps]),
        "picture": picture,
    }
    if truth is not None:
        content["truth"] = truth
    if boxes:
        content["boxes"] = np.array([(*box.start, *box.stop) for box in boxes], dtype=np.float64)
        content["box_labels"] = np.array([box.label for box in boxes])
    if cells is not None and field is not None:
        content["grid"] = np.array(cells.shape[1:], dtype=np.int64)
        content["field"] = np.array((*field.start, *field.stop), dtype=np.float64)
        if max(cells.shape[1:]) <= COARSE:
            content["cells"] = cells.astype(np.float32)
    if spacing is not None:
        content["spacing"] = np.array(spacing, dtype=np.float64)
    with replacing(path) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, allow_pickle=False, **content)


def read_case(path: Path) -> CaseMaps:
    """Read what ``write_case`` wrote."""
    with np.load(path, allow_pickle=False) as content:
        truth = content["truth"].astype(bool) if "truth" in content else None
        targets = tuple(str(name) for name in content["targets"])
        return CaseMaps(
            content["values"],
            targets,
            content["picture"],
            truth,
            tuple(_boxes(content)),
            tuple(content["grid"].tolist()) if "grid" in content else (),
            _box(content["field"].tolist()) if "field" in content else None,
            content.get("cells"),
            tuple(content["spacing"].tolist()) if "spacing" in content else (),
        )


def _boxes(content: Mapping[str, Array]) -> Iterable[Box]:
    if "boxes" in content:
        for corners, label in zip(content["boxes"].tolist(), content["box_labels"], strict=True):
            yield _box(corners, str(label))


def _box(corners: Sequence[float], label: str = "") -> Box:
    axes = len(corners) // 2
    return Box(tuple(corners[:axes]), tuple(corners[axes:]), label)


def write_index(folder: Path, entries: Iterable[MapEntry]) -> None:
    """Write ``index.csv``; it comes last, so that it never names a map that is not there."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(MapEntry)], lineterminator="\n")
    writer.writeheader()
    for entry in entries:
        gaps = ";".join(f"{gap:.6g}" for gap in entry.completeness_gap)
        writer.writerow(asdict(entry) | {"targets": ";".join(entry.targets), "completeness_gap": gaps})
    write_atomic(folder / "index.csv", text.getvalue())


def read_index(folder: Path) -> list[MapEntry]:
    """Read ``index.csv``."""
    with (folder / "index.csv").open(encoding="utf-8", newline="") as stream:
        return [_entry(row) for row in csv.DictReader(stream)]


def _entry(row: Mapping[str, str]) -> MapEntry:
    plain = {name: row[name] for name in ("case_id", "patient_id", "split", "view", "explainer")}
    return MapEntry(
        **plain,
        targets=tuple(row["targets"].split(";")),
        truth_class=row["truth_class"],
        predicted_class=row["predicted_class"],
        probability=float(row["probability"]),
        file=row["file"],
        completeness_gap=tuple(float(gap) for gap in (row.get("completeness_gap") or "").split(";") if gap),
    )


def write_shares(folder: Path, shares: Sequence[Share]) -> None:
    """Write ``shares.csv``, or remove an old one where there is nothing to share."""
    path = folder / "shares.csv"
    if not shares:
        path.unlink(missing_ok=True)
        return
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([field.name for field in fields(Share)])
    writer.writerows(astuple(share) for share in shares)
    write_atomic(path, text.getvalue())


def read_shares(folder: Path) -> list[Share]:
    """Read ``shares.csv``; nothing where there is none."""
    path = folder / "shares.csv"
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as stream:
        return [_share(row) for row in csv.DictReader(stream)]


def _share(row: Mapping[str, str]) -> Share:
    return Share(
        row["case_id"],
        row["patient_id"],
        row["split"],
        row["target"],
        row["view"],
        value=float(row["value"]),
        share=float(row["share"]),
        withheld=row["withheld"],
        sampled={"True": True, "False": False}[row["sampled"]],
    )


def display_picture(pixels: Array, limits: tuple[float, float]) -> NDArray[np.uint8]:
    """An 8-bit picture for people: ``limits`` become black and white, at most 512 pixels a side.

    Args:
        pixels: ``(1, H, W)`` or ``(3, H, W)`` of any type; of a volume ``(1, D, H, W)`` or ``(3, D, H, W)``.
        limits: values that become 0 and 255.

    Returns:
        ``(h, w)`` or ``(h, w, 3)`` uint8, every n-th pixel of the original; of a volume every slice, at most
        256 pixels a side: ``(D, h, w)`` or ``(D, h, w, 3)``.
    """
    step = -(-max(pixels.shape[-2:]) // (PICTURE_SIDE if pixels.ndim == 3 else SLICE_SIDE))
    low, high = limits
    small = pixels[..., ::step, ::step].astype(np.float32)
    grey = (np.clip((small - low) / max(high - low, 1e-12), 0, 1) * 255).round().astype(np.uint8)
    return grey[0] if len(grey) == 1 else np.moveaxis(grey, 0, -1)
