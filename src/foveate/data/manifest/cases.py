"""A row of the manifest becomes a case, or is told what is wrong with it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from foveate.data.manifest.columns import Columns, parse_part
from foveate.data.manifest.names import ImageNames
from foveate.data.manifest.paths import MASKS, Cell, Fault, FoundFile
from foveate.data.manifest.rows import Header, ManifestRow, ManifestTable, Problem
from foveate.data.manifest.truth import FindingReader, LabelReader, one_of
from foveate.data.manifest.words import is_blank, is_nobody, plain
from foveate.study.settings import USUAL_RULES, TableRules
from foveate.types import Case, Geometry

_WHOLE_NUMBER = re.compile(r"(\d+)([.,]0*)?")  # spreadsheets and pandas write 3 as 3.0


def path_cells(table: ManifestTable, columns: Columns) -> list[Cell]:
    """Every path of the manifest: views, masks and organ masks."""
    names = [*columns.views, *(name for name in MASKS if name in table.columns)]
    return [
        Cell(row.number, name, text)
        for name in names
        for row in table.rows
        if not is_blank(text := row.values[name])
    ]


@dataclass(frozen=True, slots=True)
class RowReader:
    """What a row says of its case, before any file is looked for.

    Attributes:
        columns: the part that each column plays.
        sliced: whether the column ``slice`` picks slices; it does if there is any volume, and is
            metadata in a cohort of plane images.
        names: what cases are called; None where a column says it.
        has_split: whether there is a column ``split``.
        labels: how labels are spelt.
        findings: how findings are.
        rules: how the table is understood.
    """

    columns: Columns
    sliced: bool
    names: ImageNames | None
    has_split: bool
    labels: LabelReader
    findings: FindingReader
    rules: TableRules

    @classmethod
    def of(
        cls,
        table: Header,
        rows: Iterable[ManifestRow],
        columns: Columns,
        *,
        volumes: bool,
        classes: Sequence[str] = (),
        rules: TableRules = USUAL_RULES,
    ) -> RowReader:
        """Prepare to read the rows of a table.

        Args:
            table: the manifest.
            rows: all of its rows; gone through only where they name no cases.
            columns: the part that each column plays.
            volumes: whether any image is a volume.
            classes: that are known beforehand.
            rules: how the table is understood.
        """
        sliced = volumes and "slice" in table.columns
        names = None if columns.case else ImageNames.of(rows, columns.views, sliced=sliced)
        texts = table.column(columns.label) if columns.single and columns.label and not classes else ()
        labels = LabelReader.of(texts, classes, rules)
        findings = FindingReader.of(labels.missing, rules)
        return cls(columns, sliced, names, "split" in table.columns, labels, findings, rules)

    def name(self, row: ManifestRow) -> str:
        """The case's name; empty where there is none."""
        if self.names:
            return self.names.name(row)
        text = row.values[self.columns.case or ""]
        return "" if is_nobody(text) else plain(text)

    def paths(self, row: ManifestRow) -> dict[str, str]:
        """By view, the path of its image as it stands there."""
        return {name: text for name in self.columns.views if not is_blank(text := row.values[name])}

    def case(self, row: ManifestRow, notes: list[str]) -> Case:
        """The case without its files; what is wrong with the row is noted."""
        columns, values, case_id = self.columns, row.values, self.name(row)
        if columns.case and not case_id:
            notes.append(f"{columns.case} is {_empty(values[columns.case])}")
        if columns.views and not self.paths(row):
            notes.append(f"no image: {', '.join(columns.views)} is empty")
        return Case(
            case_id=case_id,
            patient_id=self._patient(row, case_id, notes),
            views={},
            label=self._label(row, notes),
            findings=self._findings(row, notes),
            slice_index=_slice(row, notes) if self.sliced else None,
            split=_split(row, notes) if self.has_split else None,
            row=row.number,
            metadata=self._metadata(row),
        )

    def _patient(self, row: ManifestRow, case_id: str, notes: list[str]) -> str:
        if not self.columns.patient:
            return case_id
        text = row.values[self.columns.patient]
        if is_nobody(text):
            notes.append(f"{self.columns.patient} is {_empty(text)}: the patient must be known")
            return ""
        return plain(text)

    def _label(self, row: ManifestRow, notes: list[str]) -> str | None:
        columns = self.columns
        if columns.exclusive:
            try:
                return one_of(row, columns.exclusive, self.labels.missing)
            except ValueError as error:
                notes.append(str(error))
                return None
        return self.labels.read(row.values[columns.label]) if columns.label and columns.single else None

    def _findings(self, row: ManifestRow, notes: list[str]) -> dict[str, int | None]:
        columns = self.columns
        if columns.label and columns.findings:
            there = self.labels.parts(row.values[columns.label])
            notes += [f"unknown finding '{name}'" for name in there or () if name not in columns.findings]
            return {name: None if there is None else int(name in there) for name in columns.findings}
        known, values = self.findings.known, row.values
        return {
            name: known[text] if (text := values[name]) in known else self._finding(text, name, notes)
            for name in columns.findings
        }

    def _finding(self, text: str, name: str, notes: list[str]) -> int | None:
        try:
            return self.findings.read(text)
        except ValueError:
            notes.append(f"{name} is '{text}': findings are 1 (present), 0 (absent) or empty (unknown)")
            return None

    def _metadata(self, row: ManifestRow) -> dict[str, str]:
        names = self.columns.metadata
        kept = {name: "" if is_blank(text := row.values[name]) else text for name in names}
        if not self.sliced and "slice" in row.values:
            kept["slice"] = row.values["slice"]
        return kept


