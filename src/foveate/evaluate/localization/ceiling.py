"""What the grid of a map allows: the best scores that a map of that grid could reach for a truth.

A map of 7 × 7 cells cannot outline a nodule, whatever it shows, and a score of 0.2 may be all that there is
to be had. The ceiling is found by trying four maps that know the truth, brought to original pixels as heat
maps are and cut by the same rule at every candidate threshold, and taking the best score of each measure:

* the share of each cell that the truth covers,
* the cells of at least half the highest share, all alike,
* the one cell with the largest share of its energy inside the truth,
* the one cell whose peak lies inside the truth.

The third reaches the highest energy inside that any map without negative cells can have, because the energy
inside of a sum of cells lies between those of its parts. For the other measures a map cleverly made, or one
with negative cells that sharpen its neighbours, might do a little better: it is the best of the maps tried.
Cell, place in the plane and depth of volumes are tried for every cell (``VolumeTruth.ceiling``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from foveate.evaluate.localization.cases import CaseScore
from foveate.evaluate.localization.grids import Floats, coverage, peaks_inside, seen_inside
from foveate.evaluate.localization.peaks import Cells
from foveate.maps.regions import Mask
from foveate.types import Box

_HIGHER = (
    "pointing_game",
    "iou",
    "iobb",
    "mask_iou",
    "energy_inside",
    "best_iou",
    "best_iobb",
    "dice",
    "pixel_ap",
    "centre_inside",
    "half_inside",
    "plane_iou",
)


def ceiling_cells(truth: Mask, grid: Sequence[int], field: Box, organ: Mask | None = None) -> list[Cells]:
    """Maps of a grid that know the truth, on that grid.

    Args:
        truth: ``(H, W)`` or ``(D, H, W)``, what is marked.
        grid: cells along each axis of the explainer's raw map.
        field: where the model looked, in pixels of the image.
        organ: evidence outside it will not count.

    Returns:
        Four maps, all zero where the truth lies outside the field; ``grids.spread`` brings them to pixels.
    """
    within = np.ones(truth.shape, dtype=bool) if organ is None else organ
    shares = coverage(truth & within, grid, field)
    half = (shares >= shares.max() / 2) & (shares > 0)
    single = [
        _highest(seen_inside(truth, grid, field, within)),
        _highest(peaks_inside(truth & within, grid, field)),
    ]
    return [Cells(values, field) for values in (shares, half.astype(np.float64), *single)]


def _highest(shares: Floats) -> Floats:
    """1 in the cell with the highest share, 0 elsewhere; nothing where no cell has any."""
    chosen = np.zeros_like(shares)
    chosen[np.unravel_index(shares.argmax(), shares.shape)] = float(shares.any())
    return chosen


def best_of(
    scores: Sequence[CaseScore], like: CaseScore, exact: Mapping[str, float] | None = None
) -> CaseScore:
    """The best of each measure, as a row of the method ``ceiling``.

    Args:
        scores: of several maps or thresholds, of one case and class.
        like: row of the case and class that gives everything else.
        exact: measures whose ceiling is known otherwise.
    """
    best: dict[str, Any] = {name: max(getattr(score, name) for score in scores) for name in _HIGHER}
    for name in ("false_iou", "false_iobb"):
        best[name] = tuple(np.min([getattr(score, name) for score in scores], axis=0).tolist())
    best["largest_ious"] = (best["iou"],) * len(like.largest_ious)
    best["any_ious"] = (best["best_iou"],) * len(like.any_ious)
    best |= exact or {}
    return replace(like, method="ceiling", empty=all(score.empty for score in scores), **best)
