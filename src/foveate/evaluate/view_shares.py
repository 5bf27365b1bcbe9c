"""How much each view counts: means of the shares of single cases (``shares.csv``)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from foveate.evaluate.intervals import Bootstrap, ratio
from foveate.evaluate.means import SHARE, means
from foveate.evaluate.results.bootstrap import IntervalFacts
from foveate.evaluate.results.views import PartShares, ShareMeans, ViewShares
from foveate.maps.heatmaps import Share


def mean_shares(rows: Sequence[Share], bootstrap: Bootstrap) -> ViewShares:
    """Average the shares of every part, class and view over the cases that have the view.

    Args:
        rows: one per case, class and view.
        bootstrap: of the intervals, over patients.
    """
    return ViewShares(
        bootstrap=IntervalFacts.of(bootstrap),
        parts={
            part: _part([row for row in rows if row.split == part], bootstrap)
            for part in dict.fromkeys(row.split for row in rows)
        },
    )


def _part(rows: Sequence[Share], bootstrap: Bootstrap) -> PartShares:
    return PartShares(
        cases=len({row.case_id for row in rows}),
        withheld=tuple(sorted({row.withheld for row in rows})),
        sampled=any(row.sampled for row in rows),
        classes={
            name: _by_view([row for row in rows if row.target == name], bootstrap)
            for name in dict.fromkeys(row.target for row in rows)
        },
    )


def _by_view(rows: Sequence[Share], bootstrap: Bootstrap) -> dict[str, ShareMeans]:
    """The means of one class."""
    totals: dict[str, float] = {}
    for row in rows:
        totals[row.case_id] = totals.get(row.case_id, 0.0) + abs(row.value)
    found = {}
    for view in dict.fromkeys(row.view for row in rows):
        own = [row for row in rows if row.view == view]
        value = np.array([row.value for row in own])
        columns = {
            "attribution": ratio(np.abs(value), np.array([totals[row.case_id] for row in own])),
            "evidence": np.array([row.share for row in own]),
            "value": value,
        }
        bounds = {"attribution": SHARE, "evidence": SHARE}
        patients = [row.patient_id for row in own]
        found[view] = ShareMeans(**means(columns, patients, bootstrap, bounds=bounds))
    return found
