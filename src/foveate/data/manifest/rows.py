"""A CSV file as a person's spreadsheet program wrote it: rows that know their line in an editor.

``ManifestRows`` goes through a file of any length, ``read_table`` reads one whole; the rules are the same.
"""

from __future__ import annotations

import csv
import difflib
import hashlib
import io
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import BinaryIO, Protocol

from foveate.data.manifest.parquet import MAGIC, parquet_records
from foveate.data.manifest.words import cells
from foveate.errors import InputRefused, ManifestRefused

_DELIMITERS = ",;\t"
_NOT_TEXT = {
    b"PK\x03\x04": "this is a workbook or a zip archive, not a CSV file",
    b"\xd0\xcf\x11\xe0": "this is an old Excel workbook, not a CSV file",
    b"\xff\xfe": "this is UTF-16 text",
    b"\xfe\xff": "this is UTF-16 text",
}
_SEPARATOR = re.compile(r'"?sep=([,;\t|])"?', re.IGNORECASE)
_SAVE_AS = "save it as 'CSV UTF-8'"
_START = 4096  # bytes that are looked at before anything is read as text
Problem = tuple[int, str]
"""Line of the manifest, and what is wrong with it."""


class Header(Protocol):
    """What a table of either kind tells of its columns."""

    @property
    def path(self) -> Path:
        """The file."""

    @property
    def columns(self) -> tuple[str, ...]:
        """In their order, without the unnamed ones."""

    def column(self, name: str) -> Iterable[str]:
        """All values of one column."""

    def numbered(self, name: str) -> Iterable[tuple[int, str]]:
        """All values of one column, each with its line."""


@dataclass(frozen=True, slots=True)
class ManifestRow:
    """One record.

    Attributes:
        number: the line it starts on, as an editor counts; the header is usually 1.
        values: text by column, without surrounding blanks.
    """

    number: int
    values: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ManifestTable:
    """A CSV file, read whole.

    Attributes:
        path: the file.
        columns: in their order, without the unnamed ones.
        rows: every record that has as many fields as the header; blank lines are skipped.
        problems: ``(line, text)`` of the records that have not.
        sha256: of the file's bytes.
    """

    path: Path
    columns: tuple[str, ...]
    rows: tuple[ManifestRow, ...]
    problems: tuple[Problem, ...]
    sha256: str

    def column(self, name: str) -> list[str]:
        """All values of one column."""
        return [row.values[name] for row in self.rows]

    def numbered(self, name: str) -> list[tuple[int, str]]:
        """All values of one column, each with its line."""
        return [(row.number, row.values[name]) for row in self.rows]


@dataclass(frozen=True, slots=True)
class ManifestRows:
    """The rows of a CSV, one at a time; each time it is gone through, the file is read anew.

    Attributes:
        path: the file.
        columns: in their order, without the unnamed ones.
        content: the bytes of the file, where they are at hand.
    """

    path: Path
    columns: tuple[str, ...]
    content: bytes | None = None

    @classmethod
    def at(cls, path: Path, content: bytes | None = None) -> ManifestRows:
        """Read the header: UTF-8 with or without BOM, separated by commas, semicolons or tabs.

        Raises:
            InputRefused: there is no such file.
            ManifestRefused: it is not UTF-8 text, is empty, or names a column twice.
        """
        line, columns = next(_records(path, content), (1, []))
        if not columns:
            raise ManifestRefused(str(path), ["the file is empty: its first row must name the columns"])
        _refuse_repeated(path, line, columns)
        return cls(path, tuple(name for name in columns if name), content)

    def __iter__(self) -> Iterator[ManifestRow | Problem]:
        """Every record that has as many fields as the header, or what is wrong; blank lines are skipped.

        Raises:
            InputRefused: the file cannot be read.
            ManifestRefused: it is not UTF-8 text, or leaves a quote open.
        """
        records = _records(self.path, self.content)
        _, columns = next(records)
        for line, fields in records:
            kept, extra = fields[: len(columns)], fields[len(columns) :]
            if len(kept) < len(columns) or any(extra):
                yield line, f"has {len(fields)} fields, but the header names {len(columns)} columns"
            else:
                values = zip(columns, kept, strict=True)
                yield ManifestRow(line, {name: value for name, value in values if name})

    def column(self, name: str) -> Iterator[str]:
        """All values of one column."""
        return (text for _, text in self.numbered(name))

    def numbered(self, name: str) -> Iterator[tuple[int, str]]:
        """All values of one column, each with its line."""
        return ((row.number, row.values[name]) for row in self if isinstance(row, ManifestRow))


