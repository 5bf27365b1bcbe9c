"""Exact intervals of rates (sensitivity, accuracy, a pointing game), also where patients have several cases.

With one case a patient the interval is that of Clopper and Pearson 1934, Biometrika 26:404, which covers at
least as often as it says for any rate and any number of cases: 7 of 7 is [0.59, 1]. The cases of one patient
resemble each other, so that they count for less than as many patients: Clopper-Pearson is then taken at the
effective number of cases ``p (1 - p) / variance`` with the variance of a ratio over patients, reduced for the
few patients that estimate it (Korn and Graubard 1998, Surv. Methodol. 24:193, section 3).

# NOTE[DIFF] Korn and Graubard leave open what to do with a variance of 0 (a rate of 0 or 1), and few patients
estimate any variance badly. The effective number is therefore kept between that of cases that patients
answer all alike, ``(sum w)^2 / sum w^2`` for w cases of a patient (Kish 1965, Survey Sampling, section 8.2),
and the number of cases. At a rate of 0 or 1 patients count, not cases.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array
from scipy.special import betaincinv, ndtri, stdtrit

from foveate.evaluate.intervals import Floats, Interval, ratio


@dataclass(frozen=True, slots=True)
class Rates:
    """M rates of the same cases.

    Attributes:
        hits: ``(P, M)`` what each patient's cases add to the numerators.
        asked: ``(P, M)`` the same of the denominators.
    """

    hits: Floats
    asked: Floats

    @classmethod
    def of(cls, hits: ArrayLike, asked: ArrayLike, patient_ids: Sequence[str] | NDArray[Any]) -> Self:
        """Sum up by patient.

        Args:
            hits: ``(N, M)`` 1 where a case counts for a rate, 0 elsewhere; nothing counts that is not asked.
            asked: ``(N, M)`` 1 where a case is asked for a rate, 0 elsewhere.
            patient_ids: of the N cases.
        """
        rows = by_patient(patient_ids)
        return cls(rows @ np.asarray(hits, dtype=np.float64), rows @ np.asarray(asked, dtype=np.float64))

    @property
    def patients(self) -> NDArray[np.intp]:
        """Number of patients that each rate is asked of, ``(M,)``."""
        return np.asarray((self.asked > 0).sum(axis=0))

    def effective_cases(self, level: float = 0.95) -> Floats:
        """How many independent cases each rate is worth, ``(M,)``; 0 where nothing is asked."""
        cases, patients = self.asked.sum(axis=0), self.patients
        rate = ratio(self.hits.sum(axis=0), cases)
        alike = ratio(cases**2, (self.asked**2).sum(axis=0))
        others = np.maximum(patients - 1, 1)
        spread = ((self.hits - rate * self.asked) ** 2).sum(axis=0) * patients / others
        few = (_quantile(np.maximum(cases - 1, 1), level) / _quantile(others, level)) ** 2
        found = ratio(rate * (1 - rate) * cases**2 * few, np.where(patients > 1, spread, 0))
        single = cases <= patients * (1 + _ROUNDING)
        several = np.where(np.isnan(found), alike, np.maximum(alike, np.minimum(found, cases)))
        return np.where(single, cases, several)

    def intervals(self, level: float = 0.95) -> Floats:
        """Lowest and highest plausible value of each rate, ``(M, 2)``; NaN where nothing is asked."""
        rate, size = ratio(self.hits.sum(axis=0), self.asked.sum(axis=0)), self.effective_cases(level)
        return np.stack(clopper_pearson(rate * size, size, level), axis=-1)


def clopper_pearson(hits: ArrayLike, cases: ArrayLike, level: float = 0.95) -> tuple[Floats, Floats]:
    """Exact interval of a rate (Clopper and Pearson 1934), also for numbers that are not whole.

    Args:
        hits, cases: ``(M,)``, ``0 <= hits <= cases``; NaN is handed on.
        level: coverage that it has at least.

    Returns:
        Both bounds, ``(M,)``.
    """
    hits, cases = np.asarray(hits, dtype=np.float64), np.asarray(cases, dtype=np.float64)
    tail, misses = (1 - level) / 2, cases - hits
    none, all_ = hits <= 0, misses <= _ROUNDING * cases
    low = betaincinv(np.where(none, 1.0, hits), misses + 1, tail)
    high = betaincinv(hits + 1, np.where(all_, 1.0, misses), 1 - tail)
    return np.where(none, 0.0, low), np.where(all_, 1.0, high)


def pair(bounds: Floats) -> Interval | None:
    """Both bounds ``(2,)`` of an interval; None where there is none."""
    return None if np.isnan(bounds).any() else (float(bounds[0]), float(bounds[1]))


def wilson(rate: float, cases: float, level: float = 0.95) -> tuple[float, float]:
    """Score interval of a rate (Wilson 1927, J. Am. Stat. Assoc. 22:209).

    Args:
        rate: observed, in [0, 1].
        cases: number that it rests on, above 0.
        level: coverage aimed at.
    """
    square = float(ndtri((1 + level) / 2)) ** 2
    middle = (rate + square / (2 * cases)) / (1 + square / cases)
    reach = np.sqrt(square * (rate * (1 - rate) / cases + square / (4 * cases**2))) / (1 + square / cases)
    return max(0.0, float(middle - reach)), min(1.0, float(middle + reach))


def by_patient(patient_ids: Sequence[str] | NDArray[Any]) -> csr_array:
    """``(P, N)`` 1 where a case is a patient's: what sums up cases by patient."""
    _, index = np.unique(np.asarray(patient_ids, dtype=object), return_inverse=True)
    shape = (int(index.max(initial=-1)) + 1, len(index))
    return csr_array((np.ones(len(index)), (index, np.arange(len(index)))), shape=shape)


def effective_number(counts: ArrayLike) -> float:
    """Cases that count if those of a patient are all alike: ``(sum w)^2 / sum w^2`` (Kish 1965).

    Args:
        counts: ``(P,)`` cases of each patient, not all 0.
    """
    counts = np.asarray(counts, dtype=np.float64)
    return float(counts.sum() ** 2 / (counts**2).sum())


def _quantile(freedom: Floats | NDArray[np.intp], level: float) -> Floats:
    return np.asarray(stdtrit(freedom, (1 + level) / 2))


_ROUNDING = 1e-12  # of a number of cases: fewer misses than this share of them are none
