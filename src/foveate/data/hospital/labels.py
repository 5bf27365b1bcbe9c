"""Labels of a CSV join an export by study, accession number or patient; what does not join is told."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from foveate.data.manifest.rows import ManifestRow, ManifestTable, read_table
from foveate.errors import ManifestRefused, UsageError

_KEYS = {  # the narrowest that a table has is what it joins by
    "study": ("study", "studyuid", "studyinstanceuid"),
    "accession": ("accession", "accessionnumber"),
    "patient": ("patient", "patientid"),
}


@dataclass(frozen=True, slots=True)
class LabelTable:
    """A CSV of labels.

    Attributes:
        path: the file.
        by: ``study``, ``accession`` or ``patient``.
        columns: those that are no key.
        rows: by key, the line and the values of these columns.
    """

    path: Path
    by: str
    columns: tuple[str, ...]
    rows: Mapping[str, tuple[int, Mapping[str, str]]]

    @classmethod
    def at(cls, path: Path, taken: Sequence[str]) -> LabelTable:
        """Read a table.

        Args:
            path: of the CSV.
            taken: names that the manifest's own columns have.

        Raises:
            UsageError: it has no column to join by, or one that the manifest has too.
            ManifestRefused: rows of one key differ.
        """
        table = read_table(path)
        by, key = _key(table)
        keys = {name for name in table.columns if _plain(name) in sum(_KEYS.values(), ())}
        columns = tuple(name for name in table.columns if name not in keys)
        if double := [name for name in columns if name in taken]:
            fix = "rename it in the labels, or the view"
            raise UsageError(f"the manifest has a column '{double[0]}' of its own", where=str(path), fix=fix)
        return cls(path, by, columns, _by_key(table, key, columns))

    def unlike(self, joined: set[str], present: set[str]) -> Iterator[str]:
        """A line for each row that joined nothing, with the key that it may mean."""
        loosely = {_loosely(key): key for key in sorted(present)}
        for key, (line, _) in self.rows.items():
            if key not in joined:
                near = loosely.get(_loosely(key))
                meant = f"; the files have '{near}', which differs in zeros, blanks or case" if near else ""
                yield f"row {line}: {self.by} '{key}'{meant}"


def _key(table: ManifestTable) -> tuple[str, str]:
    for by, names in _KEYS.items():
        if found := [column for column in table.columns if _plain(column) in names]:
            return by, found[0]
    raise UsageError(
        "the labels have no column to join by",
        where=str(table.path),
        fix="call it StudyInstanceUID, AccessionNumber or PatientID",
    )


def _by_key(table: ManifestTable, key: str, columns: Sequence[str]) -> dict[str, tuple[int, dict[str, str]]]:
    problems = [f"row {line}: {text}" for line, text in table.problems]
    found: dict[str, tuple[int, dict[str, str]]] = {}
    for row in table.rows:
        values, name = {column: row.values[column] for column in columns}, row.values[key]
        problems += _conflict(row, name, values, found)
        if name:
            found.setdefault(name, (row.number, values))
    if problems:
        raise ManifestRefused(str(table.path), problems)
    return found


def _conflict(
    row: ManifestRow, name: str, values: Mapping[str, str], found: Mapping[str, tuple[int, Mapping[str, str]]]
) -> list[str]:
    if name in found and found[name][1] != values:
        return [f"row {row.number}: '{name}' stands in row {found[name][0]} with other values"]
    return []


def _plain(name: str) -> str:
    return "".join(sign for sign in name.lower() if sign.isalnum())


def _loosely(key: str) -> str:
    return "".join(key.lower().split()).lstrip("0")
