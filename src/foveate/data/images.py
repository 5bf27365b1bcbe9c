"""``images.csv`` of a run: the hash of the pixels of every image, and what the image is like in numbers.

Columns: ``case_id``, ``view``, ``sha256``, then the facts of ``image_facts``, empty where an image has none.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from foveate.data.audit.looks import Look, Looks
from foveate.files import write_atomic
from foveate.io.chosen import chosen
from foveate.types import Cohort

Key = tuple[str, str]  # case and view
FILE, _OLDER_FILE = "images.csv", "digests.csv"
_FIXED = ("case_id", "view", "sha256")


@dataclass(frozen=True, slots=True)
class ImageRow:
    """One image of one case.

    Attributes:
        digest: hash of its decoded pixels, see ``Look``.
        facts: what it is like, as text by name; see ``image_facts``.
    """

    digest: str
    facts: Mapping[str, str] = field(default_factory=dict)


def file_facts(
    path: Path, shape: tuple[int, ...], channels: int, spacing: tuple[float, ...] | None
) -> dict[str, str]:
    """What a file is like, apart from its content, as text by name: size, spacing in mm, channels, format."""
    sizes = dict(zip(("width", "height", "depth"), map(str, reversed(shape)), strict=False))
    steps = {
        f"spacing {axis}": f"{step:.4g}" for axis, step in zip("xyz", reversed(spacing or ()), strict=False)
    }
    path = chosen(path)[0]
    suffix = "".join(path.suffixes[-2:]) if path.name.lower().endswith(".gz") else path.suffix
    return {**sizes, **steps, "channels": str(channels), "format": suffix.lower()}


def image_facts(path: Path, look: Look) -> dict[str, str]:
    """Size, spacing, channels, format, range of values (1st and 99th percentile), and how the image lies."""
    dark, bright = (f"{value:.6g}" for value in look.percentiles)
    return file_facts(path, look.shape, look.channels, look.spacing) | {
        "1st percentile": dark,
        "99th percentile": bright,
        **look.acquisition,
    }


def image_rows(cohort: Cohort, looks: Looks) -> dict[Key, ImageRow]:
    """What there is to keep of every image that could be read, by case id and view."""
    rows = {}
    for (index, view), look in looks.seen.items():
        case = cohort.cases[index]
        rows[case.case_id, view] = ImageRow(look.digest, image_facts(case.views[view], look))
    return rows


def write_images(folder: Path, rows: Mapping[Key, ImageRow]) -> None:
    """Write ``images.csv`` into a run folder."""
    names = list(dict.fromkeys(name for row in rows.values() for name in row.facts))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*_FIXED, *names])
    for (case_id, view), row in rows.items():
        writer.writerow([case_id, view, row.digest, *(row.facts.get(name, "") for name in names)])
    write_atomic(folder / FILE, text.getvalue())


def read_images(folder: Path) -> dict[Key, ImageRow]:
    """Read the ``images.csv`` of a run folder, or what 0.1.0 wrote; nothing where there is neither."""
    path = next((folder / name for name in (FILE, _OLDER_FILE) if (folder / name).is_file()), None)
    if path is None:
        return {}
    with path.open(encoding="utf-8", newline="") as stream:
        return {
            (row["case_id"], row["view"]): ImageRow(
                row["sha256"], {name: text for name, text in row.items() if name not in _FIXED and text}
            )
            for row in csv.DictReader(stream)
        }
