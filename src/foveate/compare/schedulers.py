"""Who does the jobs of a comparison: processes on this machine, a Ray cluster, or SLURM."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from shlex import quote
from typing import Any

from foveate.compare.grid import GridPlan
from foveate.compare.jobs import JobFile, do_job, gather, write_jobs
from foveate.compare.runs import Clock, Shown, Trained, prepare_jobs, train_plan
from foveate.errors import MissingExtra, UsageError
from foveate.files import write_atomic
from foveate.parallel import thread_count
from foveate.train.signals import StopRequest

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_SECONDS_BETWEEN_LOOKS = 0.2
_TRIES = 3  # of a job on Ray whose worker dies; each goes on from the last checkpoint
_SLURM_CORES = 4


def train_with(plan: GridPlan, out: Path, jobs: str, shown: Shown) -> Trained | None:
    """Train what a plan lacks, as many runs at once as ``jobs`` says.

    Args:
        plan: what is compared.
        out: folder of the comparison.
        jobs: a number of processes here, ``ray``, or ``slurm``.
        shown: where progress is shown.

    Returns:
        What became of the runs; None if a scheduler has yet to do some of them.

    Raises:
        UsageError, AuditStopped: as ``train_plan``; or ``jobs`` is none of these.
        MissingExtra: Ray is not installed.
        SystemExit: asked to stop; the trainings have saved their states.
    """
    if jobs not in ("ray", "slurm") and not (jobs.isdecimal() and int(jobs) > 0):
        raise UsageError(
            f"'{jobs}' is neither a number of processes nor a scheduler",
            where="--jobs",
            fix="give a number from 1 on, ray, or slurm",
        )
    if jobs == "1":
        return train_plan(plan, out, shown)
    files = write_jobs(prepare_jobs(plan, out, shown), out)
    left = [file for file in files if not file.job.finished()]
    if len(left) < len(files):
        shown.say(f"{len(files) - len(left)} of {len(files)} runs were finished before")
    if left and jobs == "slurm":
        leave_to_slurm(left, shown)
        if not all(file.result.is_file() for file in left):  # some have not been tried yet
            return None
    elif left and jobs == "ray":
        train_on_ray(left, shown)
    elif left:
        train_here(left, int(jobs), shown)
    return gather(files)


# ---- this machine -------------------------------------------------------------------------------------


def train_here(files: Sequence[JobFile], at_once: int, shown: Shown) -> None:
    """Do jobs in processes of this machine, each with its share of the processor's threads and of the GPUs.

    A process that dies takes no other with it. Asked to stop, all save their states first.

    Args:
        files: what is to be done.
        at_once: highest number of processes.
        shown: where progress is shown.

    Raises:
        SystemExit: asked to stop: 130 Ctrl-C, 143 SIGTERM.
    """
    pool = _Pool(files, min(at_once, len(files)), shown)
    with StopRequest() as stop:
        try:
            while pool.busy:
                if stop.exit_code is None:
                    pool.start()
                else:
                    pool.ask_to_stop()
                time.sleep(_SECONDS_BETWEEN_LOOKS)
                pool.collect()
        finally:  # a second signal, or a fault
            pool.kill()
    if stop.exit_code is not None:
        raise SystemExit(stop.exit_code)


def threads_for(at_once: int) -> int:
    """Threads for each of so many processes: what this one may use, shared out."""
    return max(thread_count() // at_once, 1)


class _Pool:
    """Processes that do jobs.

    Args:
        files: what is to be done.
        size: highest number of processes at once.
        shown: where progress is shown.
    """

    def __init__(self, files: Sequence[JobFile], size: int, shown: Shown) -> None:
        self._waiting = deque(files)
        self._running: dict[int, tuple[JobFile, subprocess.Popen[bytes]]] = {}
        self._size, self._shown, self._clock, self._stopping = size, shown, Clock(), False

    @property
    def busy(self) -> bool:
        """Whether anything runs, or is still to be started."""
        return bool(self._running or self._waiting)

    def start(self) -> None:
        """Fill the free places."""
        for place in set(range(self._size)) - set(self._running):
            if self._waiting:
                file = self._waiting.popleft()
                self._running[place] = file, _start(file, place, threads_for(self._size))
                self._shown.say(f"{_title(file)}: started")

    def collect(self) -> None:
        """Take note of those that have ended."""
        for place, (file, process) in list(self._running.items()):
            if process.poll() is not None:
                del self._running[place]
                self._clock.count(file.job)
                self._shown.say(f"{_title(file)}: {_ending(file, process.returncode)}{self._left()}")

    def ask_to_stop(self) -> None:
        """Start no more, and send SIGTERM once: a second one would end a training before it has saved."""
        self._waiting.clear()
        if not self._stopping:
            self._stopping = True
            for _, process in self._running.values():
                process.terminate()

    def kill(self) -> None:
        """End what still runs, at once."""
        for _, process in self._running.values():
            process.kill()
            process.wait()

    def _left(self) -> str:
        running = [file.job for file, _ in self._running.values()]
        jobs = [*running, *(file.job for file in self._waiting)]
        return self._clock.left(jobs, self._size) if jobs else ""


def _start(file: JobFile, place: int, threads: int) -> subprocess.Popen[bytes]:
    """Start the process of a job, in a session of its own: signals reach it from us alone, and once."""
    own = dict.fromkeys(_THREADS, str(threads))
    if file.devices == (1, 1) and (gpus := _gpus()):
        own["CUDA_VISIBLE_DEVICES"] = gpus[place % len(gpus)]
    with file.log.open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "foveate.compare.jobs", str(file.path)],
            env=os.environ | own,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _gpus() -> list[str]:
    """Names of the GPUs that this process may use."""
    import torch

    names = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return names or [str(number) for number in range(torch.cuda.device_count())]


def _ending(file: JobFile, code: int) -> str:
    if code == 0:
        return "done"
    return f"{f'ended by signal {-code}' if code < 0 else 'failed'}; see {file.log}"


def _title(file: JobFile) -> str:
    return f"run {file.number}: {file.job.title}"


# ---- Ray ----------------------------------------------------------------------------------------------


def train_on_ray(files: Sequence[JobFile], shown: Shown) -> None:
    """Do jobs as tasks of the Ray cluster that ``RAY_ADDRESS`` names, or of one on this machine.

    Every machine must see the folder of the comparison and the images under the same paths. A job whose
    worker dies is started again, and goes on from its last checkpoint.

    Raises:
        MissingExtra: Ray is not installed.
    """
    try:
        import ray
    except ImportError:
        raise MissingExtra("scale") from None
    there = ray.is_initialized()
    if not there:
        ray.init(include_dashboard=False, logging_level=logging.WARNING, log_to_driver=False)
    try:
        share = _share_of_cluster(ray, len(files))
        tasks = {
            ray.remote(_do_quietly).options(**_needs(file, *share), max_retries=_TRIES).remote(file): file
            for file in files
        }
        shown.say(f"{len(files)} runs on Ray, {share[0]} threads each")
        pending = list(tasks)
        while pending:
            (ended,), pending = ray.wait(pending, num_returns=1)
            shown.say(f"{_title(tasks[ended])}: {_outcome(ray, ended)}")
    finally:
        if not there:
            ray.shutdown()


def _do_quietly(file: JobFile) -> bool:
    """Do a job on a worker, printing into its log; whether nothing failed."""
    with file.log.open("a") as log, redirect_stdout(log), redirect_stderr(log):
        return not do_job(file.path).failures


def _share_of_cluster(ray: Any, jobs: int) -> tuple[int, bool]:
    """Threads for each of so many jobs, as many as fit on every machine; and whether there are GPUs."""
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cores = [int(machine.get("CPU", 0)) for machine in machines]
    smallest = min((count for count in cores if count), default=1)
    return max(min(sum(cores) // jobs, smallest), 1), any(machine.get("GPU") for machine in machines)


def _needs(file: JobFile, threads: int, gpus: bool) -> dict[str, int]:
    """What a job asks of Ray."""
    wanted = file.job.planned.study.train.accelerator in ("auto", "gpu", "cuda")
    return {"num_cpus": threads, "num_gpus": file.devices[1] if gpus and wanted else 0}


def _outcome(ray: Any, task: Any) -> str:
    try:
        return "done" if ray.get(task) else "failed"
    except ray.exceptions.RayError as error:  # noted by ``gather``, as the job has left no result
        return f"failed: {type(error).__name__}"


# ---- SLURM --------------------------------------------------------------------------------------------


def leave_to_slurm(files: Sequence[JobFile], shown: Shown) -> Path:
    """Write the script of a job array, one task for each run that is left; ``sbatch`` it.

    Args:
        files: what is to be done; all of as many devices and nodes.
        shown: where progress is shown.

    Raises:
        UsageError: the variants train on different numbers of devices.
    """
    devices = {file.devices for file in files}
    if len(devices) > 1:
        raise UsageError(
            "the tasks of an array are alike, but these variants differ in train.devices or train.nodes",
            where="--jobs slurm",
            fix="compare them with the same numbers, or train them one after the other",
        )
    folder = files[0].path.parent
    script = folder / "array.sh"
    ((nodes, processes),) = devices
    text = _ARRAY.format(
        tasks=_ranges([file.number for file in files]),
        nodes=nodes,
        processes=processes,
        cores=_SLURM_CORES,
        log=quote(str(folder / "%a.log")),
        place=quote(str(Path.cwd())),
        python=quote(sys.executable),
        jobs=quote(str(folder)),
    )
    write_atomic(script, text)
    shown.say(f"{len(files)} runs to do: sbatch {script}")
    shown.say("when they are done, give the same command again")
    return script


_ARRAY = """\
#!/bin/bash
# One task for each run. Give sbatch what your cluster asks for besides; it wins over what stands here:
#   sbatch --time=8:00:00 --partition=… --gres=gpu:1 array.sh
#SBATCH --job-name=foveate
#SBATCH --array={tasks}
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node={processes}
#SBATCH --cpus-per-task={cores}
#SBATCH --output={log}
#SBATCH --open-mode=append
#SBATCH --requeue
# Two minutes before the time is up the training saves its state; submitted again, it goes on from there.
#SBATCH --signal=TERM@120
export SRUN_CPUS_PER_TASK="${{SLURM_CPUS_PER_TASK:-{cores}}}"
export OMP_NUM_THREADS="$SRUN_CPUS_PER_TASK"
cd {place} || exit
exec srun {python} -m foveate.compare.jobs {jobs}/"$SLURM_ARRAY_TASK_ID".json
"""


def _ranges(numbers: Sequence[int]) -> str:
    """``1,3-5`` for 1, 3, 4, 5."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
