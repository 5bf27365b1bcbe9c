"""SIPaKMeD: isolated cells of Pap smears and the slide images they were cut from, five classes.

Layout as published: five archives ``im_Dyskeratotic.7z`` … that unpack to ``im_<Class>/im_<Class>/`` with
slide images ``NNN.bmp``, below it ``CROPPED/NNN_MM.bmp`` (cells) and ``NNN_MM_nuc.dat``, ``NNN_MM_cyt.dat``
(outlines of nucleus and cytoplasm, ``x,y`` a line, in pixels of the crop).

Counts: 966 slide images, 4,049 cells (Plissiti et al., ICIP 2018; specs of the EMBC 2021 comparison).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw

from foveate.data.sources.source import DataSource, Listing, count_labels, relative, shuffled_split
from foveate.errors import InputRefused
from foveate.files import replacing
from foveate.study.settings import Settings
from foveate.types import Track

CLASSES = ("Dyskeratotic", "Koilocytotic", "Metaplastic", "Parabasal", "Superficial-Intermediate")
CELLS = dict(zip(CLASSES, (813, 825, 793, 787, 831), strict=True))
SLIDES = dict(zip(CLASSES, (223, 238, 271, 108, 126), strict=True))
AUTHORS_SEED = 230
_LAYOUT = "unpack the five archives side by side: ROOT/im_Dyskeratotic/im_Dyskeratotic/CROPPED/001_01.bmp …"


class SipakmedOptions(Settings):
    """Choices of the adapter.

    Attributes:
        images: ``cells`` (the crops) or ``slides`` (the multi-cell images).
        authors_split: fill the column ``split`` as the EMBC 2021 comparison did: image by image within each
            class. Slide images part as they should; cells of one slide lie in several parts, which is for
            reproduction only.
        masks: for cells, draw each nucleus (``nucleus``) or whole cell (``cytoplasm``) from its outline into
            a PNG below ``masks/``, as truth for localization; ``none`` writes nothing.
    """

    images: Literal["cells", "slides"] = "cells"
    authors_split: bool = False
    masks: Literal["none", "nucleus", "cytoplasm"] = "none"


@dataclass(frozen=True, slots=True)
class _CellFiles:
    """One image of a class."""

    label: str
    slide: str
    path: Path


def read_sipakmed(root: Path, home: Path, options: SipakmedOptions, track: Track) -> Listing:
    """List cells or slide images, grouped by slide image (its cells share stain, focus and patient)."""
    items = [item for label in CLASSES for item in _items(root, label, options.images)]
    if not items:
        raise InputRefused(
            "no image of SIPaKMeD was found", where=str(root), fix=_LAYOUT, code="layout-unknown"
        )
    parts = authors_split([item.path.name for item in items], [item.label for item in items])
    rows, problems = [], []
    for item, part in track(list(zip(items, parts, strict=True)), "Listing SIPaKMeD"):
        row = {
            "case_id": f"{item.label}_{item.path.stem}",
            "patient_id": f"{item.label}_{item.slide}",
            "label": item.label,
            "image": relative(item.path, home),
        }
        if options.masks != "none" and options.images == "cells":
            try:
                row["mask"] = relative(_draw_mask(item, home, options.masks), home)
            except (OSError, ValueError) as error:
                problems.append(f"{item.path.name}: its outline cannot be used: {error}")
        rows.append(row | ({"split": part} if options.authors_split else {}))
    counts = CELLS if options.images == "cells" else SLIDES
    return Listing(
        rows=rows,
        expected={"cases": sum(counts.values()), **{f"label {name}": n for name, n in counts.items()}},
        found=count_labels(rows),
        init="--label label" + (" # then split: {column: split}" if options.authors_split else ""),
        problems=problems,
        notes=[
            "the authors' split puts cells of one slide image into several parts: expect the audit to stop"
        ]
        if options.authors_split and options.images == "cells"
        else [],
    )


def authors_split(names: Sequence[str], labels: Sequence[str]) -> list[str]:
    """The split of the EMBC 2021 comparison (its published code).

    Within each class, in the order of sorted file names: shuffle with seed 230, set anew for each class;
    the first ``int(0.7 n)`` are for training, the next ``int(0.2 n)`` for validation, the rest for testing.

    Args:
        names: file names.
        labels: their classes.

    Returns:
        ``train``, ``val`` or ``test`` for each.
    """
    return shuffled_split(names, labels, {"train": 0.7, "val": 0.2}, "test", seed=AUTHORS_SEED)


def _items(root: Path, label: str, images: str) -> Iterator[_CellFiles]:
    """Images of one class, below ``im_<label>/im_<label>``, ``im_<label>`` or ``<label>``."""
    for folder in (root / f"im_{label}" / f"im_{label}", root / f"im_{label}", root / label):
        if folder.is_dir():
            inside = folder / "CROPPED" if images == "cells" else folder
            for path in sorted(inside.glob("*.bmp")):
                yield _CellFiles(label, path.stem.split("_")[0], path)
            return


def _draw_mask(item: _CellFiles, home: Path, part: str) -> Path:
    """Fill the outline of a cell's nucleus or cytoplasm; ``x,y`` a line, in pixels of the crop."""
    outline = item.path.with_name(f"{item.path.stem}_{'nuc' if part == 'nucleus' else 'cyt'}.dat")
    points = np.loadtxt(outline, delimiter=",", ndmin=2)
    if points.shape[1] != 2 or len(points) < 3:
        raise ValueError(f"{outline.name} holds {points.shape} numbers instead of three or more x,y pairs")
    with Image.open(item.path) as picture:
        mask = Image.new("L", picture.size)
    ImageDraw.Draw(mask).polygon([(float(x), float(y)) for x, y in points], fill=255)
    path = home / "masks" / part / item.label / f"{item.path.stem}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        mask.save(temporary, format="PNG")
    return path


SIPAKMED = DataSource(
    name="sipakmed",
    title="SIPaKMeD: 4,049 isolated cervical cells from 966 slide images, five classes",
    where="the data set's page at the University of Ioannina (search for 'SIPaKMeD database')",
    licence="publicly available for experimental purposes with the request to cite",
    citation="Plissiti et al., SIPaKMeD: a new dataset for feature and image based classification of normal "
    "and pathological cervical cells in Pap smear images, IEEE ICIP 2018",
    layout=_LAYOUT,
    traps=(
        "Cells of one slide image share stain, focus and patient: a split by cell inflates accuracy. "
        "patient_id is the slide image; which slides come from one patient is not published.",
        "Parabasal and Superficial-Intermediate come from few slide images (108 and 126).",
        "Three groups of near-identical crops carry contradictory labels.",
    ),
    read=read_sipakmed,
    options=SipakmedOptions,
)
