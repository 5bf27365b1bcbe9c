"""Shards in processes of this machine; one that dies costs nothing but the time it had spent.

Some files kill the process that reads them (a fault in a decoder, or more memory than there is). A shard
at which a process died is given to another; if that dies too, its cases go one by one, each named before it
is touched, and one at which two processes then die is refused as ``process-died``. When the parent is gone,
however it went, so are its workers.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import connection
from pathlib import Path
from typing import Any

from foveate.deploy.archive.streaming import Runner, described, predict_shard
from foveate.deploy.archive.work import ArchiveJob, Done
from foveate.deploy.engines.facts import Facts
from foveate.deploy.engines.opening import open_engine
from foveate.errors import FoveateError, RunFailed
from foveate.parallel import core_count

DEATHS = 2  # of processes at one thing, after which it is not tried again in the same way
Connection = Any  # multiprocessing's differ from system to system


def default_workers() -> int:
    """One process for two cores: one core computes while the other reads; at most 8, for memory's sake."""
    return min(8, max(1, core_count() // 2))


def here(workers: int) -> Runner:
    """Predict shards in so many processes of this machine."""

    def run(job: ArchiveJob, shards: Sequence[int]) -> Iterator[Done]:
        if shards:
            with _shared_cores(workers):
                yield from _Crew(job, deque(shards), min(workers, len(shards))).work()

    return run


def described_elsewhere(model: Path, engine: str) -> tuple[str, Facts]:
    """What ``described`` tells, from a process that ends with it and takes the model's memory along."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(described, model, engine).result()


@dataclass(slots=True)
class _Task:
    """A shard that somebody is at work on."""

    shard: int
    singly: bool
    row: int | None = None  # of the case that is being touched, if cases go one by one


@dataclass(slots=True)
class _Worker:
    """A process, and the end of a pipe to it."""

    process: Any
    pipe: Connection
    task: _Task | None = None


@dataclass(slots=True)
class _Crew:
    """Workers and what is left to do."""

    job: ArchiveJob
    waiting: deque[int]
    size: int
    workers: list[_Worker] = field(default_factory=list)
    deaths: Counter[int] = field(default_factory=Counter)  # by shard
    at_cases: dict[int, Counter[int]] = field(default_factory=dict)  # likewise and by row
    elsewhere: int = 0  # deaths that are no case's fault

    def work(self) -> Iterator[Done]:
        """Until all shards are done.

        Raises:
            RunFailed: a worker could not go on, for a reason that is not one of the cases.
        """
        self.workers = [_hired(self.job) for _ in range(self.size)]
        try:
            while self.waiting or any(worker.task for worker in self.workers):
                yield from self._events()
        finally:
            for worker in self.workers:
                worker.process.kill()
                worker.process.join()
                worker.pipe.close()

    def _events(self) -> list[Done]:
        """Wait for something to happen, and give idle workers what is next."""
        pipes: dict[Any, _Worker] = {worker.pipe: worker for worker in self.workers}
        found: list[Done] = []
        for pipe in connection.wait(list(pipes)):
            worker = pipes[pipe]
            try:
                kind, content = worker.pipe.recv()
            except (EOFError, OSError):
                self._died(worker)
                continue
            if kind == "failed":
                raise content
            if kind == "row" and worker.task is not None:
                worker.task.row = content
                continue
            if kind == "done":
                found.append(content)
            self._next(worker)
        return found

    def _next(self, worker: _Worker) -> None:
        worker.task = None
        if self.waiting:
            shard = self.waiting.popleft()
            worker.task = _Task(shard, self.deaths[shard] >= DEATHS)
            blamed = {row for row, deaths in self.at_cases.get(shard, {}).items() if deaths >= DEATHS}
            with suppress(OSError):  # it has just died, which the next wait tells
                worker.pipe.send((shard, worker.task.singly, blamed))

    def _died(self, worker: _Worker) -> None:
        """Put its shard back, note what it died of, and hire another in its place."""
        worker.process.join()
        worker.pipe.close()
        self.workers.remove(worker)
        task = worker.task
        if task is not None:
            self.deaths[task.shard] += 1
            self.waiting.appendleft(task.shard)
        if task is not None and task.row is not None:
            self.at_cases.setdefault(task.shard, Counter())[task.row] += 1
        elif task is None or task.singly:
            self.elsewhere += 1
        if self.elsewhere > DEATHS:
            raise RunFailed(
                f"processes die, and it is not the images (exit code {worker.process.exitcode})",
                where=str(self.job.model),
                fix="is there enough memory? --workers 1 needs the least; what is done so far is kept",
            )
        self.workers.append(_hired(self.job))


def _hired(job: ArchiveJob) -> _Worker:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(job, theirs), daemon=True)
    process.start()
    theirs.close()
    return _Worker(process, ours)


def _serve(job: ArchiveJob, pipe: Connection) -> None:
    """What a worker does: shard after shard, until nobody asks any more."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        engine = open_engine(job.model, job.engine)
        pipe.send(("ready", None))
        while True:
            shard, singly, blamed = pipe.recv()
            before = (lambda row: pipe.send(("row", row))) if singly else None
            pipe.send(("done", predict_shard(engine, job, shard, blamed=blamed, before=before)))
    except EOFError:
        return
    except FoveateError as error:
        pipe.send(("failed", RunFailed(error.what, where=error.where, fix=error.fix, code=error.code)))
    except Exception as error:
        fix = "mend this, and give the same command again: it goes on where it stopped"
        pipe.send(("failed", RunFailed(f"{type(error).__name__}: {error}", where=str(job.base), fix=fix)))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


@contextmanager
def _shared_cores(workers: int) -> Iterator[None]:
    """Give each process its share of the cores, unless the user has said how many threads there shall be."""
    name = "OMP_NUM_THREADS"  # of torch, and of the engines of exported files
    if name in os.environ:
        yield
        return
    os.environ[name] = str(max(1, core_count() // workers))
    try:
        yield
    finally:
        del os.environ[name]
