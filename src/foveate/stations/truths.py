"""What is marked in the explained cases: true masks and boxes, beside the heat maps that should find them.

A manifest names one mask per case. It belongs to every view that it can be laid over: of phases on one grid
to all, of a photograph and an ultrasound picture to the one that it was drawn on. Boxes lie in the pixels
of the case's first view, and belong to every view on the same grid.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from foveate.errors import InputRefused
from foveate.evaluate.localization import (
    CaseScore,
    Cells,
    VolumeTruth,
    best_of,
    ceiling_cells,
    control_maps,
    score_case,
)
from foveate.evaluate.localization.controls import random_cells
from foveate.evaluate.localization.grids import spread
from foveate.io.laying import MISPLACED, MaskGrid, same_grid
from foveate.io.reading import probe, read_image, read_mask
from foveate.maps.heatmaps import COARSE, CaseMaps, MapEntry, read_case
from foveate.maps.localize import BoxRule, localize_heatmap, sweep
from foveate.maps.regions import Region, extent, shifted
from foveate.stations.batches import VOLUMES
from foveate.stations.run import Run
from foveate.types import Box, Case, Geometry

if TYPE_CHECKING:
    from foveate.stations.averages import Averages

Mask = NDArray[np.bool_]
_HEADERS = 64  # images whose geometry is remembered


@dataclass(frozen=True, slots=True)
class Marked:
    """One explained class of one view of a case, with the truth of where it is.

    Attributes:
        entry: of the index.
        target: the true class.
        values: its heat map, in original pixels.
        truth: what is marked for it.
        organ: mask of the organ that the study crops to, or None.
        predicted: heat map of the class that was predicted, right or wrong; None where it was not drawn, or
            where several classes can be predicted at once.
        picture: the displayed image, or None.
        grid: cells of the raw map along each axis; empty where unknown.
        field: where that grid lies, in original pixels; None where unknown.
        cells: by method (``heatmap``, ``predicted``), the raw map of that grid, if it is coarse; else None.
        volume: the truth as the cells, the plane and the depth see it; None for planes, and where the grid,
            or the cells of a coarse one, are unknown.
    """

    entry: MapEntry
    target: str
    values: NDArray[np.float32]
    truth: Region
    organ: Mask | None
    predicted: NDArray[np.float32] | None = None
    picture: NDArray[np.uint8] | None = None
    grid: tuple[int, ...] = ()
    field: Box | None = None
    cells: Mapping[str, NDArray[np.float32]] | None = None
    volume: VolumeTruth | None = None

    @property
    def _coarse(self) -> bool:
        """Whether the heat map is of a feature map's grid."""
        return bool(self.grid) and max(self.grid) <= COARSE

    def maps(self, seed: int, averages: Averages | None = None) -> dict[str, NDArray[np.float32]]:
        """The heat map of the true class, that of the predicted one, and the controls that they have to beat.

        The random map is of the heat map's own grid where that is a feature map's.
        """
        controls = control_maps(
            self.values.shape,
            organ=self.organ,
            seed=seed,
            case_id=self.entry.case_id,
            grid=self.grid if self._coarse else (),
            field=self.field if self._coarse else None,
            picture=self.picture,
            average=None if averages is None else averages.of(self.target, self.values.ndim),
        )
        said = {} if self.predicted is None else {"predicted": self.predicted}
        return {"heatmap": self.values, **said, **controls}

    def score(
        self,
        method: str,
        values: NDArray[np.float32],
        rule: BoxRule,
        candidates: Sequence[float] = (),
        *,
        seed: int = 0,
    ) -> CaseScore:
        """Score the map of one method against the truth.

        Args:
            method: whose map it is.
            values: in original pixels.
            rule: how it becomes boxes.
            candidates: thresholds for the sweep.
            seed: of the study, with which the random map was drawn.
        """
        swept = sweep(values, candidates, organ=self.organ)
        return self._score(values, rule, method, swept, self._own_cells(method, seed))

    def _own_cells(self, method: str, seed: int) -> Cells | None:
        """The map of a method on its own grid; None where it has none, or it is unknown."""
        if self.field is None or not self._coarse:
            return None
        if method == "random":
            return Cells(random_cells(self.grid, seed, self.entry.case_id), self.field)
        return Cells(self.cells[method], self.field) if self.cells and method in self.cells else None

    def ceiling(self, rule: BoxRule, candidates: Sequence[float], like: CaseScore) -> CaseScore | None:
        """The best that a map of this grid could score; None where the grid is unknown.

        Args:
            rule: its kind; of thresholds the best candidate for each measure counts.
            candidates: thresholds to try.
            like: score of the heat map, which gives what does not depend on the map.
        """
        if not self.grid or self.field is None:
            return None
        known = ceiling_cells(self.truth.mask, self.grid, self.field, self.organ)
        maps = [spread(each.values, self.truth.mask.shape, self.field) for each in known]
        item, peaked = replace(self, volume=None), rule.kind == "peak"
        if peaked or rule.kind == "two_thresholds":  # far from the truth these maps are zero
            inner = extent(np.any(maps, axis=0) | self.truth.mask)
            item, maps = item._section(inner), [values[inner] for values in maps]
            back = [-side.start for side in inner]
            known = [Cells(each.values, shifted(each.field, back)) for each in known]
        rules = [replace(rule, threshold=share) for share in candidates] if peaked else [rule]
        scores = [
            item._score(values, own, cells=each if self._coarse else None)
            for values, each in zip(maps, known, strict=True)
            for own in rules
        ]
        return best_of(scores, like, None if self.volume is None else self.volume.ceiling())

    def _section(self, place: tuple[slice, ...]) -> Marked:
        """The same, of a part of the image that holds the truth."""
        back = [-side.start for side in place]
        boxes = tuple(shifted(box, back) for box in self.truth.boxes)
        truth = Region(self.truth.mask[place], boxes, self.truth.outlined)
        organ = None if self.organ is None else self.organ[place]
        return replace(self, truth=truth, organ=organ)

    def _score(
        self,
        values: NDArray[np.floating[Any]],
        rule: BoxRule,
        method: str = "heatmap",
        swept: Sequence[Region] = (),
        cells: Cells | None = None,
    ) -> CaseScore:
        own = (
            rule
            if rule.kind != "patch"
            else replace(rule, window=window(values.shape, self.grid, self.field))
        )
        return score_case(
            values,
            localize_heatmap(values, own, organ=self.organ),
            self.truth,
            organ=self.organ,
            case_id=self.entry.case_id,
            patient_id=self.entry.patient_id,
            label=self.target,
            method=method,
            answer="right" if self.target in self.entry.predicted_class.split(";") else "wrong",
            sweep=swept,
            cells=cells,
            volume=self.volume,
        )


