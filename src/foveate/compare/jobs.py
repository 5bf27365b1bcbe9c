"""The runs of a comparison as independent jobs: each a file that says all, done in a process of its own.

    OUT/jobs/<number>.json      what is to be done: ``python -m foveate.compare.jobs OUT/jobs/3.json``
    OUT/jobs/<number>.log       what it printed
    OUT/runs/<label>/seed<k>/job.json    how it ended; absent if it did not get that far

Jobs share nothing but the split they are given, so they may be done in any order, at once, and on any machine
that sees the folder. Who runs them is in ``schedulers``; what they left is gathered here.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from foveate.compare.runs import Planned, Shown, Trained, TrainingJob, attempt, is_done
from foveate.errors import FoveateError, InputRefused, RunFailed
from foveate.evaluate.results.comparison import FailedRun
from foveate.files import write_json
from foveate.study.study import Study

_RESULT = "job.json"


@dataclass(frozen=True)
class JobFile:
    """A job and the file it can be done from.

    Attributes:
        number: counted from 1, the same whenever the same comparison is asked for.
        job: what is to be done.
        path: of its file.
    """

    number: int
    job: TrainingJob
    path: Path

    @property
    def log(self) -> Path:
        """Where its process prints to."""
        return self.path.with_suffix(".log")

    @property
    def result(self) -> Path:
        """What it leaves when it comes to an end, good or bad."""
        return self.job.planned.folder / _RESULT

    @property
    def devices(self) -> tuple[int, int]:
        """Machines, and processes on each, that the training of this job joins."""
        config = self.job.planned.study.train
        return config.nodes, 1 if config.devices == "auto" else config.devices


def write_jobs(jobs: Sequence[TrainingJob], out: Path) -> list[JobFile]:
    """Write the file of every job into ``OUT/jobs``.

    Args:
        jobs: of a comparison, in its order.
        out: its folder.
    """
    folder = out.absolute() / "jobs"
    files = [JobFile(number, job, folder / f"{number}.json") for number, job in enumerate(jobs, 1)]
    for file in files:
        planned = file.job.planned
        content = {
            "label": planned.label,
            "seed": planned.seed,
            "folder": str(planned.folder.absolute()),
            "study": planned.study.model_dump(mode="json"),
            "wanted": file.job.wanted,
            "without": file.job.without,
            "split": str(file.job.split.absolute()),
        }
        write_json(file.path, content)
    return files


def read_job(path: Path) -> TrainingJob:
    """Read what ``write_jobs`` wrote.

    Raises:
        InputRefused: it is no such file.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        study = Study.model_validate(content["study"])
        planned = Planned(content["label"], content["seed"], study, Path(content["folder"]))
        return TrainingJob(
            planned, tuple(content["wanted"]), tuple(content["without"]), Path(content["split"])
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputRefused(
            f"this is not the file of a job: {error}",
            where=str(path),
            fix="give the command that compares again: it writes the files anew",
        ) from None


def do_job(path: Path) -> Trained:
    """Do what a job lacks, print how it goes, and leave how it ended in the run's folder.

    Raises:
        InputRefused: it is not the file of a job.
        SystemExit: asked to stop while training; the state is saved.
    """
    job = read_job(path)
    if _is_second_process() and is_done(job.planned.folder, "train"):
        return Trained()  # what follows a training is for one process to do
    (job.planned.folder / _RESULT).unlink(missing_ok=True)
    trained = Trained()
    if not job.finished():
        attempt(job, trained, Shown(print, console=Console(width=120)))
    content = {"failures": [row.model_dump() for row in trained.failures], "notes": trained.notes}
    write_json(job.planned.folder / _RESULT, content)
    return trained


def gather(files: Sequence[JobFile]) -> Trained:
    """What became of all jobs; one that left nothing was killed."""
    trained = Trained()
    for file in files:
        if file.result.is_file():
            content = json.loads(file.result.read_text(encoding="utf-8"))
            if not file.job.finished():
                trained.failures += [FailedRun(**row) for row in content["failures"]]
            trained.notes += content["notes"]
        elif not file.job.finished():
            planned = file.job.planned
            what = f"its process ended before the run was done; see {file.log.name}"
            killed = FailedRun(
                label=planned.label, seed=planned.seed, station="job", code="killed", message=what
            )
            trained.failures.append(killed)
    return trained


def _is_second_process() -> bool:
    """Whether a launcher started this process and others for one training, and this is not the first."""
    return int(os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or 0) > 0


def _main(arguments: Sequence[str]) -> None:
    """Do the job of one file; the exit code is that of ``foveate``."""
    if len(arguments) != 1:
        raise SystemExit("usage: python -m foveate.compare.jobs OUT/jobs/NUMBER.json")
    try:
        failed = do_job(Path(arguments[0])).failures
    except FoveateError as error:
        print(f"{error.code}  {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    raise SystemExit(RunFailed.exit_code if failed else 0)


if __name__ == "__main__":
    _main(sys.argv[1:])
