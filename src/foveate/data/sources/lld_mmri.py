"""LLD-MMRI2023: liver lesions in eight MR phases, seven classes.

Two layouts as published:

* whole volumes: ``images/MRxxxx/<study>/<series>.nii.gz`` and ``labels/Annotation.json``, from which this
  adapter cuts a region of interest around each lesion in every phase, as the challenge's script does;
* ready regions: ``classification_dataset/images/<case>/<Phase>.nii.gz`` with ``labels/labels.txt`` (lines of
  case and label).

Views are named ``t2, dwi, in_phase, out_phase, c_pre, c_arterial, c_venous, c_delay``, in the challenge's
order.

LCA-DB's code brings splits of its own: ``fold1.csv`` to ``fold5.csv`` (``lesion_classifier,dataset,label``
with Train and Val, lines ending in CRLF) and ``test.csv`` (test), 394 and 104 cases.
"""

from __future__ import annotations

import csv
import json
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from foveate.data.sources.lld_mmri_crop import Lesion, crop_lesion
from foveate.data.sources.source import DataSource, Listing, Row, count_labels, relative, require
from foveate.errors import InputRefused
from foveate.study.settings import Settings
from foveate.types import Track

CLASSES = ("hemangioma", "ICC", "abscess", "metastasis", "cyst", "FNH", "HCC")
MALIGNANT = ("ICC", "metastasis", "HCC")
POOL = (63, 46, 42, 40, 42, 36, 125)  # training and validation cases of each class
TEST = (16, 12, 12, 11, 11, 10, 32)
PHASES = {
    "T2WI": "t2",
    "DWI": "dwi",
    "In Phase": "in_phase",
    "Out Phase": "out_phase",
    "C-pre": "c_pre",
    "C+A": "c_arterial",
    "C+V": "c_venous",
    "C+Delay": "c_delay",
}
FOLDS, FOLD_SEED = 5, 66
_TABLE = "name LCA-DB's folder of tables, or one of them: --option table=…"
_LAYOUT = "ROOT holds images/ and labels/Annotation.json, or classification_dataset/ with images/ and labels/"


class LldMmriOptions(Settings):
    """Choices of the adapter.

    Attributes:
        variant: of the cut: ``corrected``, or ``paper``, which tests x against the height of the slices and y
            against their width, as the challenge's script does.
        margin: pixels in the plane and slices across it that are kept around the lesion's box.
        task: ``lesion``: seven classes; ``malignancy``: benign (hemangioma, abscess, cyst, FNH) or malignant
            (ICC, metastasis, HCC).
        split: ``none``; ``lists``: the challenge's ``labels_train.txt``, ``labels_val.txt``,
            ``labels_test.txt`` in ``labels/``; ``table``: LCA-DB's, named by ``table``; ``folds``: the
            challenge's fold generator on all but the test cases.
        table: of ``split: table``, from ROOT: the folder with LCA-DB's tables, which become the columns
            ``fold1`` to ``fold5``; or one of them, which becomes ``split``. Either way, ``test.csv`` beside
            them is read.
        fold: which of five folds validates, 0-based, for ``split: folds``.
    """

    variant: Literal["corrected", "paper"] = "corrected"
    margin: tuple[int, int] = (16, 2)
    task: Literal["lesion", "malignancy"] = "lesion"
    split: Literal["none", "lists", "table", "folds"] = "none"
    table: Path | None = None
    fold: Annotated[int, Field(ge=0, lt=FOLDS)] = 0


def read_lld_mmri(root: Path, home: Path, options: LldMmriOptions, track: Track) -> Listing:
    """List lesions with a view per phase; a phase that is absent is left empty."""
    problems: list[str] = []
    notes: list[str] = []
    if (root / "labels" / "Annotation.json").is_file():
        rows = _from_annotation(root, home, options, track, problems, notes)
    else:
        rows = _from_regions(root, home, track, problems)
    splits = _splits(rows, root, options, problems, notes)
    counts = Counter({name: pool + test for name, pool, test in zip(CLASSES, POOL, TEST, strict=True)})
    if options.task == "malignancy":
        rows = [{**row, "label": _malignancy(row["label"])} for row in rows]
        counts = sum((Counter({_malignancy(name): count}) for name, count in counts.items()), Counter())
    views = " ".join(f"--view {name}" for name in PHASES.values())
    column = next(iter(splits), "") if len(splits) < 2 else f"[{', '.join(splits)}]"
    return Listing(
        [{**row, **{name: part.get(row["case_id"], "") for name, part in splits.items()}} for row in rows],
        {"cases": counts.total(), **{f"label {name}": count for name, count in counts.items()}},
        count_labels(rows),
        init=f"--label label {views}" + (f" # then split: {{column: {column}}}" if splits else ""),
        problems=problems,
        notes=notes,
    )


