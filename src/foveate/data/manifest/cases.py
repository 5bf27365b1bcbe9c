"""A row of the manifest becomes a case, or is told what is wrong with it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from foveate.data.manifest.columns import Columns, parse_part, parse_truth
from foveate.data.manifest.paths import Cell, Fault, FoundFile
from foveate.data.manifest.rows import ManifestRow, ManifestTable
from foveate.types import Case

_WHOLE_NUMBER = re.compile(r"(\d+)(\.0*)?")  # spreadsheets and pandas write 3 as 3.0
_MASKS = ("mask", "organ_mask")
Problem = tuple[int, str]


def path_cells(table: ManifestTable, columns: Columns) -> list[Cell]:
    """Every path of the manifest: views, masks and organ masks."""
    names = [*columns.views, *(name for name in _MASKS if name in table.columns)]
    return [
        Cell(row.number, name, row.values[name]) for name in names for row in table.rows if row.values[name]
    ]


@dataclass(frozen=True, slots=True)
class CaseReader:
    """What it takes to read a row.

    Attributes:
        columns: the part that each column plays.
        found: the files, by the text of their path.
        names: the case's name by line, where it is taken from the path of its image.
        sliced: whether the column ``slice`` picks slices; it does if there is any volume, and is
            metadata in a cohort of plane images.
        masks, has_split: optional columns that are there.
    """

    columns: Columns
    found: Mapping[str, FoundFile | Fault]
    names: Mapping[int, str]
    sliced: bool
    masks: tuple[str, ...]
    has_split: bool

    @classmethod
    def of(cls, table: ManifestTable, columns: Columns, found: Mapping[str, FoundFile | Fault]) -> CaseReader:
        """Prepare to read the rows of a table."""
        seen = {row.values[name] for row in table.rows for name in columns.views} - {""}
        volumes = any(isinstance(item := found[text], FoundFile) and len(item.shape) == 3 for text in seen)
        return cls(
            columns=columns,
            found=found,
            names={} if columns.case else _names_from_paths(table, columns, volumes),
            sliced=volumes and "slice" in table.columns,
            masks=tuple(name for name in _MASKS if name in table.columns),
            has_split="split" in table.columns,
        )

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
            if views and len(views) == sum(bool(row.values[name]) for name in self.columns.views):
                place = row.values["slice"] if self.sliced else ""
                keys[row.number] = (place, *((name, item.real) for name, item in views.items()))
        return keys

    def _views(self, row: ManifestRow) -> Iterator[tuple[str, FoundFile]]:
        for name in self.columns.views:
            item = self.found.get(row.values[name])
            if isinstance(item, FoundFile):
                yield name, item

    def _case(self, row: ManifestRow, notes: list[str]) -> Case:
        columns, values = self.columns, row.values
        case_id = values[columns.case] if columns.case else self.names.get(row.number, "")
        patient = values[columns.patient] if columns.patient else case_id
        if columns.case and not case_id:
            notes.append(f"{columns.case} is empty")
        if columns.patient and not patient:
            notes.append(f"{columns.patient} is empty: the patient must be known")
        if columns.views and not any(values[name] for name in columns.views):
            notes.append(f"no image: {', '.join(columns.views)} is empty")
        views = dict(self._views(row))
        index = self._slice(row, views, notes)
        masks = {name: self._mask(row, name, views, index, notes) for name in self.masks}
        return Case(
            case_id=case_id,
            patient_id=patient,
            views={name: item.path for name, item in views.items()},
            label=(values[columns.label] or None) if columns.label else None,
            findings={name: self._finding(row, name, notes) for name in columns.findings},
            mask=masks.get("mask"),
            organ_mask=masks.get("organ_mask"),
            slice_index=index,
            split=self._split(row, notes),
            row=row.number,
            metadata=self._metadata(row),
        )

    def _finding(self, row: ManifestRow, name: str, notes: list[str]) -> int | None:
        try:
            return parse_truth(row.values[name])
        except ValueError as error:
            notes.append(f"{name} is '{error}': findings are 1 (present), 0 (absent) or empty (unknown)")
            return None

    def _split(self, row: ManifestRow, notes: list[str]) -> str | None:
        text = row.values["split"] if self.has_split else ""
        part = parse_part(text)
        if text and part is None:
            notes.append(f"split is '{text}': use train, val or test (or rename the column)")
        return part

    def _metadata(self, row: ManifestRow) -> dict[str, str]:
        kept = {name: row.values[name] for name in self.columns.metadata}
        if not self.sliced and "slice" in row.values:
            kept["slice"] = row.values["slice"]
        return kept

    def _slice(self, row: ManifestRow, views: Mapping[str, FoundFile], notes: list[str]) -> int | None:
        text = row.values["slice"] if self.sliced else ""
        if not text:
            return None
        number = _WHOLE_NUMBER.fullmatch(text)
        if number is None:
            notes.append(f"slice is '{text}': it must be a whole number, counted from 0")
            return None
        index = int(number[1])
        for name, item in views.items():
            if len(item.shape) == 2:
                notes.append(f"slice is {index}, but {name} is a plane image and no volume")
            elif index >= item.shape[0]:
                notes.append(f"slice is {index}, but {name} has the slices 0 to {item.shape[0] - 1}")
        return index

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


def _names_from_paths(table: ManifestTable, columns: Columns, volumes: bool) -> dict[int, str]:
    """Name each case after its first image, without the suffix if that stays unambiguous."""
    texts = {
        row.number: next((row.values[name] for name in columns.views if row.values[name]), "")
        for row in table.rows
    }
    stems = Counter(_without_suffix(text) for text in set(texts.values()))
    unique = {
        text: _without_suffix(text) if stems[_without_suffix(text)] == 1 else text
        for text in set(texts.values())
    }
    places = {row.number: row.values.get("slice", "") if volumes else "" for row in table.rows}
    return {line: unique[text] + (f"#{places[line]}" if places[line] else "") for line, text in texts.items()}


def _without_suffix(text: str) -> str:
    folder, slash, name = text.rpartition("/")
    stem = name.removesuffix(".gz").rpartition(".")[0]
    return folder + slash + (stem or name)


def _size(shape: tuple[int, ...]) -> str:
    """A shape as people write it: width × height (× slices)."""
    return " × ".join(str(length) for length in reversed(shape))
