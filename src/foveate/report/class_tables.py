"""Tables of single classes, one a figure: every run's, and below them what was published of such classes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from foveate.evaluate.intervals import Value
from foveate.evaluate.results.comparison import ComparedClass, PublishedClasses
from foveate.report.comparing.tables import ComparisonTable, figure, turned
from foveate.types import Task

# Figure in the file → its title, and what it means.
_FIGURES = {
    "recall": (
        "Recall by class",
        "Share of a class's test cases that are recognized, which papers also call class-wise accuracy.",
    ),
    "auroc": ("AUROC by class", "How well scores rank the cases of a class above all others."),
    "localized_0.5": (
        "Localization accuracy by class",
        "Share of a class's test cases in whose heat map of that class the largest box, of the pixels from "
        "half of the map's maximum on, overlaps a true one by IoU ≥ 0.5. All cases of the class that are "
        "marked count, wrong answers included.",
    ),
    "localized_0.3": (
        "Localization accuracy by class, IoU ≥ 0.3",
        "The same for a smaller overlap, at which figures of ChestX-ray14 are published.",
    ),
    "pointing_game": (
        "Pointing game by class",
        "Share of a class's test cases in whose heat map the strongest evidence lies inside the marks. All "
        "cases of the class that are marked count, wrong answers included.",
    ),
    "cell_hit": (
        "Cell hit by class",
        "Of volumes: share of a class's test cases in which the hottest cell of the map's own grid holds "
        "what is marked. All cases of the class that are marked count.",
    ),
    "plane_pointing": (
        "Pointing in the plane by class",
        "Of volumes: the pointing game as seen along the depth, whichever slice. All cases of the class that "
        "are marked count.",
    ),
}
_OF_MAPS = ("localized_0.5", "localized_0.3", "pointing_game", "cell_hit", "plane_pointing")
_MULTICLASS = ("recall", "auroc", *_OF_MAPS)
_MULTILABEL = ("auroc", "recall", *_OF_MAPS)
_AT_THRESHOLDS = "Findings are decided at the thresholds chosen on validation cases."
_ONLY_BESIDE = ("localized_0.3",)  # shown only where something published stands beside it
_MOST_COLUMNS = 7  # more classes become rows
_CAVEAT = (
    "Rows called published are of other data (other patients, other training and test cases): context, not a "
    "ranking. They stand here because their classes have the names of ours."
)


@dataclass(frozen=True, slots=True)
class ClassComparison:
    """Single classes of several runs.

    Attributes:
        task: of the cohort.
        classes: by run and class, figures.
        published: what others measured of such classes.
        level: of the intervals.
    """

    task: Task
    classes: Mapping[str, Mapping[str, ComparedClass]]
    published: Sequence[PublishedClasses]
    level: float


def class_tables(result: ClassComparison) -> Iterator[ComparisonTable]:
    """One table for each figure of single classes that any run has."""
    for name in _order(result):
        rows = [row for row in result.published if row.figure == name]
        cells = [cell for found in result.classes.values() for cell in _cells(found, name)]
        if any(value.value is not None for value in cells) and (rows or name not in _ONLY_BESIDE):
            yield _table(result, name, rows)


def _cells(found: Mapping[str, ComparedClass], name: str) -> Iterator[Value]:
    """One figure of every class of a run; of heat maps only those classes that are marked."""
    return (own.figures[name] for own in found.values() if name in own.figures)


def _table(result: ClassComparison, name: str, published: Sequence[PublishedClasses]) -> ComparisonTable:
    runs = result.classes
    title, meaning = _FIGURES[name]
    known = {label for found in runs.values() for label, own in found.items() if own.figures[name].n}
    classes = [label for label in next(iter(runs.values())) if label in known]
    rows = [
        ("Test cases", *(_counts([found[each].cases for found in runs.values()]) for each in classes)),
        *((label, *(_cell(found[each], name) for each in classes)) for label, found in runs.items()),
    ]
    beside = list(_published(published, classes))
    notes = [meaning, f"In brackets the {100 * result.level:g} % interval over patients."]
    notes += [_AT_THRESHOLDS] if name == "recall" and result.task == "multilabel" else []
    notes += [_CAVEAT, *_origins(published)] if published else []
    table = ComparisonTable(
        title,
        " ".join(notes),
        ("Run", *classes),
        tuple(rows + beside),
        folded=name == _order(result)[1],
        published_rows=len(beside),
    )
    return table if len(classes) <= _MOST_COLUMNS else turned(table, "Class")


def _order(result: ClassComparison) -> tuple[str, ...]:
    return _MULTICLASS if result.task == "multiclass" else _MULTILABEL


def _counts(counts: Sequence[int]) -> str:
    """How many cases have a class; runs may have been tested on different ones."""
    low, high = min(counts), max(counts)
    return f"{low}" if low == high else f"{low}–{high}"


def _cell(own: ComparedClass, name: str) -> str:
    """A figure of a class, and how many of its cases it rests on where these are not all."""
    value, cases = own.figures[name], own.cases
    some = name in _OF_MAPS and value.n < cases
    return figure(value) + (f" {value.n} of {cases} cases" if some else "")


def _published(rows: Sequence[PublishedClasses], classes: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Rows of published figures as they were printed, each kind of data under a line that names it."""
    several = len({row.data for row in rows}) > 1
    data = ""
    for row in rows:
        if several and row.data != data:
            data = row.data
            yield (data, *("" for _ in classes))
        values = (row.values.get(each) for each in classes)
        yield (f"published: {row.name}", *("–" if value is None else f"{value:g}" for value in values))


def _origins(rows: Sequence[PublishedClasses]) -> Iterator[str]:
    """What published rows are of, and where they were read, once for each kind."""
    several = len({row.data for row in rows}) > 1
    texts = (
        f"{row.system}: {row.named}" + ("" if several else f"; {row.data}") + f"; {row.source}."
        for row in rows
    )
    yield from dict.fromkeys(texts)
