"""How far one is: every step is counted, also within batches; log files get a line now and then."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterable, Sequence

import pytest
from rich.console import Console

from foveate.cli import terminal
from foveate.types import Item, Steps


class Counting:
    """A ``Track`` that notes how many items are done."""

    def __init__(self) -> None:
        self.total, self.done, self.ended = 0, 0, False

    def __call__(self, items: Sequence[Item], what: str) -> Iterable[Item]:
        self.total = len(items)
        for item in items:
            yield item
            self.done += 1
        self.ended = True


def test_steps_end_when_all_are_done() -> None:
    track = Counting()
    steps = Steps(track, 5, "counting")
    assert (track.total, track.done) == (5, 0)
    steps.advance(2)
    assert track.done == 2
    steps.advance(3)
    assert track.done == 5 and track.ended
    steps.advance()  # one too many does no harm


def test_no_step_at_all_ends_at_once() -> None:
    track = Counting()
    Steps(track, 0, "nothing").advance()
    assert track.ended


def test_a_log_file_gets_a_line_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now)
    text = io.StringIO()
    out = Console(file=text, soft_wrap=True)
    for _ in terminal.track_in_lines(range(10), "Testing", out):
        now += 25
    assert text.getvalue().splitlines() == [
        "  Testing: 3 of 10, about 3 min left",
        "  Testing: 6 of 10, about 2 min left",
        "  Testing: 9 of 10, about 25 s left",
    ]
    text.truncate(0)
    assert list(terminal.track_in_lines(range(3), "Quick", out)) == [0, 1, 2] and not text.getvalue().strip(
        "\0"
    )


def test_a_message_is_told_once() -> None:
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.addFilter(terminal.FirstTime())
    logger = logging.getLogger("foveate.test_progress")
    logger.addHandler(handler)
    for classes in (3, 3, 5, 3):
        logger.warning("ours of %d starts at random", classes)
    assert out.getvalue().splitlines() == ["ours of 3 starts at random", "ours of 5 starts at random"]
