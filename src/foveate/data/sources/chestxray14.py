"""ChestX-ray14 (NIH): 112,120 frontal chest radiographs of 30,805 patients, 14 findings, 984 boxes.

Layout as published: ``Data_Entry_2017_v2020.csv`` (or ``Data_Entry_2017.csv``), ``BBox_List_2017.csv``,
``train_val_list.txt``, ``test_list.txt``, and the images in ``images_001/images`` … ``images_012/images`` or
in one folder ``images``. Tables may be gzipped.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from foveate.data.sources.source import DataSource, Listing, Row, read_table, relative, require
from foveate.errors import InputRefused
from foveate.io.reading import probe
from foveate.study.settings import Settings, Share
from foveate.types import Track

FINDINGS = {
    "Atelectasis": 11559, "Cardiomegaly": 2776, "Effusion": 13317, "Infiltration": 19894, "Mass": 5782,
    "Nodule": 6331, "Pneumonia": 1431, "Pneumothorax": 5302, "Consolidation": 4667, "Edema": 2303,
    "Emphysema": 2516, "Fibrosis": 1686, "Pleural_Thickening": 3385, "Hernia": 227,
}  # fmt: skip
COUNTS = {"cases": 112_120, "patients": 30_805, "train + val": 86_524, "test": 25_596, "boxes": 984}
BOX_PIXELS = 1024  # the boxes are given in pixels of the published 1024 × 1024 images
_BOX_NAMES = {"Infiltrate": "Infiltration"}
_LAYOUT = "ROOT holds Data_Entry_2017*.csv, the two official lists, and images_001/ … or images/"


class ChestXray14Options(Settings):
    """Choices of the adapter.

    Attributes:
        val: share of the official training patients that become the validation part.
        seed: of their choice.
        only_present: list only images that are in the folder, for a part of the download.
    """

    val: Share = 0.1
    seed: int = 0
    only_present: bool = False


def read_chestxray14(root: Path, home: Path, options: ChestXray14Options, track: Track) -> Listing:
    """List images with 14 findings of 0 and 1, the official split, and boxes in the images' own pixels."""
    names = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017_v2020.csv.gz", "Data_Entry_2017.csv")
    table = read_table(
        require(root, *names, fix=_LAYOUT),
        ("Image Index", "Finding Labels", "Patient ID"),
        source="ChestX-ray14",
    )
    part = _official_parts(root)
    images = _images(root)
    val = _validation_patients(table, part, options)
    rows: list[Row] = []
    problems: list[str] = []
    for entry in track(table, "Listing ChestX-ray14"):
        name = entry["Image Index"]
        if name not in images:
            if not options.only_present:
                problems.append(f"{name}: not in the folder")
            continue
        if name not in part:
            problems.append(f"{name}: in neither official list")
            continue
        rows.append(_row(entry, relative(images[name], home), part[name], val))
    boxes = _boxes(root, images)
    return Listing(
        rows=rows,
        expected={**COUNTS, **{f"finding {name}": count for name, count in FINDINGS.items()}},
        found=_count(rows, boxes),
        init=" ".join(f"--finding {name}" for name in FINDINGS) + " # then split: {column: split}",
        boxes=boxes,
        problems=_shortened(problems),
        notes=["counts differ from the published ones by the images that are not here"]
        if options.only_present
        else [],
    )


def _row(entry: Mapping[str, str], image: str, part: str, val: frozenset[str]) -> Row:
    present = set(entry["Finding Labels"].split("|"))
    patient = entry["Patient ID"]
    return {
        "case_id": entry["Image Index"].removesuffix(".png"),
        "patient_id": patient,
        "image": image,
        **{name: str(int(name in present)) for name in FINDINGS},
        "split": "val" if part == "train" and patient in val else part,
        "age": entry.get("Patient Age", ""),
        "sex": entry.get("Patient Gender", entry.get("Patient Sex", "")),
        "position": entry.get("View Position", ""),
    }


