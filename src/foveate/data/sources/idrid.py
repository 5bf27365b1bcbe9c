"""IDRiD: fundus photographs with grades of retinopathy and macular edema, and with lesion masks.

Layout as published: ``A. Segmentation/1. Original Images/{a. Training Set,b. Testing Set}``,
``A. Segmentation/2. All Segmentation Groundtruths/…/{1. Microaneurysms,…}`` and ``B. Disease Grading`` with
its images and the two label tables under ``2. Groundtruths``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from foveate.data.sources.source import DataSource, Listing, Row, count_labels, read_table, relative, require
from foveate.study.settings import Settings
from foveate.types import Track

LESIONS = {
    "MA": "1. Microaneurysms",
    "HE": "2. Haemorrhages",
    "EX": "3. Hard Exudates",
    "SE": "4. Soft Exudates",
}
PARTS = {"train": "a. Training Set", "test": "b. Testing Set"}
TABLES = {
    "train": "a. IDRiD_Disease Grading_Training Labels.csv",
    "test": "b. IDRiD_Disease Grading_Testing Labels.csv",
}
TARGETS = {"retinopathy": "Retinopathy grade", "edema": "Risk of macular edema"}
_LAYOUT = "ROOT holds the folders 'A. Segmentation' and 'B. Disease Grading'"


class IdridOptions(Settings):
    """Choices of the adapter.

    Attributes:
        part: ``grading`` (516 images with grades) or ``segmentation`` (81 images with lesion masks).
        target: of the grading part: grade of retinopathy (0–4) or risk of macular edema (0–2).
        lesion: of the segmentation part: the lesion whose presence is the label and whose mask is the truth.
    """

    part: Literal["grading", "segmentation"] = "grading"
    target: Literal["retinopathy", "edema"] = "retinopathy"
    lesion: Literal["MA", "HE", "EX", "SE"] = "SE"


def read_idrid(root: Path, home: Path, options: IdridOptions, track: Track) -> Listing:
    """List one of the two parts with its official split."""
    if options.part == "grading":
        return _grading(root, home, options, track)
    return _segmentation(root, home, options, track)


def _grading(root: Path, home: Path, options: IdridOptions, track: Track) -> Listing:
    base = require(root, "B. Disease Grading", fix=_LAYOUT)
    rows: list[Row] = []
    problems: list[str] = []
    for part, name in TABLES.items():
        path = require(base, f"2. Groundtruths/{name}", fix=_LAYOUT)
        table = [_stripped(row) for row in read_table(path, ["Image name"], source="IDRiD")]
        for entry in track(table, f"Listing IDRiD, {part}"):
            image = base / "1. Original Images" / PARTS[part] / f"{entry['Image name']}.jpg"
            if not image.is_file():
                problems.append(f"{part}: {image.name} is not in {image.parent}")
                continue
            case = f"{part}_{entry['Image name']}"  # numbers start anew in the testing set
            grade = entry[TARGETS[options.target]]
            rows.append(_row(case, image, f"grade {grade}", part, home))
    expected = {"cases": 516, "part train": 413, "part test": 103}
    return Listing(rows, expected, _count(rows), init="--label label", problems=problems, notes=_NOTES)


def _segmentation(root: Path, home: Path, options: IdridOptions, track: Track) -> Listing:
    base = require(root, "A. Segmentation", fix=_LAYOUT)
    rows: list[Row] = []
    for part, image in track(list(_photographs(base)), "Listing IDRiD masks"):
        truths = base / "2. All Segmentation Groundtruths" / PARTS[part] / LESIONS[options.lesion]
        mask = truths / f"{image.stem}_{options.lesion}.tif"
        label = options.lesion if mask.is_file() else f"no {options.lesion}"
        masked = {"mask": relative(mask, home) if mask.is_file() else ""}
        rows.append({**_row(image.stem, image, label, part, home), **masked})
    expected = {"cases": 81, "part train": 54, "part test": 27}
    return Listing(rows, expected, _count(rows), init="--label label", notes=_NOTES)


def _photographs(base: Path) -> Iterator[tuple[str, Path]]:
    for part, folder in PARTS.items():
        for image in sorted((base / "1. Original Images" / folder).glob("*.jpg")):
            yield part, image


def _row(case: str, image: Path, label: str, part: str, home: Path) -> Row:
    return {
        "case_id": case,
        "patient_id": case,
        "label": label,
        "image": relative(image, home),
        "official_split": part,
    }


def _count(rows: list[Row]) -> dict[str, int]:
    parts = {f"part {part}": sum(row["official_split"] == part for row in rows) for part in PARTS}
    return count_labels(rows) | parts


def _stripped(row: dict[str, str]) -> dict[str, str]:
    """The tables have blanks around names, and empty columns at their end."""
    return {(key or "").strip(): (value or "").strip() for key, value in row.items()}


_NOTES = (
    "official_split is train or test without a validation part, and near-duplicates cross it: let the audit "
    "keep them together, or say split: {column: official_split} for comparison with published figures",
)
IDRID = DataSource(
    name="idrid",
    title="IDRiD: 516 fundus photographs with grades, 81 with lesion masks",
    where="the data port of the IEEE (search for 'Indian Diabetic Retinopathy Image Dataset')",
    licence="CC BY 4.0",
    citation="Porwal et al., Indian diabetic retinopathy image dataset (IDRiD), Data 2018",
    layout=_LAYOUT,
    traps=(
        "Most of the 81 images with masks re-appear renumbered among the 516 graded ones; 15 of the 27 "
        "testing masks belong to images of the grading training set.",
        "No patient ids: left and right eyes of one patient may part.",
        "Names start from 1 in the training and in the testing set.",
    ),
    read=read_idrid,
    options=IdridOptions,
)
