"""What a person sees while training: a bar with the time left, or, in a log file, a line per epoch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from foveate.train.log import Row
from foveate.types import Item


class Display:
    """Progress on a console.

    Args:
        console: None shows nothing.
    """

    def __init__(self, console: Console | None) -> None:
        self._console = console or Console(quiet=True)
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._best = ""

    def say(self, text: str) -> None:
        """Print one line."""
        self._console.print(f"  {text}", markup=False, highlight=False, soft_wrap=True)

    def track(self, items: Sequence[Item], what: str) -> Iterable[Item]:
        """Show a bar while items are gone through (a ``foveate.types.Track``)."""
        with self._progress() as bar:
            yield from bar.track(items, total=len(items), description=what)

    @contextmanager
    def steps(self, done: int, total: int) -> Iterator[None]:
        """Show a bar over all steps of the training while entered."""
        with self._progress() as bar:
            self._bar = bar
            self._task = bar.add_task("Training", total=total, completed=done)
            try:
                yield
            finally:
                self._bar = None

    def step(self, epoch: int, epochs: int, loss: float) -> None:
        """One more step is done."""
        if self._bar is not None:
            what = f"Training, epoch {epoch}/{epochs}, loss {loss:.4f}{self._best}"
            self._bar.update(self._task, advance=1, description=what)

    def epoch(self, row: Row, best: str) -> None:
        """One more epoch is done: the best so far joins the bar; where there is none, a line of figures.

        Args:
            row: of the training log.
            best: the best figure so far, in words.
        """
        self._best = f", best {best}"
        if not self._console.is_terminal:
            figures = "  ".join(f"{name} {_short(value)}" for name, value in row.items() if name != "epoch")
            self.say(f"epoch {row['epoch']}  {figures}  (best: {best})")

    def _progress(self) -> Progress:
        columns = (
            TextColumn("  {task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        hidden = not self._console.is_terminal
        return Progress(*columns, console=self._console, transient=True, disable=hidden)


def _short(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4g}"
