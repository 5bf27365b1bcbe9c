"""Divide the cohort by patient."""

from __future__ import annotations

from foveate.data.splits import split_cohort
from foveate.evaluate.results.audit import Audit
from foveate.evaluate.results.splits import Splits
from foveate.stations.run import Run
from foveate.stations.test import divide_test
from foveate.types import Cohort


def split(run: Run) -> Splits:
    """Divide the cohort by patient; writes ``splits.json``. Near-duplicates stay with their twins.

    An external test is divided into what is tested and what is not (``testing.divide_test``).
    """
    if test := run.external:
        return divide_test(run, test)
    with run.station("split"):
        found = run.result(Audit)
        found.raise_if_stopped()
        twins = found.groups
        splits = split_cohort(
            run.cohort(), run.study.split, twins=twins if run.study.split.keep_twins_together else ()
        )
        splits.write(run.folder)
    return splits


def expected_parts(run: Run, cohort: Cohort) -> dict[str, int]:
    """How many cases each part has, or will have: without ``splits.json``, in parts of the same size."""
    splits = Splits.read(run.folder) or split_cohort(cohort, run.study.split)
    sizes = {name: len(cases) for name, cases in splits.parts(run.study.split.fold).items()}
    return dict.fromkeys(("train", "val", "test"), 0) | sizes
