"""The stations of a cohort, meeting through the files of a run folder; the command line only calls these.

    study.yaml → audit.json → splits.json → bundle/ → predictions.csv → metrics.json
                                                  ↘ heatmaps/ → boxes.csv, localization.json → report.html

Each station reads what an earlier one left, so each can be run again alone. The second line of the drawing
is in ``evidence/``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from foveate.data.audit import Audit, audit_cohort, read_audit
from foveate.data.images import read_images, write_images
from foveate.data.known import KnownImages, read_looks, write_looks
from foveate.data.splits import Splits, read_splits, split_cohort
from foveate.engines.single import predict_images, predict_views
from foveate.files import write_json
from foveate.run import Run
from foveate.stations.batches import BATCH, VOLUMES, cases_of, prepared_batches, raise_if_partial
from foveate.stations.cautioning import note_cautions
from foveate.stations.evaluating import evaluate, evaluate_file
from foveate.stations.predicting import (
    predict,
    predict_cases,
    predict_elsewhere,
    predict_without,
    refuse_known_patients,
    withhold,
)
from foveate.stations.shifting import shift
from foveate.stations.testing import begin_test, divide_test, recognising
from foveate.types import Cohort, Track, quiet

if TYPE_CHECKING:
    from rich.console import Console

    from foveate.contract import Classifier
    from foveate.train.fit import FitResult

__all__ = [
    "BATCH",
    "VOLUMES",
    "audit",
    "begin_test",
    "cases_of",
    "check_model",
    "evaluate",
    "evaluate_file",
    "expected_parts",
    "note_cautions",
    "predict",
    "predict_cases",
    "predict_elsewhere",
    "predict_images",
    "predict_views",
    "predict_without",
    "prepared_batches",
    "raise_if_partial",
    "refuse_known_patients",
    "report",
    "shift",
    "split",
    "train",
    "withhold",
]


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


def split(run: Run) -> Splits:
    """Divide the cohort by patient; writes ``splits.json``. Near-duplicates stay with their twins.

    An external test is divided into what is tested and what is not (``testing.divide_test``).
    """
    if test := run.external:
        return divide_test(run, test)
    with run.station("split"):
        found = read_audit(run.path("audit.json", made_by="audit"))
        found.raise_if_stopped()
        twins = found.groups
        splits = split_cohort(
            run.cohort(), run.study.split, twins=twins if run.study.split.keep_twins_together else ()
        )
        splits.write(run.folder / "splits.json")
    return splits


def check_model(run: Run) -> Classifier:
    """Build the network once, so that a model that does not fit is refused before any work.

    Raises:
        UsageError: the study's model does not exist or does not take what the study feeds it.
        InputRefused: its weights cannot be used.
    """
    from foveate.train.fit import make_model

    return make_model(run.study, run.cohort())


def expected_parts(run: Run, cohort: Cohort) -> dict[str, int]:
    """How many cases each part has, or will have: without ``splits.json``, in parts of the same size."""
    stored, config = run.folder / "splits.json", run.study.split
    splits = read_splits(stored) if stored.is_file() else split_cohort(cohort, config)
    sizes = {name: len(cases) for name, cases in splits.parts(config.fold).items()}
    return dict.fromkeys(("train", "val", "test"), 0) | sizes


def train(run: Run, console: Console | None = None) -> FitResult:
    """Train or go on training; writes ``checkpoints/``, ``training.csv`` and ``bundle/``."""
    from foveate.bundle import save_images
    from foveate.train.fit import fit

    run.refuse_external("train")
    with run.station("train") as facts:
        splits = read_splits(run.path("splits.json", made_by="split"))
        fold = run.study.split.fold
        cohort, parts = run.cohort(), splits.folds[fold]
        result = fit(run.study, cohort, splits, run.folder, fold=fold, console=console)
        facts["computed"] = dict(result.computed)
        learned = {
            case.case_id: case.patient_id
            for case in cohort.cases
            if parts.get(case.case_id) in ("train", "val")
        }
        images = KnownImages.of(read_images(run.folder), read_looks(run.folder), learned)
        save_images(result.bundle, images)
    return result


def report(run: Run) -> Path:
    """Write ``report.html`` and ``cautions.json`` from whatever files the run has."""
    from foveate.report import write_report

    note_cautions(run)
    return write_report(run.folder)
