"""The stations of a cohort, meeting through the files of a run folder; the command line only calls these.

    study.yaml → audit.json → splits.json → bundle/ → predictions.csv → metrics.json
                                                  ↘ heatmaps/ → boxes.csv, localization.json → report.html

Each station reads what an earlier one left, so each can be run again alone. The second line of the drawing
is in ``evidence/``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from foveate.data.audit import Audit, audit_cohort, read_audit
from foveate.data.manifest import load_manifest
from foveate.data.rows import read_table
from foveate.data.splits import Splits, read_splits, split_cohort
from foveate.errors import AuditStopped, InputRefused, Partial, UsageError
from foveate.evaluate import choose_operating_thresholds, evaluate_predictions
from foveate.evaluate.options import EvaluateOptions
from foveate.evaluate.table import PredictionTable, read_predictions, write_predictions
from foveate.files import write_json
from foveate.io import read_image, read_mask
from foveate.run import Run
from foveate.types import Case, Cohort, Prediction, Track, quiet

if TYPE_CHECKING:
    from rich.console import Console

    from foveate.bundle import Bundle
    from foveate.predict import PreparedCase
    from foveate.train.fit import FitResult

BATCH, VOLUME_BATCH = 32, 2  # cases at once; a volume has as many pixels as a hundred pictures
VOLUMES = 3  # files remembered while the slices of a volume are gone through


def audit(run: Run, track: Track = quiet) -> Audit:
    """Look for leakage and contradictions; writes ``audit.json``.

    The later stations refuse to start while the audit stops the run; ``raise_if_stopped`` says so at once.
    """
    with run.station("audit"):
        cohort, config = run.cohort(), run.study.split
        may_leak = config.column is not None or not config.keep_twins_together
        splits = split_cohort(cohort, config) if may_leak else None
        result = audit_cohort(cohort, splits=splits, allow=run.study.audit.allow, track=track)
        write_json(run.folder / "audit.json", result.to_json())
    return result


def split(run: Run) -> Splits:
    """Divide the cohort by patient; writes ``splits.json``. Near-duplicates stay with their twins."""
    with run.station("split"):
        found = read_audit(run.path("audit.json", made_by="audit"))
        found.raise_if_stopped()
        twins = found.groups
        splits = split_cohort(
            run.cohort(), run.study.split, twins=twins if run.study.split.keep_twins_together else ()
        )
        splits.write(run.folder / "splits.json")
    return splits


def predict(run: Run, parts: Sequence[str] = ("val", "test"), track: Track = quiet) -> PredictionTable:
    """Classify the cases of the named parts; writes ``predictions.csv``.

    The operating point of each finding (multi-label) is chosen on the validation cases and joins the bundle.

    Raises:
        AuditStopped: the model learned from patients of the test part.
        Partial: some cases were refused; the others are in the file.
    """
    from foveate.bundle import load_bundle, save_thresholds

    with run.station("predict"):
        cohort, bundle = run.cohort(), load_bundle(run.path("bundle", made_by="train"))
        cases = cases_of(run, cohort, parts)
        if "patient-in-two-splits" not in run.study.audit.allow:
            refuse_known_patients(bundle, [case for case in cases if case.split == "test"])
        predictions, refused = predict_cases(bundle, cases, track)
        path = run.folder / "predictions.csv"
        write_predictions(path, bundle.task, bundle.classes, predictions, thresholds=bundle.thresholds)
        if bundle.task == "multilabel" and "val" in parts:
            thresholds = choose_operating_thresholds(read_predictions(path), split="val")
            save_thresholds(run.folder / "bundle", thresholds)
            write_predictions(path, bundle.task, bundle.classes, predictions, thresholds=thresholds)
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
    from foveate.bundle import load_bundle

    with run.station("predict-without"):
        bundle = load_bundle(run.path("bundle", made_by="train"))
        cases = cases_of(run, run.cohort(), parts)
        if "patient-in-two-splits" not in run.study.audit.allow:
            refuse_known_patients(bundle, [case for case in cases if case.split == "test"])
        predictions, refused = predict_cases(bundle, withhold(bundle, cases, withheld), track)
        write_predictions(out, bundle.task, bundle.classes, predictions, thresholds=bundle.thresholds)
    raise_if_partial(refused, f"predicted {len(predictions)} cases")
    return read_predictions(out)


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


def predict_elsewhere(
    run: Run, manifest: Path, out: Path, *, without: Sequence[str] = (), track: Track = quiet
) -> PredictionTable:
    """Classify another cohort with the model of a run, all of it as test cases.

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
    from foveate.bundle import load_bundle

    bundle, data = load_bundle(run.path("bundle", made_by="train")), run.study.data
    single = bundle.task == "multiclass"
    views = data.views
    if views and bundle.model.tolerates_missing:  # whole columns may be missing
        there = read_table(manifest).columns
        views = [name for name in views if name in there] or views
    cohort = load_manifest(
        manifest,
        label=data.label,
        findings=None if single else bundle.classes,
        classes=bundle.classes if single else None,
        views=views,
        patient=data.patient,
        case=data.case,
        track=track,
    )
    cases = [replace(case, split="test") for case in cohort.cases]
    refuse_known_patients(bundle, cases)
    predictions, refused = predict_cases(bundle, withhold(bundle, cases, without), track)
    write_predictions(out, bundle.task, bundle.classes, predictions, thresholds=bundle.thresholds)
    raise_if_partial(refused, f"predicted {len(predictions)} cases")
    return read_predictions(out)


