"""Write the pages of a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from foveate.stations.cautions import note_cautions
from foveate.stations.run import Run

if TYPE_CHECKING:
    pass


def report(run: Run) -> Path:
    """Write ``report.html`` and ``cautions.json`` from whatever files the run has."""
    from foveate.report.build import write_report

    note_cautions(run)
    return write_report(run.folder)
