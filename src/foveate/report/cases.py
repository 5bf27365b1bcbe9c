"""Which cases a reader should see: per class the most confident right and wrong answers, with pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from foveate.errors import InputRefused
from foveate.evaluate.table import PredictionTable
from foveate.heatmaps import CaseMaps, Entry
from foveate.report.files import RunFiles, read_maps
from foveate.report.overlays import Legend, Picture, gradient, outline, overlay_uri

MAX_CARDS = 96  # on the page, so that it stays small enough to send
MAX_PER_CLASS = 6
MAX_SHEETS = 40
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Panel:
    """One picture of a case.

    Attributes:
        title: what it shows.
        drawing: inline SVG, or None where there is no heat map for this class.
        legend: what the colours stand for; None where the panel is about no heat map.
    """

    title: str
    drawing: Markup | None
    legend: Legend | None = None

    @property
    def bar(self) -> str:
        """CSS of the legend's colour bar."""
        return gradient(self.legend) if self.legend else ""


@dataclass(frozen=True, slots=True)
class Card:
    """One case: what was true, what was said, how sure, and its pictures.

    Attributes:
        case_id, patient_id: of the case.
        truth, predicted: class names in words.
        about: the class that the card is about.
        probability: of that class.
        panels: pictures, view by view.
        problem: why there are no pictures, or empty.
    """

    case_id: str
    patient_id: str
    truth: str
    predicted: str
    about: str
    probability: float
    panels: tuple[Panel, ...]
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Group:
    """Cases of one kind: ``total`` there are, the first few as cards."""

    title: str
    total: int
    cards: tuple[Card, ...]


