"""What a reader must know of a run, kept up to date in the run and beside its weights."""

from __future__ import annotations

from foveate.evaluate.results.cautions import Cautions
from foveate.report.cautions import find_cautions
from foveate.report.files import RunFiles
from foveate.stations.run import Run


def note_cautions(run: Run) -> Cautions:
    """Write ``cautions.json`` into the run and its bundle, from whatever files the run has.

    That of the bundle, which is made to be given away, names no case and no patient.
    """
    found = find_cautions(RunFiles.read(run.folder))
    found.write(run.folder)
    if (run.folder / "bundle").is_dir():
        found.for_others().write(run.folder / "bundle")
    return found
