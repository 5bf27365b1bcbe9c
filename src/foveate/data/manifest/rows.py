"""A CSV file as a person's spreadsheet program wrote it: rows that know their line in an editor."""

from __future__ import annotations

import csv
import difflib
import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from foveate.errors import InputRefused, ManifestRefused

_DELIMITERS = ",;\t"
_NOT_TEXT = {
    b"PK\x03\x04": "this is a workbook or a zip archive, not a CSV file",
    b"\xd0\xcf\x11\xe0": "this is an old Excel workbook, not a CSV file",
    b"\xff\xfe": "this is UTF-16 text",
    b"\xfe\xff": "this is UTF-16 text",
}
_SAVE_AS = "save it as 'CSV UTF-8'"


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
    problems: tuple[tuple[int, str], ...]
    sha256: str

    def column(self, name: str) -> list[str]:
        """All values of one column."""
        return [row.values[name] for row in self.rows]


def read_table(path: Path) -> ManifestTable:
    """Read a CSV: UTF-8 with or without BOM, separated by commas, semicolons or tabs.

    Args:
        path: the file; quoted fields may hold line breaks.

    Raises:
        InputRefused: there is no such file.
        ManifestRefused: it is not UTF-8 text, has no rows, names a column twice, or leaves a quote open.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputRefused(
            f"the table cannot be read: {error.strerror}", where=str(path), fix="give the path of a CSV file",
            code="missing-file",
        ) from None  # fmt: skip
    records = _records(path, _decode(path, content))
    header_line, header = next(records, (1, []))
    if not header:
        raise ManifestRefused(str(path), ["the file is empty: its first row must name the columns"])
    columns = [name.strip() for name in header]
    _refuse_repeated(path, header_line, columns)
    rows: list[ManifestRow] = []
    problems: list[tuple[int, str]] = []
    for line, fields in records:
        kept, extra = fields[: len(columns)], fields[len(columns) :]
        if len(kept) < len(columns) or any(extra):
            problems.append((line, f"has {len(fields)} fields, but the header names {len(columns)} columns"))
            continue
        rows.append(
            ManifestRow(line, {name: value for name, value in zip(columns, kept, strict=True) if name})
        )
    if not rows:
        faults = [f"row {line}: {text}" for line, text in problems]
        raise ManifestRefused(str(path), faults or ["the file has a header but no rows"])
    digest = hashlib.sha256(content).hexdigest()
    return ManifestTable(path, tuple(name for name in columns if name), tuple(rows), tuple(problems), digest)


def closest(name: str, known: Iterable[str]) -> str:
    """The known name that was probably meant, as a question, or the list of known names."""
    known = list(known)
    near = difflib.get_close_matches(name.casefold(), [item.casefold() for item in known], n=1, cutoff=0.6)
    if near:
        meant = next(item for item in known if item.casefold() == near[0])
        return f"did you mean '{meant}'?"
    return f"choose from: {', '.join(known)}"


def _decode(path: Path, content: bytes) -> str:
    for magic, what in _NOT_TEXT.items():
        if content.startswith(magic):
            raise ManifestRefused(str(path), [f"{what}: {_SAVE_AS}"])
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        what = f"byte 0x{content[error.start]:02X} is not UTF-8 (Latin-1 or Windows text?)"
        raise ManifestRefused(str(path), [f"row {line}: {what}: {_SAVE_AS}"]) from None
    if "\0" in text:
        raise ManifestRefused(str(path), ["this is not text: it holds zero bytes"])
    return text


def _records(path: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    """Records that are not blank, each with the line it starts on."""
    start = 1
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text), strict=True)
    while True:
        try:
            record = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            problem = f"row {start}: the quotes of the record that starts here do not match ({error})"
            raise ManifestRefused(str(path), [problem]) from None
        fields = [field.strip() for field in record]
        if any(fields):
            yield start, fields
        start = reader.line_num + 1


def _delimiter(text: str) -> str:
    """The separator that makes the most columns of the first line that is not blank."""
    header = next((line for line in text.splitlines() if line.strip()), "")
    return max(_DELIMITERS, key=lambda mark: len(next(csv.reader([header], delimiter=mark))))


def _refuse_repeated(path: Path, line: int, columns: list[str]) -> None:
    named = [name for name in columns if name]
    repeated = sorted({name for name in named if named.count(name) > 1})
    if repeated:
        problem = f"row {line}: the header names a column more than once: {', '.join(repeated)}"
        raise ManifestRefused(str(path), [problem])
