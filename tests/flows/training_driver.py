"""Runs trainings in processes that may be killed, without paying for the imports each time.

Started once, it imports everything and then forks a fresh process for each order. An order is a line of
JSON on standard input, ``{"run": folder, "study": {…}, "fault": {…}, …}``; the answer is a line with the
exit status of each process (negative: the signal that ended it). What they print goes to ``run/output.txt``.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import resource
import signal
import socket
import sys
import traceback
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from foveate.errors import FoveateError
from foveate.study.study import ModelConfig
from foveate.train.fit import fit
from tiny_training import tiny_cohort, tiny_splits, tiny_study


def plant(target: str, call: int, signal_name: str = "SIGKILL", rank: int | None = None) -> None:
    """Send this process a signal just before the given call (counted from 1) of a function or method.

    With a rank, only if this process has it.
    """
    if rank is not None and rank != int(os.environ["RANK"]):
        return
    module_name, _, path = target.partition(":")
    *outer, name = path.split(".")
    owner = functools.reduce(getattr, outer, importlib.import_module(module_name))
    original = getattr(owner, name)
    calls = 0

    @functools.wraps(original)
    def counted(*args: Any, **keywords: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            os.kill(os.getpid(), getattr(signal, signal_name))
        return original(*args, **keywords)

    setattr(owner, name, counted)


def train(order: dict[str, Any], images: Path) -> int:
    """One training in this process; its exit code."""
    run = Path(order["run"])
    cohort = tiny_cohort(images)
    study = tiny_study(images, **order.get("study", {}))
    if order.get("model"):
        study = study.model_copy(update={"model": ModelConfig.model_validate(order["model"])})
    if order.get("largest_file"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (order["largest_file"], resource.RLIM_INFINITY))
    if order.get("fault"):
        plant(**order["fault"])
    try:
        splits = tiny_splits(cohort, order.get("val", 6))
        cache, console = images.parent / "cache", Console(width=200)
        fit(study, cohort, splits, run, cache=cache, console=console)
    except FoveateError as error:
        print(error)
        return error.exit_code
    except SystemExit as leaving:
        return int(str(leaving.code))
    except BaseException:
        traceback.print_exc()
        return 99
    return 0


def start(order: dict[str, Any], images: Path, environment: dict[str, str]) -> int:
    """Fork a process for an order; its number."""
    if child := os.fork():
        return child
    os.environ.update(environment)
    output = Path(order["run"]) / "output.txt"
    output.parent.mkdir(parents=True, exist_ok=True)
    for stream in (1, 2):
        os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), stream)
    code = train(order, images)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def environments(world: int, slurm: bool = False) -> list[dict[str, str]]:
    """What ``torchrun``, or SLURM's ``srun``, tells each process."""
    if world == 1:
        return [{}]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    if slurm:
        job = {"SLURM_JOB_ID": "1", "SLURM_JOB_NAME": "train", "SLURM_NNODES": "1", "SLURM_NODEID": "0"}
        tasks = {"SLURM_NTASKS": str(world), "SLURM_NTASKS_PER_NODE": str(world)}
        return [
            {**address, **job, **tasks, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)}
            for rank in range(world)
        ]
    group = {"TORCHELASTIC_RUN_ID": "test", "GROUP_RANK": "0"}
    sizes = {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)}
    return [
        {**address, **group, **sizes, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(world)
    ]


def main(images: Path) -> None:
    torch.set_num_threads(1)  # no thread pool in this process: what it forks starts clean
    print("ready", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        told = environments(order.get("world", 1), order.get("slurm", False))
        children = [start(order, images, own) for own in told]
        statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        print(json.dumps(statuses), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