def window(shape: Sequence[int], grid: Sequence[int], field: Box | None) -> tuple[int, ...] | None:
    """Size in pixels of one cell of a map's grid, at least a sixteenth of each side; None where unknown."""
    if not grid or field is None:
        return None
    cells = np.subtract(field.stop, field.start) / np.array(grid)
    return tuple(round(side) for side in np.maximum(np.maximum(cells, np.array(shape) / 16), 1))


def fitted(rule: BoxRule, stored: CaseMaps) -> BoxRule:
    """The rule for the maps of one case: a window has the size of their cells."""
    if rule.kind != "patch":
        return rule
    return replace(rule, window=window(stored.values.shape[1:], stored.grid, stored.field))


class Truths:
    """Finds what is marked in the explained cases.

    Args:
        run: whose manifest names masks and boxes.
        folder: with the stored maps.
    """

    def __init__(self, run: Run, folder: Path) -> None:
        cohort = run.cohort()
        self._cases = {case.case_id: case for case in cohort.cases}
        self._one_class = cohort.task == "multiclass"
        self._settings = run.study.preprocess
        self._folder = folder
        self._files = CaseFiles(self._settings.mask_grid)

    def of(self, entry: MapEntry) -> Iterator[Marked]:
        """Every true class of a view that was explained and is marked in it."""
        stored, organ = self.stored(entry)
        true = [name for name in entry.truth_class.split(";") if name]
        place = {target: index for index, target in enumerate(stored.targets)}
        said = place.get(entry.predicted_class) if self._one_class else None
        for target, own in place.items():
            if target in true and (truth := _truth(stored, target, alone=len(true) == 1)) is not None:
                drawn = {"heatmap": own} | ({} if said is None else {"predicted": said})
                yield Marked(
                    entry,
                    target,
                    stored.values[own],
                    truth,
                    organ,
                    None if said is None else stored.values[said],
                    stored.picture,
                    stored.grid,
                    stored.field,
                    None if stored.cells is None else {name: stored.cells[at] for name, at in drawn.items()},
                    _seen_in_volume(stored, truth, organ),
                )

    def stored(self, entry: MapEntry) -> tuple[CaseMaps, Mask | None]:
        """The stored maps of a view, and its organ mask if the study crops to the organ."""
        stored, case = read_case(self._folder / entry.file), self._cases[entry.case_id]
        crops = self._settings.for_view(entry.view).organ_crop
        return stored, self._files.mask(case, entry.view, organ=True) if crops else None


