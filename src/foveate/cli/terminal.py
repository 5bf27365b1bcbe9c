"""What the command line prints: headings, progress bars with time left, tables, and errors."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from foveate.errors import FoveateError
from foveate.evaluate.sample import cases_in_words, counted
from foveate.io import codes
from foveate.study.methods import caveat
from foveate.types import Item

if TYPE_CHECKING:
    from foveate.evaluate.intervals import Value
    from foveate.evaluate.results.audit import Audit
    from foveate.evaluate.results.cautions import Cautions
    from foveate.evaluate.results.metrics import Metrics, ViewsFigures
    from foveate.evaluate.results.splits import Splits
    from foveate.maps.heatmaps import MapEntry
    from foveate.models.cards import ModelCard
    from foveate.train.fit import FitResult

FEW_MAPS = 20  # of which each gap is printed
console = Console(soft_wrap=True, highlight=False)
_errors = Console(stderr=True, soft_wrap=True, highlight=False)
_COLUMNS = (
    TextColumn("  {task.description}"),
    BarColumn(),
    MofNCompleteColumn(),
    TimeElapsedColumn(),
    TimeRemainingColumn(),
)


def track(items: Sequence[Item], what: str) -> Iterable[Item]:
    """Show how far one is while items are gone through (a ``foveate.types.Track``).

    On a terminal a bar with the time left; elsewhere, as in a log file, a line a minute.
    """
    if not _errors.is_terminal:
        yield from track_in_lines(items, what, _errors)
        return
    with Progress(*_COLUMNS, console=_errors, transient=True) as progress:
        yield from progress.track(items, total=len(items), description=what)


def track_in_lines(items: Sequence[Item], what: str, out: Console, every: float = 60) -> Iterable[Item]:
    """Print a line now and then while items are gone through; none where that takes less than ``every``.

    Args:
        items: to go through.
        what: is done.
        out: where the lines go.
        every: seconds between two lines.
    """
    began = told = time.monotonic()
    for done, item in enumerate(items):
        now = time.monotonic()
        if now - told >= every:
            told, left = now, (now - began) * (len(items) - done) / max(done, 1)
            rest = f", about {in_words(left)} left" if done else ""
            out.print(f"  {what}: {done} of {len(items)}{rest}", markup=False)
        yield item


def in_words(seconds: float) -> str:
    """A length of time."""
    if seconds >= 5400:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


def show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: object = None,
    line: str | None = None,
) -> None:
    """Print a warning as a sentence, without the line of Python that gave it (for ``warnings``)."""
    _errors.print(f"[yellow]warning[/yellow]  {escape(str(message))}")


class FirstTime(logging.Filter):
    """Lets each message through once: a network is built to be checked, and again to be trained."""

    def __init__(self) -> None:
        super().__init__()
        self._told: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a message is new."""
        text, before = record.getMessage(), len(self._told)
        self._told.add(text)
        return len(self._told) > before


def heading(title: str, note: str = "") -> None:
    """Print the name of a station."""
    console.print(f"[bold]{escape(title)}[/bold]  [dim]{escape(note)}[/dim]")


def say(text: str) -> None:
    """Print a line as it is."""
    console.print(f"  {text}", markup=False)


def complain(error: FoveateError) -> None:
    """Print an error on standard error: its code, what happened, where, and the way out."""
    _errors.print(f"[bold red]{error.code}[/bold red]  {escape(str(error))}")


def tell_of_a_stop() -> None:
    """Print on standard error that work was stopped, and how it goes on."""
    _errors.print("[bold]stopped[/bold]  what is finished is kept; the same command goes on from there")


def complain_of_a_fault() -> None:
    """Print an error that nobody foresaw, with its traceback: it is a fault of ours."""
    _errors.print_exception(show_locals=False)
    _errors.print("[bold red]fault[/bold red]  this should not happen; what is on disk is whole")


def show_audit(audit: Audit) -> None:
    """Print the findings of an audit."""
    for finding in audit.findings:
        say(f"{finding.weight}: {finding.code}: {finding.message}")
    if not audit.findings:
        say("nothing found")


def show_noticed(noticed: Sequence[str]) -> None:
    """Print what readers noticed in the files of cases, by code with the number of cases.

    Args:
        noticed: of each case its codes, joined by ``;``.
    """
    counts = Counter(code for own in noticed for code in own.split(";") if code)
    for code, count in counts.most_common():
        say(f"noticed in {count} of {counted(len(noticed), 'case')}: {codes.in_words(code)} ({code})")


def show_cautions(found: Cautions) -> None:
    """Print what a reader must know before quoting a figure, the worst first."""
    if not found.items:
        say(found.all_clear)
        return
    say(f"read with care ({counted(len(found.items), 'caution')}, the worst first):")
    for item in found.items:
        say(f"- {item.sentence}")


