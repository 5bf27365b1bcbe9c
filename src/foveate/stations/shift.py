"""How the cohort of an external test differs from the one that its model comes from: ``shift.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from foveate.data.audit.metadata import metadata_columns
from foveate.data.images import ImageRow, Key, read_images
from foveate.errors import FoveateError, UsageError
from foveate.evaluate.intervals import Bootstrap
from foveate.evaluate.metadata_model import Columns, how_well_told
from foveate.evaluate.options import EvaluateOptions
from foveate.evaluate.probabilities.calibration import CHANGE, calibration
from foveate.evaluate.probabilities.calibrators import Calibrator
from foveate.evaluate.results.external import HOME, ExternalTest
from foveate.evaluate.results.parts import Unmade
from foveate.evaluate.results.shift import (
    ColumnShifts,
    ComparedCohort,
    LabelShift,
    NoveltyOfErrors,
    NumberShift,
    PerformanceShift,
    RecalibratedFigure,
    Recalibration,
    SeenCases,
    Shift,
    ShiftGroups,
    UncomparedColumns,
)
from foveate.evaluate.shift import (
    Cohorts,
    column_shifts,
    in_words,
    label_shift,
    number_shift,
    performance_shift,
)
from foveate.evaluate.subgroups import subgroups
from foveate.evaluate.table import SEEN, PredictionTable, read_predictions
from foveate.stations.batches import cases_of
from foveate.stations.evaluate import read_thresholds
from foveate.stations.run import Run
from foveate.stations.test import home_predictions, home_run
from foveate.types import Case, Cohort, Track, quiet

MOST_GROUPS = 4  # columns that differ most, by which figures are told apart
_NO_RUN = "only the bundle of the model was there, not its run"


def shift(run: Run, track: Track = quiet) -> Shift:
    """Compare the test part of an external test with what its model comes from; writes ``shift.json``.

    Args:
        run: an external test, with predictions.
        track: shows progress.

    Raises:
        UsageError: this is no external test.
    """
    test = run.external
    if test is None:
        raise UsageError(
            "only an external test has a shift",
            where=str(run.folder),
            fix="foveate test RUN --manifest CSV -o DIR",
        )
    with run.station("shift"):
        settings, table = run.study.evaluate, read_predictions(run.path("predictions.csv", made_by="predict"))
        bootstrap = Bootstrap(settings.bootstrap, settings.level, run.study.seed)
        new = _New.of(run, table)
        compared = _compared(test, new, _learned(test), home_predictions(run.folder), bootstrap)
        further = {
            "by_shift": _by_shift(compared, new, settings.min_group, bootstrap),
            "seen": _seen(table.part(SEEN)),
            "recalibration": _recalibration(run, test, table, bootstrap),
        }
        result = compared.model_copy(update=further)
        result = result.model_copy(update={"sentences": tuple(in_words(result))})
        result.write(run.folder)
    return result


@dataclass(frozen=True, slots=True)
class _New:
    """The tested cases: what was predicted, what the manifest says, and what their images are like."""

    table: PredictionTable  # with some known truth
    cases: Sequence[Case]
    images: Mapping[Key, ImageRow]
    thresholds: Mapping[str, float]

    @classmethod
    def of(cls, run: Run, table: PredictionTable) -> _New:
        cases = {case.case_id: case for case in cases_of(run, run.cohort(), ("test",))}
        known = _known(table.part("test"))
        own = [cases[name] for name in known.case_ids]
        return cls(known, own, read_images(run.folder), read_thresholds(run))


@dataclass(frozen=True, slots=True)
class _LearnedCohort:
    """The cases that the model learned from, or why they are not known."""

    cohort: Cohort | None = None
    cases: Sequence[Case] = ()
    images: Mapping[Key, ImageRow] = field(default_factory=dict)
    reason: str = _NO_RUN


def _learned(test: ExternalTest) -> _LearnedCohort:
    home = home_run(test)
    if home is None:
        return _LearnedCohort(reason=_NO_RUN)
    try:
        cohort = home.cohort()
        cases = cases_of(home, cohort, ("train", "val"))
    except FoveateError as error:
        return _LearnedCohort(reason=f"the manifest that the model comes from cannot be read ({error.code})")
    return _LearnedCohort(cohort, cases, read_images(home.folder), "")


def _known(table: PredictionTable) -> PredictionTable:
    return table.only(np.asarray(~np.isnan(table.truth).all(axis=1)))


def _compared(
    test: ExternalTest, new: _New, learned: _LearnedCohort, home: PredictionTable | None, bootstrap: Bootstrap
) -> Shift:
    """Labels, metadata, images, novelty and performance, each beside the source or with a reason."""
    patients = [case.patient_id for case in learned.cases]
    cohorts = Cohorts.of(patients, new.table.patient_ids)
    counts = (len(learned.cases), len(set(patients))) if learned.cohort else (None, None)
    tested, here = new.table.case_ids, new.table.patient_ids
    return Shift(
        level=bootstrap.level,
        source=ComparedCohort(name=test.of, cases=counts[0], patients=counts[1]),
        new=ComparedCohort(name=test.manifest, cases=len(tested), patients=len(set(here))),
        labels=_labels(learned, new, cohorts, bootstrap),
        metadata=_metadata(learned, new.cases, cohorts, bootstrap),
        images=_images(learned, new, cohorts, bootstrap),
        novelty=_novelty(home, new.table, bootstrap),
        performance=_performance(home, new, bootstrap),
    )


def _labels(
    learned: _LearnedCohort, new: _New, cohorts: Cohorts, bootstrap: Bootstrap
) -> LabelShift | Unmade:
    """How frequent every class is."""
    if learned.cohort is None:
        return Unmade(reason=learned.reason)
    truth = np.stack([learned.cohort.target(case) for case in learned.cases])
    labels = np.concatenate([truth, new.table.truth])
    return LabelShift(classes=label_shift(labels, new.table.classes, cohorts, bootstrap))


def _metadata(
    learned: _LearnedCohort, new: Sequence[Case], cohorts: Cohorts, bootstrap: Bootstrap
) -> ColumnShifts | UncomparedColumns:
    """Columns that both manifests have."""
    if learned.cohort is None:
        return UncomparedColumns(reason=learned.reason)
    one, other = ({name for case in cases for name in case.metadata} for cases in (learned.cases, new))
    both = metadata_columns([*learned.cases, *new])
    alone = {name: "one of the manifests lacks it" for name in sorted(one ^ other)}
    if not one & other:
        return UncomparedColumns(reason="the two manifests share no further column", left_out=alone)
    found = column_shifts({name: both[name] for name in both if name in one & other}, cohorts, bootstrap)
    return found.model_copy(update={"left_out": found.left_out | alone})


def _images(
    learned: _LearnedCohort, new: _New, cohorts: Cohorts, bootstrap: Bootstrap
) -> ColumnShifts | UncomparedColumns:
    """What images are like in numbers."""
    if learned.cohort is None:
        return UncomparedColumns(reason=learned.reason)
    if not any(row.facts for row in learned.images.values()):
        return UncomparedColumns(
            reason="the run kept nothing of its images (version 0.1.0); `foveate audit` on it does"
        )
    rows = [(case, learned.images) for case in learned.cases] + [(case, new.images) for case in new.cases]
    return column_shifts(image_columns(rows), cohorts, bootstrap)


def image_columns(rows: Sequence[tuple[Case, Mapping[Key, ImageRow]]]) -> Columns:
    """What images are like, by name a text for each case; the view in front where cases have several.

    Args:
        rows: each case with the images of its run.
    """
    facts: list[dict[str, str]] = []
    for case, images in rows:
        own: dict[str, str] = {}
        for view in case.views:
            row = images.get((case.case_id, view))
            start = "" if len(case.views) == 1 else f"{view}: "
            own |= {f"{start}{name}": text for name, text in (row.facts if row else {}).items()}
        facts.append(own)
    names = dict.fromkeys(name for own in facts for name in own)
    return {name: [own.get(name, "") for own in facts] for name in names}


def _novelty(
    home: PredictionTable | None, new: PredictionTable, bootstrap: Bootstrap
) -> NumberShift | Unmade:
    """Whether images are stranger to the model than those of its own test part."""
    if home is None:
        return Unmade(reason=_NO_RUN)
    tested = home.part("test")
    scores = np.concatenate([tested.novelty, new.novelty])
    if not len(tested.novelty) or np.isnan(scores).all():
        return Unmade(reason="the predictions do not tell how familiar the images look")
    return number_shift(scores, Cohorts.of(tested.patient_ids, new.patient_ids), bootstrap)


def _performance(home: PredictionTable | None, new: _New, bootstrap: Bootstrap) -> PerformanceShift | Unmade:
    """Every figure here and in the test part at home."""
    if home is None:
        return Unmade(reason=_NO_RUN)
    tested = _known(home.part("test"))
    if not tested.case_ids:
        return Unmade(reason="no case was tested at home")
    return performance_shift(tested, new.table, new.thresholds, bootstrap)


def _by_shift(compared: Shift, new: _New, least: int, bootstrap: Bootstrap) -> ShiftGroups:
    """Figures of the new cohort by how familiar its images look, and by the columns that differ most."""
    columns, table = _telling(compared, new), new.table
    texts = zip(*columns.values(), strict=True) if columns else [() for _ in table.case_ids]
    rows = {
        case: dict(zip(columns, own, strict=True)) for case, own in zip(table.case_ids, texts, strict=True)
    }
    options = EvaluateOptions(metadata=rows, subgroups=tuple(columns), min_group=least)
    groups = subgroups(table, options, bootstrap, new.thresholds)
    told = None
    if table.task == "multiclass" and not np.isnan(table.novelty).any():
        wrong = ~(table.decisions() & (table.truth == 1)).any(axis=1, keepdims=True)
        found = how_well_told(
            table.novelty[:, None], wrong.astype(np.float64), table.patient_ids, ["wrong"], bootstrap
        )
        told = NoveltyOfErrors(**asdict(found.per_class["wrong"]), p=found.p.get("wrong"))
    return ShiftGroups(groups=groups, wrong=told)


def _telling(compared: Shift, new: _New) -> dict[str, Sequence[str]]:
    """By name the text of each tested case: novelty, and the columns that are shown to differ most."""
    there = {**metadata_columns(new.cases), **image_columns([(case, new.images) for case in new.cases])}
    shown = {
        name: own.far
        for kind in (compared.images, compared.metadata)
        if isinstance(kind, ColumnShifts)
        for name, own in kind.columns.items()
        if own.shown and len(set(there.get(name, ()))) > 1
    }
    most = sorted(shown, key=lambda name: -shown[name])[:MOST_GROUPS]
    novelty = [f"{value:.4g}" for value in new.table.novelty if not np.isnan(value)]
    told = {"novelty": novelty} if len(set(novelty)) > 1 and len(novelty) == len(new.cases) else {}
    return {**told, **{name: there[name] for name in most}}


def _seen(table: PredictionTable) -> SeenCases | None:
    """How right the model is about what it learned from: what a test that did not look would have counted."""
    known = _known(table)
    if not table.case_ids:
        return None
    right = (known.decisions() & (known.truth == 1)).any(axis=1) if known.task == "multiclass" else None
    return SeenCases(
        cases=len(table.case_ids),
        known=len(known.case_ids),
        right=None if right is None else int(right.sum()),
    )


def _recalibration(
    run: Run, test: ExternalTest, table: PredictionTable, bootstrap: Bootstrap
) -> Recalibration | None:
    """Probabilities as the model came, and as calibrated on a part of the new cohort, both on the rest."""
    if test.recalibrate is None:
        return None
    val, part = table.part("val"), _known(table.part("test"))
    facts = {
        name: json.loads((run.folder / folder / "bundle.json").read_text(encoding="utf-8"))["calibration"]
        for name, folder in (("came", HOME), ("fitted", "bundle"))
    }
    forms = {name: _calibrated(part, content) for name, content in facts.items()}
    came = calibration(replace(part, probabilities=forms["came"], calibrated=forms["fitted"]), bootstrap)
    fitted = came.calibrated
    assert fitted is not None
    figures = {
        name: RecalibratedFigure(
            came=came.figure(name), fitted=fitted.figure(name), change=fitted.change.figure(name)
        )
        for name in CHANGE
    }
    cases, patients = len(val.case_ids), len(set(val.patient_ids))
    return Recalibration(share=test.recalibrate, cases=cases, patients=patients, **figures)


def _calibrated(
    table: PredictionTable, content: dict[str, Any] | None
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Calibrated probabilities, raw where nothing was fitted."""
    if content is None:
        return table.probabilities
    found = Calibrator.from_json(content).apply(table.logits)
    return np.where(np.isnan(found), table.probabilities, found)
