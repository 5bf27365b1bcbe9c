"""Train the study's model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from foveate.data.images import read_images
from foveate.data.known import KnownImages, read_looks
from foveate.evaluate.results.splits import Splits
from foveate.stations.run import Run

if TYPE_CHECKING:
    from rich.console import Console

    from foveate.contract import Classifier
    from foveate.train.fit import FitResult


def check_model(run: Run) -> Classifier:
    """Build the network once, so that a model that does not fit is refused before any work.

    Raises:
        UsageError: the study's model does not exist or does not take what the study feeds it.
        InputRefused: its weights cannot be used.
    """
    from foveate.train.fit import make_model

    return make_model(run.study, run.cohort())


def train(run: Run, console: Console | None = None) -> FitResult:
    """Train or go on training; writes ``checkpoints/``, ``training.csv`` and ``bundle/``."""
    from foveate.bundle.bundle import save_images
    from foveate.train.fit import fit

    run.refuse_external("train")
    with run.station("train") as facts:
        splits = run.result(Splits)
        fold = run.study.split.fold
        cohort, parts = run.cohort(), splits.folds[fold]
        result = fit(run.study, cohort, splits, run.folder, fold=fold, console=console)
        facts.computed = result.computed
        learned = {
            case.case_id: case.patient_id
            for case in cohort.cases
            if parts.get(case.case_id) in ("train", "val")
        }
        images = KnownImages.of(read_images(run.folder), read_looks(run.folder), learned)
        save_images(result.bundle, images)
    return result
