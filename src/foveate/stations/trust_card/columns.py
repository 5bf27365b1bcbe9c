"""Figures of single cases, gathered method by method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from foveate.evaluate.intervals import Floats


@dataclass(frozen=True)
class CaseFigures:
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
