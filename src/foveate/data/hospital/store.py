"""Headers of an export on disk, kept as they are read, so that a run that was killed goes on where it was.

A SQLite file beside the manifest. It holds patient IDs and accession numbers as they stand in the files,
whatever the manifest is to hold, and is to be kept or deleted like the export itself.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Self

from foveate.data.hospital.headers import Facts, facts_of
from foveate.errors import InputRefused
from foveate.parallel import in_processes, process_count
from foveate.types import Steps, Track, quiet

_FORMAT = 1
_AT_ONCE = 200  # files between two commits: what a kill costs
_MANY = 5_000  # files from which on further processes are worth their start
_IMAGES = "FROM files WHERE present AND state = 'image'"
_TABLES = """
    CREATE TABLE IF NOT EXISTS files (
        path TEXT PRIMARY KEY, folder TEXT, size INTEGER, changed INTEGER, state TEXT,
        patient TEXT, study TEXT, series TEXT, facts TEXT, present INTEGER);
    CREATE INDEX IF NOT EXISTS by_series ON files (patient, study, series);
    CREATE INDEX IF NOT EXISTS by_folder ON files (folder, state);
"""


@dataclass(frozen=True, slots=True)
class Export:
    """What a folder holds.

    Attributes:
        files: all of them.
        images: DICOM images.
        without_image: DICOM files that hold none, such as DICOMDIR and reports.
        others: files that are no DICOM.
        unreadable: path and reason of DICOM files whose header cannot be read.
    """

    files: int
    images: int
    without_image: int
    others: int
    unreadable: tuple[tuple[str, str], ...]


class HeaderStore:
    """The headers of one export.

    Args:
        path: of the SQLite file; made if absent.
        folder: the export.
    """

    def __init__(self, path: Path, folder: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.folder = path, folder
        self._locked: list[tuple[str, str]] = []
        try:
            self._base = sqlite3.connect(path)
            version = self._base.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, _FORMAT):
                raise sqlite3.DatabaseError(f"version {version}")
            self._base.executescript(_TABLES)
            self._base.execute(f"PRAGMA user_version = {_FORMAT}")
        except sqlite3.DatabaseError as error:
            raise InputRefused(
                f"the headers kept here cannot be used ({error})",
                where=str(path),
                fix="delete this file; the headers are read again then",
                code="headers-damaged",
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._base.close()

    def read(self, track: Track = quiet) -> Export:
        """Read the header of every file that is new or has changed since.

        Args:
            track: shows progress, by files.
        """
        self._look()
        unknown = "SELECT path FROM files WHERE present AND state IS NULL ORDER BY path"
        wanted = [row[0] for row in self._base.execute(unknown)]
        portions = [wanted[start : start + _AT_ONCE] for start in range(0, len(wanted), _AT_ONCE)]
        work = [(str(self.folder), portion) for portion in portions]
        processes = process_count() if len(wanted) > _MANY else 1
        answers = in_processes(read_portion, work, processes) if processes > 1 else map(read_portion, work)
        steps = Steps(track, len(wanted), "Reading headers")
        for portion, answer in zip(portions, answers, strict=True):
            if isinstance(answer, InputRefused):
                answer = [("unreadable", {"reason": answer.what})] * len(portion)
            self._keep(portion, answer)
            steps.advance(len(portion))
        return self._export()

    def series(self) -> Iterator[list[tuple[str, Facts]]]:
        """The images of one series after another: path from the export on, and facts."""
        query = f"SELECT patient, study, series, path, facts {_IMAGES} ORDER BY patient, study, series, path"
        with closing(self._base.cursor()) as cursor:
            for _, rows in groupby(cursor.execute(query), key=lambda row: row[:3]):
                yield [(path, json.loads(facts)) for *_, path, facts in rows]

    def issuers(self) -> dict[str, set[str]]:
        """For each Patient ID the issuers that it stands with; an empty one where there is none."""
        found: dict[str, set[str]] = {}
        query = f"SELECT DISTINCT patient, json_extract(facts, '$.issuer') {_IMAGES}"
        for patient, issuer in self._base.execute(query):
            found.setdefault(str(patient or ""), set()).add(str(issuer or ""))
        return found

    def first_dates(self) -> dict[str, str]:
        """Date of the first study of each Patient ID."""
        query = f"SELECT patient, min(json_extract(facts, '$.date')) {_IMAGES} GROUP BY patient"
        return {patient: date for patient, date in self._base.execute(query) if date}

    def images_in(self, folder: str) -> int:
        """Images that lie directly in a folder of the export, and files that a reader would stumble over."""
        states = "state IN ('image', 'unreadable')"
        query = f"SELECT count(*) FROM files WHERE folder = ? AND present AND {states}"
        return int(self._base.execute(query, (folder,)).fetchone()[0])

    def _look(self) -> None:
        """Note every file that is there; what has changed since its header was read is to be read again."""
        self._base.execute("UPDATE files SET present = 0")
        note = """INSERT INTO files (path, folder, size, changed, present) VALUES (?, ?, ?, ?, 1)
            ON CONFLICT (path) DO UPDATE SET present = 1,
            state = CASE WHEN size = excluded.size AND changed = excluded.changed THEN state END,
            size = excluded.size, changed = excluded.changed"""
        self._locked.clear()
        self._base.executemany(note, _files_below(self.folder, self.path, self._locked))
        self._base.commit()

    def _keep(self, portion: Sequence[str], answer: Sequence[tuple[str, dict[str, Any]]]) -> None:
        rows = [
            (
                state,
                *(str(facts.get(name) or "") for name in ("patient", "study", "series")),
                json.dumps(facts),
                path,
            )
            for path, (state, facts) in zip(portion, answer, strict=True)
        ]
        self._base.executemany(
            "UPDATE files SET state = ?, patient = ?, study = ?, series = ?, facts = ? WHERE path = ?", rows
        )
        self._base.commit()

    def _export(self) -> Export:
        counts = dict(self._base.execute("SELECT state, count(*) FROM files WHERE present GROUP BY state"))
        failed = "FROM files WHERE present AND state = 'unreadable' ORDER BY path"
        reasons = self._base.execute(f"SELECT path, json_extract(facts, '$.reason') {failed}")
        return Export(
            files=sum(counts.values()),
            images=counts.get("image", 0),
            without_image=counts.get("dicom", 0),
            others=counts.get("other", 0),
            unreadable=(*self._locked, *reasons),
        )


def read_portion(work: tuple[str, Sequence[str]]) -> list[tuple[str, dict[str, Any]]]:
    """State and facts of each of some files of an export, for other processes too.

    Args:
        work: the export's folder, and paths from it on.
    """
    folder, names = work
    return [_read(Path(folder, name)) for name in names]


def _read(path: Path) -> tuple[str, dict[str, Any]]:
    try:
        facts = facts_of(path)
    except Exception as error:  # a damaged header raises anything
        return "unreadable", {"reason": f"{type(error).__name__}: {error}".splitlines()[0][:200]}
    if facts is None:
        return "other", {}
    return ("image", dict(facts)) if facts else ("dicom", {})


def _files_below(
    folder: Path, apart: Path, locked: list[tuple[str, str]]
) -> Iterator[tuple[str, str, int, int]]:
    """Path, folder, size and time of change of every regular file, at any depth; links are not followed.

    Args:
        folder: the export.
        apart: a file that does not count, nor those whose names begin so.
        locked: folders that cannot be opened are added here, with the reason.
    """
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        try:
            entries = list(os.scandir(here))
        except OSError as error:
            locked.append((here.relative_to(folder).as_posix(), str(error.strerror)))
            continue
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                waiting.append(Path(entry.path))
            elif entry.is_file(follow_symlinks=False) and not entry.name.startswith(apart.name):
                path, facts = Path(entry.path).relative_to(folder), entry.stat()
                yield path.as_posix(), path.parent.as_posix(), facts.st_size, facts.st_mtime_ns
