"""Manifests for the folder of real images that tests and results use (``FOVEATE_DATA``), in its own layout.

Each function copies one set into a work folder, since a manifest's paths may not lead out of its own folder,
and adds what the set's table lacks: volumes as NIfTI, boxes in the manifest's columns, the authors' split.
"""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from foveate.data.sources.chestxray14 import FINDINGS
from foveate.data.sources.sipakmed import authors_split
from foveate.data.sources.source import as_csv
from foveate.files import write_atomic
from foveate.io.nifti import write_nifti
from foveate.types import Geometry

Rows = list[dict[str, str]]


def sipakmed(data: Path, work: Path) -> Path:
    """Cells with the slide image as group, and the authors' split by cell in ``authors_split``."""
    folder = _copied(data / "sipakmed", work)
    rows = _read(folder / "labels.csv")
    parts = authors_split([Path(row["path"]).name for row in rows], [row["label"] for row in rows])
    for row, part in zip(rows, parts, strict=True):
        row |= {"case_id": f"{row['label']}_{Path(row['path']).stem}", "authors_split": part}
    return _write(folder, rows, patient="slide_image", image="path", keep=("label", "authors_split"))


def nih(data: Path, work: Path) -> Path:
    """Chest radiographs of 320 pixels with 14 findings, and boxes in those pixels."""
    folder = _copied(data / "nih_cxr14_1000", work)
    rows = _read(folder / "labels.csv")
    for row in rows:
        row["case_id"] = Path(row["image"]).stem
    known = {row["case_id"] for row in rows}
    boxes = [
        {"case_id": Path(row["Image Index"]).stem, "label": row["Finding Label"]}
        | {name: row[f"{name}_320"] for name in "xywh"}
        for row in _read(folder / "bboxes.csv")
    ]
    write_atomic(folder / "boxes.csv", as_csv([box for box in boxes if box["case_id"] in known]))
    return _write(folder, rows, patient="patient_id", image="image", keep=tuple(FINDINGS))


def nih64(data: Path, work: Path) -> Path:
    """Chest radiographs of 64 pixels with 14 findings."""
    folder = _copied(data / "nih_kcr64", work)
    rows = _read(folder / "labels.csv")
    for row in rows:
        row["case_id"] = Path(row["path"]).stem
    return _write(folder, rows, patient="patient_id", image="path", keep=tuple(FINDINGS))


def milk10k(data: Path, work: Path) -> Path:
    """Pairs of a clinical and a dermoscopic photo of one lesion."""
    folder = _copied(data / "milk10k_pairs", work)
    rows = _read(folder / "labels.csv")
    for row in rows:
        row["case_id"] = row["lesion_id"]
    return _write(folder, rows, patient="lesion_id", image="", keep=("label", "clinical", "dermoscopic"))


def acdc(data: Path, work: Path) -> Path:
    """Heart volumes at end-diastole and end-systole; the source's archives become NIfTI, slices 10 mm apart.

    The true distance of slices is not in the source; nothing here depends on it.
    """
    folder = work / "acdc"
    rows = _read(data / "acdc_ed_es" / "labels.csv")
    for row in rows:
        row["case_id"] = row["patient"]
        with np.load(data / "acdc_ed_es" / row["volume"]) as stored:
            for name in ("ed", "es", "ed_mask"):
                row[name] = f"{name}/{row['patient']}.nii.gz"
                values = stored[name] if name != "ed_mask" else (stored[name] > 0).astype(np.uint8)
                path = folder / row[name]
                path.parent.mkdir(parents=True, exist_ok=True)
                affine = np.diag([1.5, 1.5, 10.0, 1.0])[:, [2, 1, 0, 3]]  # from (z, y, x) to millimetres
                write_nifti(path, values, Geometry(values.shape, (10.0, 1.5, 1.5), affine))
        row["organ_mask"] = row.pop("ed_mask")
    return _write(folder, rows, patient="patient", image="", keep=("label", "ed", "es", "organ_mask"))


def busi(data: Path, work: Path) -> Path:
    """Breast ultrasound with lesion masks, near-duplicates as groups."""
    folder = _copied(data / "busi", work)
    rows = _read(folder / "labels.csv")
    for row in rows:
        row["case_id"] = Path(row["image"]).stem
        row["mask"] = row["mask"] if row["label"] != "normal" else ""
    return _write(folder, rows, patient="near_dup_group", image="image", keep=("label", "mask"))


def idrid(data: Path, work: Path) -> Path:
    """Fundus: is the retinopathy referable (grade 2 and up)? The set's two parts together, which overlap.

    Images of the segmentation part all show lesions and count as referable; their mask holds haemorrhages,
    microaneurysms and both kinds of exudates.
    """
    folder = _copied(data / "idrid", work)
    rows = [
        {"case_id": Path(row["path"]).stem, "image": row["path"], "mask": ""}
        | {"label": "referable" if int(row["dr_grade"]) >= 2 else "not referable"}
        for row in _read(folder / "grading_labels.csv")
    ]
    for row in _read(folder / "seg_labels.csv"):
        name = Path(row["image"]).stem
        lesions = [folder / "seg_masks" / f"{name}_{kind}.png" for kind in ("MA", "HE", "EX", "SE")]
        marked = np.any([np.asarray(Image.open(path)) > 0 for path in lesions if path.is_file()], axis=0)
        mask = folder / "masks" / f"{name}.png"
        mask.parent.mkdir(exist_ok=True)
        Image.fromarray(marked.astype(np.uint8) * 255).save(mask)
        case = {"case_id": f"seg_{name}", "image": row["image"], "mask": f"masks/{mask.name}"}
        rows.append(case | {"label": "referable"})
    for row in rows:
        row["patient"] = row["case_id"]  # the set has no patient ids
    return _write(folder, rows, patient="patient", image="image", keep=("label", "mask"))


SETS: Mapping[str, Callable[[Path, Path], Path]] = {
    "sipakmed": sipakmed,
    "nih": nih,
    "nih64": nih64,
    "milk10k": milk10k,
    "acdc": acdc,
    "busi": busi,
    "idrid": idrid,
}


def _copied(source: Path, work: Path) -> Path:
    folder = work / source.name
    shutil.copytree(source, folder, dirs_exist_ok=True)
    return folder


def _read(path: Path) -> Rows:
    with path.open(newline="", encoding="utf-8-sig") as stream:
        return list(csv.DictReader(stream))


def _write(folder: Path, rows: Rows, *, patient: str, image: str, keep: Sequence[str]) -> Path:
    chosen = [
        {"case_id": row["case_id"], "patient_id": row[patient]}
        | ({"image": row[image]} if image else {})
        | {name: row[name] for name in keep}
        for row in rows
    ]
    write_atomic(folder / "manifest.csv", as_csv(chosen))
    return folder / "manifest.csv"
