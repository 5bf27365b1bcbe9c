"""``digests.csv`` of a run: the hash of the decoded pixels of every image, so that copies are known again."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path

from foveate.files import write_atomic

Digests = Mapping[tuple[str, str], str]
_COLUMNS = ("case_id", "view", "sha256")


def write_digests(path: Path, digests: Digests) -> None:
    """Write the hash of each image, by case id and view."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    writer.writerows((case_id, view, digest) for (case_id, view), digest in digests.items())
    write_atomic(path, text.getvalue())


def read_digests(path: Path) -> dict[tuple[str, str], str]:
    """Read what ``write_digests`` wrote; nothing where there is no file, as in runs of older versions."""
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8", newline="") as stream:
        return {(row["case_id"], row["view"]): row["sha256"] for row in csv.DictReader(stream)}
