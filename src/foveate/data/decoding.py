"""Decoding in parallel processes, for cohorts on which threads would take long.

Decoders hold Python's lock for part of their work, so that threads stop helping at two or three; processes do
not share it. A process costs seconds to start, which is why small cohorts stay with threads. How many there
are is limited by the cores and the memory, and so is what is under way. A file on which a decoder crashes
costs that file alone: the process dies, the file is refused by name, and the others go on.
"""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from typing import TypeVar

import torch

from foveate.errors import InputRefused

_MEMORY_OF_ONE = 2e9  # bytes: Python with torch, and a large image while it is decoded
Asked = TypeVar("Asked")
Answer = TypeVar("Answer")


def process_count() -> int:
    """As many processes as there are cores for us, and as find room in half of the memory."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows
        return cores
    return max(1, min(cores, int(memory / 2 / _MEMORY_OF_ONE)))


def in_processes(
    work: Callable[[Asked], Answer], wanted: Sequence[Asked], processes: int
) -> Iterator[Answer | InputRefused]:
    """Do work in processes, in order, and no more than two items a process ahead of the reader.

    Args:
        work: a function of a module; it, what it takes and what it returns are pickled.
        wanted: what to work on.
        processes: how many; each computes with one thread.

    Yields:
        An answer for each item, or a refusal for one that ends its process.
    """
    pending, places = deque[tuple[int, Future[Answer]]](), iter(range(len(wanted)))
    pool = _pool(processes)
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
    yield from _one_by_one(work, [wanted[place] for place in suspects])
    yield from in_processes(work, [wanted[place] for place in places], processes)


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


def _one_by_one(work: Callable[[Asked], Answer], items: Sequence[Asked]) -> Iterator[Answer | InputRefused]:
    """Items in a single process, a new one whenever it ends, to learn which of them end it."""
    with ExitStack() as pools:
        pool = pools.enter_context(_pool(1))
        for item in items:
            try:
                yield pool.submit(work, item).result()
            except BrokenProcessPool:
                pool = pools.enter_context(_pool(1))
                yield InputRefused(
                    "decoding this file ended the process that did it",
                    fix="the file is damaged, or too large for the memory; write it anew, or leave it out",
                    code="decoder-crashed",
                )


def _pool(processes: int) -> ProcessPoolExecutor:
    """Spawned, not forked: a fork of a process that has threads may wait for a lock that nobody holds."""
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(processes, context, initializer=torch.set_num_threads, initargs=(1,))
