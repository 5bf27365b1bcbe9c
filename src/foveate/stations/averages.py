"""Where lesions of the training cases lie on average: what can be known before looking at a picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foveate.evaluate.localization.grids import coverage, whole
from foveate.stations.batches import cases_of
from foveate.stations.run import Run
from foveate.stations.truths import CaseFiles
from foveate.types import Track

Floats = NDArray[np.float64]
MIN_OWN = 5  # marked training cases that a class needs for an average of its own
_PLANE, _SLICES = 64, 16  # cells of the grid on which masks of different sizes are averaged


@dataclass(frozen=True, slots=True)
class Averages:
    """Mean masks of training cases.

    Attributes:
        by_class: mean mask of each class with enough marked cases, on a grid over the whole image.
        overall: mean mask of all, or None where no training case is marked.
        n: how many were averaged.
    """

    by_class: Mapping[str, Floats]
    overall: Floats | None
    n: int

    def of(self, label: str, axes: int) -> Floats | None:
        """The average for a class, of all classes where its own has too few; None for other dimensions."""
        found = self.by_class.get(label, self.overall)
        return found if found is not None and found.ndim == axes else None


def training_averages(run: Run, track: Track) -> Averages:
    """Average the true masks or boxes of the training cases, each on a grid over its whole image.

    A mask of a case with several findings does not say of which it is, and counts for all classes only.

    Args:
        run: whose manifest names masks and boxes.
        track: shows progress.
    """
    files = CaseFiles(run.study.preprocess.mask_grid)
    cases = [case for case in cases_of(run, run.cohort(), ("train",)) if case.mask or case.boxes]
    drawn: dict[str, list[Floats]] = {}
    for case in track(cases, "Averaging training masks"):
        for label, mask in files.marked(case):
            cells = coverage(mask, _grid(mask.ndim), whole(mask.shape))
            drawn.setdefault(label, []).append(cells)
    every = [cells for own in drawn.values() for cells in own]
    if len({cells.ndim for cells in every}) != 1:
        return Averages({}, None, 0)
    means = {label: _mean(own) for label, own in drawn.items() if label and len(own) >= MIN_OWN}
    return Averages(means, _mean(every), len(every))


def _mean(cells: list[Floats]) -> Floats:
    return np.asarray(np.mean(cells, axis=0))


def _grid(axes: int) -> tuple[int, ...]:
    return (_PLANE, _PLANE) if axes == 2 else (_SLICES, _PLANE, _PLANE)
