"""A list of the files of one volume, for volumes whose files share a folder with others or lie in several.

``foveate manifest --dicom`` writes such lists, and a manifest may name one where it could name a folder::

    foveate-series 1
    ../export/IMG00017
    ../export/IMG00021

The first line says what it is. Then follow paths, one a line, from the list's own folder on; none may lead
out of the folder that holds the list's folder.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from foveate.errors import InputRefused
from foveate.files import write_atomic
from foveate.io.source import SERIES_LIST, kind_of

SUFFIX = ".series"
_VERSION = 1


def listed_files(path: Path) -> list[Path]:
    """The files that a list names, in its order.

    Raises:
        InputRefused: it is of a newer version, names nothing, a file twice, or one that it may not.
    """
    first, *lines = path.read_text(encoding="utf-8").splitlines()
    names = [line.strip() for line in lines if line.strip()]
    if first.split()[1:] != [str(_VERSION)]:
        raise _refused(f"its first line is '{first}' and not '{SERIES_LIST} {_VERSION}'", path)
    if not names or len(set(names)) < len(names):
        raise _refused("it names no file, or one of them twice", path)
    home = Path(os.path.realpath(path.absolute().parent.parent))
    files = [path.parent / name for name in names]
    for name, file in zip(names, files, strict=True):
        if not Path(os.path.realpath(file)).is_relative_to(home):
            raise _refused(f"'{name}' leads out of {home}", path)
        if kind_of(file) != "dicom":
            raise _refused(f"'{name}' is no DICOM file", path)
    return files


def members_of(path: Path) -> list[Path]:
    """The files that a path stands for: those of a folder or of a list, else the path itself.

    Raises:
        OSError: the path cannot be read.
    """
    if path.is_dir():
        return sorted(item for item in path.iterdir() if item.is_file())
    if path.suffix == SUFFIX:
        with suppress(InputRefused):  # the reader refuses it by name
            return [path, *listed_files(path)]
    return [path]


def write_list(path: Path, files: Sequence[Path]) -> None:
    """Write a list.

    Args:
        path: of the list, in a folder of its own below one that holds all files.
        files: of one volume.
    """
    names = [Path(os.path.relpath(file, path.parent)).as_posix() for file in files]
    write_atomic(path, "\n".join([f"{SERIES_LIST} {_VERSION}", *names]) + "\n")


def _refused(what: str, path: Path) -> InputRefused:
    return InputRefused(
        f"this list of a series' files cannot be used: {what}",
        where=str(path),
        fix="write it again with `foveate manifest --dicom`",
        code="series-list",
    )