def _empty(text: str) -> str:
    """That nothing stands in a cell, or a word that says as much."""
    return f"'{text}'" if text else "empty"


def _split(row: ManifestRow, notes: list[str]) -> str | None:
    text = row.values["split"]
    part = parse_part(text)
    if part is None and not is_blank(text):
        notes.append(f"split is '{text}': use train, val or test (or rename the column)")
    return part


def _slice(row: ManifestRow, notes: list[str]) -> int | None:
    text = row.values["slice"]
    if is_blank(text):
        return None
    if not (number := _WHOLE_NUMBER.fullmatch(plain(text))):
        notes.append(f"slice is '{text}': it must be a whole number, counted from 0")
    return int(number[1]) if number else None


@dataclass(frozen=True, slots=True)
class CaseReader:
    """What it takes to read a row and its files.

    Attributes:
        rows: what a row says by itself.
        found: the files, by the text of their path.
        masks: optional columns that are there.
    """

    rows: RowReader
    found: Mapping[str, FoundFile | Fault]
    masks: tuple[str, ...]

    @classmethod
    def of(
        cls,
        table: ManifestTable,
        columns: Columns,
        found: Mapping[str, FoundFile | Fault],
        classes: Sequence[str] = (),
        rules: TableRules = USUAL_RULES,
    ) -> CaseReader:
        """Prepare to read the rows of a table; arguments as of ``RowReader.of``."""
        seen = {
            text for row in table.rows for name in columns.views if not is_blank(text := row.values[name])
        }
        volumes = any(isinstance(item := found[text], FoundFile) and len(item.shape) == 3 for text in seen)
        reader = RowReader.of(table, table.rows, columns, volumes=volumes, classes=classes, rules=rules)
        return cls(reader, found, tuple(name for name in MASKS if name in table.columns))

    def read(self, table: ManifestTable) -> tuple[list[Case], list[Problem]]:
        """Read every row; a case with problems is returned as far as it can be read."""
        cases, problems = [], []
        for row in table.rows:
            notes: list[str] = []
            cases.append(self._case(row, notes))
            problems += [(row.number, note) for note in notes]
        return cases, problems

    def geometries(self, table: ManifestTable) -> dict[int, dict[str, Geometry]]:
        """Geometry of each view that exists, by line and view."""
        return {
            row.number: {name: item.geometry for name, item in self._views(row) if item.geometry is not None}
            for row in table.rows
        }

    def keys(self, table: ManifestTable) -> dict[int, tuple[object, ...]]:
        """What a case shows, by line: equal for two rows with the same images; absent if a file is faulty."""
        keys: dict[int, tuple[object, ...]] = {}
        for row in table.rows:
            views = [(name, self.found[text]) for name, text in self.rows.paths(row).items()]
            real = [(name, item.real) for name, item in views if isinstance(item, FoundFile)]
            if real and len(real) == len(views):
                keys[row.number] = (row.values["slice"] if self.rows.sliced else "", *real)
        return keys

    def _views(self, row: ManifestRow) -> Iterator[tuple[str, FoundFile]]:
        for name, text in self.rows.paths(row).items():
            if isinstance(item := self.found[text], FoundFile):
                yield name, item

    def _case(self, row: ManifestRow, notes: list[str]) -> Case:
        case, views = self.rows.case(row, notes), dict(self._views(row))
        _check_slice(case.slice_index, views, notes)
        masks = {name: self._mask(row, name, views, case.slice_index, notes) for name in self.masks}
        return replace(
            case,
            views={name: item.path for name, item in views.items()},
            mask=masks.get("mask"),
            organ_mask=masks.get("organ_mask"),
            mask_segment=_segment(row, "mask"),
            organ_mask_segment=_segment(row, "organ_mask"),
        )

    def _mask(
        self, row: ManifestRow, name: str, views: Mapping[str, FoundFile], index: int | None, notes: list[str]
    ) -> Path | None:
        """The mask's path; without affines it must have the shape of one of the views.

        Where there are affines, they decide when the mask is laid over its image: see ``io.laying``.
        """
        item = self.found.get(row.values[name])
        if not isinstance(item, FoundFile):
            return None
        if not item.shape or (_placed(item) and any(_placed(view) for view in views.values())):
            return item.path
        fitting = {view.shape for view in views.values()}
        fitting |= {shape[1:] for shape in fitting if len(shape) == 3} if index is not None else set()
        if fitting and item.shape not in fitting:
            sizes = " or ".join(sorted(_size(shape) for shape in fitting))
            notes.append(f"{name} is {_size(item.shape)} pixels, but its image is {sizes}")
        return item.path


def _segment(row: ManifestRow, name: str) -> str:
    text = row.values.get(f"{name}_segment", "")
    return "" if is_blank(text) else plain(text)


def _placed(item: FoundFile) -> bool:
    """Whether a file says where it lies in the patient."""
    return item.geometry is not None and item.geometry.affine is not None


def _check_slice(index: int | None, views: Mapping[str, FoundFile], notes: list[str]) -> None:
    if index is None:
        return
    for name, item in views.items():
        if len(item.shape) == 2:
            notes.append(f"slice is {index}, but {name} is a plane image and no volume")
        elif index >= item.shape[0]:
            notes.append(f"slice is {index}, but {name} has the slices 0 to {item.shape[0] - 1}")


def _size(shape: tuple[int, ...]) -> str:
    """A shape as people write it: width × height (× slices)."""
    return " × ".join(str(length) for length in reversed(shape))
