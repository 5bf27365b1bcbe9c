"""Being asked to stop: the present step is finished and saved before the process ends."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Self

_EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}  # 128 + number, as shells report it


class StopRequest:
    """Notes Ctrl-C and SIGTERM while it is entered; the training loop looks at it after every step.

    A second signal of the same kind ends the process at once, as without this class. Outside the main
    thread Python delivers no signals, and nothing is noted.
    """

    def __init__(self) -> None:
        self.exit_code: int | None = None
        self._former: dict[int, signal.Handlers | object] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._former = {number: signal.signal(number, self._note) for number in _EXIT_CODES}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.exit_code = _EXIT_CODES[signal.Signals(number)]
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._former = {}