@dataclass(frozen=True, slots=True)
class Sheet:
    """All that is shown of one class."""

    name: str
    groups: tuple[Group, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """Cases of one kind, the most telling first.

    Attributes:
        title: which kind.
        picks: row of the prediction table, and the classes whose heat maps are shown, the decisive one first.
    """

    title: str
    picks: tuple[tuple[int, tuple[int, ...]], ...]


def choose(table: PredictionTable, decided: Bools, index: int, shown: Bools) -> tuple[Choice, ...]:
    """Right and wrong cases of one class, the most confident first, and of every patient one before a second.

    Multi-class: cases of this class that were recognized, and that were taken for another class. Multi-label:
    present and found, absent but found (false alarms), present but missed (the least suspected first).

    Args:
        table: predictions of N cases.
        decided: ``(N, K)`` what the model decided.
        index: the class.
        shown: ``(N,)`` which cases can be shown.
    """
    score, truth, found = table.probabilities[:, index], table.truth[:, index], decided[:, index]
    present, absent = shown & (truth == 1), shown & (truth == 0)

    def picked(keep: Bools, key: NDArray[np.float64]) -> tuple[tuple[int, tuple[int, ...]], ...]:
        return tuple((row, (index,)) for row in _order(keep, key, table.patient_ids))

    if table.task == "multilabel":
        return (
            Choice("Most confident correct answers", picked(present & found, score)),
            Choice("Most confident false alarms", picked(absent & found, score)),
            Choice("Missed, least suspected first", picked(present & ~found, -score)),
        )
    taken_for = table.probabilities.argmax(axis=1)
    wrong = _order(present & ~found, table.probabilities.max(axis=1), table.patient_ids)
    return (
        Choice("Most confident correct answers", picked(present & found, score)),
        Choice("Most confident wrong answers", tuple((row, (int(taken_for[row]), index)) for row in wrong)),
    )


class SheetMaker:
    """Draws the sheets of a run, for those cases of the evaluated part that have heat maps.

    Args:
        files: the run; its heat maps and boxes are used.
        table: predictions of the evaluated part, N cases.
        decided: ``(N, K)`` what the model decided.
    """

    def __init__(self, files: RunFiles, table: PredictionTable, decided: Bools) -> None:
        self._files, self._table, self._decided = files, table, decided
        self._entries: dict[str, list[Entry]] = {}
        for entry in files.heatmaps or ():
            self._entries.setdefault(entry.case_id, []).append(entry)
        self._numbers = count(1)

    def sheets(self) -> tuple[Sheet, ...]:
        """One sheet for each of the first ``MAX_SHEETS`` classes, of at most ``MAX_PER_CLASS`` cases."""
        shown = np.array([case_id in self._entries for case_id in self._table.case_ids], dtype=bool)
        classes = self._table.classes[:MAX_SHEETS]
        per_class = min(MAX_PER_CLASS, MAX_CARDS // len(classes))
        return tuple(
            Sheet(name, self._groups(choose(self._table, self._decided, index, shown), per_class))
            for index, name in enumerate(classes)
        )

    def _groups(self, choices: Sequence[Choice], per_class: int) -> tuple[Group, ...]:
        most = max(1, per_class // len(choices))
        return tuple(
            Group(choice.title, len(choice.picks), tuple(self._card(*pick) for pick in choice.picks[:most]))
            for choice in choices
        )

    def _card(self, row: int, about: tuple[int, ...]) -> Card:
        table = self._table
        case_id, names = table.case_ids[row], [table.classes[index] for index in about]
        try:
            panels = tuple(panel for entry in self._entries[case_id] for panel in self._panels(entry, names))
            problem = ""
        except InputRefused as error:
            panels, problem = (), error.what
        return Card(
            case_id,
            table.patient_ids[row],
            _in_words(table.classes, table.truth[row] == 1),
            _in_words(table.classes, self._decided[row]),
            names[0],
            float(table.probabilities[row, about[0]]),
            panels,
            problem,
        )

    def _panels(self, entry: Entry, names: Iterable[str]) -> Iterable[Panel]:
        """The picture alone, then each class's heat map over it."""
        maps = read_maps(self._files.folder, entry)
        drawn = Picture(f"picture-{next(self._numbers)}", maps.values.shape[1:], maps.picture)
        truth = "" if maps.truth is None else outline(maps.truth)
        several = len(self._entries[entry.case_id]) > 1
        what = f"{entry.view} of case {entry.case_id}" if several else f"case {entry.case_id}"
        title = entry.view if several else "Picture"
        yield Panel(title, drawn.svg(truth=truth, label=f"{what}, without heat map"))
        for name in names:
            yield self._evidence(entry, maps, name, drawn, truth)

    def _evidence(self, entry: Entry, maps: CaseMaps, name: str, drawn: Picture, truth: str) -> Panel:
        title = f"Evidence for {name}"
        if name not in maps.targets:
            return Panel(title, None)
        values = maps.values[maps.targets.index(name)]
        legend = Legend.of(values)
        found = (self._files.boxes or {}).get((entry.case_id, entry.view, name), ())
        overlay = "" if legend.empty else overlay_uri(values, legend)
        label = f"{title} in case {entry.case_id}" + (" (empty)" if legend.empty else "")
        return Panel(title, drawn.svg(overlay=overlay, truth=truth, boxes=found, label=label), legend)


def _order(keep: Bools, key: NDArray[np.float64], patients: Sequence[str]) -> tuple[int, ...]:
    """Rows to keep, the highest key first, of equals the first in the table.

    Slices of one patient look alike, so every patient has its turn before one comes again.
    """
    rows = np.flatnonzero(keep)
    seen: Counter[str] = Counter()
    turns: list[tuple[int, int]] = []
    for row in rows[np.argsort(-key[rows], kind="stable")]:
        turns.append((seen[patients[row]], int(row)))
        seen[patients[row]] += 1
    return tuple(row for _, row in sorted(turns, key=lambda turn: turn[0]))


def _in_words(classes: Sequence[str], chosen: Bools) -> str:
    return ", ".join(name for name, yes in zip(classes, chosen, strict=True) if yes) or "none"
