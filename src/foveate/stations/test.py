"""An external test: the stations of a run without its training, on another cohort than the model comes from.

The folder of a test is a run folder. Beside the files of every run it holds ``test.json``,
a copy of the bundle, and in ``home/`` what is kept of the run that made the model: its
predictions, whose validation cases chose its thresholds, its metrics and its audit.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from foveate.data.audit.findings import Check
from foveate.data.splits import split_test
from foveate.errors import InputRefused, UsageError
from foveate.evaluate.results.audit import Audit
from foveate.evaluate.results.external import HOME, ExternalTest, LearnedCounts
from foveate.evaluate.results.splits import Splits
from foveate.evaluate.table import PredictionTable, read_predictions
from foveate.stations.contamination import SEEN_CODES, recognise
from foveate.stations.elsewhere import read_elsewhere
from foveate.stations.run import Run
from foveate.study.study import DataConfig, ModelConfig, Study
from foveate.types import Cohort, Track, quiet

if TYPE_CHECKING:
    from foveate.bundle.bundle import Bundle

KEPT = (
    "predictions.csv",
    "metrics.json",
    "audit.json",
    "localization.json",
)  # of the run that made the model


def begin_test(
    source: Path,
    data: DataConfig,
    folder: Path,
    *,
    set_apart: bool = False,
    recalibrate: float | None = None,
    track: Track = quiet,
) -> Run:
    """Make the folder of an external test, or go on with one.

    Args:
        source: a run, or a bundle.
        data: the manifest of the new cohort, and what its columns are called.
        folder: of the test.
        set_apart: leave out cases that the model learned from, instead of refusing the test.
        recalibrate: share of the new cohort, by patient, on which calibration, thresholds and sets are fitted
            anew.
        track: shows progress.

    Returns:
        The test as a run, ready for its audit.

    Raises:
        UsageError: the source is a test itself, the cohort has no truth, or the folder holds something else.
        InputRefused: there is no model, or no manifest.
    """
    from foveate.bundle.bundle import load_bundle

    bundle, home = load_bundle(source), _home_run(source)
    refused: list[InputRefused] = []
    cohort = read_elsewhere(bundle, data, refused=refused, track=track)
    _check_truth(cohort)
    name = home.study.name if home else source.resolve().name
    wanted = ExternalTest(
        of=name,
        source=str(source.resolve()),
        weights_sha256=bundle.weights_sha256,
        task=bundle.task,
        classes=bundle.classes,
        views=bundle.views,
        manifest=_in_words(data.manifest),
        set_apart=set_apart,
        recalibrate=recalibrate,
        learned=_counts(Audit.read(source)),
        unusable=tuple(f"{error.where}: {error.what}" for error in refused),
    )
    _check_folder(folder, wanted)
    wanted.write(folder)
    _copy(source, folder)
    return Run.create(_study(bundle, home, data, cohort, f"{name} on {cohort_name(data.manifest)}"), folder)


def cohort_name(manifest: Path) -> str:
    """What a cohort is called: its CSV without the ending, or the folder of one that is called manifest."""
    return manifest.absolute().parent.name if manifest.stem == "manifest" else manifest.stem


def _in_words(manifest: Path) -> str:
    name = cohort_name(manifest)
    return f"{name}/{manifest.name}" if name != manifest.stem else manifest.name


def divide_test(run: Run, test: ExternalTest) -> Splits:
    """Which cases are tested, which recalibrate, and which the model learned from; writes ``splits.json``."""
    with run.station("split"):
        audit = run.result(Audit)
        audit.raise_if_stopped()
        seen = {
            name
            for found in audit.findings
            if found.code in SEEN_CODES and test.set_apart and not found.allowed
            for name in found.case_ids
        }
        splits = split_test(run.cohort(), run.study.split, seen, test.recalibrate, twins=audit.groups)
        splits.write(run.folder)
    return splits


def recognising(run: Run, track: Track = quiet) -> tuple[Check, ...]:
    """The checks of an audit that look for what a model learned from; none where this is no external test."""
    from foveate.bundle.bundle import load_bundle

    if (test := run.external) is None:
        return ()
    bundle = load_bundle(run.path("bundle", made_by="test"))
    return (recognise(bundle, home_run(test), track, set_apart=test.set_apart),)


def home_run(test: ExternalTest) -> Run | None:
    """The run that made the model, if it is still where it was."""
    return Run.open(Path(test.source)) if (Path(test.source) / "study.yaml").is_file() else None


def home_predictions(folder: Path) -> PredictionTable | None:
    """The predictions of the run that made the model; None where only its bundle was there."""
    path = folder / HOME / "predictions.csv"
    return read_predictions(path) if path.is_file() else None


def _home_run(source: Path) -> Run | None:
    if (source / ExternalTest.NAME).is_file():
        raise UsageError(
            "this is an external test itself",
            where=str(source),
            fix="name the run that it tests",
        )
    return Run.open(source) if (source / "study.yaml").is_file() else None


def _check_truth(cohort: Cohort) -> None:
    if all(np.isnan(cohort.target(case)).all() for case in cohort.cases):
        raise UsageError(
            "no case has a known truth, so there is nothing to test",
            where=str(cohort.manifest),
            fix="`foveate predict RUN --manifest …` answers cases without truth",
        )


def _check_folder(folder: Path, wanted: ExternalTest) -> None:
    """Refuse a folder that holds something else."""
    found = ExternalTest.read(folder)
    if found is None and folder.is_dir() and any(folder.iterdir()):
        raise UsageError(
            "this folder holds something else already",
            where=str(folder),
            fix="name a new or empty folder with -o",
        )
    if found is None or not (folder / "predictions.csv").is_file():
        return  # a test that its audit stopped may be asked for in another way
    may_differ = {name: getattr(wanted, name) for name in ("format", "source", "unusable")}
    if found.model_copy(update=may_differ) != wanted:
        raise UsageError(
            "this folder already holds another test",
            where=str(folder),
            fix="give another folder with -o, or delete this one",
        )


def _copy(source: Path, folder: Path) -> None:
    """The bundle, and what is kept of the run around it."""
    inner = source / "bundle"
    bundle = inner if inner.is_dir() else source
    if not (folder / "bundle" / "bundle.json").is_file():  # one that is there may be recalibrated already
        shutil.copytree(bundle, folder / "bundle", dirs_exist_ok=True)
    home = folder / HOME
    home.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(bundle / "bundle.json", home / "bundle.json")
    for name in KEPT:
        if (source / name).is_file():
            shutil.copyfile(source / name, home / name)


def _study(bundle: Bundle, home: Run | None, data: DataConfig, cohort: Cohort, name: str) -> Study:
    """The study of the run that made the model, or what its bundle knows of it, on the new cohort."""
    base = (
        home.study
        if home
        else Study(
            name=name,
            data=data,
            preprocess=bundle.preprocess.config,
            model=ModelConfig(name=bundle.model_name, options=dict(bundle.model_options)),
        )
    )
    changed = base.model_dump()
    changed |= {"name": name, "audit": {"allow": []}}
    changed["data"] = data.model_dump() | {"views": list(cohort.view_names), "findings": None}
    changed["split"] |= {"folds": None, "fold": 0, "column": None}
    return Study.model_validate(changed)


def _counts(audit: Audit | None) -> LearnedCounts:
    return LearnedCounts() if audit is None else LearnedCounts(cases=audit.cases, patients=audit.patients)
