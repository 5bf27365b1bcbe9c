"""The section of a comparison that shows the same cases of several runs side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from foveate.evaluate.results.comparison import ShownCase, ShownCases
from foveate.report.comparing.case_rows import CaseRows, ComparedCase, Member
from foveate.report.files import RunFiles
from foveate.report.pictures.overlays import Legend, gradient

MOST_RUNS = 5  # in a row, so that pictures stay large enough to compare
MOST_CLASSES = 14  # on a page, so that it stays small enough to send


@dataclass(frozen=True, slots=True)
class CaseSheets:
    """What the section holds.

    Attributes:
        runs: names of the runs shown, the one that the others are held against first.
        notes: what a reader has to know about them.
        sheets: by class, its cases.
        problem: why there is none, or empty.
        shown, of: how many test cases could be shown, of how many that all runs have.
    """

    runs: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    sheets: tuple[tuple[str, tuple[ComparedCase, ...]], ...] = ()
    problem: str = ""
    shown: int = 0
    of: int = 0

    @property
    def bar(self) -> str:
        """CSS of the colours from against over nothing to for."""
        return gradient(Legend(-1.0, 1.0, -1.0, 1.0, empty=False))

    @property
    def listing(self) -> ShownCases:
        """Which cases are shown, and why."""
        return ShownCases(
            runs=self.runs,
            notes=self.notes,
            problem=self.problem,
            cases=tuple(
                ShownCase(label=name, case_id=case.case_id, rule=case.pick.rule, detail=case.pick.detail)
                for name, cases in self.sheets
                for case in cases
            ),
        )


def case_sheets(folders: Mapping[str, Path], first: str, notes: Sequence[str] = ()) -> CaseSheets:
    """Choose and draw the cases of several runs.

    Args:
        folders: by name, of the runs; at most ``MOST_RUNS`` are shown.
        first: name of the one that the others are held against.
        notes: what is to be said of the runs besides.

    Raises:
        InputRefused: a file of a run is damaged.
    """
    names = (first, *(name for name in folders if name != first))[:MOST_RUNS]
    said = [*notes, *_left_out(names, list(folders))]
    runs = {name: RunFiles.read(folders[name]) for name in names}
    tables = {name: files.predictions.part("test") for name, files in runs.items() if files.predictions}
    if lacking := [name for name in names if name not in tables]:
        return CaseSheets(names, tuple(said), problem=f"there are no predictions of {', '.join(lacking)}")
    if len({(table.task, table.classes) for table in tables.values()}) > 1:
        return CaseSheets(names, tuple(said), problem="the runs do not have the same classes")
    shared = set.intersection(*(set(table.case_ids) for table in tables.values()))
    case_ids = [case_id for case_id in tables[first].case_ids if case_id in shared]
    members = {name: Member(files, tables[name], case_ids) for name, files in runs.items()}
    said += _lacking(members)
    if problem := _problem(members, case_ids):
        return CaseSheets(names, tuple(said), problem=problem, of=len(case_ids))
    drawn = CaseRows(members)
    said += _too_many(tables[first].classes)
    sheets = tuple(drawn.chosen(first, MOST_CLASSES).items())
    return CaseSheets(names, tuple(said), sheets, shown=drawn.showable, of=len(case_ids))


def _left_out(names: Sequence[str], runs: Sequence[str]) -> Iterator[str]:
    if others := [name for name in runs if name not in names]:
        yield f"side by side are {names[0]} and the next {len(names) - 1}, not {', '.join(others)}"


def _too_many(classes: Sequence[str]) -> Iterator[str]:
    if others := classes[MOST_CLASSES:]:
        yield f"to keep the page small there is no sheet for {', '.join(others)}"


def _lacking(members: Mapping[str, Member]) -> Iterator[str]:
    """Which runs lack heat maps or their scores, and how to get them."""
    for name, each in members.items():
        if not each.entries:
            yield f"{name} has no heat maps of these cases: foveate explain {each.files.folder}"
        elif not (each.files.folder / "localization.csv").is_file():
            yield f"{name} was not localized, so that hits are unknown: foveate localize {each.files.folder}"


def _problem(members: Mapping[str, Member], case_ids: Sequence[str]) -> str:
    """Why nothing can be shown, or an empty text."""
    if not case_ids:
        return "the runs have no test case in common"
    explained = [set(each.entries) for each in members.values() if each.entries]
    if not explained:
        return "no run has heat maps of its test cases"
    return "" if set.intersection(*explained) else "the runs have no test case with heat maps in common"
