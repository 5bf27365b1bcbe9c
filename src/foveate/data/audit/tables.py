"""Counts and ranges of a cohort, for the audit and the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from foveate.data.audit.findings import truth_of
from foveate.data.audit.gathered import Evidence
from foveate.data.audit.looks import Look
from foveate.evaluate.results.audit import ClassCounts, CohortTables, PartSize, Range, ViewImages
from foveate.evaluate.results.splits import PARTS
from foveate.types import Case


def make_tables(evidence: Evidence) -> CohortTables:
    """Counts of classes and parts, and what the images of each view are like."""
    cases = evidence.cohort.cases
    fold = evidence.folds[0] if evidence.folds else {}
    inside = (
        {part: [case for case in cases if fold.get(case.case_id) == part] for part in PARTS} if fold else {}
    )
    views = {view: _looks(evidence, view) for view in evidence.cohort.view_names}
    return CohortTables(
        classes=tuple(_class_counts(name, cases, inside) for name in evidence.cohort.classes),
        parts=tuple(
            PartSize(part=part, cases=len(part_cases), patients=_patients(part_cases))
            for part, part_cases in inside.items()
        ),
        images=tuple(
            _view_images(view, looks, evidence.thresholds.get(view)) for view, looks in views.items() if looks
        ),
    )


def _class_counts(name: str, cases: Sequence[Case], inside: Mapping[str, Sequence[Case]]) -> ClassCounts:
    truths = [truth_of(case, name) for case in cases]
    parts = {part: sum(truth_of(case, name) == 1 for case in members) for part, members in inside.items()}
    return ClassCounts(
        name=name,
        positive=truths.count(1),
        negative=truths.count(0),
        unknown=truths.count(None),
        patients=_patients([case for case, truth in zip(cases, truths, strict=True) if truth == 1]),
        train=parts.get("train"),
        val=parts.get("val"),
        test=parts.get("test"),
    )


def _view_images(view: str, looks: Sequence[Look], threshold: float | None) -> ViewImages:
    shapes = [look.shape for look in looks]
    return ViewImages(
        view=view,
        images=len(looks),
        grey=sum(look.channels == 1 for look in looks),
        colour=sum(look.channels == 3 for look in looks),
        width=_range([shape[-1] for shape in shapes]),
        height=_range([shape[-2] for shape in shapes]),
        depth=_range([shape[0] for shape in shapes if len(shape) == 3]),
        lowest=_range([look.lowest for look in looks]),
        highest=_range([look.highest for look in looks]),
        spread=_range([look.percentiles[1] - look.percentiles[0] for look in looks]),
        twin_correlation=threshold,
        orientations=_tally(look.acquisition.get("orientation", "") for look in looks),
        planes=_tally(look.plane for look in looks),
        units=_tally(look.unit for look in looks),
        lateralities=_tally(look.facts.get("laterality", "") for look in looks),
        view_positions=_tally(look.facts.get("view position", "") for look in looks),
        warnings=_tally(code for look in looks for code in look.warnings),
    )


def _tally(texts: Iterable[str]) -> dict[str, int]:
    """How often each text occurs, the most frequent first; empty ones are not counted."""
    return dict(Counter(text for text in texts if text).most_common())


def _range(values: Sequence[float]) -> Range | None:
    return (float(min(values)), float(np.median(values)), float(max(values))) if values else None


def _looks(evidence: Evidence, view: str) -> list[Look]:
    return [look for (_, name), look in evidence.looks.seen.items() if name == view]


def _patients(cases: Sequence[Case]) -> int:
    return len({case.patient_id for case in cases})
