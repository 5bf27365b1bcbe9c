"""Means of figures of single cases, with intervals over patients.

A column of zeros and ones is a rate and has its exact interval (``rates``); other means have that of the
replicates. Where every case has the same figure c the replicates do not differ. If it lies between known
bounds a and b, at most a share u of other cases differs from it, with u the exact upper bound of a rate of 0,
so that the mean lies in ``[c - u (c - a), c + u (b - c)]`` (for a rate of 0 this is the exact interval; its
upper end of about 3 in n is the "rule of three", Hanley and Lippman-Hand 1983, JAMA 249:1743).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from foveate.evaluate.intervals import ROUNDING, Bootstrap, Floats, Interval, Value, ratio
from foveate.evaluate.rates import Rates, pair
from foveate.types import Track, quiet

SHARE: Interval = (0.0, 1.0)
DIFFERENCE: Interval = (-1.0, 1.0)


def means(
    columns: Mapping[str, Floats],
    patient_ids: Sequence[str],
    bootstrap: Bootstrap,
    *,
    bounds: Mapping[str, Interval] | None = None,
    reasons: Mapping[str, str] | None = None,
    track: Track = quiet,
) -> dict[str, Value]:
    """Mean of each column over the cases for which it is defined.

    Args:
        columns: by name ``(N,)``, NaN where undefined.
        patient_ids: of the N cases.
        bootstrap: of the intervals; all columns share its replicates.
        bounds: by name, between which every figure of a column lies, or counts as lying, where that is known.
        reasons: by name, what limits the mean.
        track: shows progress.
    """
    if not columns:
        return {}
    table = np.stack(list(columns.values()), axis=1)
    known = (~np.isnan(table)).astype(np.float64)
    filled = np.where(known > 0, table, 0.0)

    def statistic(weights: Floats) -> dict[str, Floats]:
        return {"means": ratio(weights @ filled, weights @ known)}

    point = statistic(np.ones((1, len(patient_ids))))["means"][0]
    replicates = bootstrap.replicates(statistic, patient_ids, track).get("means")
    asked = Rates.of(np.zeros_like(known), known, patient_ids)
    rates = Rates.of(np.where((filled == 0) | (filled == 1), filled, 0.0), known, patient_ids)
    exact, apart = rates.intervals(bootstrap.level), asked.intervals(bootstrap.level)[:, 1]
    found = {}
    for m, name in enumerate(columns):
        within = (bounds or {}).get(name)
        binary = within == SHARE and bool(np.isin(filled[:, m], (0.0, 1.0)).all())
        found[name] = bootstrap.value(
            float(point[m]),
            None if replicates is None else replicates[:, m],
            n=int(known[:, m].sum()),
            patients=int(asked.patients[m]),
            reason=(reasons or {}).get(name, "" if known[:, m].any() else "no case has a figure"),
            exact=pair(exact[m]) if binary else None,
            edge=_edge(table[:, m], within, float(apart[m])),
        )
    return found


def _edge(column: Floats, bounds: Interval | None, apart: float) -> Interval | None:
    """The interval of the mean of figures that are all the same."""
    defined = column[~np.isnan(column)]
    if bounds is None or not len(defined) or np.ptp(defined) > ROUNDING:
        return None
    value = float(defined[0])
    if not bounds[0] <= value <= bounds[1]:
        return None
    return value - apart * (value - bounds[0]), value + apart * (bounds[1] - value)
