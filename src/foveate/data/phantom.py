"""Imaginary cohorts with known truth, to try everything on: the door to one file per kind of phantom.

>>> from foveate.data.phantoms.ct import make_phantom
>>> from foveate.data.phantom import draw_phantom
>>> make_phantom(Path("liver-ct"), patients=60)                                      # doctest: +SKIP
>>> draw_phantom("paired", Path("pairs"), {"patients": 100, "missing": 0.2})         # doctest: +SKIP

To add a kind: one file in ``data/phantoms/`` with a ``CohortConfig``, a function that draws a patient, and a
maker; one line in ``PHANTOMS``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol

from foveate.data.phantoms.cells import CellsConfig, make_cells
from foveate.data.phantoms.chest import ChestConfig, make_chest
from foveate.data.phantoms.ct import CtConfig, make_ct
from foveate.data.phantoms.liver_mri import LiverMriConfig, make_liver_mri
from foveate.data.phantoms.paired import PairedConfig, make_paired
from foveate.errors import UsageError
from foveate.types import Track, quiet


class Maker(Protocol):
    """Writes a cohort and returns the path of its ``manifest.csv``."""

    def __call__(self, out: Path, config: Any, track: Track = quiet) -> Path:
        """Write into ``out`` what ``config`` describes."""


@dataclass(frozen=True, slots=True)
class Phantom:
    """One kind of phantom.

    Attributes:
        config: class of its settings, whose defaults are those of the command line.
        make: writes a cohort.
        title: one line of what it shows.
    """

    config: type[Any]
    make: Maker
    title: str

    @property
    def options(self) -> tuple[str, ...]:
        """Names of its settings."""
        return tuple(item.name for item in fields(self.config))


PHANTOMS: dict[str, Phantom] = {
    "ct": Phantom(CtConfig, make_ct, "CT liver slices, five classes"),
    "liver-mri": Phantom(LiverMriConfig, make_liver_mri, "liver lesions in eight MR phases, seven classes"),
    "paired": Phantom(PairedConfig, make_paired, "skin photo and ultrasound, neither of which suffices"),
    "chest": Phantom(ChestConfig, make_chest, "frontal chest X-rays with six findings, boxes"),
    "cells": Phantom(CellsConfig, make_cells, "cervical cells on slides, five classes"),
}


def draw_phantom(
    kind: str, out: Path, options: Mapping[str, object] | None = None, *, track: Track = quiet
) -> Path:
    """Write a phantom cohort of any kind.

    Args:
        kind: name in ``PHANTOMS``.
        out: folder to write into; made if absent. If it holds this very phantom it is left as it is, or
            finished if that was interrupted; if it holds anything else it is refused.
        options: settings that shall differ from the kind's defaults.
        track: shows progress.

    Returns:
        Path of ``manifest.csv``.

    Raises:
        UsageError: there is no such kind or option, an option is out of range, or ``out`` holds something
            else.
    """
    if kind not in PHANTOMS:
        raise UsageError(
            f"there is no phantom '{kind}'", where="kind", fix=f"choose from: {', '.join(PHANTOMS)}"
        )
    phantom, given = PHANTOMS[kind], dict(options or {})
    if unknown := [name for name in given if name not in phantom.options]:
        raise UsageError(
            f"the phantom '{kind}' has no option {', '.join(unknown)}",
            where=unknown[0],
            fix=f"it has: {', '.join(phantom.options)}",
        )
    return phantom.make(out, phantom.config(**given), track)
