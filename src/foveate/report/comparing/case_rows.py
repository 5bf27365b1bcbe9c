"""Several runs' heat maps of one case in a row: the image, then every run's map of the same class over it.

Maps are raw and signed, and each is drawn on its own scale, whose range stands below it: how two models scale
their evidence has nothing to do with where they see it. Of a volume all runs show the same slice, the one
with most evidence over the runs, and that with most of the lesion.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from foveate.errors import InputRefused
from foveate.evaluate.scores import read_scores
from foveate.evaluate.table import DEFAULT_THRESHOLD, PredictionTable
from foveate.maps.heatmaps import CaseMaps, MapEntry
from foveate.maps.map_similarity import rank_correlation
from foveate.report.files import Json, RunFiles, read_maps
from foveate.report.pictures.case_choice import ChoiceRules, Pick, RunAnswers
from foveate.report.pictures.overlays import Legend, overlay_uri
from foveate.report.pictures.panels import NO_MAP, Panel, Slices

_SCORES = ("pointing_game", "iou", "energy_inside", "plane_pointing", "plane_iou", "depth_error")
_CELLS = 32  # along each side, to which maps are averaged before they are compared
Maps = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class RunAnswer:
    """What one run says of one case.

    Attributes:
        run: its name.
        answer: what it decided, and how probable that was.
        right: whether about the class shown.
        about: the probability of the class shown, where the answer does not tell it; else empty.
        places: how its map does by the marks; empty where nothing is marked.
    """

    run: str
    answer: str
    right: bool
    about: str
    places: str


@dataclass(frozen=True, slots=True)
class PictureRow:
    """Pictures of one view, and of one slice where it is a volume: the image, then a panel for each run."""

    picture: Panel
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True)
class ComparedCase:
    """One case of several runs.

    Attributes:
        case_id, patient_id: of the case.
        truth: its true classes in words.
        about: the class whose maps are shown.
        pick: why it is shown.
        said: of each run.
        rows: pictures; none where no run's can be read.
    """

    case_id: str
    patient_id: str
    truth: str
    about: str
    pick: Pick
    said: tuple[RunAnswer, ...]
    rows: tuple[PictureRow, ...]


class Member:
    """One run, by the cases that all runs have.

    Args:
        files: the run.
        table: what it predicted of its test cases.
        case_ids: N of them, in the order that all runs share.
    """

    def __init__(self, files: RunFiles, table: PredictionTable, case_ids: Sequence[str]) -> None:
        self.files, self.table = files, _in_order(table, case_ids)
        self.thresholds = files.metrics.thresholds if files.metrics else {}
        self.decided = self.table.decisions(self.thresholds)
        self.entries: dict[str, dict[str, MapEntry]] = {}
        wanted = set(case_ids)
        for entry in files.heatmaps or ():
            if entry.case_id in wanted:
                self.entries.setdefault(entry.case_id, {})[entry.view] = entry
        self._scores = _scores_of(files.folder / "localization.csv")

    @cached_property
    def answers(self) -> RunAnswers:
        """As cases are chosen by."""
        truth = np.asarray(self.table.truth == 1)
        right = np.asarray(self.decided == truth)
        if self.table.task == "multiclass":
            right = np.repeat(right.all(axis=1, keepdims=True), right.shape[1], axis=1)
        energy = {key: found["energy_inside"] for key, found in self._scores.items()}
        return RunAnswers(self.table.probabilities, right, energy)

    def says(self, run: str, row: int, k: int) -> RunAnswer:
        """What it says of a case, about one class."""
        table, name = self.table, self.table.classes[k]
        p, right = float(table.probabilities[row, k]), bool(self.answers.right[row, k])
        places = self._places(table.case_ids[row], name)
        if table.task == "multilabel":
            limit = self.thresholds.get(name, DEFAULT_THRESHOLD)
            verb = "finds" if self.decided[row, k] else "does not find"
            return RunAnswer(run, f"{verb} {name}: {p:.2f}, threshold {limit:.2f}", right, "", places)
        best = int(table.probabilities[row].argmax())
        about = "" if best == k else f"{name} {p:.2f}"
        return RunAnswer(
            run, f"{table.classes[best]} {table.probabilities[row, best]:.2f}", right, about, places
        )

    def _places(self, case_id: str, name: str) -> str:
        """Whether the map of a class hits what is marked; of several views the mean."""
        found = self._scores.get((case_id, name))
        if found is None:
            return ""
        views = f", mean of {found['views']:.0f} views" if found["views"] > 1 else ""
        if np.isnan(found["plane_pointing"]):
            return f"pointing {_hit(found['pointing_game'])}, box IoU {found['iou']:.2f}{views}"
        off = found["depth_error"]
        depth = "" if np.isnan(off) else f", {off:.3g} slice{'' if off == 1 else 's'} off"
        pointing = _hit(found["plane_pointing"])
        return f"in the plane: pointing {pointing}, box IoU {found['plane_iou']:.2f}{depth}{views}"

    def maps(self, case_id: str, view: str) -> CaseMaps | str:
        """Heat maps of one view of a case, or why there are none."""
        if not self.entries:
            return f"no heat maps: foveate explain {self.files.folder}"
        if view not in self.views:
            return f"this run does not see {view}"
        if (entry := self.entries.get(case_id, {}).get(view)) is None:
            return f"no heat map of this case: foveate explain {self.files.folder}"
        try:
            return read_maps(self.files.folder, entry)
        except InputRefused as error:
            return str(error)

    @cached_property
    def views(self) -> tuple[str, ...]:
        """The views that it explained."""
        return tuple(dict.fromkeys(view for own in self.entries.values() for view in own))


class CaseRows:
    """Draws the cases of several runs.

    Args:
        members: by name, at least one of them with heat maps.
    """

    def __init__(self, members: Mapping[str, Member]) -> None:
        self._members, self._number = members, 0
        self._explained = {name: each for name, each in members.items() if each.entries}
        self._reduced: dict[tuple[str, str, str], dict[str, Maps]] = {}
        self._views = tuple(dict.fromkeys(view for each in members.values() for view in each.views))

    def chosen(self, first: str, most: int) -> dict[str, tuple[ComparedCase, ...]]:
        """By class, the cases that the rules choose.

        Args:
            first: name of the run that the others are held against.
            most: classes; further ones are left out.
        """
        table = self._table
        order = [first, *(name for name in self._members if name != first)]
        runs = {name: self._members[name].answers for name in order}
        likeness = self.likeness if len(self._explained) > 1 else None
        choice = ChoiceRules(table.case_ids, table.classes, runs, likeness)
        shown = np.array([self._can_show(case_id) for case_id in table.case_ids], dtype=bool)
        having = [np.flatnonzero(shown & (column == 1)).tolist() for column in table.truth.T[:most]]
        return {
            table.classes[k]: tuple(self._case(pick, k) for pick in choice.picks(k, rows))
            for k, rows in enumerate(having)
        }

    @property
    def showable(self) -> int:
        """Cases that every run with heat maps has one of."""
        return sum(self._can_show(case_id) for case_id in self._table.case_ids)

    @property
    def _table(self) -> PredictionTable:
        return next(iter(self._members.values())).table

    def _can_show(self, case_id: str) -> bool:
        return all(case_id in each.entries for each in self._explained.values())

    def likeness(self, case_id: str, name: str) -> float:
        """Mean rank correlation of a class's maps over pairs of runs and views; NaN where there is none."""
        values = [
            _correlation(one, two)
            for view in self._views
            for one, two in combinations(self._small_maps(case_id, view, name), 2)
        ]
        known = [value for value in values if not np.isnan(value)]
        return float(np.mean(known)) if known else float("nan")

    def _small_maps(self, case_id: str, view: str, name: str) -> list[Maps]:
        """The runs' maps of a class, of those that have one."""
        found = (self._small(run, case_id, view) for run in self._explained)
        return [maps[name] for maps in found if name in maps]

    def _small(self, run: str, case_id: str, view: str) -> dict[str, Maps]:
        """Maps of a view by class, averaged over coarse cells; nothing where they cannot be read."""
        key = run, case_id, view
        if key not in self._reduced:
            maps = self._explained[run].maps(case_id, view)
            named = {} if isinstance(maps, str) else dict(zip(maps.targets, maps.values, strict=True))
            self._reduced[key] = {name: reduced(values) for name, values in named.items()}
        return self._reduced[key]

    def _case(self, pick: Pick, k: int) -> ComparedCase:
        table = self._table
        case_id, name = table.case_ids[pick.row], table.classes[k]
        true = [
            other for other, value in zip(table.classes, table.truth[pick.row], strict=True) if value == 1
        ]
        rows = tuple(self._rows(case_id, name))
        said = tuple(each.says(run, pick.row, k) for run, each in self._members.items())
        return ComparedCase(case_id, table.patient_ids[pick.row], ", ".join(true), name, pick, said, rows)

    def _rows(self, case_id: str, name: str) -> Iterator[PictureRow]:
        """A row for each view and slice."""
        for view in self._views:
            maps = {run: each.maps(case_id, view) for run, each in self._members.items()}
            read = [found for found in maps.values() if not isinstance(found, str)]
            if not read:
                continue
            self._number += 1
            slices = Slices(read[0], self._number, [name])
            title = view if len(self._views) > 1 else "Picture"
            strongest = _strongest(read, name)
            for at in slices.with_lesion(strongest):
                most = ", most evidence" if at is not None and at == strongest else ""
                words = slices.in_words(at) + most
                label = f"{title} of case {case_id}, without heat map{words}"
                picture = Panel(title + words, slices.draw(at, [name], label=label))
                panels = (
                    self._panel(run, found, slices, at, (case_id, view, name)) for run, found in maps.items()
                )
                yield PictureRow(picture, tuple(panels))

    def _panel(
        self,
        run: str,
        maps: CaseMaps | str,
        slices: Slices,
        at: int | None,
        key: tuple[str, str, str],
    ) -> Panel:
        """One run's map of the class over the slice that all runs show."""
        case_id, _, name = key
        if isinstance(maps, str):
            return Panel(run, None, why=maps)
        if name not in maps.targets:
            return Panel(run, None, why=f"{NO_MAP} (explain.targets)")
        values = maps.values[maps.targets.index(name)]
        if values.shape != slices.shape:
            return Panel(run, None, why="its map is of an image of another size")
        legend, boxes = Legend.of(values), (self._members[run].files.boxes or {}).get(key, ())
        label = f"Evidence for {name} by {run} in case {case_id}" + (" (empty)" if legend.empty else "")
        overlay = "" if legend.empty else overlay_uri(values if at is None else values[at], legend)
        return Panel(run, slices.draw(at, [name], label=label, overlay=overlay, found=boxes), legend)


