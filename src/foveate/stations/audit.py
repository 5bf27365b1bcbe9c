"""Look for leakage and contradictions before anything is trained."""

from __future__ import annotations

from foveate.data.audit.audit import check_codes, judge
from foveate.data.audit.gathered import gather
from foveate.data.images import image_rows, write_images
from foveate.data.known import view_looks, write_looks
from foveate.data.splits import split_cohort
from foveate.evaluate.results.audit import Audit
from foveate.stations.run import Run
from foveate.stations.test import recognising
from foveate.types import Track, quiet


def audit(run: Run, track: Track = quiet) -> Audit:
    """Look for leakage and contradictions; writes ``audit.json``, ``images.csv`` and ``looks.safetensors``.

    The later stations refuse to start while the audit stops the run; ``raise_if_stopped`` says so at once.
    """
    with run.station("audit"):
        cohort, config = run.cohort(), run.study.split
        may_leak = config.column is not None or not config.keep_twins_together
        splits = split_cohort(cohort, config) if may_leak else None
        check_codes(run.study.audit.allow)
        more = recognising(run, track)
        evidence = gather(cohort, splits, track, run.study.preprocess)
        found = judge(evidence, allow=run.study.audit.allow, more=more)
        found.write(run.folder)
        write_images(run.folder, image_rows(cohort, evidence.looks))
        write_looks(run.folder, view_looks(evidence.looks))
    return found
