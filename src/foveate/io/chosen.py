"""Which volume of a file or series that holds several: time points, echoes, b-values, phases.

A path may end in ``#`` and the choice, wherever a path of an image is given::

    dwi.nii.gz#2                 the third volume of a NIfTI of four axes
    export/series7#0             of a DICOM series: of all slices in one place the first by number
    export/series7#EchoTime=2.3  its slices with this value; several with &, tags also as 0018,0081

A file that really has such a name is taken before the choice is.
"""

from __future__ import annotations

from pathlib import Path

from foveate.errors import InputRefused

SIGN = "#"


def chosen(path: Path) -> tuple[Path, str]:
    """The file or folder of a path, and which of its volumes; empty where the path names none."""
    if SIGN not in path.name or path.exists():
        return path, ""
    name, _, volume = path.name.partition(SIGN)
    return (path.with_name(name), volume) if name else (path, "")


def refuse_choice(volume: str, where: str) -> None:
    """Refuse a choice among volumes where there is but one image."""
    if volume:
        raise InputRefused(
            f"this is one image, and '{SIGN}{volume}' chooses among several",
            where=where,
            fix=f"leave out {SIGN}{volume}",
            code="no-such-volume",
        )