def reduced(values: Maps) -> Maps:
    """A map averaged over at most ``_CELLS`` cells along each side, of nearly equal size."""
    for axis, size in enumerate(values.shape):
        edges = np.linspace(0, size, min(size, _CELLS) + 1).astype(np.intp)
        sums = np.add.reduceat(np.nan_to_num(values), edges[:-1], axis=axis)
        widths = np.diff(edges).reshape([-1 if other == axis else 1 for other in range(values.ndim)])
        values = (sums / widths).astype(np.float32)
    return values


def _correlation(one: Maps, two: Maps) -> float:
    return float(rank_correlation(one[None], two[None])[0]) if one.shape == two.shape else float("nan")


def _strongest(found: Sequence[CaseMaps], name: str) -> int | None:
    """The slice with most evidence for a class, every run counting the same; None of a plane."""
    shape = found[0].values.shape[1:]
    if len(shape) != 3:
        return None
    total = np.zeros(shape[0])
    for maps in found:
        if name in maps.targets and maps.values.shape[1:] == shape:
            values = maps.values[maps.targets.index(name)]
            evidence = np.maximum(np.nan_to_num(values), 0).sum(axis=(1, 2))
            total += evidence / (evidence.sum() or 1)
    return int(total.argmax()) if total.any() else None


def _hit(value: float) -> str:
    return {1.0: "hit", 0.0: "miss"}.get(value, f"{value:.2f}")


def _in_order(table: PredictionTable, case_ids: Sequence[str]) -> PredictionTable:
    """The named cases of a table, in that order."""
    place = {case_id: number for number, case_id in enumerate(table.case_ids)}
    return table.taken(np.array([place[case_id] for case_id in case_ids], dtype=np.intp))


def _scores_of(path: Path) -> dict[tuple[str, str], Json]:
    """By case and class, the scores of its heat maps, the mean over views."""
    grouped: dict[tuple[str, str], list[dict[str, float]]] = {}
    for row in read_scores(path) if path.is_file() else ():
        if row.method == "heatmap":
            values = {name: getattr(row, name) for name in _SCORES}
            grouped.setdefault((row.case_id, row.label), []).append(values)
    return {
        key: {
            "views": float(len(rows)),
            **{name: float(np.mean([row[name] for row in rows])) for name in rows[0]},
        }
        for key, rows in grouped.items()
    }
