"""What a map of a volume is asked beside the scores of a picture: its cell, place in the plane, and depth.

A network sees few slices: the last map of a ResNet over 16 slices has two, and multiple-instance pooling over
tiles has one. Its maximum can lie in no other depth than the middle of such a slice, wherever the lesion is,
so that the pointing game in three dimensions is decided by the grid. Hence three questions more:

* Cell: does the cell in which the map is highest hold the truth? A cell is a hit if it holds at least half as
  much of the truth as the cell that holds most. For a truth larger than cells, this is the rule of Shi et al.
  (2020, AAAI: at least half of the patch with the largest attention lies inside the truth); for one smaller
  than a cell, which could never fill half of it, it is the cell that the truth lies in, or each of those that
  share it about evenly. So some cell is always a hit where the map reaches the truth at all. What a random
  cell scores is the share of cells that are hits.
* Plane: does the maximum lie inside the truth as seen along the depth (its projection)?
* Depth: how many slices, or millimetres, from the maximum to the nearest slice of the truth, 0 where it is in
  one. A map of one slice points at no depth; there the distance is undefined, for its controls as well.

Of several equal maxima each counts its share. A map without evidence is a miss: no hit, and the largest
distance that there is in the volume.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from foveate.evaluate.localization.grids import Floats, coverage, peaks_inside
from foveate.evaluate.localization.peaks import Ints, Peaks
from foveate.maps.regions import Mask
from foveate.types import Box

NAN = float("nan")


@dataclass(frozen=True, slots=True)
class VolumeTruth:
    """What is marked in a volume, as the cells of a grid, the plane and the depth see it.

    Attributes:
        field: where the grid lies, in voxels.
        hits: of the grid's shape, cells that count as a hit.
        cell_chance: share of the cells over the image, or the organ, that are hits.
        plane: ``(H, W)``, the truth seen along the depth.
        plane_chance: share of the image, or of the organ, from which one looks through the truth.
        distances: ``(D,)`` slices from each slice to the nearest one of the truth.
        thickness: millimetres from slice to slice; NaN where unknown.
    """

    field: Box
    hits: Mask
    cell_chance: float
    plane: Mask
    plane_chance: float
    distances: Floats
    thickness: float = NAN

    @classmethod
    def of(
        cls,
        truth: Mask,
        grid: Sequence[int],
        field: Box,
        *,
        organ: Mask | None = None,
        thickness: float = NAN,
    ) -> Self:
        """Look at what is marked.

        Args:
            truth: ``(D, H, W)``, not empty.
            grid: cells along each axis of the explainer's raw map.
            field: where they lie, in voxels.
            organ: evidence outside it does not count.
            thickness: millimetres from slice to slice.
        """
        within = np.ones(truth.shape, dtype=bool) if organ is None else organ
        shares = coverage(truth & within, grid, field)
        hits = (shares >= shares.max() * (0.5 - 1e-9)) & (shares > 0)
        counted = coverage(within, grid, field) > 0
        plane = np.asarray(truth.any(axis=0))
        slices = np.flatnonzero(truth.any(axis=(1, 2)))
        distances = np.abs(np.arange(len(truth))[:, None] - slices).min(axis=1)
        return cls(
            field=field,
            hits=hits,
            cell_chance=float(hits.sum() / max(counted.sum(), 1)),
            plane=plane,
            plane_chance=float(within[:, plane].sum() / max(within.sum(), 1)),
            distances=distances.astype(np.float64),
            thickness=thickness,
        )

    def score(self, peaks: Peaks) -> dict[str, float]:
        """The measures of one map, by their names in ``CaseScore``."""
        if not len(peaks.pixels):
            return self._measures(0.0, 0.0, float(self.distances.max()))
        cells = self._cells(peaks.pixels) if peaks.cells is None else peaks.cells
        return self._measures(
            replace(peaks, pixels=cells).mean(self.hits),
            peaks.mean(self.plane, slice(1, None)),
            peaks.mean(self.distances, slice(1)),
        )

    def ceiling(self) -> dict[str, float]:
        """The best that a map of the grid can score in each measure: the centre of every cell is tried."""
        depth, plane = (Box(self.field.start[at], self.field.stop[at]) for at in (slice(1), slice(1, None)))
        slices, inside = self.hits.shape[:1], peaks_inside(self.plane, self.hits.shape[1:], plane)
        far = peaks_inside(self.distances, slices, depth)
        over = peaks_inside(np.ones(len(self.distances)), slices, depth) > 0
        return self._measures(
            float(self.hits.any()), float(inside.max()), float(far[over].min(initial=self.distances.max()))
        )

    def _cells(self, voxels: Ints) -> Ints:
        """The cells in which voxels have their centres."""
        start, stop = np.array(self.field.start), np.array(self.field.stop)
        cells = np.floor((voxels + 0.5 - start) * self.hits.shape / (stop - start)).astype(np.intp)
        held: Ints = np.clip(cells, 0, np.array(self.hits.shape) - 1)
        return held

    def _measures(self, cell: float, plane: float, slices: float) -> dict[str, float]:
        """By their names in ``CaseScore``."""
        distance = NAN if len(self.hits) == 1 else slices
        return {
            "cell_hit": cell,
            "cell_chance": self.cell_chance,
            "plane_pointing": plane,
            "plane_chance": self.plane_chance,
            "depth_error": distance,
            "depth_error_mm": distance * self.thickness,
        }


def in_plane(box: Box) -> Box:
    """A box of a volume without its slices."""
    return Box(box.start[1:], box.stop[1:], box.label, box.score)