def show_splits(splits: Splits, fold: int) -> None:
    """Print how many cases each part has, and what could not be balanced."""
    parts = splits.parts(fold)
    say(", ".join(f"{name} {counted(len(cases), 'case')}" for name, cases in parts.items()))
    for warning in splits.warnings:
        say(f"note: {warning}")


def show_training(result: FitResult) -> None:
    """Print how a training ended."""
    figure = f"{result.monitor} {result.best_value:.4f} on validation"
    say(f"best epoch {result.best_epoch}: {figure}, {result.seconds:.0f} s")


def show_metrics(metrics: Metrics) -> None:
    """Print the cohort's metrics with their intervals."""
    sample = cases_in_words(metrics.n, metrics.patients, metrics.patients_known)
    say(f"{metrics.split}: {sample}")
    if metrics.seen:
        say(f"left out: {metrics.seen} cases that the model learned from")
    if metrics.without_truth:
        say(f"left out: {metrics.without_truth} cases without a known truth")
    table = new_table("metric", "value", "95 % interval" if metrics.bootstrap.level == 0.95 else "interval")
    for name, value in metrics.metrics.named().items():
        table.add_row(name.replace("_", " "), number(value), interval(value))
    console.print(table)
    if len(metrics.by_views) > 1:
        _show_by_views(metrics.by_views)


def _show_by_views(found: Mapping[str, ViewsFigures]) -> None:
    """Print the main metrics for each set of views that cases had."""
    table = new_table("views", "cases", "accuracy", "balanced accuracy", "macro AUROC")
    for names, figures in found.items():
        values = (number(value) for value in figures.metrics.values())
        table.add_row(escape(names), str(figures.n), *values)
    console.print(table)


def show_models(rows: Iterable[Sequence[str]]) -> None:
    """Print the table of models."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 2))
    for column in ("name", "system", "what", "parameters"):
        table.add_column(
            column, no_wrap=column != "what", justify="right" if column == "parameters" else "left"
        )
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    console.print(table)


def show_card(name: str, card: ModelCard) -> None:
    """Print what is known of one model."""
    heading(name, card.summary)
    say(f"system: {card.system}")
    say(f"paper: {card.paper}")
    if card.parameters:
        say(f"parameters: {card.parameters:,} with {card.classes} classes")
    for text in card.provenance:
        say(f"known from: {text}")
    for text in card.caveats:
        say(f"beware: {text}")
    for row in card.published:
        figures = ", ".join(f"{figure} {value:g}" for figure, value in row.figures.items())
        say(f"{row.name}: {figures} ({row.data})")


def show_caveats(methods: Iterable[str]) -> None:
    """Print what is to be kept in mind of the maps of these explanation methods."""
    for method in methods:
        if text := caveat(method):
            say(f"beware of {method}: {text}")


def show_completeness(entries: Sequence[MapEntry]) -> None:
    """Print by how much integrated gradients miss the rise of the score: map by map, or summed up."""
    gaps = {
        f"{entry.case_id}, {target}": gap
        for entry in entries
        for target, gap in zip(entry.targets, entry.completeness_gap, strict=False)
    }
    if len(gaps) <= FEW_MAPS:
        for name, gap in gaps.items():
            say(f"completeness gap of {name}: {gap:.2g}")
        return
    order = sorted(gaps, key=lambda name: abs(gaps[name]))
    middle, most = abs(gaps[order[len(order) // 2]]), order[-1]
    say(f"completeness gap of {len(gaps)} maps: median {middle:.2g}, largest {gaps[most]:.2g} ({most})")


def show_sources(rows: Iterable[Sequence[str]]) -> None:
    """Print the table of public data sets."""
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 2))
    for column in ("name", "data set"):
        table.add_column(column)
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    console.print(table)


def show_doctor(sections: Mapping[str, Mapping[str, str]]) -> None:
    """Print what the machine offers."""
    for title, rows in sections.items():
        heading(title)
        for name, value in rows.items():
            say(f"{name}: {value}")


def number(found: Value) -> str:
    """A metric's value, or that it has none."""
    return "undefined" if found.value is None else f"{found.value:.3f}"


def interval(found: Value) -> str:
    """A metric's interval, or why it has none."""
    return escape(found.reason or "") if found.low is None else f"{found.low:.3f} – {found.high:.3f}"


def new_table(*columns: str) -> Table:
    """An empty table; the first column holds names, the others figures."""
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 2))
    for position, column in enumerate(columns):
        table.add_column(
            column, justify="left" if position == 0 else "right", no_wrap=position > 0, overflow="fold"
        )
    return table