def generated_folds(cases: Sequence[str], labels: Sequence[str]) -> list[list[str]]:
    """The challenge's fold generator: each class shuffled (Python's ``random``, seed 66) and cut in five.

    Args:
        cases: names, in the order of ``labels.txt``.
        labels: their classes.

    Returns:
        Cases of the five folds; what does not divide goes to the first ones.
    """
    chance = random.Random(FOLD_SEED)
    folds: list[list[str]] = [[] for _ in range(FOLDS)]
    for name in CLASSES:
        own = [case for case, label in zip(cases, labels, strict=True) if label == name]
        chance.shuffle(own)
        size, more = divmod(len(own), FOLDS)
        ends = [size * (index + 1) + min(index + 1, more) for index in range(FOLDS)]
        for fold, start, stop in zip(folds, [0, *ends[:-1]], ends, strict=True):
            fold += own[start:stop]
    return folds


def _from_annotation(
    root: Path, home: Path, options: LldMmriOptions, track: Track, problems: list[str], notes: list[str]
) -> list[Row]:
    """Cut every lesion out of every phase."""
    path = root / "labels" / "Annotation.json"
    try:
        patients = json.loads(path.read_text(encoding="utf-8"))["Annotation_info"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputRefused(
            f"not the annotation of LLD-MMRI: {error!r}", where=str(path), code="no-table"
        ) from error
    rows: dict[str, dict[str, str]] = {}
    for patient in track(list(patients), "Cutting out lesions"):
        for lesion in _lesions(root, patient, patients[patient], problems):
            try:
                written = crop_lesion(lesion, home / "roi", options.margin, options.variant)
            except InputRefused as error:
                notes.append(f"{lesion.case} {lesion.phase}: left out: {error.what}")
                continue
            label = _label(lesion.category)
            row = rows.setdefault(lesion.case, _row(lesion.case, patient, label))
            if row["label"] != label:
                problems.append(f"{lesion.case}: '{row['label']}' in one phase, '{label}' in another")
            row[PHASES[lesion.phase]] = relative(written, home)
    return list(rows.values())


def _lesions(
    root: Path, patient: str, series: Sequence[Mapping[str, Any]], problems: list[str]
) -> Iterator[Lesion]:
    """Every lesion of a patient in every phase; the second lesion is the case ``<patient>_1``, and so on."""
    for entry in series:
        try:
            volume = root / "images" / patient / entry["studyUID"] / f"{entry['seriesUID']}.nii.gz"
            phase = entry["phase"]
            if phase not in PHASES or not volume.is_file():
                problems.append(f"{patient}: phase '{phase}' or its file {volume.name} is unknown")
                continue
            for number, (index, lesion) in enumerate(sorted(entry["annotation"]["lesion"].items())):
                case = patient if number == 0 else f"{patient}_{index}"
                yield Lesion(case, phase, volume, lesion["category"], lesion["bbox"]["3D_box"])
        except (KeyError, TypeError) as error:
            problems.append(f"{patient}: its annotation lacks {error}")


def _from_regions(root: Path, home: Path, track: Track, problems: list[str]) -> list[Row]:
    """List regions that were cut already."""
    if (root / "classification_dataset").is_dir():
        root = root / "classification_dataset"
    rows: list[Row] = []
    for case, label in track(_labels(require(root, "labels/labels.txt", fix=_LAYOUT)), "Listing LLD-MMRI"):
        paths = {view: root / "images" / case / f"{name}.nii.gz" for name, view in PHASES.items()}
        present = {view: relative(path, home) for view, path in paths.items() if path.is_file()}
        if not present:
            problems.append(f"{case}: no phase in {root / 'images' / case}")
        rows.append(_row(case, case.split("_")[0], _label(label)) | present)
    return rows


def _row(case: str, patient: str, label: str) -> dict[str, str]:
    return {"case_id": case, "patient_id": patient, "label": label, **dict.fromkeys(PHASES.values(), "")}


def _label(category: Any) -> str:
    """The class by its number or name."""
    text = str(category)
    return CLASSES[int(text)] if text.isdigit() and int(text) < len(CLASSES) else text


def _labels(path: Path) -> list[tuple[str, str]]:
    """``case label`` lines."""
    lines = (line.split() for line in path.read_text(encoding="utf-8").splitlines())
    return [(parts[0], parts[1]) for parts in lines if len(parts) >= 2]


def _malignancy(label: str) -> str:
    """Benign or malignant; a label that is none of the seven stays as it is."""
    return ("malignant" if label in MALIGNANT else "benign") if label in CLASSES else label


def _splits(
    rows: Sequence[Row], root: Path, options: LldMmriOptions, problems: list[str], notes: list[str]
) -> dict[str, dict[str, str]]:
    """By column, the part of each case; cases that a column does not name are problems."""
    if options.split == "none":
        return {}
    if options.split == "table":
        labels = {row["case_id"]: row["label"] for row in rows}
        splits = _tables(root / (options.table or ""), labels, problems, notes)
    else:
        splits = {"split": _list_parts(root)}
    if options.split == "folds":
        part = splits["split"]
        pool = [row for row in rows if part.get(row["case_id"]) != "test"]
        folds = generated_folds([row["case_id"] for row in pool], [row["label"] for row in pool])
        part |= {
            case: "val" if i == options.fold else "train" for i, fold in enumerate(folds) for case in fold
        }
    for name, part in splits.items():
        lacking = [row["case_id"] for row in rows if row["case_id"] not in part]
        problems += [f"{case}: the column {name} does not name it" for case in lacking]
    return splits


def _list_parts(root: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in ("train", "val", "test"):
        for folder in (root / "labels", root / "classification_dataset" / "labels"):
            if (path := folder / f"labels_{part}.txt").is_file():
                found |= {case: part for case, _ in _labels(path)}
    return found


def _tables(
    path: Path, labels: Mapping[str, str], problems: list[str], notes: list[str]
) -> dict[str, dict[str, str]]:
    """LCA-DB's tables: all folds of a folder, or one; each with the cases of ``test.csv`` beside it."""
    folds = sorted(path.glob("fold*.csv")) if path.is_dir() else [path]
    if not folds:
        raise InputRefused("no fold*.csv in here", where=str(path), fix=_TABLE, code="no-table")
    test = folds[0].parent / "test.csv"
    held_out = _parts_of(test, labels, problems) if test.is_file() and test not in folds else {}
    found = {}
    for fold in folds:
        part = _parts_of(fold, labels, problems)
        problems += [
            f"{case}: {part[case]} in {fold.name}, {held_out[case]} in {test.name}"
            for case in part.keys() & held_out.keys()
            if part[case] != held_out[case]
        ]
        part |= held_out
        if strangers := part.keys() - labels.keys():
            notes.append(f"{fold.name}: {len(strangers)} of its cases are not in this folder")
        found[fold.stem if path.is_dir() else "split"] = part
    return found


def _parts_of(path: Path, labels: Mapping[str, str], problems: list[str]) -> dict[str, str]:
    """One table: ``lesion_classifier,dataset,label`` with dataset Train, Val or test, and 0 to 6."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = [
                (row["lesion_classifier"], row["dataset"].lower(), row["label"])
                for row in csv.DictReader(stream)
            ]
    except (OSError, KeyError, AttributeError) as error:
        raise InputRefused(f"not a split table of LCA-DB: {error!r}", where=str(path), fix=_TABLE) from error
    problems += [
        f"{case}: {_label(label)} in {path.name}, {labels[case]} in the annotation"
        for case, _, label in rows
        if labels.get(case, _label(label)) != _label(label)
    ]
    return {case: part for case, part, _ in rows}


LLD_MMRI = DataSource(
    name="lld-mmri",
    title="LLD-MMRI2023: 498 liver lesions in eight MR phases, seven classes",
    where="the challenge's repository (search for 'LLD-MMRI2023'), after registration",
    licence="for research, by agreement with its publishers; the repository carries no licence file",
    citation="LLD-MMRI2023, liver lesion diagnosis challenge on multi-phase MRI, MICCAI 2023",
    layout=_LAYOUT,
    traps=(
        "The phases are not registered to each other; each has a lesion box of its own, which centres it.",
        "The challenge's script tests x against the height and y against the width (variant=paper).",
        "Several lesions of one patient are several cases: patient_id keeps them together.",
        "LCA-DB's published 69.2 % accuracy is on the same 104 test cases as the challenge, whose best teams "
        "reach an F1 of 83 %; it trained on 394 cases.",
    ),
    read=read_lld_mmri,
    options=LldMmriOptions,
)
