"""Write the pages of a run."""

from __future__ import annotations

from pathlib import Path

from foveate.stations.cautions import note_cautions
from foveate.stations.run import Run
from foveate.stations.views import note_views_of_older_runs


def report(run: Run) -> Path:
    """Write ``report.html`` and ``cautions.json`` from whatever files the run has."""
    from foveate.report.build import write_report

    note_views_of_older_runs(run)
    note_cautions(run)
    return write_report(run.folder)