def _truth(stored: CaseMaps, target: str, *, alone: bool) -> Region | None:
    """What is marked for a class: a mask does not say of which of several findings it is."""
    if stored.truth is not None and alone:
        return Region.from_mask(stored.truth, target)
    own = [box for box in stored.boxes if box.label in (target, "")]
    return Region.from_boxes(own, stored.values.shape[1:]) if own else None


def _seen_in_volume(stored: CaseMaps, truth: Region, organ: Mask | None) -> VolumeTruth | None:
    """The truth of a volume on the grid of its maps; None for planes, and maps of versions without cells."""
    older = stored.cells is None and max(stored.grid, default=0) <= COARSE
    if truth.mask.ndim == 2 or stored.field is None or older:
        return None
    thickness = stored.spacing[0] if stored.spacing else float("nan")
    return VolumeTruth.of(truth.mask, stored.grid, stored.field, organ=organ, thickness=thickness)


class CaseFiles:
    """Reads images and masks, remembering the last ones: the slices of a volume come one after the other.

    Args:
        grid: how masks meet images, ``preprocess.mask_grid`` of the study.
    """

    def __init__(self, grid: MaskGrid = "same") -> None:
        self.image = lru_cache(VOLUMES)(read_image)
        self._mask = lru_cache(VOLUMES)(read_mask)
        self._geometry = lru_cache(_HEADERS)(_geometry_of)
        self._grid = grid

    def marked(self, case: Case) -> Iterator[tuple[str, Mask]]:
        """What is marked in a case by class, empty where a mask does not say of which finding it is.

        Masks are those of the case's slice, if it is one, over the first view that they lie on; boxes lie in
        the pixels of its first view.
        """
        if case.mask is not None:
            over = (self.mask(case, view) for view in case.views)
            if (own := next((mask for mask in over if mask is not None), None)) is not None:
                yield case.label or "", own
            return
        shape = self._shape(case, next(iter(case.views)))
        for label in dict.fromkeys(box.label for box in case.boxes):
            boxes = [box for box in case.boxes if box.label == label]
            yield label or case.label or "", Region.from_boxes(boxes, shape).mask

    def mask(self, case: Case, view: str, *, organ: bool = False) -> Mask | None:
        """A mask in the pixels of one view of a case.

        Args:
            case: says which slice, if the case is one of a volume.
            view: over which it is laid.
            organ: the organ mask in place of that of the truth.

        Returns:
            The mask, or None if there is none, nothing is marked, or it does not lie on this view. In a case
            of one view that is warned of: the audit stops for it, and somebody has accepted that.

        Raises:
            InputRefused: the mask cannot be read.
        """
        path = case.organ_mask if organ else case.mask
        if path is None:
            return None
        stored = self._mask(path, case.organ_mask_segment if organ else case.mask_segment)
        try:
            laid = stored.over(self._geometry(case.views[view]), case.slice_index, grid=self._grid).inside
        except InputRefused as error:
            if error.code not in MISPLACED:
                raise
            if len(case.views) == 1:
                warnings.warn(f"case {case.case_id} counts as not marked: {error.what}", stacklevel=2)
            return None
        return laid if laid.any() else None

    def boxes(self, case: Case, view: str) -> tuple[Box, ...]:
        """Boxes of a case over one of its views: they lie in the first one, and in those on the same grid."""
        first, own = (self._geometry(case.views[name]) for name in (next(iter(case.views)), view))
        return case.boxes if same_grid(first, own) else ()

    def _shape(self, case: Case, view: str) -> tuple[int, ...]:
        """Spatial shape of a view of a case: the volume, or the slice that the case is."""
        shape = self._geometry(case.views[view]).shape
        return shape[1:] if len(shape) == 3 and case.slice_index is not None else shape


def _geometry_of(path: Path) -> Geometry:
    return probe(path).geometry
