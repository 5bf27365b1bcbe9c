"""What a reader must know of a run, kept up to date in the run and beside its weights."""

from __future__ import annotations

from foveate.report.cautions import Cautions
from foveate.report.files import RunFiles
from foveate.stations.run import Run


def note_cautions(run: Run) -> Cautions:
    """Write ``cautions.json`` into the run and its bundle, from whatever files the run has."""
    found = Cautions.of(RunFiles.read(run.folder))
    found.write(run.folder)
    if (run.folder / "bundle").is_dir():
        found.write(run.folder / "bundle")
    return found
