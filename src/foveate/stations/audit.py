"""Look for leakage and contradictions before anything is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

from foveate.data.audit.audit import Audit, audit_cohort
from foveate.data.images import write_images
from foveate.data.known import write_looks
from foveate.data.splits import split_cohort
from foveate.files import write_json
from foveate.stations.run import Run
from foveate.stations.test import recognising
from foveate.types import Track, quiet

if TYPE_CHECKING:
    pass


def audit(run: Run, track: Track = quiet) -> Audit:
    """Look for leakage and contradictions; writes ``audit.json``, ``images.csv`` and ``looks.safetensors``.

    The later stations refuse to start while the audit stops the run; ``raise_if_stopped`` says so at once.
    """
    with run.station("audit"):
        cohort, config = run.cohort(), run.study.split
        may_leak = config.column is not None or not config.keep_twins_together
        splits = split_cohort(cohort, config) if may_leak else None
        more = recognising(run, track)
        result = audit_cohort(cohort, splits=splits, allow=run.study.audit.allow, more=more, track=track)
        write_json(run.folder / "audit.json", result.to_json())
        write_images(run.folder, result.images)
        write_looks(run.folder, result.looks)
    return result
