"""A folder or a manifest is cut into shards: small files of cases, written as the source is gone through.

Nothing is held that grows with the archive but eight bytes for each case of a manifest, from which names that
stand twice are told. No image is opened: what cannot be read is found where it is read.
"""

from __future__ import annotations

import csv
import hashlib
import os
import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from foveate.data.manifest.columns import SUFFIXES, parse_truth
from foveate.deploy.archive.work import ArchiveJob, as_lines
from foveate.deploy.engines.facts import Facts
from foveate.errors import InputRefused, UsageError
from foveate.files import write_atomic
from foveate.types import Case

Line = dict[str, Any]  # of a shard's file: a case, or a row that is none, with its reason
_DICOM = ("", ".dcm", ".dicom", ".ima")
_MASK = re.compile(r"(.+)_mask(_\d+)?", re.IGNORECASE)
_WHOLE = re.compile(r"(\d+)(\.0*)?")  # spreadsheets and pandas write 3 as 3.0


@dataclass(frozen=True, slots=True)
class Naming:
    """What the columns of a manifest are called; views and findings are called as the model has them.

    Attributes:
        case: the case's name; where there is no such column, cases are named after their image.
        patient: the patient; where there is no such column, each case is a patient of its own.
        label: the class of a multi-class model, where it is known.
    """

    case: str = "case_id"
    patient: str = "patient_id"
    label: str = "label"


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
        UsageError: a view's column is missing that the model needs.
    """
    columns = next(_records(path))[1]
    there = [view for view in facts.views if view in columns]
    if not there or (len(there) < len(facts.views) and not facts.tolerates_missing):
        raise UsageError(
            f"the manifest has no column '{next(view for view in facts.views if view not in columns)}'",
            where=str(path),
            fix=f"name the columns of image paths as the model's views: {', '.join(facts.views)}",
        )
    reader = _RowReader(facts, naming, tuple(there))
    doubled, seen = _doubled(_names(path, reader)), set[str]()
    for row, fields in _rows(path):
        if len(fields) != len(columns):
            what = f"has {len(fields)} fields, but the header names {len(columns)} columns"
            yield _refused(row, "", "bad-row", f"row {row}", what)
            continue
        line = reader.line(row, dict(zip(columns, fields, strict=True)))
        name = line["case_id"]
        if "code" not in line and name in seen:
            line = _refused(row, name, "case-doubled", f"row {row}", "an earlier row has this name already")
        elif _digest(name) in doubled:
            seen.add(name)
        yield line


@dataclass(frozen=True, slots=True)
class _RowReader:
    """How a row of a manifest becomes a line."""

    facts: Facts
    naming: Naming
    views: tuple[str, ...]

    def name(self, values: dict[str, str]) -> str:
        """The case's name."""
        if self.naming.case in values:
            return values[self.naming.case]
        first = next((values[view] for view in self.views if values[view]), "")
        return first + (f"#{values['slice']}" if values.get("slice") else "")

    def line(self, row: int, values: dict[str, str]) -> Line:
        """The case, or why it is none."""
        name = self.name(values)
        views = {view: values[view] for view in self.views if values[view]}
        if not name or not views:
            what = "there is no path of an image" if name else f"{self.naming.case} is empty"
            return _refused(row, name, "bad-row", f"row {row}", what)
        line: Line = {"row": row, "case_id": name, "patient_id": values.get(self.naming.patient) or name}
        line["views"] = views
        try:
            line |= self._truth(values)
        except ValueError as error:
            what = f"'{error}' is neither a truth (1, 0, empty) nor a slice (a whole number from 0)"
            return _refused(row, name, "bad-row", f"row {row}", what)
        return line | ({"organ_mask": values["organ_mask"]} if values.get("organ_mask") else {})

    def _truth(self, values: dict[str, str]) -> Line:
        """Truth and slice, where the row has them."""
        found: Line = {}
        if text := values.get("slice"):
            if not (number := _WHOLE.fullmatch(text)):
                raise ValueError(text)
            found["slice"] = int(number[1])
        if self.facts.task == "multiclass":
            return found | {"label": values.get(self.naming.label) or None}
        given = [name for name in self.facts.classes if name in values]
        return found | {"findings": {name: parse_truth(values[name]) for name in given}}


def case_of(line: Line, root: Path) -> Case:
    """The case that a line tells.

    Raises:
        InputRefused: a path leads out of the root.
    """
    organ = line.get("organ_mask")
    return Case(
        case_id=line["case_id"],
        patient_id=line["patient_id"],
        views={view: _inside(root, text) for view, text in line["views"].items()},
        label=line.get("label"),
        findings=line.get("findings", {}),
        organ_mask=_inside(root, organ) if organ else None,
        slice_index=line.get("slice"),
        row=line["row"],
    )


def _inside(root: Path, text: str) -> Path:
    path = root / text
    if "\\" in text and not path.exists():  # written on Windows
        path = root / text.replace("\\", "/")
    if not Path(os.path.realpath(path)).is_relative_to(root):
        raise InputRefused(
            "this leads out of the folder of the manifest, which is not allowed",
            where=text,
            fix="put the manifest into a folder above all images",
            code="outside",
        )
    return path


def _records(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The header, and every row that is not blank, each with the line it starts on."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            mark = _delimiter(stream.readline())
            stream.seek(0)
            reader, start, empty = csv.reader(stream, delimiter=mark, strict=True), 1, True
            for record in reader:
                fields = [field.strip() for field in record]
                if any(fields):
                    empty = False
                    yield start, fields
                start = reader.line_num + 1
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputRefused(
            f"this cannot be read as a CSV in UTF-8: {error}", where=str(path), code="not-a-csv"
        ) from error
    if empty:
        raise InputRefused("the file is empty", where=str(path), code="not-a-csv")


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    records = _records(path)
    next(records)
    return records


def _delimiter(header: str) -> str:
    return max(",;\t", key=lambda mark: len(next(csv.reader([header], delimiter=mark), [])))


def _names(path: Path, reader: _RowReader) -> Iterator[str]:
    records = _records(path)
    columns = next(records)[1]
    for _, fields in records:
        if len(fields) == len(columns):
            yield reader.name(dict(zip(columns, fields, strict=True)))


def _doubled(names: Iterable[str]) -> frozenset[int]:
    """Digests of the names that stand more than once."""
    digests = np.sort(np.frombuffer(array("Q", map(_digest, names)), dtype=np.uint64))
    return frozenset(digests[1:][digests[1:] == digests[:-1]].tolist())


def _digest(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")


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


def _refused(row: int, name: str, code: str, where: str, what: str) -> Line:
    return {"row": row, "case_id": name, "code": code, "where": where, "what": what}
