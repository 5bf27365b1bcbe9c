"""One training per run folder: the second is refused, also when it comes from another machine's process.

The operating system holds the lock and drops it with the process, so a killed run leaves nothing to
clear away.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from foveate.errors import UsageError


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Hold a run folder while training in it.

    Raises:
        UsageError: another process holds it; the message says which.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".train.lock"
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise UsageError(
            f"another training is running in this folder ({_holder(path)})",
            where=str(folder),
            fix="wait for it, stop it, or give another folder with --run",
            code="run-locked",
        ) from None
    try:
        path.write_text(json.dumps(_who()))
        yield
    finally:
        lock.release()


def _who() -> dict[str, str | int]:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {"pid": os.getpid(), "host": socket.gethostname(), "since": now}


def _holder(path: Path) -> str:
    """What the holder wrote about itself."""
    try:
        facts = json.loads(path.read_text())
        return f"process {facts['pid']} on {facts['host']}, since {facts['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "process unknown"
