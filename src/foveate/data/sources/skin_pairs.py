"""Two sets of skin lesions seen twice, by a clinical photo and by a dermoscope: MILK10k and derm7pt.

MILK10k as published: ``MILK10k_Training_GroundTruth.csv`` (lesion_id and one 0/1 column per class),
``MILK10k_Training_Metadata.csv`` (one row per image: lesion_id, isic_id, image_type, …) and
``MILK10k_Training_Input/<lesion_id>/<isic_id>.jpg``.

derm7pt as published (``release_v0``): ``meta/meta.csv`` (one row per case: case_num, diagnosis, clinic, derm,
…), ``meta/train_indexes.csv``, ``valid_indexes.csv``, ``test_indexes.csv`` (0-based rows of meta.csv) and
``images/``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from foveate.data.sources.source import (
    DataSource,
    Listing,
    NoOptions,
    Row,
    count_labels,
    read_table,
    relative,
    require,
)
from foveate.study.settings import Settings
from foveate.types import Track

MILK_CLASSES = {
    "AKIEC": 303, "BCC": 2522, "BEN_OTH": 44, "BKL": 544, "DF": 52, "INF": 50, "MAL_OTH": 9, "MEL": 450,
    "NV": 746, "SCCKA": 473, "VASC": 47,
}  # fmt: skip
DERM7PT_PARTS = {
    "train": ("train_indexes.csv", 413),
    "val": ("valid_indexes.csv", 203),
    "test": ("test_indexes.csv", 395),
}
_MILK_LAYOUT = (
    "ROOT holds MILK10k_Training_GroundTruth.csv, MILK10k_Training_Metadata.csv, MILK10k_Training_Input/"
)
_DERM_LAYOUT = "ROOT is release_v0, with the folders images and meta"


def read_milk10k(root: Path, home: Path, options: NoOptions, track: Track) -> Listing:
    """List lesions with the views ``clinical`` and ``dermoscopic``; one that is absent is left empty."""
    truth = require(root, "MILK10k_Training_GroundTruth.csv", fix=_MILK_LAYOUT)
    facts = require(root, "MILK10k_Training_Metadata.csv", fix=_MILK_LAYOUT)
    images: dict[str, dict[str, Mapping[str, str]]] = {}
    for entry in read_table(facts, ("lesion_id", "isic_id", "image_type"), source="MILK10k"):
        view = "dermoscopic" if entry["image_type"].strip().lower().startswith("dermoscop") else "clinical"
        images.setdefault(entry["lesion_id"], {})[view] = entry
    rows: list[Row] = []
    problems: list[str] = []
    table = read_table(truth, ("lesion_id", *MILK_CLASSES), source="MILK10k")
    for entry in track(table, "Listing MILK10k"):
        lesion = entry["lesion_id"]
        present = [name for name in MILK_CLASSES if float(entry[name] or 0) == 1]
        if len(present) != 1 or lesion not in images:
            problems.append(f"{lesion}: {len(present)} classes, {len(images.get(lesion, {}))} images")
            continue
        rows.append(_milk_row(lesion, present[0], images[lesion], root, home, problems))
    return Listing(
        rows=rows,
        expected={"cases": 5240, **{f"label {name}": count for name, count in MILK_CLASSES.items()}},
        found=count_labels(rows),
        init="--label label --view clinical --view dermoscopic",
        problems=problems,
    )


def _milk_row(
    lesion: str,
    label: str,
    images: Mapping[str, Mapping[str, str]],
    root: Path,
    home: Path,
    problems: list[str],
) -> Row:
    row = {"case_id": lesion, "patient_id": lesion, "label": label, "clinical": "", "dermoscopic": ""}
    for view, entry in images.items():
        path = root / "MILK10k_Training_Input" / lesion / f"{entry['isic_id']}.jpg"
        if path.is_file():
            row[view] = relative(path, home)
        else:
            problems.append(f"{lesion}: {path.name} is not in {path.parent}")
    any_image = next(iter(images.values()))
    more = {"age": "age_approx", "sex": "sex", "skin_tone": "skin_tone_class", "site": "site"}
    return row | {name: any_image.get(column, "") or "" for name, column in more.items()}


class Derm7ptOptions(Settings):
    """Choices of the adapter.

    Attributes:
        classes: ``five`` groups rare diagnoses as the authors do (BCC, nevus, melanoma, miscellaneous,
            seborrheic keratosis), ``all`` keeps the diagnoses as they stand.
    """

    classes: Literal["five", "all"] = "five"


def read_derm7pt(root: Path, home: Path, options: Derm7ptOptions, track: Track) -> Listing:
    """List cases with the views ``clinical`` and ``dermoscopic`` and the official split."""
    table = read_table(
        require(root, "meta/meta.csv", fix=_DERM_LAYOUT),
        ("case_num", "diagnosis", "clinic", "derm"),
        source="derm7pt",
    )
    part = {
        int(row["indexes"]): name
        for name, (file, _) in DERM7PT_PARTS.items()
        for row in read_table(require(root, f"meta/{file}", fix=_DERM_LAYOUT), ["indexes"], source="derm7pt")
    }
    rows, problems = [], []
    for index, entry in enumerate(track(table, "Listing derm7pt")):
        paths = {
            "clinical": root / "images" / entry["clinic"],
            "dermoscopic": root / "images" / entry["derm"],
        }
        if lost := [path for path in paths.values() if not path.is_file()]:
            problems.append(
                f"case {entry['case_num']}: no {', '.join(str(path.relative_to(root)) for path in lost)}"
            )
            continue
        rows.append(
            {
                "case_id": f"case_{entry['case_num']}",
                "patient_id": entry.get("case_id") or f"case_{entry['case_num']}",
                "label": _grouped(entry["diagnosis"]) if options.classes == "five" else entry["diagnosis"],
                **{view: relative(path, home) for view, path in paths.items()},
                "split": part.get(index, ""),
                "sex": entry.get("sex", ""),
                "location": entry.get("location", ""),
            }
        )
    counts = {f"part {name}": sum(row["split"] == name for row in rows) for name in DERM7PT_PARTS}
    expected = {"cases": 1011, **{f"part {name}": count for name, (_, count) in DERM7PT_PARTS.items()}}
    init = "--label label --view clinical --view dermoscopic # then split: {column: split}"
    return Listing(rows, expected, count_labels(rows) | counts, init=init, problems=problems)


def _grouped(diagnosis: str) -> str:
    """The authors' five groups of diagnoses."""
    name = diagnosis.strip().lower()
    if name.startswith("melanoma"):
        return "melanoma"
    if name.endswith("nevus"):
        return "nevus"
    known = {"basal cell carcinoma": "basal cell carcinoma", "seborrheic keratosis": "seborrheic keratosis"}
    return known.get(name, "miscellaneous")