def _official_parts(root: Path) -> dict[str, str]:
    parts: dict[str, str] = {}
    for part, name in (("train", "train_val_list.txt"), ("test", "test_list.txt")):
        lines = require(root, name, fix=_LAYOUT).read_text(encoding="utf-8").split()
        parts |= dict.fromkeys(lines, part)
    return parts


def _images(root: Path) -> dict[str, Path]:
    """Every image by its file name."""
    folders = [*sorted(root.glob("images_0*/images")), *sorted(root.glob("images_0*")), root / "images"]
    found = {path.name: path for folder in folders if folder.is_dir() for path in folder.glob("*.png")}
    if not found:
        raise InputRefused("no image was found", where=str(root), fix=_LAYOUT, code="layout-unknown")
    return found


def _validation_patients(
    table: Sequence[Mapping[str, str]], part: Mapping[str, str], options: ChestXray14Options
) -> frozenset[str]:
    """The official lists have no validation part; patients of the training list are drawn for it."""
    pool = sorted({row["Patient ID"] for row in table if part.get(row["Image Index"]) == "train"}, key=int)
    order = np.random.default_rng(options.seed).permutation(len(pool))
    return frozenset(pool[index] for index in order[: round(options.val * len(pool))])


def _boxes(root: Path, images: Mapping[str, Path]) -> list[Row]:
    """Boxes of images that are here, scaled from the published 1024 pixels to those of the file."""
    paths = [root / name for name in ("BBox_List_2017.csv", "BBox_List_2017_Official_NIH.csv")]
    path = next((path for path in paths if path.exists()), None)
    if path is None:
        return []
    boxes: list[Row] = []
    with path.open(encoding="utf-8-sig", newline="") as stream:
        for name, label, *numbers in list(csv.reader(stream))[1:]:
            if name in images:
                height, width = probe(images[name]).shape[-2:]
                scale = (width / BOX_PIXELS, height / BOX_PIXELS) * 2
                corner = (f"{float(n) * s:g}" for n, s in zip(numbers[:4], scale, strict=True))
                case = {"case_id": name.removesuffix(".png"), "label": _BOX_NAMES.get(label, label)}
                boxes.append(case | dict(zip("xywh", corner, strict=True)))
    return boxes


def _count(rows: Sequence[Row], boxes: Sequence[Row]) -> dict[str, int]:
    parts = Counter(row["split"] for row in rows)
    return {
        "cases": len(rows),
        "patients": len({row["patient_id"] for row in rows}),
        "train + val": parts["train"] + parts["val"],
        "test": parts["test"],
        "boxes": len(boxes),
        **{f"finding {name}": sum(row[name] == "1" for row in rows) for name in FINDINGS},
    }


def _shortened(problems: Sequence[str], most: int = 50) -> list[str]:
    """The first problems, and how many more there are: a missing archive is thousands of images."""
    more = [f"and {len(problems) - most} more like these"] if len(problems) > most else []
    return [*problems[:most], *more]


CHESTXRAY14 = DataSource(
    name="chestxray14",
    title="ChestX-ray14: 112,120 chest radiographs of 30,805 patients, 14 findings, boxes for 880 images",
    where="the NIH Clinical Center's page of the data set (search for 'NIH chest X-ray dataset')",
    licence="free for any use with attribution to the NIH Clinical Center and a citation of the paper",
    citation="Wang et al., ChestX-ray8: hospital-scale chest X-ray database and benchmarks, IEEE CVPR 2017",
    layout=_LAYOUT,
    traps=(
        "Labels were mined from reports by text processing; their error rate is not negligible.",
        "All boxes are on images of the official test list; the box list calls Infiltration 'Infiltrate'.",
        "The official lists part patients; random splits by image, as in early papers, do not.",
        "The official lists have no validation part: this adapter draws one by patient.",
    ),
    read=read_chestxray14,
    options=ChestXray14Options,
)
