"""Tables of texts, written once and shown as HTML and as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from foveate.evaluate.comparing.wording import shown_p
from foveate.evaluate.intervals import Value
from foveate.evaluate.results.comparison import SeedDifference, SeedFigure


@dataclass(frozen=True, slots=True)
class ComparisonTable:
    """One table of a page.

    Attributes:
        title: its heading.
        note: what its numbers are, in a sentence or two.
        header: names of the columns.
        rows: texts, as many a row as the header has.
        folded: whether the page shows it only when asked to.
        published_rows, published_columns: how many of the last ones are of other data, and told apart. A row
            with nothing but a name is a heading of those below it.
    """

    title: str
    note: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    folded: bool = False
    published_rows: int = 0
    published_columns: int = 0


def markdown(table: ComparisonTable) -> Iterator[str]:
    """Lines of a table with its heading and note."""
    yield from (f"## {table.title}", "", table.note, "", _row(table.header))
    yield _row(("---",) * len(table.header))
    yield from map(_row, table.rows)
    yield ""


def turned(table: ComparisonTable, corner: str) -> ComparisonTable:
    """The same with rows and columns exchanged.

    Args:
        table: to turn.
        corner: name of the new first column.
    """
    columns = list(zip(table.header, *table.rows, strict=True))
    return replace(
        table,
        header=(corner, *columns[0][1:]),
        rows=tuple(columns[1:]),
        published_rows=table.published_columns,
        published_columns=table.published_rows,
    )


def one_line(text: str) -> str:
    """A text that stays within a cell or an item of a list."""
    return " ".join(text.split()).replace("|", "\\|")


def mean(value: Value) -> str:
    """A figure without its interval."""
    return "undefined" if value.value is None else f"{value.value:.3f}"


def figure(value: Value) -> str:
    """A figure, its spread over seeds where it has one, and its interval."""
    if value.value is None:
        return "undefined"
    sd = value.sd if isinstance(value, SeedFigure) else None
    spread = "" if sd is None else f" ± {sd:.3f}"
    interval = "" if value.low is None else f" [{value.low:.3f}, {value.high:.3f}]"
    return f"{value.value:.3f}{spread}{interval}"


def difference(value: SeedDifference | None, level: float) -> str:
    """A difference with its interval and corrected p-value, marked where that is below the level."""
    if value is None or value.value is None:
        return "undefined"
    text = f"{value.value:+.3f}"
    if value.low is not None:
        text += f" [{value.low:+.3f}, {value.high:+.3f}]"
    return text.replace("-", "−") + corrected(value.p_holm, level)


def corrected(p: float | None, level: float) -> str:
    """The corrected p-value, marked where it is below the level; nothing where there is none."""
    if p is None:
        return ""
    return f" {shown_p(p)}" + (" •" if p < 1 - level else "")


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(one_line(cell) for cell in cells) + " |"
