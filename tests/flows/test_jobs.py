"""The runs of a comparison as jobs: here in processes, by a SLURM array, on Ray; all as one after another."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from foveate.compare import schedulers
from foveate.compare.grid import GridPlan
from foveate.compare.jobs import JobFile, gather
from foveate.compare.runs import Shown, planned_runs, train_plan
from foveate.compare.schedulers import threads_for, train_here, train_with
from foveate.data.phantoms.ct import make_phantom
from foveate.errors import MissingExtra, UsageError

pytestmark = pytest.mark.slow

GRID = """\
name: tiny
base:
  name: small
  data: {manifest: phantom/manifest.csv}
  split: {test: 0.3, val: 0.3}
  preprocess: {size: [32, 32]}
  model: {name: "timm:test_resnet"}
  train: {epochs: 1, batch_size: 8, accelerator: cpu, precision: "32"}
  evaluate: {bootstrap: 100}
seeds: [0]
explain: never
variants:
  plain: {}
  slow: {train: {lr: 0.0001}}
"""
RUNS = ("plain/seed0", "slow/seed0")
Start = Callable[[JobFile, int, int], "subprocess.Popen[bytes]"]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("jobs")
    make_phantom(folder / "phantom", patients=20, slices=2, size=64, format="png")
    (folder / "grid.yaml").write_text(GRID)
    return folder


@pytest.fixture(autouse=True)
def surroundings(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOVEATE_CACHE", str(workplace / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.fixture(scope="module")
def plan(workplace: Path) -> GridPlan:
    return GridPlan.of_grid(workplace / "grid.yaml")


@pytest.fixture(scope="module")
def sequence(workplace: Path, plan: GridPlan) -> Path:
    """The runs trained one after another."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FOVEATE_CACHE", str(workplace / "cache"))
        assert train_plan(plan, workplace / "sequence", Shown()).failures == []
    return workplace / "sequence"


def without(run: str, sequence: Path, out: Path) -> None:
    """A copy of the comparison that lacks a run."""
    shutil.copytree(sequence, out)
    shutil.rmtree(out / "runs" / run)


def predictions(out: Path) -> dict[str, bytes]:
    return {run: (out / "runs" / run / "predictions.csv").read_bytes() for run in RUNS}


