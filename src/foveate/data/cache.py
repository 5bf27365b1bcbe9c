"""Prepared images on disk, so that decoding and resizing happen once and not in every epoch.

One ``.npy`` file per image, named by a hash of everything that went into it (the bytes of the source
file, slice, organ mask, preprocessing), read through memory maps. The files carry a CRC-32 behind the
array, which readers of ``.npy`` ignore: a torn or decayed file is noticed and made again.

Several processes may share a folder: files appear under their name only when whole, and one that
another process has removed is simply made again. The folder never grows over its budget: what was
unused longest goes first, and never what the present run uses.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tempfile
import threading
import time
import zlib
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from foveate.files import write_atomic
from foveate.io.chosen import chosen
from foveate.io.listed import SUFFIX, members_of
from foveate.types import Array

_CRC_BYTES = 4
_SLACK = 0.05  # share of the budget freed at a time, so that a full cache is not listed for every image
_LEFTOVER_SECONDS = 3600


def cache_key(*parts: object) -> str:
    """Name of an entry: a hash of everything that decides its content."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


class PreparedCache:
    """Arrays by key, within a byte budget.

    Args:
        folder: shared by all runs of a user; made, readable by that user only, if absent.
        budget: bytes that all entries together may take.
    """

    def __init__(self, folder: Path, budget: int) -> None:
        self.folder = folder / "prepared"
        self.budget = budget
        self._in_use: frozenset[str] = frozenset()
        self._full = False
        self._lock = threading.Lock()
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._bytes = sum(entry.size for entry in self._entries())
        self._remove_leftovers()

    def protect(self, keys: Iterable[str]) -> None:
        """Name the entries of the present run, which are never removed to make room."""
        self._in_use = frozenset(keys)

    def check(self, key: str) -> bool:
        """Whether an entry is there and whole; it then counts as used just now. A damaged one is removed."""
        path = self._path(key)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return False
        if content[-_CRC_BYTES:] != _crc(content[:-_CRC_BYTES]):
            path.unlink(missing_ok=True)
            with self._lock:
                self._bytes -= len(content)
            return False
        os.utime(path)
        return True

    def read(self, key: str) -> Array | None:
        """Memory-map an entry that ``check`` has seen; None if another process has removed it since."""
        try:
            array: Array = np.load(self._path(key), mmap_mode="r")
        except (FileNotFoundError, EOFError, ValueError):
            return None
        return array

    def write(self, key: str, array: Array) -> bool:
        """Keep an array; False if it finds no room, within the budget or on the disk."""
        buffer = io.BytesIO()
        np.save(buffer, array)
        content = buffer.getvalue()
        content += _crc(content)
        with self._lock:
            if not self._make_room(len(content)):
                return False
            self._bytes += len(content)
        try:
            _replace(self._path(key), content)
        except OSError:
            with self._lock:
                self._bytes -= len(content)
            return False
        return True

    def _make_room(self, wanted: int) -> bool:
        """Remove what was unused longest until ``wanted`` bytes fit; False if this run needs it all."""
        if self._bytes + wanted <= self.budget or self._full:
            return self._bytes + wanted <= self.budget
        entries = sorted(self._entries(), key=lambda entry: entry.used)
        self._bytes = sum(entry.size for entry in entries)
        target = self.budget * (1 - _SLACK) - wanted
        for entry in entries:
            if self._bytes <= target:
                break
            if entry.path.stem not in self._in_use:
                entry.path.unlink(missing_ok=True)
                self._bytes -= entry.size
        self._full = self._bytes + wanted > self.budget
        return not self._full

    def _remove_leftovers(self) -> None:
        """Remove what killed processes left half-written, an hour ago or more."""
        for path in self.folder.glob("??/*.part"):
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > _LEFTOVER_SECONDS:
                    path.unlink()

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.npy"

    def _entries(self) -> list[_CacheEntry]:
        found = []
        for path in self.folder.glob("??/*.npy"):
            try:
                facts = path.stat()
            except FileNotFoundError:
                continue  # removed by another process meanwhile
            found.append(_CacheEntry(path, facts.st_size, facts.st_mtime_ns))
        return found


@dataclass(frozen=True, slots=True)
class _CacheEntry:
    path: Path
    size: int
    used: int


class FileHashes:
    """SHA-256 of source files, remembered by path, size and time of change.

    Args:
        index: JSON file that remembers them between runs; a lost or damaged one only costs time.
    """

    def __init__(self, index: Path) -> None:
        self._index = index
        self._known: dict[str, list[str | int]] = {}
        self._new = False
        with suppress(OSError, ValueError, TypeError):
            self._known.update(json.loads(index.read_text(encoding="utf-8")))

    def of(self, path: Path) -> str:
        """Hex hash of a file, or of the names and contents of all files of a folder or list.

        Raises:
            OSError: not readable.
        """
        path, volume = chosen(path)
        if volume:
            return cache_key(self.of(path), volume)
        if path.is_dir() or path.suffix == SUFFIX:
            return cache_key([[item.name, self._of_file(item)] for item in members_of(path)])
        return self._of_file(path)

    def _of_file(self, path: Path) -> str:
        facts, name = path.stat(), str(path.absolute())
        state: list[str | int] = [facts.st_size, facts.st_mtime_ns]
        if (known := self._known.get(name)) is None or known[1:] != state:
            with path.open("rb") as stream:
                known = [hashlib.file_digest(stream, "sha256").hexdigest(), *state]
            self._known[name] = known
            self._new = True
        return str(known[0])

    def save(self) -> None:
        """Remember for the next run."""
        if self._new:
            write_atomic(self._index, json.dumps(self._known))


def _crc(content: bytes) -> bytes:
    return zlib.crc32(content).to_bytes(_CRC_BYTES, "little")


def _replace(path: Path, content: bytes) -> None:
    """Write by temporary name and rename; unsynced, as the CRC tells a file that a power cut tore."""
    path.parent.mkdir(exist_ok=True, mode=0o700)
    handle, name = tempfile.mkstemp(prefix=".", suffix=".part", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
        Path(name).replace(path)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise
