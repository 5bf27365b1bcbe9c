"""Several studies under one protocol: train every variant with every seed, then compare what they left.

    OUT/splits/<seed>/     audit.json, splits.json: drawn once, copied into every run of that seed
    OUT/runs/<label>/seed<k>/   an ordinary run folder; with folds one for each, seed<k>-fold<j>
    OUT/comparison.json, .csv, .md, .html

A run that is finished is not trained again, and an interrupted one goes on where it stopped: the folder holds
everything, so the same command is given again.
"""

from __future__ import annotations

import shutil
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from foveate.compare.grid import GridPlan
from foveate.errors import FoveateError, Partial, RunFailed, UsageError
from foveate.evaluate.results.comparison import FailedRun
from foveate.evaluate.results.run import RunRecord
from foveate.files import sha256_of, write_atomic
from foveate.stations.audit import audit
from foveate.stations.evaluate import evaluate
from foveate.stations.explain import explain
from foveate.stations.localize import localize
from foveate.stations.predict import predict, predict_without
from foveate.stations.run import Run, alike
from foveate.stations.split import split as split_run
from foveate.stations.train import train
from foveate.study.study import Study
from foveate.types import Cohort, Track, quiet

if TYPE_CHECKING:
    from rich.console import Console

# Station → the file that it leaves, in the order in which they run.
_LEAVES = {
    "train": "bundle/bundle.json",
    "predict": "predictions.csv",
    "evaluate": "metrics.json",
    "explain": "heatmaps/index.csv",
    "localize": "localization.csv",
}


@dataclass(frozen=True)
class Planned:
    """One run of a comparison.

    Attributes:
        label, seed: which; the seed with its fold, as ``grid.Training`` names it.
        study: its choices.
        folder: of the run.
    """

    label: str
    seed: int | str
    study: Study
    folder: Path


@dataclass(frozen=True)
class TrainingJob:
    """One run with all that it takes to do it, here or elsewhere; it needs none of the others.

    Attributes:
        planned: the run.
        wanted: its stations, in order.
        without: views; it is also tested with each of them withheld.
        split: folder with the audit and the split that it shares with other runs.
    """

    planned: Planned
    wanted: tuple[str, ...]
    without: tuple[str, ...]
    split: Path

    @property
    def title(self) -> str:
        """The run as a person calls it."""
        return f"{self.planned.label}, seed {self.planned.seed}"

    def finished(self) -> bool:
        """Whether the run needs nothing more; weights and heat maps may have been deleted since."""
        folder = self.planned.folder
        results = [station for station in self.wanted if station not in ("train", "explain")]
        return (
            _same(folder / "study.yaml", self.planned.study)
            and all(is_done(folder, station) for station in results)
            and all((folder / without_file(view)).is_file() for view in self.without)
        )


@dataclass
class Trained:
    """What became of the runs.

    Attributes:
        failures: runs, or parts of them, that did not work out.
        notes: what a reader of the comparison has to know.
    """

    failures: list[FailedRun] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def say_nothing(text: str) -> None:
    """Print nothing."""


@dataclass(frozen=True)
class Shown:
    """Where progress is shown.

    Attributes:
        say: prints a line.
        track: shows a bar.
        console: of the training's own bar; None shows none.
    """

    say: Callable[[str], None] = say_nothing
    track: Track = quiet
    console: Console | None = None


def planned_runs(plan: GridPlan, out: Path) -> list[Planned]:
    """Every run, seed by seed and fold by fold, so that an early stop leaves whole ones to compare."""
    return [
        Planned(label, each.name, plan.study(label, each), out / "runs" / label / each.folder)
        for each in plan.trainings
        for label in plan.variants
    ]


def train_plan(plan: GridPlan, out: Path, shown: Shown) -> Trained:
    """Run every variant with every seed; what is finished already is left as it is.

    Args:
        plan: what is compared.
        out: folder of the comparison.
        shown: where progress is shown.

    Raises:
        UsageError: the plan does not fit the data, a model, or what is in the folder; all problems are listed
            before anything is trained.
        AuditStopped: the audit found leakage or contradictions.
    """
    jobs = prepare_jobs(plan, out, shown)
    trained, clock = Trained(), Clock()
    for number, job in enumerate(jobs, 1):
        if job.finished():
            shown.say(f"run {number} of {len(jobs)}: {job.title}: finished before")
        else:
            shown.say(f"run {number} of {len(jobs)}: {job.title}{clock.left(jobs[number - 1 :])}")
            attempt(job, trained, shown)
        clock.count(job)
    return trained


def prepare_jobs(plan: GridPlan, out: Path, shown: Shown) -> list[TrainingJob]:
    """Check the plan, audit and split the cohort, and say what is to be done with each run.

    Raises:
        UsageError, AuditStopped: as ``train_plan``.
    """
    cohort = check_plan(plan, out)
    wanted = _stations(plan, cohort)
    splits = {seed: _split(plan, seed, out, shown) for seed in plan.seeds}
    return [TrainingJob(run, wanted, plan.without, splits[run.study.seed]) for run in planned_runs(plan, out)]


def check_plan(plan: GridPlan, out: Path) -> Cohort:
    """Find out now what would otherwise fail in the middle of the night.

    Returns:
        The cohort that all variants share.

    Raises:
        UsageError: all problems at once: cases that only some variants have, views that nobody has, models
            that cannot be built, and run folders of other studies.
    """
    cohort = Run(out, plan.base).cohort()
    problems = [
        f"without names the view '{view}'; this cohort has {', '.join(cohort.view_names)}"
        for view in plan.without
        if view not in cohort.view_names
    ]
    for label, study in plan.variants.items():
        own = cohort if study.data == plan.base.data else Run(out, study).cohort()
        problems += [f"{label}: {line}" for line in (*_unlike(own, cohort), *_unbuildable(study, own))]
    for planned in planned_runs(plan, out):
        if not _same(planned.folder / "study.yaml", planned.study):
            problems.append(f"{planned.folder} holds a run of a different study")
    if problems:
        listing = "\n".join(f"  - {line}" for line in problems)
        raise UsageError(
            f"{len(problems)} problem{'s' if len(problems) > 1 else ''} with the comparison\n{listing}",
            where=plan.name,
            fix="correct these; for a changed variant give another folder (--out), or delete its runs",
            code="comparison-refused",
        )
    return cohort


def without_file(view: str) -> str:
    """Name of the file with the predictions of a run whose view was withheld."""
    return f"predictions.without-{view.replace('/', '_')}.csv"


def _stations(plan: GridPlan, cohort: Cohort) -> tuple[str, ...]:
    marked = any(case.mask is not None or case.boxes for case in cohort.cases)
    explained = plan.explain == "always" or (plan.explain == "auto" and marked)
    return tuple(_LEAVES) if explained else ("train", "predict", "evaluate")


def _unlike(own: Cohort, other: Cohort) -> Iterator[str]:
    """How two cohorts differ, in words."""
    if (own.task, own.classes) != (other.task, other.classes):
        yield f"its classes are {', '.join(own.classes)}, those of the reference {', '.join(other.classes)}"
    cases, others = ({case.case_id: case.patient_id for case in one.cases} for one in (own, other))
    if cases != others:
        yield f"it has {len(cases)} cases, the reference {len(others)}, or their patients differ"


def _unbuildable(study: Study, cohort: Cohort) -> Iterator[str]:
    """Why a model cannot be built; it is tried without weights."""
    from foveate.compare.unbuilt import build_untrained

    pretrained = study.model.pretrained
    if isinstance(pretrained, str) and not Path(pretrained).exists():
        yield f"there are no weights at {pretrained}"
    try:
        build_untrained(study, cohort.view_names, len(cohort.classes))
    except UsageError as error:
        yield f"{error.what}; {error.fix}" if error.fix else error.what


def _same(kept: Path, study: Study) -> bool:
    """Whether a run folder is new or of this study; what the audit accepts may have grown."""
    if not kept.is_file():
        return True
    return alike(Study.of_run(kept.parent), study)


def _split(plan: GridPlan, seed: int, out: Path, shown: Shown) -> Path:
    """The folder with the split of a seed; drawn unless it is there."""
    study = plan.split_study(seed)
    run = Run.create(study, out / "splits" / str(study.split.seed))
    if not is_done(run.folder, "split", "splits.json"):
        shown.say(f"audit and split, seed {study.split.seed}")
        audit(run, track=shown.track).raise_if_stopped()
        split_run(run)
    return run.folder


def attempt(job: TrainingJob, trained: Trained, shown: Shown) -> None:
    """Do what a run lacks; its failure is noted and does not end the others."""
    planned, station = job.planned, "start"
    try:
        run = Run.create(planned.study, planned.folder)
        _take_split(run, job.split)
        anew = False
        for station in job.wanted:
            if anew or not is_done(run.folder, station):
                anew = True
                _do(run, station, trained, shown)
        station = "without"
        for view in job.without:
            if anew or not (run.folder / without_file(view)).is_file():
                _predict_without(run, view, shown.track)
    except FoveateError as error:
        _note_failure(planned, station, error.code, error.what, trained, shown)
    except Exception as error:
        write_atomic(planned.folder / "failure.txt", traceback.format_exc())
        _note_failure(planned, station, type(error).__name__, str(error), trained, shown)


def _note_failure(
    planned: Planned, station: str, code: str, what: str, trained: Trained, shown: Shown
) -> None:
    failed = FailedRun(label=planned.label, seed=planned.seed, station=station, code=code, message=what)
    trained.failures.append(failed)
    shown.say(f"failed at {station}: [{code}] {what}; the other runs go on")


def _do(run: Run, station: str, trained: Trained, shown: Shown) -> None:
    actions: dict[str, Callable[[], object]] = {
        "train": lambda: train(run, shown.console),
        "predict": lambda: predict(run, track=shown.track),
        "evaluate": lambda: evaluate(run, track=shown.track),
        "explain": lambda: explain(run, weigh_views=False, track=shown.track),
        "localize": lambda: localize(run, track=shown.track),
    }
    try:
        actions[station]()
    except Partial as error:
        trained.notes.append(f"{run.study.name}: {error.what.splitlines()[0]}")


def _take_split(run: Run, split: Path) -> None:
    """The split of the comparison becomes that of the run; one that is there already must be the same."""
    own, shared = run.folder / "splits.json", split / "splits.json"
    if own.is_file() and sha256_of(own) != sha256_of(shared):
        raise RunFailed(
            "this run was trained on another split",
            where=str(run.folder),
            fix="delete the folder of this run, and run the command again",
            code="not-comparable",
        )
    for name in ("audit.json", "splits.json", "images.csv", "looks.safetensors", "cohort.json"):
        if (split / name).is_file():  # the last three since 0.2.0
            write_atomic(run.folder / name, (split / name).read_bytes())


def _predict_without(run: Run, view: str, track: Track) -> None:
    """Classify the test cases once more as if nobody had taken this view of them.

    A model that never sees the view keeps its predictions; one that cannot do without leaves an empty file.
    """
    path = run.folder / without_file(view)
    if view not in run.cohort().view_names:
        shutil.copyfile(run.folder / "predictions.csv", path)
        return
    try:
        predict_without(run, [view], path, ("test",), track)
    except UsageError:
        write_atomic(path, "")
    except Partial:  # cases that have no other view; the comparison is over those that have
        return


def is_done(folder: Path, station: str, leaves: str = "") -> bool:
    """Whether a station ran to its end and what it left is there."""
    record = RunRecord.read(folder) if (folder / (leaves or _LEAVES[station])).is_file() else None
    return record is not None and station in record.stations


class Clock:
    """Estimates the time left from the runs that are done."""

    def __init__(self) -> None:
        self._seconds: dict[str, list[float]] = {}

    def count(self, job: TrainingJob) -> None:
        """Add a run, by what its own record says it took."""
        record = RunRecord.read(job.planned.folder)
        if record is not None:
            self._seconds.setdefault(job.planned.label, []).append(record.seconds)

    def left(self, jobs: Sequence[TrainingJob], at_once: int = 1) -> str:
        """Time for the runs that are left: of a label by its own runs, of a new one by all."""
        known = {label: sum(values) / len(values) for label, values in self._seconds.items()}
        if not known:
            return ""
        usual = sum(known.values()) / len(known)
        minutes = sum(known.get(job.planned.label, usual) for job in jobs) / 60 / at_once
        return f"; about {minutes:.0f} min left" if minutes >= 1 else "; less than a minute left"
