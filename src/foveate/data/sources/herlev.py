"""Herlev: 917 single cells of Pap smears, seven classes (the smear2005 set).

Layout as published: one folder per class with ``*.BMP`` images and their segmentations ``*-d.bmp``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from foveate.data.sources.sipakmed import AUTHORS_SEED
from foveate.data.sources.source import DataSource, Listing, count_labels, relative, shuffled_split
from foveate.errors import InputRefused
from foveate.study.settings import Settings
from foveate.types import Track

CLASSES = {
    "normal_superficiel": 74,
    "normal_intermediate": 70,
    "normal_columnar": 98,
    "light_dysplastic": 182,
    "moderate_dysplastic": 146,
    "severe_dysplastic": 197,
    "carcinoma_in_situ": 150,
}
TRAINING_SHARES = {"script": 0.2, "stated": 0.1}
_LAYOUT = "ROOT holds one folder per class, such as 'New database pictures' of smear2005: normal_columnar/ …"


class HerlevOptions(Settings):
    """Choices of the adapter.

    Attributes:
        authors_split: fill the column ``split`` as the EMBC 2021 comparison did for its test of
            generalisation, image by image within each class, with few cells to train on and no validation
            part: ``script`` as its code does (0.2 : 0.8; its results count these 736 test cells), ``stated``
            as its results say (1 : 9), ``none`` not at all.
    """

    authors_split: Literal["none", "script", "stated"] = "none"


def read_herlev(root: Path, home: Path, options: HerlevOptions, track: Track) -> Listing:
    """List the cells; files that end in ``-d`` are colour-coded segmentations and no cases."""
    found = [
        (label, path)
        for label in CLASSES
        for path in sorted((root / label).glob("*"))
        if path.suffix.lower() == ".bmp" and not path.stem.lower().endswith("-d")
    ]
    if not found:
        raise InputRefused("no cell of Herlev was found", where=str(root), fix=_LAYOUT, code="layout-unknown")
    parts = _parts(found, options)
    rows = [
        {
            "case_id": f"{label}_{path.stem}",
            "patient_id": f"{label}_{path.stem}",
            "label": label,
            "abnormal": "no" if label.startswith("normal") else "yes",
            "image": relative(path, home),
        }
        | ({"split": part} if part else {})
        for (label, path), part in track(list(zip(found, parts, strict=True)), "Listing Herlev")
    ]
    return Listing(
        rows=rows,
        expected={"cases": sum(CLASSES.values()), **{f"label {name}": n for name, n in CLASSES.items()}},
        found=count_labels(rows),
        init="--label label" + (" # then split: {column: split}" if rows[0].get("split") else ""),
        notes=["which cells come from one patient is not published: patient_id repeats the case"],
    )


def _parts(found: Sequence[tuple[str, Path]], options: HerlevOptions) -> list[str]:
    """The part of each cell, or nothing where none is asked for."""
    if options.authors_split == "none":
        return [""] * len(found)
    names, labels = [path.name for _, path in found], [label for label, _ in found]
    share = TRAINING_SHARES[options.authors_split]
    return shuffled_split(names, labels, {"train": share}, "test", seed=AUTHORS_SEED)


HERLEV = DataSource(
    name="herlev",
    title="Herlev: 917 single cervical cells, seven classes",
    where="the page of the Pap-smear benchmark (search for 'smear2005 Herlev')",
    licence="made available for research and benchmarking by its authors",
    citation="Jantzen et al., Pap-smear benchmark data for pattern classification, NiSIS 2005",
    layout=_LAYOUT,
    traps=(
        "Images differ in size by class, so that the size alone tells classes apart: do not pad to a fixed "
        "scale without looking.",
        "Segmentations (-d.bmp) code nucleus and cytoplasm by colour; they are not used as masks here.",
        "The EMBC 2021 comparison says train:test '1:9'; its code parts 0.2:0.8, and its results count the "
        "736 test cells of that.",
    ),
    read=read_herlev,
    options=HerlevOptions,
)
