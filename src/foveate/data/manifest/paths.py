"""The files that a manifest names: where they lie, whether they are images, and how large."""

from __future__ import annotations

import os
import stat
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePath
from typing import Literal

from foveate.errors import InputRefused
from foveate.io.chosen import chosen
from foveate.io.listed import SUFFIX, members_of
from foveate.io.reading import probe, probe_mask
from foveate.types import Geometry, Track, quiet

MASKS = ("mask", "organ_mask")
"""Columns of masks."""

_WORKERS = 8  # opening files waits for the disk, not for the processor
_LOOKED_AT = 100_000  # files, when one is looked for that a path names badly
_AT_ONCE = 256  # files that a thread looks up before it asks for more: one of them takes microseconds
_SYSTEMATIC = 4  # so many missing files, and no other, are one problem of the column

FileState = tuple[int, int]
"""Size in bytes and time of the last change in ns; of a folder, the sum and the latest of its files."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A path in the manifest.

    Attributes:
        row: line of the manifest.
        column: name of the column.
        text: the path as it stands there.
    """

    row: int
    column: str
    text: str


@dataclass(frozen=True, slots=True)
class FoundFile:
    """An image that exists.

    Attributes:
        path: to open it by.
        real: the same without links and ``..``, to compare by.
        geometry: from its header; None for masks that lie somewhere only over an image (SEG, RTSTRUCT).
    """

    path: Path
    real: str
    geometry: Geometry | None

    @property
    def shape(self) -> tuple[int, ...]:
        """``(H, W)`` or ``(D, H, W)``; empty where there is no geometry."""
        return self.geometry.shape if self.geometry else ()


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a path cannot be used."""

    kind: Literal["missing", "outside", "refused"]
    text: str


@dataclass(frozen=True, slots=True)
class Root:
    """The folder that relative paths start from.

    Attributes:
        folder: the folder.
        real: the same without links and ``..``.
        follow_outside: whether absolute paths, ``..`` and links may lead out of it.
    """

    folder: Path
    real: str
    follow_outside: bool

    @classmethod
    def at(cls, folder: Path, *, follow_outside: bool = False) -> Root:
        """Start from a folder."""
        return cls(folder, os.path.realpath(folder), follow_outside)

    def path(self, text: str) -> Path:
        """The path that a text names, with slashes or as Windows writes it."""
        path = self.folder / text
        return self.folder / text.replace("\\", "/") if "\\" in text and not path.exists() else path

    def inside(self, text: str) -> Path:
        """The path that a text names, without looking whether it is there.

        Raises:
            InputRefused: it leads out of the folder.
        """
        path = self.path(text)
        if self._leads_out(os.path.realpath(chosen(path)[0])):
            raise InputRefused(
                f"this leads out of the folder {self.folder}, which is not allowed",
                where=text,
                fix="put the manifest into a folder above all images",
                code="outside",
            )
        return path

    def _leads_out(self, real: str) -> bool:
        return not self.follow_outside and not Path(real).is_relative_to(self.real)

    def find(self, text: str, *, mask: bool = False) -> FoundFile | Fault:
        """Look up the path of an image or a mask; it is not decoded, only its header is read."""
        try:
            path = self.path(text)
            file, volume = chosen(path)
            real = os.path.realpath(file)
            if self._leads_out(real):
                return Fault(
                    "outside", f"'{text}' leads out of the folder {self.folder}, which is not allowed"
                )
            if not file.exists():
                return Fault("missing", f"there is no file '{text}' under {self.folder}")
            return _probe(text, path, real + volume, mask=mask)
        except (OSError, ValueError) as error:
            return Fault("refused", f"'{text}' cannot be opened: {error}")


def find_all(cells: Sequence[Cell], root: Root, track: Track = quiet) -> Mapping[str, FoundFile | Fault]:
    """Look up every path once.

    Args:
        cells: the paths.
        root: the folder they start from.
        track: shows progress.

    Returns:
        What was found, by the text of the path.
    """
    texts = sorted({cell.text for cell in cells})
    images = {cell.text for cell in cells if cell.column not in MASKS}

    def find(text: str) -> FoundFile | Fault:
        return root.find(text, mask=text not in images)

    with ThreadPoolExecutor(_WORKERS) as pool:
        return dict(zip(track(texts, "Checking files"), pool.map(find, texts), strict=True))


def file_states(root: Root, texts: Collection[str]) -> dict[str, FileState | None]:
    """What can be seen of files without opening them, by the text of their path; None where there is none."""
    ordered = sorted(texts)
    some = [ordered[start : start + _AT_ONCE] for start in range(0, len(ordered), _AT_ONCE)]

    def look(names: Sequence[str]) -> list[FileState | None]:
        return [_state(root.path(name)) for name in names]

    with ThreadPoolExecutor(_WORKERS) as pool:
        return dict(zip(ordered, (state for found in pool.map(look, some) for state in found), strict=True))


def file_problems(
    cells: Sequence[Cell], found: Mapping[str, FoundFile | Fault], root: Root
) -> list[tuple[int, str]]:
    """Every path that cannot be used as ``(line, text)``; a column without any existing file counts once."""
    columns: dict[str, list[Cell]] = defaultdict(list)
    for cell in cells:
        columns[cell.column].append(cell)
    problems: list[tuple[int, str]] = []
    for name, inside in columns.items():
        faults = [(cell, fault) for cell in inside if isinstance(fault := found[cell.text], Fault)]
        missing = [cell for cell, fault in faults if fault.kind == "missing"]
        if len(missing) == len(inside) >= _SYSTEMATIC:
            count = f"none of the {len(missing)} files of this column exists under {root.folder}"
            near = files_below(root.folder).get(PurePath(missing[0].text).name)
            meant = f"; write '{near}' if that is meant" if near else ""
            problems.append((missing[0].row, f"{name}: {count}; the first is '{missing[0].text}'{meant}"))
        else:
            problems += [(cell.row, f"{name}: {fault.text}") for cell, fault in faults]
    return problems


def files_below(folder: Path) -> Mapping[str, str]:
    """Paths of files from a folder on, by names with and without ending; of equal ones the least deep."""
    walk = (Path(place, name) for place, _, names in os.walk(folder) for name in names)
    files = [file.relative_to(folder) for file in islice(walk, _LOOKED_AT) if not file.name.startswith(".")]
    files.sort(key=lambda file: (len(file.parts), file), reverse=True)
    return {name: file.as_posix() for file in files for name in (file.name.partition(".")[0], file.name)}


def _probe(text: str, path: Path, real: str, *, mask: bool) -> FoundFile | Fault:
    try:
        geometry = probe_mask(path, whole=False) if mask else probe(path, whole=False).geometry
        return FoundFile(path, real, geometry)
    except InputRefused as error:
        return Fault("refused", f"'{text}' cannot be used: {error.what}")


def _state(path: Path) -> FileState | None:
    try:
        path = chosen(path)[0]
        found = path.stat()
        if not stat.S_ISDIR(found.st_mode) and path.suffix != SUFFIX:
            return found.st_size, found.st_mtime_ns
        inside = [member.stat() for member in members_of(path)]
    except (OSError, ValueError):
        return None
    return sum(each.st_size for each in inside), max(each.st_mtime_ns for each in (found, *inside))