MILK10K = DataSource(
    name="milk10k",
    title="MILK10k: 5,240 skin lesions, each with a clinical close-up and a dermoscopic photo, 11 classes",
    where="the ISIC archive's page of the collection (search for 'MILK10k')",
    licence="CC BY-NC 4.0",
    citation="MILK study team, MILK10k, ISIC archive 2025",
    layout=_MILK_LAYOUT,
    traps=(
        "No patient ids: patient_id repeats the lesion, and one patient's lesions may part.",
        "Half of the lesions are BCC; MAL_OTH has nine.",
        "Skin tone is recorded: look at the figures by skin tone before trusting a model.",
    ),
    read=read_milk10k,
)
DERM7PT = DataSource(
    name="derm7pt",
    title="derm7pt: 1,011 skin lesions with a clinical and a dermoscopic photo",
    where="the data set's page at Simon Fraser University (search for 'seven-point checklist dermatology')",
    licence="for research, after registration; see the terms of the download page",
    citation="Kawahara et al., Seven-point checklist and skin lesion classification using multitask "
    "multimodal neural nets, IEEE JBHI 2019",
    layout=_DERM_LAYOUT,
    traps=(
        "The split lists hold 0-based rows of meta.csv, not case numbers.",
        "Images were scanned from a book: rulers, hair and vignettes vary with the source.",
    ),
    read=read_derm7pt,
    options=Derm7ptOptions,
)