def pretend(code: str) -> Start:
    """Instead of a job's process, one that runs this code."""

    def start(file: JobFile, place: int, threads: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", code, str(file.path)], start_new_session=True)

    return start


def test_at_once_as_one_after_another_and_a_process_that_dies_takes_no_other_with_it(
    sequence: Path, plan: GridPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, dies = schedulers._start, pretend("import os; os.kill(os.getpid(), 9)")
    said: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(schedulers, "_start", lambda file, *rest: (dies, start)[file.number - 1](file, *rest))
        trained = train_with(plan, tmp_path, "2", Shown(said.append))
    assert trained is not None
    assert [(row.label, row.station, row.code) for row in trained.failures] == [("plain", "job", "killed")]
    assert "run 1: plain, seed 0: ended by signal 9" in "\n".join(said)
    assert (tmp_path / "jobs" / "2.log").read_text().count("epoch 1 ") == 1 and not trained.notes
    again = train_with(plan, tmp_path, "2", Shown(said.append))
    assert again is not None and again.failures == [] and "1 of 2 runs were finished before" in said
    assert predictions(tmp_path) == predictions(sequence)


def test_asked_to_stop_every_job_is_asked_once_and_none_is_started(
    workplace: Path, plan: GridPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = """
import pathlib, signal, sys, time
def save(*_):
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    time.sleep(0.6)  # a second SIGTERM would end it here
    pathlib.Path(sys.argv[1]).with_suffix(".saved").touch()
    raise SystemExit(143)
signal.signal(signal.SIGTERM, save)
pathlib.Path(sys.argv[1]).with_suffix(".ready").touch()
time.sleep(60)
"""
    monkeypatch.setattr(schedulers, "_start", pretend(code))
    files = [
        JobFile(number, None, tmp_path / f"{number}.json")  # type: ignore[arg-type]
        for number in (1, 2, 3)
    ]
    monkeypatch.setattr(schedulers, "_title", lambda file: str(file.number))
    monkeypatch.setattr(schedulers.Clock, "count", lambda *_: None)
    monkeypatch.setattr(schedulers._Pool, "_left", lambda _: "")

    def interrupt() -> None:
        while not all((tmp_path / f"{number}.ready").exists() for number in (1, 2)):
            threading.Event().wait(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(SystemExit) as caught:
        train_here(files, 2, Shown())
    assert caught.value.code == 143
    assert sorted(path.name for path in tmp_path.glob("*.saved")) == ["1.saved", "2.saved"]
    assert not (tmp_path / "3.ready").exists()


def test_threads_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    for allowed, at_once, share in (("8", 2, 4), ("8", 3, 2), ("1", 4, 1)):
        monkeypatch.setenv("OMP_NUM_THREADS", allowed)
        assert threads_for(at_once) == share
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    assert threads_for(2) == 3


def test_gpus_are_shared_out_but_for_trainings_that_take_several(
    monkeypatch: pytest.MonkeyPatch, plan: GridPlan, tmp_path: Path
) -> None:
    given: list[Any] = []
    monkeypatch.setattr(
        subprocess, "Popen", lambda command, env, **_: given.append(env.get("CUDA_VISIBLE_DEVICES"))
    )
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    for place, devices in ((0, (1, 1)), (1, (1, 1)), (2, (1, 1)), (1, (1, 2))):
        monkeypatch.setattr(JobFile, "devices", devices)
        schedulers._start(JobFile(1, None, tmp_path / "1.json"), place, 1)  # type: ignore[arg-type]
    assert given == ["4", "7", "4", "4,7"]


def test_a_slurm_array_does_the_runs_that_are_left_and_the_same_command_gathers_them(
    sequence: Path, plan: GridPlan, tmp_path: Path
) -> None:
    out, said = tmp_path / "with space", list[str]()
    without("slow/seed0", sequence, out)
    assert train_with(plan, out, "slurm", Shown(said.append)) is None
    script = out / "jobs" / "array.sh"
    assert said[-3:-1] == ["1 of 2 runs were finished before", f"1 runs to do: sbatch {script}"]
    text = script.read_text()
    assert "#SBATCH --array=2\n" in text and "#SBATCH --ntasks-per-node=1\n" in text
    (tmp_path / "srun").write_text('#!/bin/sh\nexec "$@"\n')
    (tmp_path / "srun").chmod(0o755)
    told = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_NTASKS": "1", "SLURM_PROCID": "0"}
    told |= {"SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "1"}
    task = os.environ | told | {"SLURM_ARRAY_TASK_ID": "2"}
    done = subprocess.run(["bash", str(script)], env=task, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    trained = train_with(plan, out, "slurm", Shown())
    assert trained is not None and (trained.failures, trained.notes) == ([], [])
    assert predictions(out) == predictions(sequence)


def test_tasks_of_an_array_are_written_as_ranges() -> None:
    assert schedulers._ranges([5, 1, 3, 4, 9, 8]) == "1,3-5,8-9"


def test_runs_that_slurm_could_not_do_are_told_and_may_be_submitted_again(
    plan: GridPlan, tmp_path: Path
) -> None:
    failure = {"label": "", "seed": 0, "station": "train", "code": "not-finite", "message": "the loss is nan"}
    for run in planned_runs(plan, tmp_path):
        run.folder.mkdir(parents=True)
        content = {"failures": [failure | {"label": run.label}], "notes": []}
        (run.folder / "job.json").write_text(json.dumps(content))
    trained = train_with(plan, tmp_path, "slurm", Shown())
    assert trained is not None and [row.label for row in trained.failures] == ["plain", "slow"]
    assert "--array=1-2" in (tmp_path / "jobs" / "array.sh").read_text()


def test_an_array_needs_tasks_that_are_alike(workplace: Path, tmp_path: Path) -> None:
    (workplace / "uneven.yaml").write_text(GRID.replace("lr: 0.0001", "devices: 2"))
    with pytest.raises(UsageError, match=r"differ in train\.devices"):
        train_with(GridPlan.of_grid(workplace / "uneven.yaml"), tmp_path, "slurm", Shown())


def test_ray_starts_a_job_again_whose_worker_was_killed(
    sequence: Path, workplace: Path, tmp_path: Path
) -> None:
    pytest.importorskip("ray", reason="the extra 'scale' is not installed")
    without("plain/seed0", sequence, tmp_path / "out")
    code = """
import json, os, sys, threading, time
from pathlib import Path
from foveate.compare.grid import GridPlan
from foveate.compare.runs import Shown
from foveate.compare.schedulers import train_with
out = Path(sys.argv[2])

def kill():
    lock = out / "runs" / "plain" / "seed0" / ".train.lock"
    while True:  # until the training has written which process it is
        time.sleep(0.005)
        try:
            os.kill(json.loads(lock.read_text())["pid"], 9)
        except (OSError, ValueError):
            continue
        return print("killed")

threading.Thread(target=kill, daemon=True).start()
trained = train_with(GridPlan.of_grid(Path(sys.argv[1])), out, "ray", Shown(print))
print(trained.failures, trained.notes)
"""
    command = [sys.executable, "-c", code, workplace / "grid.yaml", tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "killed" in done.stdout and "[] []" in done.stdout, done.stdout + done.stderr
    assert predictions(tmp_path / "out") == predictions(sequence)


def test_without_ray_the_door_says_what_to_install(
    plan: GridPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match=r"foveate\[scale\]"):
        train_with(plan, tmp_path, "ray", Shown())


@pytest.mark.parametrize("jobs", ["0", "-1", "many", "1.5", ""])
def test_other_words_are_refused_before_anything_is_done(plan: GridPlan, tmp_path: Path, jobs: str) -> None:
    with pytest.raises(UsageError, match="neither a number of processes nor a scheduler"):
        train_with(plan, tmp_path, jobs, Shown())
    assert not list(tmp_path.iterdir())


def test_a_job_that_left_nothing_is_a_failure(plan: GridPlan, tmp_path: Path) -> None:
    from foveate.compare.jobs import write_jobs
    from foveate.compare.runs import TrainingJob

    jobs = [TrainingJob(run, ("train", "predict"), (), tmp_path) for run in planned_runs(plan, tmp_path)]
    assert [row.code for row in gather(write_jobs(jobs, tmp_path)).failures] == ["killed", "killed"]
