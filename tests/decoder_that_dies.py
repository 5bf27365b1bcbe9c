"""Work for other processes, in a module that is quickly imported there."""

from __future__ import annotations

import os
import signal


def doubled(number: int) -> int:
    """Twice a number; of 3 it dies, as a decoder does that runs out of memory."""
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return 2 * number
