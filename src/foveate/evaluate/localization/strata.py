"""Small and large lesions apart: most localization scores are easier to reach for a large one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from foveate.evaluate.localization.cases import CaseScore
from foveate.evaluate.results.localization import MarkedCases, SizeGroups

BANDS = {"small": (0.0, 0.01), "medium": (0.01, 0.1), "large": (0.1, 1.0)}
MIN_CASES = 5


def by_size(rows: Sequence[CaseScore], summary: Callable[[Sequence[CaseScore]], MarkedCases]) -> SizeGroups:
    """Summaries by the share of the image that the truth covers.

    The bands are fixed (under 1 %, under 10 %, more) if at least two of them hold 5 pairs of case and class;
    where nearly all truths are of one band, as in volumes, they are tertiles of the scored cases instead.

    Args:
        rows: with their ``area``.
        summary: of a list of rows.

    Returns:
        The groups; none where the areas are unknown.
    """
    areas = {(row.case_id, row.label): row.area for row in rows}
    known = np.array(sorted(area for area in areas.values() if not np.isnan(area)))
    if len(known) == 0 or len(known) < len(areas):
        return SizeGroups()
    held = {name: int(((known >= low) & (known < high)).sum()) for name, (low, high) in BANDS.items()}
    fixed = sum(count >= MIN_CASES for count in held.values()) > 1
    bounds = BANDS if fixed else _tertiles(known)
    strata = {
        name: [row for row in rows if low <= row.area < high or (row.area == high == 1.0)]
        for name, (low, high) in bounds.items()
    }
    return SizeGroups(
        rule="bands of the image's area" if fixed else "tertiles of the marked cases",
        bounds={name: edges for name, edges in bounds.items() if strata[name]},
        strata={name: summary(own) for name, own in strata.items() if own},
    )


def _tertiles(areas: np.ndarray[Any, np.dtype[np.float64]]) -> dict[str, tuple[float, float]]:
    low, high = (float(edge) for edge in np.quantile(areas, [1 / 3, 2 / 3]))
    return {"small": (0.0, low), "medium": (low, high), "large": (high, 1.0)}
