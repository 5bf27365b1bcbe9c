"""Work for other processes, in a module that is quickly imported there."""

from __future__ import annotations

import os
import signal
import time


def doubled(number: int) -> int:
    """Twice a number; of 3 it dies, as a decoder does that runs out of memory."""
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return 2 * number


def sleeps(seconds: float) -> None:
    """Takes its time, as a decoder does that runs in circles."""
    time.sleep(seconds)


def killed(*_: object) -> None:
    """Dies of whatever it is given."""
    os.kill(os.getpid(), signal.SIGSEGV)
