"""BUSI: breast ultrasound, normal, benign and malignant, with lesion masks.

Layout as published: ``Dataset_BUSI_with_GT/<class>/<class> (N).png`` with masks ``<class> (N)_mask.png`` and,
for several lesions, ``<class> (N)_mask_1.png`` …; these are merged into one mask.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from foveate.data.sources.source import DataSource, Listing, NoOptions, count_labels, relative
from foveate.errors import InputRefused
from foveate.files import replacing
from foveate.types import Track

CLASSES = {"benign": 437, "malignant": 210, "normal": 133}
_LAYOUT = "ROOT is Dataset_BUSI_with_GT, with the folders benign, malignant and normal"


def read_busi(root: Path, home: Path, options: NoOptions, track: Track) -> Listing:
    """List images; a case with several masks gets their union, written below ``masks/``."""
    if (root / "Dataset_BUSI_with_GT").is_dir():
        root = root / "Dataset_BUSI_with_GT"
    images = [
        path for label in CLASSES for path in sorted((root / label).glob("*.png")) if "_mask" not in path.stem
    ]
    if not images:
        raise InputRefused("no image of BUSI was found", where=str(root), fix=_LAYOUT, code="layout-unknown")
    rows, problems = [], []
    for path in track(images, "Listing BUSI"):
        masks = sorted(path.parent.glob(f"{path.stem}_mask*.png"))
        row = {
            "case_id": path.stem,
            "patient_id": path.stem,
            "label": path.parent.name,
            "image": relative(path, home),
            "mask": "",
            "masks": str(len(masks)),
        }
        try:
            if path.parent.name != "normal" and masks:
                row["mask"] = relative(masks[0] if len(masks) == 1 else _union(path, masks, home), home)
        except (OSError, ValueError) as error:
            problems.append(f"{path.name}: its masks cannot be merged: {error}")
        rows.append(row)
    return Listing(
        rows=rows,
        expected={"cases": sum(CLASSES.values()), **{f"label {name}": n for name, n in CLASSES.items()}},
        found=count_labels(rows),
        init="--label label",
        problems=problems,
        notes=[
            "which images show the same patient is not published: let the audit keep near-duplicates together"
        ],
    )


def _union(image: Path, masks: list[Path], home: Path) -> Path:
    """Write the union of several masks of one image."""
    layers = []
    for path in masks:
        with Image.open(path) as picture:
            layers.append(np.asarray(picture.convert("L")) > 0)
    if len({layer.shape for layer in layers}) > 1:
        raise ValueError("they differ in size")
    path = home / "masks" / f"{image.stem}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        Image.fromarray(np.any(layers, axis=0).astype(np.uint8) * 255).save(temporary, format="PNG")
    return path


BUSI = DataSource(
    name="busi",
    title="BUSI: 780 breast ultrasound images, normal, benign and malignant, with lesion masks",
    where="the data page of its paper at Cairo University (search for 'Dataset BUSI with GT')",
    licence="the paper is open access; the terms of the images are those of their download page",
    citation="Al-Dhabyani et al., Dataset of breast ultrasound images, Data in Brief 2020",
    layout=_LAYOUT,
    traps=(
        "About 240 images lie in some 106 groups of near-duplicates, six of them with contradictory labels "
        "(Pawlowska et al. 2023): keep split.keep_twins_together on.",
        "No patient ids: patient_id repeats the case.",
        "Images carry burned-in text and callipers, which can give a class away.",
    ),
    read=read_busi,
)
