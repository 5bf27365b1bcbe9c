"""Herlev: 917 single cells of Pap smears, seven classes (the smear2005 set).

Layout as published: one folder per class with ``*.BMP`` images and their segmentations ``*-d.bmp``.
"""

from __future__ import annotations

from pathlib import Path

from foveate.data.sources.source import Listing, NoOptions, Source, count_labels, relative
from foveate.errors import InputRefused
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
_LAYOUT = "ROOT holds one folder per class, such as 'New database pictures' of smear2005: normal_columnar/ …"


def read_herlev(root: Path, home: Path, options: NoOptions, track: Track) -> Listing:
    """List the cells; files that end in ``-d`` are colour-coded segmentations and no cases."""
    found = [
        (label, path)
        for label in CLASSES
        for path in sorted((root / label).glob("*"))
        if path.suffix.lower() == ".bmp" and not path.stem.lower().endswith("-d")
    ]
    if not found:
        raise InputRefused("no cell of Herlev was found", where=str(root), fix=_LAYOUT, code="layout-unknown")
    rows = [
        {
            "case_id": f"{label}_{path.stem}",
            "patient_id": f"{label}_{path.stem}",
            "label": label,
            "abnormal": "no" if label.startswith("normal") else "yes",
            "image": relative(path, home),
        }
        for label, path in track(found, "Listing Herlev")
    ]
    return Listing(
        rows=rows,
        expected={"cases": sum(CLASSES.values()), **{f"label {name}": n for name, n in CLASSES.items()}},
        found=count_labels(rows),
        init="--label label",
        notes=["which cells come from one patient is not published: patient_id repeats the case"],
    )


HERLEV = Source(
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
        "The EMBC 2021 comparison says train:test '1:9', its code uses 0.2:0.8.",
    ),
    read=read_herlev,
)
