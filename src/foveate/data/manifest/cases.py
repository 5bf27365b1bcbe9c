"""A row of the manifest becomes a case, or is told what is wrong with it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from foveate.data.manifest.columns import Columns, parse_part, parse_truth
from foveate.data.manifest.names import ImageNames
from foveate.data.manifest.paths import Cell, Fault, FoundFile
from foveate.data.manifest.rows import Header, ManifestRow, ManifestTable, Problem
from foveate.types import Case

_WHOLE_NUMBER = re.compile(r"(\d+)(\.0*)?")  # spreadsheets and pandas write 3 as 3.0
_MASKS = ("mask", "organ_mask")


def path_cells(table: ManifestTable, columns: Columns) -> list[Cell]:
    """Every path of the manifest: views, masks and organ masks."""
    names = [*columns.views, *(name for name in _MASKS if name in table.columns)]
    return [
        Cell(row.number, name, row.values[name]) for name in names for row in table.rows if row.values[name]
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
    """

    columns: Columns
    sliced: bool
    names: ImageNames | None
    has_split: bool

    @classmethod
    def of(cls, table: Header, rows: Iterable[ManifestRow], columns: Columns, *, volumes: bool) -> RowReader:
        """Prepare to read the rows of a table.

        Args:
            table: the manifest.
            rows: all of its rows; gone through only where they name no cases.
            columns: the part that each column plays.
            volumes: whether any image is a volume.
        """
        sliced = volumes and "slice" in table.columns
        names = None if columns.case else ImageNames.of(rows, columns.views, sliced=sliced)
        return cls(columns, sliced, names, "split" in table.columns)

    def name(self, row: ManifestRow) -> str:
        """The case's name."""
        return self.names.name(row) if self.names else row.values[self.columns.case or ""]

    def paths(self, row: ManifestRow) -> dict[str, str]:
        """By view, the path of its image as it stands there."""
        return {name: text for name in self.columns.views if (text := row.values[name])}

    def case(self, row: ManifestRow, notes: list[str]) -> Case:
        """The case without its files; what is wrong with the row is noted."""
        columns, values, case_id = self.columns, row.values, self.name(row)
        patient = values[columns.patient] if columns.patient else case_id
        if columns.case and not case_id:
            notes.append(f"{columns.case} is empty")
        if columns.patient and not patient:
            notes.append(f"{columns.patient} is empty: the patient must be known")
        if columns.views and not any(values[name] for name in columns.views):
            notes.append(f"no image: {', '.join(columns.views)} is empty")
        return Case(
            case_id=case_id,
            patient_id=patient,
            views={},
            label=(values[columns.label] or None) if columns.label else None,
            findings={name: _finding(row, name, notes) for name in columns.findings},
            slice_index=_slice(row, notes) if self.sliced else None,
            split=_split(row, notes) if self.has_split else None,
            row=row.number,
            metadata=self._metadata(row),
        )

    def _metadata(self, row: ManifestRow) -> dict[str, str]:
        kept = {name: row.values[name] for name in self.columns.metadata}
        if not self.sliced and "slice" in row.values:
            kept["slice"] = row.values["slice"]
        return kept


def _finding(row: ManifestRow, name: str, notes: list[str]) -> int | None:
    try:
        return parse_truth(row.values[name])
    except ValueError as error:
        notes.append(f"{name} is '{error}': findings are 1 (present), 0 (absent) or empty (unknown)")
        return None


def _split(row: ManifestRow, notes: list[str]) -> str | None:
    text = row.values["split"]
    part = parse_part(text)
    if text and part is None:
        notes.append(f"split is '{text}': use train, val or test (or rename the column)")
    return part


def _slice(row: ManifestRow, notes: list[str]) -> int | None:
    text = row.values["slice"]
    if text and not (number := _WHOLE_NUMBER.fullmatch(text)):
        notes.append(f"slice is '{text}': it must be a whole number, counted from 0")
    return int(number[1]) if text and number else None


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
    def of(cls, table: ManifestTable, columns: Columns, found: Mapping[str, FoundFile | Fault]) -> CaseReader:
        """Prepare to read the rows of a table."""
        seen = {row.values[name] for row in table.rows for name in columns.views} - {""}
        volumes = any(isinstance(item := found[text], FoundFile) and len(item.shape) == 3 for text in seen)
        reader = RowReader.of(table, table.rows, columns, volumes=volumes)
        return cls(reader, found, tuple(name for name in _MASKS if name in table.columns))

    def read(self, table: ManifestTable) -> tuple[list[Case], list[Problem]]:
        """Read every row; a case with problems is returned as far as it can be read."""
        cases, problems = [], []
        for row in table.rows:
            notes: list[str] = []
            cases.append(self._case(row, notes))
            problems += [(row.number, note) for note in notes]
        return cases, problems

    def shapes(self, table: ManifestTable) -> dict[int, dict[str, tuple[int, ...]]]:
        """Spatial shape of each view that exists, by line and view."""
        return {row.number: {name: item.shape for name, item in self._views(row)} for row in table.rows}

    def keys(self, table: ManifestTable) -> dict[int, tuple[object, ...]]:
        """What a case shows, by line: equal for two rows with the same images; absent if a file is faulty."""
        keys: dict[int, tuple[object, ...]] = {}
        for row in table.rows:
            views = dict(self._views(row))
            if views and len(views) == len(self.rows.paths(row)):
                place = row.values["slice"] if self.rows.sliced else ""
                keys[row.number] = (place, *((name, item.real) for name, item in views.items()))
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
        )

    def _mask(
        self, row: ManifestRow, name: str, views: Mapping[str, FoundFile], index: int | None, notes: list[str]
    ) -> Path | None:
        """The mask's path; it must lie over one of the views."""
        item = self.found.get(row.values[name])
        if not isinstance(item, FoundFile):
            return None
        fitting = {view.shape for view in views.values()}
        fitting |= {shape[1:] for shape in fitting if len(shape) == 3} if index is not None else set()
        if fitting and item.shape not in fitting:
            sizes = " or ".join(sorted(_size(shape) for shape in fitting))
            notes.append(f"{name} is {_size(item.shape)} pixels, but its image is {sizes}")
        return item.path


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
