"""The predict station: validation and test cases, other cohorts, and single images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from foveate.data.audit.looks import look_at_all
from foveate.errors import AuditStopped, InputRefused, UsageError
from foveate.evaluate.table import SEEN, Further, PredictionTable, read_predictions, write_predictions
from foveate.stations.batches import cases_of, prepared_batches, raise_if_partial
from foveate.stations.elsewhere import read_elsewhere
from foveate.stations.fitting import fit_on_validation, learn_familiar
from foveate.stations.run import Run
from foveate.types import Case, Cohort, Prediction, Track, quiet

if TYPE_CHECKING:
    from foveate.bundle.bundle import Bundle


def predict(run: Run, parts: Sequence[str] = ("val", "test"), track: Track = quiet) -> PredictionTable:
    """Classify the cases of the named parts; writes ``predictions.csv``.

    Where the validation part is among them, what is fitted on it joins the bundle (``fitting``). Of an
    external test, cases that the model learned from are classified as well, as the part ``seen``; validation
    cases are those it is recalibrated on, and what images look familiar stays as it was: a new hospital's own
    images would all be.

    Raises:
        AuditStopped: the model learned from patients of the test part.
        Partial: some cases were refused; the others are in the file.
    """
    from foveate.bundle.bundle import load_bundle, save_fitted
    from foveate.predict import complete

    own = run.external is None
    with run.station("predict"):
        cohort, bundle = run.cohort(), load_bundle(run.path("bundle", made_by="train"))
        cases = cases_of(run, cohort, parts if own else (*parts, SEEN))
        if own and "patient-in-two-splits" not in run.study.audit.allow:
            refuse_known_patients(bundle, [case for case in cases if case.split == "test"])
        if "val" in parts and own:
            bundle = learn_familiar(run, bundle, cohort, track)
        predictions, refused = predict_cases(bundle, cases, track)
        if any(item.split == "val" for item in predictions):
            fitted = fit_on_validation(bundle, predictions, run.study.calibrate, run.study.abstain)
            bundle = fitted if own else replace(fitted, novelty=bundle.novelty)
            save_fitted(run.folder / "bundle", bundle)
            predictions = complete(bundle, predictions)
        path = run.folder / "predictions.csv"
        _write(path, bundle, predictions)
    raise_if_partial(refused, f"predicted {len(predictions)} cases")
    return read_predictions(path)


def predict_without(
    run: Run, withheld: Sequence[str], out: Path, parts: Sequence[str] = ("val", "test"), track: Track = quiet
) -> PredictionTable:
    """Classify the cases of the named parts once more, with some of their views withheld.

    The run's own ``predictions.csv`` and the operating points in its bundle stay as they are.

    Args:
        run: with a bundle whose model tolerates missing views.
        withheld: names of views.
        out: CSV to write.
        parts: train, val or test.
        track: shows progress.

    Raises:
        UsageError: the model has no such view, or cannot do without any.
        AuditStopped: the model learned from patients of the test part.
        Partial: some cases were refused, such as those that have no other view.
    """
    from foveate.bundle.bundle import load_bundle

    with run.station("predict-without"):
        bundle = load_bundle(run.path("bundle", made_by="train"))
        cases = cases_of(run, run.cohort(), parts)
        if "patient-in-two-splits" not in run.study.audit.allow:
            refuse_known_patients(bundle, [case for case in cases if case.split == "test"])
        predictions, refused = predict_cases(bundle, withhold(bundle, cases, withheld), track)
        _write(out, bundle, predictions)
    raise_if_partial(refused, f"predicted {len(predictions)} cases")
    return read_predictions(out)


def predict_elsewhere(
    run: Run, manifest: Path, out: Path, *, without: Sequence[str] = (), track: Track = quiet
) -> PredictionTable:
    """Classify another cohort with the model of a run, all of it as test cases.

    Cases whose images the model learned from, the same or nearly the same, become the part ``seen``, which an
    evaluation of the test part leaves out. The truth may be absent.

    Args:
        run: with a bundle; the manifest's columns are called as in its study.
        manifest: CSV of the other cohort.
        out: CSV to write.
        without: views to withhold.
        track: shows progress.

    Raises:
        UsageError: a view cannot be withheld.
        AuditStopped: the model learned from some of these patients.
        Partial: some cases were refused; the others are in the file.
    """
    from foveate.bundle.bundle import load_bundle

    refused: list[InputRefused] = []
    bundle = load_bundle(run.path("bundle", made_by="train"))
    data = run.study.data.model_copy(update={"manifest": manifest, "boxes": None})
    cohort = read_elsewhere(bundle, data, refused=refused, track=track)
    refuse_known_patients(bundle, cohort.cases)
    cases = withhold(bundle, _with_seen(bundle, cohort, track), without)
    predictions, unreadable = predict_cases(bundle, cases, track)
    _write(out, bundle, predictions)
    raise_if_partial([*refused, *unreadable], f"predicted {len(predictions)} cases")
    return read_predictions(out)


def _with_seen(bundle: Bundle, cohort: Cohort, track: Track) -> list[Case]:
    """The cases, those of the part ``seen`` whose images the model learned from."""
    if bundle.images is None:
        return list(cohort.cases)
    looks = look_at_all(cohort.cases, track)
    found = bundle.images.recognise(looks, [case.patient_id for case in cohort.cases])
    known = {place for place, _ in found}
    return [replace(case, split=SEEN) if place in known else case for place, case in enumerate(cohort.cases)]


def _write(path: Path, bundle: Bundle, predictions: Sequence[Prediction]) -> None:
    """Write predictions with all that the bundle can tell."""
    calibration, sets, novelty = bundle.calibration, bundle.set_rule is not None, bundle.novelty is not None
    further = Further(
        calibrated=calibration is not None and calibration.fitted,
        novelty=novelty,
        sets=sets,
        abstain=sets or novelty or bundle.familiar is not None,
    )
    write_predictions(
        path, bundle.task, bundle.classes, predictions, thresholds=bundle.thresholds, further=further
    )


def predict_cases(
    bundle: Bundle, cases: Sequence[Case], track: Track
) -> tuple[list[Prediction], list[InputRefused]]:
    """Classify cases, and collect what was said of those that were refused."""
    from foveate.predict import predict_prepared

    refused: list[InputRefused] = []
    batches = prepared_batches(bundle, cases, refused, track, "Predicting")
    return [prediction for batch in batches for prediction in predict_prepared(bundle, batch)], refused


def withhold(bundle: Bundle, cases: Sequence[Case], views: Sequence[str]) -> list[Case]:
    """The cases as if they lacked some views.

    Raises:
        UsageError: the model has no such view, cannot do without any, or would be left with none.
    """
    if unknown := [view for view in views if view not in bundle.views]:
        raise UsageError(
            f"the model has no view {', '.join(map(repr, unknown))}",
            where="--without",
            fix=f"its views are: {', '.join(bundle.views)}",
        )
    if views and not (bundle.model.tolerates_missing and set(bundle.views) - set(views)):
        raise UsageError(
            f"{bundle.model_name} of the views {', '.join(bundle.views)} cannot do without "
            f"{', '.join(views)}",
            where="--without",
            fix="train a model that tolerates missing views, and leave it at least one",
        )
    gone = set(views)
    return [
        replace(case, views={name: path for name, path in case.views.items() if name not in gone})
        for case in cases
    ]


def refuse_known_patients(bundle: Bundle, cases: Sequence[Case]) -> None:
    """Stop a test on patients that the model learned from: its figures would be too good."""
    known = sorted({case.patient_id for case in cases if case.patient_id in bundle.patients})
    if known:
        raise AuditStopped(
            f"the model learned from {len(known)} of these patients: {', '.join(known[:5])}"
            + ("; …" if len(known) > 5 else ""),
            where="test cases",
            fix="test on other patients (people who only share their numbers need other ids), or train again "
            "with these splits in a new run folder",
            code="training-patients",
        )
