"""Figures of single cases, gathered method by method, and their means with intervals over patients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from foveate.evaluate.intervals import Bootstrap, Floats, Value, ratio


@dataclass(frozen=True)
class Columns:
    """One number per case, method and question; NaN where it was not asked or has no answer.

    Attributes:
        cases: highest number of cases.
        numbers: by method and name ``(cases,)``.
        curves: by method and name ``(cases, points)``.
    """

    cases: int
    numbers: dict[str, dict[str, Floats]] = field(default_factory=dict)
    curves: dict[str, dict[str, Floats]] = field(default_factory=dict)

    def put(self, method: str, name: str, rows: Sequence[int] | NDArray[np.intp], values: Floats) -> None:
        """Enter what was found for some cases.

        Args:
            method: of the heat maps.
            name: of the question.
            rows: positions of n cases.
            values: ``(n,)``, or ``(n, points)`` of a curve.
        """
        place = self.numbers if values.ndim == 1 else self.curves
        found = place.setdefault(method, {})
        if name not in found:
            found[name] = np.full((self.cases, *values.shape[1:]), np.nan)
        found[name][rows] = values

    def of(self, method: str, name: str) -> Floats:
        """The numbers ``(cases,)`` of one question."""
        found = self.numbers.get(method, {}).get(name)
        return np.full(self.cases, np.nan) if found is None else found

    def mean_curve(self, method: str, name: str) -> list[float | None]:
        """Mean of a curve over the cases that have it."""
        curve = self.curves[method][name]
        known = curve[~np.isnan(curve).any(axis=1)]
        return [float(value) for value in known.mean(axis=0)] if len(known) else [None] * curve.shape[1]


def means(columns: Mapping[str, Floats], patients: Sequence[str], bootstrap: Bootstrap) -> dict[str, Value]:
    """Mean of each column over the cases for which it is defined, with an interval over patients.

    Args:
        columns: by name ``(N,)``, NaN where undefined.
        patients: of the N cases.
        bootstrap: of the intervals; all columns share its replicates.
    """
    if not columns:
        return {}
    table = np.stack(list(columns.values()), axis=1)
    known = (~np.isnan(table)).astype(np.float64)
    filled = np.where(known, table, 0.0)

    def statistic(weights: Floats) -> dict[str, Floats]:
        return {"means": ratio(weights @ filled, weights @ known)}

    point = statistic(np.ones((1, len(patients))))["means"][0]
    replicates = bootstrap.replicates(statistic, patients).get("means")
    who = np.asarray(patients, dtype=object)
    return {
        name: bootstrap.value(
            float(point[column]),
            None if replicates is None else replicates[:, column],
            n=int(known[:, column].sum()),
            patients=len(set(who[known[:, column] > 0])),
            reason="" if known[:, column].any() else "no case has a figure",
        )
        for column, name in enumerate(columns)
    }
