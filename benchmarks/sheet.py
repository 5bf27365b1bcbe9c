"""What a benchmark found: printed, and kept as a section of ``docs/performance.md``.

Every benchmark owns the sections of the page that lie between two comments with its names. ``--page`` writes
those anew and leaves the others as they are, so that one benchmark can be repeated alone.
"""

from __future__ import annotations

import argparse
import os
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from foveate.train.tuning.kernel_check import processor_name


@dataclass
class Sheet:
    """One section: paragraphs and tables, as printed.

    Attributes:
        name: of the section in the page.
        console: where everything is printed at once.
    """

    name: str
    console: Console = field(default_factory=lambda: Console(width=140, highlight=False))
    _blocks: list[str] = field(default_factory=list)

    def say(self, text: str) -> None:
        """A paragraph."""
        self.console.print(text, markup=False)
        self._blocks.append(text)

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]], title: str | None = None) -> None:
        """A table of words."""
        shown = Table(*header, title=title)
        for row in rows:
            shown.add_row(*row)
        self.console.print(shown)
        lines = (f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows))
        self._blocks.append("\n".join([*([f"**{title}**\n"] if title else []), *lines]))

    def picture(self, path: Path, page: Path, what: str) -> None:
        """A drawing that lies near the page."""
        self._blocks.append(f"![{what}]({os.path.relpath(path, page.parent)})")

    def write(self, page: Path | None) -> None:
        """Put the section into a page, if one is given, under the command that made it."""
        if page is not None:
            command = f"```sh\n{self_command()}\n```"
            when = datetime.now(UTC).date().isoformat()
            replace_section(page, self.name, "\n\n".join([command, *self._blocks, f"Measured on {when}."]))


def replace_section(page: Path, name: str, text: str) -> None:
    """Exchange what lies between ``<!-- name -->`` and ``<!-- /name -->``.

    Raises:
        SystemExit: the page has no such section.
    """
    before, begin, rest = page.read_text(encoding="utf-8").partition(f"<!-- {name} -->")
    _, end, after = rest.partition(f"<!-- /{name} -->")
    if not (begin and end):
        raise SystemExit(f"{page} has no section '<!-- {name} --> … <!-- /{name} -->'")
    page.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}", encoding="utf-8")


def self_command() -> str:
    """The command line of this process, without where it writes to."""
    given, words = iter(sys.argv[1:]), []
    for word in given:
        if word in ("--page", "--runs", "--points", "--json"):
            next(given, None)
        else:
            words.append(word)
    return shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *words])


def add_page(parser: argparse.ArgumentParser) -> None:
    """The option that every benchmark has."""
    parser.add_argument("--page", type=Path, help="write the section of this page anew: docs/performance.md")


def machine() -> str:
    """Processor, threads and torch."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{processor_name()}, {cores} cores, {torch.get_num_threads()} threads, torch {torch.__version__}"


class Noise:
    """How long the same work takes whenever it is asked: what wanders there wanders in the figures too."""

    def __init__(self, device: torch.device | str = "cpu", wait: Callable[[], None] = lambda: None) -> None:
        self.seconds: list[float] = []
        self._layer = nn.Conv2d(64, 64, 3).to(device)
        self._images = torch.zeros(16, 64, 64, 64, device=device)
        self._wait = wait
        self.measure()
        self.seconds.clear()

    def measure(self) -> float:
        """Convolve a few images ten times; seconds."""
        self._wait()
        began = time.perf_counter()
        with torch.inference_mode():
            for _ in range(10):
                self._layer(self._images)
        self._wait()
        self.seconds.append(time.perf_counter() - began)
        return self.seconds[-1]

    def words(self) -> str:
        """For the section."""
        return wandered(self.seconds)


def wandered(seconds: Sequence[float]) -> str:
    """The spread of the times of one and the same work."""
    low, middle, high = (1e3 * value for value in (min(seconds), statistics.median(seconds), max(seconds)))
    return f"Noise of the machine: the same work took {low:.0f} to {high:.0f} ms, {middle:.0f} in the median."


def spread(values: Sequence[float], digits: int) -> str:
    """Median, with the least and the most."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"
