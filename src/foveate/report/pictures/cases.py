"""Which cases a reader should see: per class the most confident right and wrong answers, with pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from foveate.errors import InputRefused
from foveate.evaluate.table import PredictionTable
from foveate.maps.heatmaps import MapEntry
from foveate.report.files import RunFiles, read_maps
from foveate.report.pictures.panels import Panel, PanelMaker

MAX_CARDS = 96  # on the page, so that it stays small enough to send
MAX_PER_CLASS = 6
MAX_SHEETS = 40
MAX_KEY_CASES = 4
MAX_KEY_VIEWS = 2  # of a case seen first; of more, one: eight of a volume would fill its pages
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class View:
    """The pictures of one view of a case; ``name`` is empty where the case has no other."""

    name: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True)
class Card:
    """One case: what was true, what was said, how sure, and its pictures.

    Attributes:
        case_id, patient_id: of the case.
        truth, predicted: class names in words.
        about: the class that the card is about.
        probability: of that class.
        views: pictures, view by view.
        problem: why there are no pictures, or empty.
        more_views: how many views are left out here.
    """

    case_id: str
    patient_id: str
    truth: str
    predicted: str
    about: str
    probability: float
    views: tuple[View, ...]
    problem: str = ""
    more_views: int = 0


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


def key_cases(sheets: Sequence[Sheet], most: int = MAX_KEY_CASES) -> tuple[Group, ...]:
    """The few cases to see first: of each kind those that the model was surest of, each of another class.

    Args:
        sheets: of all classes.
        most: cases in all.
    """
    groups: dict[str, list[Group]] = {}
    for group in (group for sheet in sheets for group in sheet.groups):
        groups.setdefault(group.title, []).append(group)
    each = max(1, most // max(1, len(groups)))
    found = []
    for title, own in groups.items():
        first = [group.cards[0] for group in own if group.cards and group.cards[0].views]
        first.sort(key=lambda card: -card.probability)
        if first:
            cards = tuple(_of_few_views(card) for card in first[:each])
            found.append(Group(title, sum(group.total for group in own), cards))
    return tuple(found)


def _of_few_views(card: Card) -> Card:
    shown = card.views[: 1 if len(card.views) > MAX_KEY_VIEWS else MAX_KEY_VIEWS]
    return replace(card, views=shown, more_views=len(card.views) - len(shown))


@dataclass(frozen=True, slots=True)
class ChosenCases:
    """Cases of one kind, the most telling first.

    Attributes:
        title: which kind.
        picks: row of the prediction table, and the classes whose heat maps are shown, the decisive one first.
    """

    title: str
    picks: tuple[tuple[int, tuple[int, ...]], ...]


def choose(table: PredictionTable, decided: Bools, index: int, shown: Bools) -> tuple[ChosenCases, ...]:
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
            ChosenCases("Most confident correct answers", picked(present & found, score)),
            ChosenCases("Most confident false alarms", picked(absent & found, score)),
            ChosenCases("Missed, least suspected first", picked(present & ~found, -score)),
        )
    taken_for = table.probabilities.argmax(axis=1)
    wrong = _order(present & ~found, table.probabilities.max(axis=1), table.patient_ids)
    return (
        ChosenCases("Most confident correct answers", picked(present & found, score)),
        ChosenCases(
            "Most confident wrong answers", tuple((row, (int(taken_for[row]), index)) for row in wrong)
        ),
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
        self._entries: dict[str, list[MapEntry]] = {}
        for entry in files.heatmaps or ():
            self._entries.setdefault(entry.case_id, []).append(entry)
        self._views = tuple(dict.fromkeys(entry.view for entry in files.heatmaps or ()))
        self._maker = PanelMaker(files.boxes or {})

    def sheets(self) -> tuple[Sheet, ...]:
        """One sheet for each of the first ``MAX_SHEETS`` classes, of at most ``MAX_PER_CLASS`` cases."""
        shown = np.array([case_id in self._entries for case_id in self._table.case_ids], dtype=bool)
        classes = self._table.classes[:MAX_SHEETS]
        per_class = min(MAX_PER_CLASS, MAX_CARDS // len(classes))
        return tuple(
            Sheet(name, self._groups(choose(self._table, self._decided, index, shown), per_class))
            for index, name in enumerate(classes)
        )

    def _groups(self, choices: Sequence[ChosenCases], per_class: int) -> tuple[Group, ...]:
        most = max(1, per_class // len(choices))
        return tuple(
            Group(choice.title, len(choice.picks), tuple(self._card(*pick) for pick in choice.picks[:most]))
            for choice in choices
        )

    def _card(self, row: int, about: tuple[int, ...]) -> Card:
        table = self._table
        case_id, names = table.case_ids[row], [table.classes[index] for index in about]
        try:
            views, problem = tuple(self._drawn(case_id, names)), ""
        except InputRefused as error:
            views, problem = (), error.what
        return Card(
            case_id,
            table.patient_ids[row],
            _in_words(table.classes, table.truth[row] == 1),
            _in_words(table.classes, self._decided[row]),
            names[0],
            float(table.probabilities[row, about[0]]),
            views,
            problem,
        )

    def _drawn(self, case_id: str, names: Sequence[str]) -> Iterable[View]:
        """The views of a case side by side, those that it lacks among them."""
        several = len(self._views) > 1
        entries = {entry.view: entry for entry in self._entries[case_id]}
        for view in self._views:
            if view in entries:
                maps = read_maps(self._files.folder, entries[view])
                panels = self._maker.panels(entries[view], maps, names, several=several)
                yield View(view if several else "", tuple(panels))
            else:
                yield View(view, (Panel(view, None, why="this case lacks this view"),))


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
