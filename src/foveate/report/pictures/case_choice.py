"""Which cases several runs are shown side by side on: chosen by rules that were fixed before anyone looked.

Of every class up to four test cases that have it, one for each rule. What an earlier rule took, a later one
leaves out. Wherever a rule leaves a choice, a lot decides: the order of the SHA-256 of the case's name, which
knows nothing of images, answers or maps and is the same for every comparison of the cohort.

* *median case*: the runs' mean quality is the median of the class (the lower one of an even number). Quality
  is the share of the evidence inside the marks, over the cases that are marked; where none is, the
  probability of the class.
* *first right, another wrong*, and *first wrong, another right*: both, so that neither is favoured.
* *maps least alike*: the lowest Spearman rank correlation of the maps of that class, mean over pairs of runs,
  among the first ``CHECKED`` cases by lot.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foveate.evaluate.intervals import Floats

CHECKED = 24  # maps of so many cases of a class are read to find the least alike
Key = tuple[str, str]
#: ``(case, class)`` → how alike the runs' maps are, NaN where that is undefined.
Likeness = Callable[[str, str], float]


@dataclass(frozen=True, slots=True)
class RunAnswers:
    """What one run said of the N cases that all runs have, in the same order for all of them.

    Attributes:
        probabilities: ``(N, K)``.
        right: ``(N, K)`` whether it decided rightly about each class; of one class a case the same in all K.
        quality: by case and class, the share of its evidence inside the marks, where that is known.
    """

    probabilities: Floats
    right: NDArray[np.bool_]
    quality: Mapping[Key, float]


@dataclass(frozen=True, slots=True)
class Pick:
    """One case that is shown.

    Attributes:
        row: of the N cases.
        rule: what it stands for.
        detail: from how many it was chosen, and how.
    """

    row: int
    rule: str
    detail: str


@dataclass(frozen=True)
class ChoiceRules:
    """The rules over one cohort.

    Attributes:
        case_ids: of the N cases.
        classes: names of the K classes.
        runs: by name, the one that the others are held against first.
        likeness: of the runs' maps; None where fewer than two runs have maps.
    """

    case_ids: Sequence[str]
    classes: Sequence[str]
    runs: Mapping[str, RunAnswers]
    likeness: Likeness | None

    def picks(self, k: int, candidates: Sequence[int]) -> list[Pick]:
        """At most one case for each rule.

        Args:
            k: the class.
            candidates: rows of cases that have it and can be shown.
        """
        rest, found = self._by_lot(candidates), []
        for rule in (self._median, self._alone, self._beaten, self._least_alike):
            if pick := next(rule(k, rest), None):
                found.append(pick)
                rest = [row for row in rest if row != pick.row]
        return found

    def _by_lot(self, rows: Sequence[int]) -> list[int]:
        return sorted(rows, key=lambda row: hashlib.sha256(self.case_ids[row].encode()).digest())

    def _median(self, k: int, rows: Sequence[int]) -> Iterator[Pick]:
        name = self.classes[k]
        measured = [run.quality for run in self.runs.values() if run.quality]
        keys = {row: (self.case_ids[row], name) for row in rows}
        marked = [row for row in rows if measured and all(keys[row] in quality for quality in measured)]
        if marked:
            values = {row: float(np.mean([quality[keys[row]] for quality in measured])) for row in marked}
            measure = "evidence inside the marks"
        else:
            said = [run.probabilities[:, k] for run in self.runs.values()]
            values = {row: float(np.mean([column[row] for column in said])) for row in rows}
            measure = "probability of the class"
        ordered = sorted(values, key=lambda row: values[row])  # of equals the first by lot
        if ordered:
            place = (len(ordered) - 1) // 2
            detail = (
                f"the middle one of {len(ordered)} by the runs’ mean {measure}, {values[ordered[place]]:.2f}"
            )
            yield Pick(ordered[place], "Median case", detail)

    def _alone(self, k: int, rows: Sequence[int]) -> Iterator[Pick]:
        return self._divided(k, rows, first_right=True)

    def _beaten(self, k: int, rows: Sequence[int]) -> Iterator[Pick]:
        return self._divided(k, rows, first_right=False)

    def _divided(self, k: int, rows: Sequence[int], *, first_right: bool) -> Iterator[Pick]:
        """Cases that the first run decides one way and another run the other way."""
        first, *others = self.runs.values()
        fitting = [
            row
            for row in rows
            if first.right[row, k] == first_right and any(run.right[row, k] != first_right for run in others)
        ]
        names = list(self.runs)
        other = names[1] if len(names) == 2 else "another run"
        one, two = ("right", "wrong") if first_right else ("wrong", "right")
        for row in fitting[:1]:
            lot = f"one of {len(fitting)} such cases, by lot" if len(fitting) > 1 else "the only such case"
            yield Pick(row, f"{names[0]} {one}, {other} {two}", lot)

    def _least_alike(self, k: int, rows: Sequence[int]) -> Iterator[Pick]:
        if self.likeness is None:
            return
        name = self.classes[k]
        values = {row: self.likeness(self.case_ids[row], name) for row in rows[:CHECKED]}
        known = {row: value for row, value in values.items() if not np.isnan(value)}
        if known:
            row = min(known, key=lambda row: known[row])
            shown = f"{known[row]:.2f}".replace("-", "−")
            lowest = f", the lowest of {len(known)} cases" if len(known) > 1 else ""
            yield Pick(row, "Maps least alike", f"rank correlation {shown}{lowest}")
