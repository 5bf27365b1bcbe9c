"""The one read-ahead, the one pool of processes, and the one way to count cores.

Threads load items ahead of the reader (``read_ahead``). Decoders hold Python's lock for part of their work,
so that threads stop helping at two or three; processes (``in_processes``) do not share it. A process costs
seconds to start, which is why small cohorts stay with threads. How many there are is limited by the cores and
the memory, and so is what is under way. A file on which a decoder crashes costs that file alone: the process
dies, the file is refused by name, and the others go on.
"""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TypeVar

from foveate.errors import InputRefused

_MEMORY_OF_ONE = 2e9  # bytes: Python with torch, and a large image while it is decoded
_CGROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")  # where they are mounted, and which one is ours
Asked = TypeVar("Asked")
Answer = TypeVar("Answer")


def core_count() -> int:
    """Cores that this process may use, at least 1.

    The smallest of: those of its affinity (``taskset``, batch systems), the quota of its control group
    (containers), and what SLURM granted to the task.
    """
    anywhere = os.cpu_count() or 1  # macOS and Windows know no affinity
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else anywhere
    granted = os.environ.get("SLURM_CPUS_PER_TASK", "")
    limits = [int(granted)] if granted.isdecimal() else []
    return max(min([cores, *limits, *_quotas(*_CGROUPS)]), 1)


def free_memory() -> int | None:
    """Bytes of memory that are free, no more than our control group (container) may have; None if unknown."""
    free = _physical_memory()
    with suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = 1024 * int(next(line.split()[1] for line in lines if line.startswith("MemAvailable:")))
    limits = []
    for folder in _groups(*_CGROUPS):
        with suppress(OSError, ValueError):  # without a limit it holds the word max
            limits.append(int((folder / "memory.max").read_text()))
    return None if free is None else min([free, *limits])


def _physical_memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # Windows
        return None


def _groups(mounted: Path, ours: Path) -> list[Path]:
    """Folders of our control group (version 2) and of those above it."""
    try:
        name = next(line[3:] for line in ours.read_text().splitlines() if line.startswith("0::"))
    except (OSError, StopIteration):
        return []
    folder = mounted / name.lstrip("/")
    return [folder, *folder.parents]


def _quotas(mounted: Path, ours: Path) -> list[int]:
    """Cores that our control group and those above it allow, rounded up; none without a limit."""
    return [cores for each in _groups(mounted, ours) if (cores := _quota(each / "cpu.max"))]


def _quota(file: Path) -> int:
    """``cpu.max`` holds microseconds of a period, or ``max``; 0 if there is no limit."""
    try:
        most, period = file.read_text().split()
        return -(-int(most) // int(period))
    except (OSError, ValueError):
        return 0


def thread_count() -> int:
    """Threads to compute with: ``OMP_NUM_THREADS``, or a thread for each core that this process may use."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdecimal() and int(asked) else core_count()


def process_count() -> int:
    """As many processes as there are cores for us, and as find room in half of the memory."""
    memory = _physical_memory()
    return core_count() if memory is None else max(1, min(core_count(), int(memory / 2 / _MEMORY_OF_ONE)))


def read_ahead(
    load: Callable[[Asked], Answer], wanted: Iterable[Asked], threads: int, ahead: int | None = None
) -> Iterator[Answer]:
    """Load items in order, some ahead of the reader.

    Args:
        load: what makes an item; with threads, it must be safe to run in several.
        wanted: what to load.
        threads: number of threads; 0 loads each item when it is asked for.
        ahead: items under way, or waiting, while the reader works on one; twice the threads unless given.
    """
    if threads == 0:
        yield from map(load, wanted)
        return
    most = 2 * threads if ahead is None else ahead
    waiting: deque[Future[Answer]] = deque()
    pool = ThreadPoolExecutor(threads)
    try:
        for item in wanted:
            waiting.append(pool.submit(load, item))
            if len(waiting) > most:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def in_processes(
    work: Callable[[Asked], Answer],
    wanted: Sequence[Asked],
    processes: int,
    start: Callable[[], object] | None = None,
) -> Iterator[Answer | InputRefused]:
    """Do work in processes, in order, and no more than two items a process ahead of the reader.

    Args:
        work: a function of a module; it, what it takes and what it returns are pickled.
        wanted: what to work on.
        processes: how many.
        start: what each of them does first, such as choosing its number of threads; pickled too.

    Yields:
        An answer for each item, or a refusal for one that ends its process.
    """
    pending, places = deque[tuple[int, Future[Answer]]](), iter(range(len(wanted)))
    pool = _pool(processes, start)
    try:
        for place in places:
            pending.append((place, _submitted(pool, work, wanted[place])))
            if len(pending) > 2 * processes:
                yield _first(pending)
        while pending:
            yield _first(pending)
    except BrokenProcessPool:
        suspects = [place for place, _ in pending]
    else:
        return
    finally:
        pool.shutdown(cancel_futures=True)
    yield from _one_by_one(work, [wanted[place] for place in suspects], start)
    yield from in_processes(work, [wanted[place] for place in places], processes, start)


def _submitted(pool: ProcessPoolExecutor, work: Callable[[Asked], Answer], item: Asked) -> Future[Answer]:
    """Hand an item over; to a broken pool too, which answers that it is broken."""
    try:
        return pool.submit(work, item)
    except BrokenProcessPool as error:
        broken: Future[Answer] = Future()
        broken.set_exception(error)
        return broken


def _first(pending: deque[tuple[int, Future[Answer]]]) -> Answer:
    """The answer that is next; its item stays pending if the pool breaks."""
    answer = pending[0][1].result()
    pending.popleft()
    return answer


def _one_by_one(
    work: Callable[[Asked], Answer], items: Sequence[Asked], start: Callable[[], object] | None
) -> Iterator[Answer | InputRefused]:
    """Items in a single process, a new one whenever it ends, to learn which of them end it."""
    with ExitStack() as pools:
        pool = pools.enter_context(_pool(1, start))
        for item in items:
            try:
                yield pool.submit(work, item).result()
            except BrokenProcessPool:
                pool = pools.enter_context(_pool(1, start))
                yield InputRefused(
                    "decoding this file ended the process that did it",
                    fix="the file is damaged, or too large for the memory; write it anew, or leave it out",
                    code="decoder-crashed",
                )


def _pool(processes: int, start: Callable[[], object] | None) -> ProcessPoolExecutor:
    """Spawned, not forked: a fork of a process that has threads may wait for a lock that nobody holds."""
    return ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), initializer=start)
