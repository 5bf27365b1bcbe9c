"""The evaluate station: numbers with intervals, of a run or of any file of predictions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from foveate.errors import UsageError
from foveate.evaluate import choose_operating_thresholds, evaluate_predictions
from foveate.evaluate.options import EvaluateOptions
from foveate.evaluate.results.metrics import Metrics
from foveate.evaluate.table import PredictionTable, read_predictions
from foveate.files import write_json
from foveate.stations.cautions import note_cautions
from foveate.stations.run import Run
from foveate.stations.test import home_predictions
from foveate.types import Track, quiet


def evaluate(run: Run, part: str = "test", track: Track = quiet) -> Metrics:
    """Numbers with intervals for one part; writes ``metrics.json``.

    Raises:
        UsageError: the part has no case, or none of known truth.
    """
    with run.station("evaluate"):
        table = read_predictions(run.path("predictions.csv", made_by="predict"))
        settings, rule = run.study.evaluate, run.study.calibrate
        validation = validation_of(run, table)
        if validation.case_ids:
            thresholds = choose_operating_thresholds(validation, rule=rule.threshold, target=rule.target)
        else:
            thresholds = read_thresholds(run)
        metrics = evaluate_predictions(
            _with_truth(table, part),
            split=part,
            thresholds=thresholds,
            n_boot=settings.bootstrap,
            level=settings.level,
            seed=run.study.seed,
            options=_options(run),
            validation=validation,
            track=track,
        )
        metrics.write(run.folder)
    note_cautions(run)
    return metrics


def validation_of(run: Run, table: PredictionTable) -> PredictionTable:
    """The cases that limits are fitted on, of the part ``val``: the run's own, or its source's.

    Args:
        run: a run, or an external test: unless it recalibrates, the validation cases of the run that made the
            model count, and none where only its bundle was there.
        table: the run's predictions.
    """
    own = table.part("val")
    if own.case_ids or run.external is None:
        return own
    home = home_predictions(run.folder)
    return own if home is None else home.part("val")


def read_thresholds(run: Run) -> dict[str, float]:
    """The thresholds of findings that the bundle holds; none for classes."""
    facts = json.loads(run.path("bundle/bundle.json", made_by="train").read_text(encoding="utf-8"))
    return {str(name): float(value) for name, value in facts["thresholds"].items()}


def evaluate_file(predictions: Path, part: str = "test", track: Track = quiet) -> Metrics:
    """Numbers with intervals for any ``predictions.csv``; writes ``<name>.metrics.json`` beside it.

    Raises:
        UsageError: the part has no case, or none of known truth.
    """
    metrics = evaluate_predictions(_with_truth(read_predictions(predictions), part), split=part, track=track)
    write_json(predictions.with_suffix(".metrics.json"), metrics.to_json())
    return metrics


def _with_truth(table: PredictionTable, part: str) -> PredictionTable:
    """The same table, if the truth of any case of a part is known; an empty part is told of elsewhere."""
    truth = table.part(part).truth
    if len(truth) and np.isnan(truth).all():
        raise UsageError(
            f"no case of the part '{part}' has a known truth: there is nothing to compare answers with",
            fix="give the manifest its truth (a label, or 0/1 columns of findings), and predict it again",
        )
    return table


def _options(run: Run) -> EvaluateOptions:
    """What the study wants to be told, with the metadata of the manifest."""
    settings, calibrate, abstain = run.study.evaluate, run.study.calibrate, run.study.abstain
    return EvaluateOptions(
        interval=settings.interval,
        prevalence=settings.prevalence,
        metadata={case.case_id: case.metadata for case in run.cohort().cases},
        subgroups=None if settings.subgroups is None else tuple(settings.subgroups),
        min_group=settings.min_group,
        per_patient=settings.per_patient,
        order=None if settings.order is None else tuple(settings.order),
        coverage=abstain.coverage,
        set_score=abstain.score,
        familiar=abstain.novelty,
        threshold=calibrate.threshold,
        target=calibrate.target,
    )