def predict_cases(
    bundle: Bundle, cases: Sequence[Case], track: Track
) -> tuple[list[Prediction], list[InputRefused]]:
    """Classify cases, and collect what was said of those that were refused."""
    from foveate.predict import predict_prepared

    refused: list[InputRefused] = []
    batches = prepared_batches(bundle, cases, refused, track, "Predicting")
    return [prediction for batch in batches for prediction in predict_prepared(bundle, batch)], refused


def refuse_known_patients(bundle: Bundle, cases: Sequence[Case]) -> None:
    """Stop a test on patients that the model learned from: its figures would be too good."""
    known = sorted({case.patient_id for case in cases if case.patient_id in bundle.patients})
    if known:
        raise AuditStopped(
            f"the model learned from {len(known)} of these patients: {', '.join(known[:5])}"
            + ("; …" if len(known) > 5 else ""),
            where="test cases",
            fix="test on other patients, or train again with these splits in a new run folder",
            code="training-patients",
        )


def train(run: Run, console: Console | None = None) -> FitResult:
    """Train or go on training; writes ``checkpoints/``, ``training.csv`` and ``bundle/``."""
    from foveate.train.fit import fit

    with run.station("train"):
        splits = read_splits(run.path("splits.json", made_by="split"))
        return fit(run.study, run.cohort(), splits, run.folder, fold=run.study.split.fold, console=console)


def predict_images(folder: Path, images: Sequence[Path]) -> tuple[tuple[str, ...], list[Prediction]]:
    """Classify single image files with a one-view bundle.

    Args:
        folder: a bundle, or a run that holds one.
        images: one file each.

    Returns:
        Class names, and one prediction per image.
    """
    from foveate.bundle import load_bundle
    from foveate.predict import predict_case

    bundle = load_bundle(folder)
    if len(bundle.views) != 1:
        raise UsageError(
            f"this model has {len(bundle.views)} views: {', '.join(bundle.views)}",
            fix=f"give one case as --view {bundle.views[0]}=PATH --view …, or a manifest",
        )
    view = bundle.views[0]
    cases = [Case(case_id=path.name, patient_id=path.name, views={view: path}) for path in images]
    return bundle.classes, [predict_case(bundle, case) for case in cases]


def predict_views(folder: Path, views: Sequence[str]) -> tuple[tuple[str, ...], list[Prediction]]:
    """Classify one case that is given by its views.

    Args:
        folder: a bundle, or a run that holds one.
        views: each ``name=path``.

    Returns:
        Class names, and the prediction.

    Raises:
        UsageError: a view is not written so, is unknown to the model, or stands twice.
        InputRefused: a view is missing that the model needs, or its file cannot be used.
    """
    from foveate.bundle import load_bundle
    from foveate.predict import predict_case

    bundle = load_bundle(folder)
    given: dict[str, Path] = {}
    for text in views:
        name, sign, path = text.partition("=")
        if not (sign and path) or name not in bundle.views or name in given:
            raise UsageError(
                f"'{text}' does not name one more of the model's views",
                where="--view",
                fix=f"write NAME=PATH once for each of: {', '.join(bundle.views)}",
            )
        given[name] = Path(path)
    case = Case(case_id=" + ".join(given), patient_id="", views=given)
    return bundle.classes, [predict_case(bundle, case)]