def read_table(path: Path) -> ManifestTable:
    """Read a CSV: UTF-8 with or without BOM, separated by commas, semicolons or tabs.

    Args:
        path: the file; quoted fields may hold line breaks.

    Raises:
        InputRefused: there is no such file.
        ManifestRefused: it is not UTF-8 text, has no rows, names a column twice, or leaves a quote open.
    """
    with _opened(path) as stream:
        content = stream.read()
    table = ManifestRows.at(path, content)
    read = list(table)
    rows = tuple(row for row in read if isinstance(row, ManifestRow))
    problems = tuple(row for row in read if not isinstance(row, ManifestRow))
    if not rows:
        faults = [f"row {line}: {text}" for line, text in problems]
        raise ManifestRefused(str(path), faults or ["the file has a header but no rows"])
    return ManifestTable(path, table.columns, rows, problems, hashlib.sha256(content).hexdigest())


def closest(name: str, known: Iterable[str]) -> str:
    """The known name that was probably meant, as a question, or the list of known names."""
    known = list(known)
    near = difflib.get_close_matches(name.casefold(), [item.casefold() for item in known], n=1, cutoff=0.6)
    if near:
        meant = next(item for item in known if item.casefold() == near[0])
        return f"did you mean '{meant}'?"
    return f"choose from: {', '.join(known)}"


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise InputRefused(
            f"the table cannot be read: {error.strerror}", where=str(path), fix="give the path of a CSV file",
            code="missing-file",
        ) from None  # fmt: skip


def _lines(path: Path, stream: BinaryIO) -> Iterator[str]:
    """The lines as text, with their ends."""
    start = stream.read(_START)
    stream.seek(0)
    for magic, what in _NOT_TEXT.items():
        if start.startswith(magic):
            raise ManifestRefused(str(path), [f"{what}: {_SAVE_AS}"])
    binary = ManifestRefused(str(path), ["this is not text: it holds zero bytes"])
    if b"\0" in start:
        raise binary
    for number, raw in enumerate(stream, start=1):
        if b"\0" in raw:
            raise binary
        try:
            text = raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            what = f"byte 0x{error.object[error.start]:02X} is not UTF-8 (Latin-1 or Windows text?)"
            raise ManifestRefused(str(path), [f"row {number}: {what}: {_SAVE_AS}"]) from None
        yield from io.StringIO(text, newline="") if "\r" in text else (text,)  # \r alone ends lines as well


def _records(path: Path, content: bytes | None) -> Iterator[tuple[int, list[str]]]:
    """Records that are not blank, without surrounding blanks, each with the line it starts on."""
    for line, record in _raw_records(path, content):
        fields = cells(record)
        if any(fields):
            yield line, fields


def _raw_records(path: Path, content: bytes | None) -> Iterator[tuple[int, list[str]]]:
    with _opened(path) if content is None else io.BytesIO(content) as stream:
        if stream.read(len(MAGIC)) == MAGIC:
            yield from parquet_records(path, content)
            return
        stream.seek(0)
        lines, before = _lines(path, stream), list[str]()
        said = ""
        for line in lines:
            if match := _SEPARATOR.fullmatch(line.strip()):
                said, line = match[1], "\n"  # what Excel writes above the header
            before.append(line)
            if line.strip():
                break
        mark = said or _delimiter(before[-1] if before else "")
        reader, start = csv.reader(chain(before, lines), delimiter=mark, strict=True), 1
        while True:
            try:
                record = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                problem = f"row {start}: the quotes of the record that starts here do not match ({error})"
                raise ManifestRefused(str(path), [problem]) from None
            yield start, record
            start = reader.line_num + 1


def _delimiter(header: str) -> str:
    """The separator that makes the most columns of the first line that is not blank."""
    return max(_DELIMITERS, key=lambda mark: len(next(csv.reader([header], delimiter=mark), [])))


def _refuse_repeated(path: Path, line: int, columns: list[str]) -> None:
    named = [name for name in columns if name]
    repeated = sorted({name for name in named if named.count(name) > 1})
    if repeated:
        problem = f"row {line}: the header names a column more than once: {', '.join(repeated)}"
        raise ManifestRefused(str(path), [problem])
