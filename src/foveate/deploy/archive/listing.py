"""A folder or a manifest is cut into shards: small files of cases, written as the source is gone through.

Nothing is held that grows with the archive but eight bytes for each case of a manifest, from which names that
stand twice are told, and sixteen where cases are named after their images. No image is opened but a few where
a column ``slice`` has to be understood: what cannot be read is found where it is read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from foveate.data.manifest.cases import RowReader
from foveate.data.manifest.columns import SUFFIXES, ColumnChoice, Expected, assign_columns, views_there
from foveate.data.manifest.names import digest, standing_twice
from foveate.data.manifest.paths import FoundFile, Root
from foveate.data.manifest.rows import ManifestRow, ManifestRows
from foveate.data.manifest.words import is_blank
from foveate.deploy.archive.work import ArchiveJob, as_lines
from foveate.deploy.engines.facts import Facts
from foveate.errors import InputRefused, UsageError
from foveate.files import write_atomic
from foveate.study.settings import USUAL_RULES, TableRules
from foveate.types import Case

Line = dict[str, Any]  # of a shard's file: a case, or a row that is none, with its reason
_DICOM = ("", ".dcm", ".dicom", ".ima")
_MASK = re.compile(r"(.+)_mask(_\d+)?", re.IGNORECASE)
_SAMPLE = 20  # images that are opened to learn whether there are volumes


@dataclass(frozen=True, slots=True)
class Naming:
    """What the columns of a manifest are called; views and findings are called as the model has them.

    Attributes:
        case: the case's name; where there is no such column, cases are named after their image.
        patient: the patient; where there is no such column, each case is a patient of its own.
        label: the class of a multi-class model, where it is known.
        rules: how cells are understood that can be read in more than one way.
    """

    case: str = "case_id"
    patient: str = "patient_id"
    label: str = "label"
    rules: TableRules = USUAL_RULES


def cut(lines: Iterable[Line], job: ArchiveJob, size: int) -> tuple[int, int]:
    """Write the shards of a listing.

    Args:
        lines: of all cases.
        job: says where they go.
        size: cases a shard.

    Returns:
        How many cases and how many shards.
    """
    cases, shards, rest = 0, 0, iter(lines)
    while some := list(islice(rest, size)):
        write_atomic(job.cases(shards), as_lines(some))
        cases, shards = cases + len(some), shards + 1
    return cases, shards


# ---- a manifest ---------------------------------------------------------------------------------------


def manifest_lines(path: Path, facts: Facts, naming: Naming) -> Iterator[Line]:
    """Go through a manifest, a row at a time.

    Args:
        path: the CSV (UTF-8; commas, semicolons or tabs).
        facts: of the model: its views, and its classes for the truth where that is known.
        naming: of the other columns.

    Yields:
        A line for each row.

    Raises:
        InputRefused: it is no such table.
        UsageError: a column is missing that the model needs or a name says.
    """
    rows = ManifestRows.at(path)
    reader = _reader(rows, facts, naming)
    doubled, seen = standing_twice(reader.name(row) for row in _whole(rows)), set[str]()
    for row in rows:
        if not isinstance(row, ManifestRow):
            number, what = row
            yield _refused(number, "", "bad-row", what)
            continue
        line = _line(reader, row)
        name = line["case_id"]
        if "code" not in line and name in seen:
            line = _refused(row.number, name, "case-doubled", "an earlier row has this name already")
        elif digest(name) in doubled:
            seen.add(name)
        yield line


def _reader(rows: ManifestRows, facts: Facts, naming: Naming) -> RowReader:
    """Rows are read as those of a cohort that the model is asked about, which may lack patients, however."""
    views = views_there(rows, facts.views, tolerates_missing=facts.tolerates_missing)
    patient = naming.patient if naming.patient in rows.columns else naming.case
    choice = ColumnChoice(naming.label, None, views, patient, naming.case, naming.rules)
    columns = assign_columns(rows, rows.path.parent, choice, Expected(facts.task, facts.classes))
    volumes = _holds_volumes(rows, views)
    return RowReader.of(
        rows, _whole(rows), columns, volumes=volumes, classes=facts.classes, rules=naming.rules
    )


def _whole(rows: ManifestRows) -> Iterator[ManifestRow]:
    """The rows without those that lack fields, from the first on."""
    return (row for row in rows if isinstance(row, ManifestRow))


def _holds_volumes(rows: ManifestRows, views: Sequence[str]) -> bool:
    """Whether there is a volume among the first images, as far as slices make that matter."""
    if "slice" not in rows.columns:
        return False
    root = Root.at(rows.path.parent)
    cells = (row.values[view] for row in _whole(rows) for view in views)
    texts = (text for text in cells if not is_blank(text))
    found = (root.find(text) for text in islice(texts, _SAMPLE))
    return any(isinstance(item, FoundFile) and len(item.shape) == 3 for item in found)


def _line(reader: RowReader, row: ManifestRow) -> Line:
    """The case, or why it is none."""
    notes: list[str] = []
    case = reader.case(row, notes)
    if notes:
        return _refused(row.number, case.case_id, "bad-row", "; ".join(notes))
    line: Line = {"row": row.number, "case_id": case.case_id, "patient_id": case.patient_id}
    line["views"] = reader.paths(row)
    if case.slice_index is not None:
        line["slice"] = case.slice_index
    line |= {"label": case.label} if reader.columns.single else {"findings": case.findings}
    marks = ("organ_mask", "organ_mask_segment")
    return line | {name: text for name in marks if not is_blank(text := row.values.get(name, ""))}


def case_of(line: Line, root: Root) -> Case:
    """The case that a line tells.

    Raises:
        InputRefused: a path leads out of the root.
    """
    organ = line.get("organ_mask")
    return Case(
        case_id=line["case_id"],
        patient_id=line["patient_id"],
        views={view: root.inside(text) for view, text in line["views"].items()},
        label=line.get("label"),
        findings=line.get("findings", {}),
        organ_mask=root.inside(organ) if organ else None,
        organ_mask_segment=line.get("organ_mask_segment", ""),
        slice_index=line.get("slice"),
        row=line["row"],
    )


# ---- a folder -----------------------------------------------------------------------------------------


@dataclass(slots=True)
class FolderLines:
    """Goes through a folder; a case is named by its path in it, and is a patient of its own.

    Hidden files are left out, and so are masks (``NAME_mask.png`` beside ``NAME.png``). For models of whole
    volumes, a folder with DICOM files is one case.

    Attributes:
        root: the folder.
        facts: of the model.
        passed_over: how many files did not look like images by their names, so far.
    """

    root: Path
    facts: Facts
    passed_over: int = 0

    def __iter__(self) -> Iterator[Line]:
        """A line for each case.

        Raises:
            UsageError: the model takes several views, which a folder does not tell.
            InputRefused: there is no such folder.
        """
        if len(self.facts.views) != 1:
            raise UsageError(
                f"a case of this model has the views {', '.join(self.facts.views)}, which a folder "
                "does not tell apart",
                where="--folder",
                fix="write a manifest, and give it with --manifest CSV --stream",
            )
        if not self.root.is_dir():
            raise InputRefused("this is not a folder", where=str(self.root), code="not-a-folder")
        for number, path in enumerate(self._paths(self.root), start=1):
            name = path.relative_to(self.root).as_posix()
            yield {"row": number, "case_id": name, "patient_id": name, "views": {self.facts.views[0]: name}}

    def _paths(self, folder: Path) -> Iterator[Path]:
        with os.scandir(folder) as found:
            entries = sorted((entry for entry in found if entry.name[0] != "."), key=lambda entry: entry.name)
        files = [Path(entry.path) for entry in entries if entry.is_file()]
        chosen = _images(files)
        self.passed_over += len(files) - len(chosen)
        if self.facts.preprocess.volumes:
            slices = [path for path in chosen if path.suffix.lower() in _DICOM]
            if len(slices) > 1:
                yield folder
                chosen = [path for path in chosen if path not in set(slices)]
        yield from chosen
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from self._paths(Path(entry.path))


def _images(files: Sequence[Path]) -> list[Path]:
    """Files that look like images by their names, without masks of others."""
    named = [path for path in files if path.name.lower().endswith(SUFFIXES) or path.suffix.lower() in _DICOM]
    stems = {path.stem for path in named}
    masks = {stem for stem in stems if (match := _MASK.fullmatch(stem)) and match[1] in stems}
    return [path for path in named if path.stem not in masks]


def _refused(row: int, name: str, code: str, what: str) -> Line:
    return {"row": row, "case_id": name, "code": code, "where": f"row {row}", "what": what}