def report(run: Run) -> Path:
    """Write ``report.html`` from whatever files the run has."""
    from foveate.report import write_report

    return write_report(run.folder)


def evaluate(run: Run, part: str = "test", track: Track = quiet) -> dict[str, object]:
    """Numbers with intervals for one part; writes ``metrics.json``."""
    with run.station("evaluate"):
        table = read_predictions(run.path("predictions.csv", made_by="predict"))
        thresholds = choose_operating_thresholds(table, split="val") if table.task == "multilabel" else None
        settings = run.study.evaluate
        metrics = evaluate_predictions(
            table,
            split=part,
            thresholds=thresholds,
            n_boot=settings.bootstrap,
            level=settings.level,
            seed=run.study.seed,
            options=_options(run),
            track=track,
        )
        write_json(run.folder / "metrics.json", metrics)
    return metrics


def _options(run: Run) -> EvaluateOptions:
    """What the study wants to be told, with the metadata of the manifest."""
    settings, abstain = run.study.evaluate, run.study.abstain
    return EvaluateOptions(
        interval=settings.interval,
        prevalence=settings.prevalence,
        metadata={case.case_id: case.metadata for case in run.cohort().cases},
        subgroups=None if settings.subgroups is None else tuple(settings.subgroups),
        min_group=settings.min_group,
        per_patient=settings.per_patient,
        coverage=abstain.coverage,
        set_score=abstain.score,
    )


def evaluate_file(predictions: Path, part: str = "test", track: Track = quiet) -> dict[str, object]:
    """Numbers with intervals for any ``predictions.csv``; writes ``<name>.metrics.json`` beside it."""
    metrics = evaluate_predictions(read_predictions(predictions), split=part, track=track)
    write_json(predictions.with_suffix(".metrics.json"), metrics)
    return metrics


def cases_of(run: Run, cohort: Cohort, parts: Sequence[str]) -> list[Case]:
    """The cases of the named parts, each carrying the name of its part, in the manifest's order."""
    where = read_splits(run.path("splits.json", made_by="split")).folds[run.study.split.fold]
    return [
        replace(case, split=where[case.case_id]) for case in cohort.cases if where.get(case.case_id) in parts
    ]


def prepared_batches(
    bundle: Bundle, cases: Sequence[Case], refused: list[InputRefused], track: Track, what: str
) -> Iterator[list[PreparedCase]]:
    """Read and prepare cases a batch ahead of the model; refused cases are collected, not raised."""
    from foveate.predict import read_and_prepare

    images, masks = lru_cache(VOLUMES)(read_image), lru_cache(VOLUMES)(read_mask)

    def attempt(case: Case) -> PreparedCase | InputRefused:
        try:
            return read_and_prepare(bundle, case, image_reader=images, mask_reader=masks)
        except InputRefused as error:
            return error

    size = VOLUME_BATCH if bundle.preprocess.config.volumes else BATCH
    batches = [cases[start : start + size] for start in range(0, len(cases), size)]
    with ThreadPoolExecutor(max_workers=2) as pool:
        ahead = [pool.submit(attempt, case) for case in (batches[0] if batches else [])]
        for number, _ in enumerate(track(batches, what)):
            ready = [future.result() for future in ahead]
            following = batches[number + 1] if number + 1 < len(batches) else []
            ahead = [pool.submit(attempt, case) for case in following]
            refused += [item for item in ready if isinstance(item, InputRefused)]
            if good := [item for item in ready if not isinstance(item, InputRefused)]:
                yield good


def raise_if_partial(refused: Sequence[InputRefused], done: str) -> None:
    """Say which cases were refused, after everything else was done and written."""
    if refused:
        listing = "\n".join(f"  - [{error.code}] {error.where}: {error.what}" for error in refused)
        raise Partial(
            f"{done}; {len(refused)} refused:\n{listing}", fix="correct these files and run the command again"
        )
