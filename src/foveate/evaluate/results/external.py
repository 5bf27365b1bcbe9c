"""``test.json``: that a run folder holds an external test, of which model, and how it was asked for."""

from __future__ import annotations

from typing import ClassVar

from foveate.evaluate.results.file import ResultFile, SparsePart
from foveate.types import Task

HOME = "home"  # folder of what is kept of the run that made the model


class LearnedCounts(SparsePart):
    """``cases`` and ``patients`` that a model's run was made from; None where that is not known."""

    cases: int | None = None
    patients: int | None = None


class ExternalTest(ResultFile):
    """What makes a run folder an external test.

    Attributes:
        of: name of the run that made the model, or of the bundle's folder.
        source: where that lay.
        weights_sha256: of the model.
        task, classes, views: of the model.
        manifest: name of the CSV of the new cohort.
        set_apart: whether cases that the model learned from are left out, instead of ending the test.
        recalibrate: share of the new cohort on which calibration, thresholds and sets are fitted anew; None
            keeps the model's own.
        learned: of the manifest that the run was made from.
        unusable: rows of the manifest whose files cannot be used, in words.
    """

    NAME: ClassVar[str] = "test.json"
    MADE_BY: ClassVar[str] = "test"

    of: str
    source: str
    weights_sha256: str
    task: Task
    classes: tuple[str, ...]
    views: tuple[str, ...]
    manifest: str
    set_apart: bool = False
    recalibrate: float | None = None
    learned: LearnedCounts = LearnedCounts()
    unusable: tuple[str, ...] = ()
