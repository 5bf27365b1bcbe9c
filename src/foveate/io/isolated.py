"""Compiled decoders run in a process of their own, so that one that crashes costs its file and not the run.

Decoders written in C meet damaged and hostile bytes; now and then one of them takes its process along. So one
helper process decodes for this one. It starts with the first compressed DICOM frame, is fed through a pipe,
ends with this process, and is started again when it dies or takes more than ``LONGEST`` seconds for a frame.

The helper is a plain Python, not one of ``multiprocessing``, since that would run the user's script again.
"""

from __future__ import annotations

import atexit
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, BinaryIO, TypeVar

from foveate.errors import InputRefused

LONGEST = 300.0
"""Seconds after which a decoder counts as hanging."""

_HELPER = "import sys; sys.path[:] = {path!r}; from foveate.io.isolated import serve; serve()"
Answer = TypeVar("Answer")


class DecoderFailed(Exception):
    """What a decoder raised in the helper, in its whole length."""


class _Helper:
    """The helper process of this process, and the lock that lets one thread ask at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def ask(self, work: Callable[..., Answer], *given: object) -> Answer:
        """The helper's answer.

        Raises:
            DecoderFailed: the work raised something.
            EOFError, OSError: the helper ended.
        """
        with self._lock:
            process = self._running()
            timer = threading.Timer(LONGEST, process.kill)
            timer.start()
            try:
                _send(process.stdin, (work, given))
                worked, answer = pickle.load(process.stdout)  # type: ignore[arg-type]
            except BaseException:  # also Ctrl-C: the answer still to come is not that of the next question
                self.end()
                raise
            finally:
                timer.cancel()
        if not worked:
            raise DecoderFailed(answer)
        return answer  # type: ignore[no-any-return]

    def end(self) -> None:
        """End the helper, if there is one."""
        if self._process is not None:
            self._process.kill()
            with suppress(OSError):  # of a question that it did not take
                self._process.communicate()
            self._process = None

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            code = _HELPER.format(path=sys.path)
            self._process = subprocess.Popen(
                [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
        return self._process


_helper = _Helper()
atexit.register(_helper.end)
if hasattr(os, "register_at_fork"):  # a fork shares the pipe, and maybe a lock that nobody opens
    os.register_at_fork(after_in_child=_helper.__init__)  # type: ignore[misc]


def isolated(where: str, work: Callable[..., Answer], *given: object) -> Answer:
    """Run a decoder in the helper process.

    Args:
        where: the file, for errors.
        work: a function of a module; what it takes and returns is pickled.
        given: its arguments.

    Raises:
        DecoderFailed: it raised something.
        InputRefused: it ended its process, or hung.
    """
    if not sys.executable:  # Python inside another program
        return work(*given)
    try:
        return _helper.ask(work, *given)
    except (EOFError, OSError, pickle.UnpicklingError) as error:
        raise InputRefused(
            "decoding this file ended the process that did it, or took too long",
            where=where,
            fix="the file is damaged, or too large for the memory; write it anew, or leave it out",
            code="decoder-crashed",
        ) from error


def serve() -> None:
    """Answer questions from standard input until it ends; what the helper process runs."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks
    questions, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints does not mix with the answers
    with suppress(EOFError):
        while True:
            work, given = pickle.load(questions)
            try:
                answer: tuple[bool, Any] = True, work(*given)
            except Exception as error:
                answer = False, f"{type(error).__name__}: {error}"
            _send(answers, answer)


def _send(stream: BinaryIO | Any, message: object) -> None:
    pickle.dump(message, stream, pickle.HIGHEST_PROTOCOL)
    stream.flush()
