"""Areas under the ROC curve with their covariance in closed form, and the test of two of them.

An area is the mean, over all pairs of a positive and a negative case, of who scores higher (ties count half).
What one case adds to it is its *placement*: the share of the cases of the other kind that it is on the right
side of. The variance of the placements gives that of the area (DeLong, DeLong and Clarke-Pearson 1988,
Biometrics 44:837), and midranks give the placements without visiting the pairs (Sun and Xu 2014, IEEE Signal
Process. Lett. 21:1389).

That takes cases to be independent. Where a patient has several, the placements are first summed by patient
(Obuchowski 1997, Biometrics 53:567), which is DeLong's own form where every patient has one
case.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit
from scipy.stats import norm, rankdata

from foveate.evaluate.intervals import Floats, Value
from foveate.evaluate.table import PredictionTable

_ROUNDING = 1e-12  # of a variance: what is smaller than this share of it is 0


class AurocDifference(NamedTuple):
    """AUROC of one model less that of another on the same cases; NaN where undefined.

    Attributes:
        difference: of the two areas.
        low, high: its interval, on the scale of the difference.
        p: two-sided, of "they do not differ".
    """

    difference: float
    low: float
    high: float
    p: float


def delong(scores: Floats, truth: Floats, patient_ids: Sequence[str] | None = None) -> tuple[Floats, Floats]:
    """AUROC of M scores of the same cases, and the covariance of these areas.

    Args:
        scores: ``(M, N)``, higher for more likely.
        truth: ``(N,)`` 1, 0, or NaN where unknown; such cases are left out.
        patient_ids: N names; None takes every case to be independent of the others.

    Returns:
        The areas, ``(M,)``, NaN unless both kinds of case occur, and their covariance, ``(M, M)``, NaN unless
        each kind occurs in two patients.
    """
    known = np.flatnonzero(~np.isnan(truth))
    present = truth[known] == 1
    places = np.stack([_placements(row[known], present) for row in np.atleast_2d(scores)])
    if present.all() or not present.any():
        return np.full(len(places), np.nan), np.full((len(places),) * 2, np.nan)
    areas: Floats = places[:, present].mean(axis=1)
    _, patient = np.unique(
        known if patient_ids is None else np.asarray(patient_ids, dtype=object)[known], return_inverse=True
    )
    return areas, _covariance(places - areas[:, None], present, patient)


def delong_interval(auroc: float, variance: float, level: float = 0.95) -> tuple[float, float]:
    """Interval of one AUROC, symmetric on the logit scale, so that it stays within 0 and 1.

    Args:
        auroc: the area.
        variance: of it, from ``delong``.
        level: coverage aimed at.

    Returns:
        Its bounds (Pepe 2003, The Statistical Evaluation of Medical Tests). NaN where the area is 0, 1 or
        undefined, or its variance is undefined or 0: nothing can be said about how sure it is.
    """
    if not (0 < auroc < 1 and variance > 0):
        return math.nan, math.nan
    reach = norm.ppf((1 + level) / 2) * math.sqrt(variance) / (auroc * (1 - auroc))
    return float(expit(logit(auroc) - reach)), float(expit(logit(auroc) + reach))


def delong_intervals(table: PredictionTable, level: float = 0.95) -> dict[str, Any]:
    """The block ``delong`` of ``metrics.json``: AUROC of each class against the rest.

    Args:
        table: cases with known truth.
        level: of the intervals.

    Returns:
        ``assumes``, in words, what was taken to be independent, and ``per_class`` values.
    """
    single = len(set(table.patient_ids)) == len(table.patient_ids)
    assumes = (
        "independent cases" if single else "independent patients (Obuchowski 1997), any number of cases each"
    )
    found = {}
    for k, name in enumerate(table.classes):
        truth = table.truth[:, k]
        known = np.flatnonzero(~np.isnan(truth))
        areas, covariance = delong(table.probabilities[:, k], truth, table.patient_ids)
        patients = len({table.patient_ids[case] for case in known})
        found[name] = _value(
            areas[0], delong_interval(areas[0], covariance[0, 0], level), len(known), patients
        )
    return {"assumes": assumes, "level": level, "per_class": found}


def delong_test(
    first: Floats,
    second: Floats,
    truth: Floats,
    patient_ids: Sequence[str] | None = None,
    *,
    level: float = 0.95,
) -> AurocDifference:
    """Compare the AUROC of two models on the same cases.

    Args:
        first, second: ``(N,)`` scores of the two.
        truth: ``(N,)`` 1, 0, or NaN where unknown.
        patient_ids: N names; None takes every case to be independent of the others.
        level: of the interval.

    Returns:
        The difference first - second. Where its variance is 0, it has p = 1 if it is 0 itself (both rank all
        pairs alike), and neither p nor interval otherwise.
    """
    areas, covariance = delong(np.stack([first, second]), truth, patient_ids)
    difference = float(areas[0] - areas[1])
    both = float(np.trace(covariance))
    variance = both - 2 * float(covariance[0, 1])
    none = variance <= _ROUNDING * both
    if none and abs(difference) < _ROUNDING:
        return AurocDifference(0.0, 0.0, 0.0, 1.0)
    if none or np.isnan(variance):
        return AurocDifference(difference, math.nan, math.nan, math.nan)
    error = math.sqrt(variance)
    reach = float(norm.ppf((1 + level) / 2)) * error
    p = float(2 * norm.sf(abs(difference) / error))
    return AurocDifference(difference, difference - reach, difference + reach, p)


def _placements(scores: Floats, present: NDArray[np.bool_]) -> Floats:
    """Share of the other kind that each case is on the right side of, ``(N,)``; ties count half."""
    among_all, found = rankdata(scores), np.empty(len(scores))
    positives, negatives = int(present.sum()), int((~present).sum())
    found[present] = (among_all[present] - rankdata(scores[present])) / max(negatives, 1)
    found[~present] = 1 - (among_all[~present] - rankdata(scores[~present])) / max(positives, 1)
    return found


def _covariance(deviations: Floats, present: NDArray[np.bool_], patient: NDArray[np.intp]) -> Floats:
    """Of the areas, ``(M, M)``, from ``(M, N)`` placements less their area (Obuchowski 1997)."""
    patients = int(patient.max()) + 1

    def by_patient(kind: NDArray[np.bool_]) -> tuple[Floats, int]:
        """Sums over each patient's cases of a kind, over the cases; and how many patients have any."""
        sums = [np.bincount(patient[kind], weights=row[kind], minlength=patients) for row in deviations]
        return np.stack(sums) / kind.sum(), len(np.unique(patient[kind]))

    (above, with_positive), (below, with_negative) = by_patient(present), by_patient(~present)
    if min(with_positive, with_negative) < 2:
        return np.full((len(deviations),) * 2, np.nan)
    crossed = above @ below.T * patients / (patients - 1)
    own = above @ above.T * with_positive / (with_positive - 1)
    other = below @ below.T * with_negative / (with_negative - 1)
    return np.asarray(own + other + crossed + crossed.T)


def _value(auroc: float, interval: tuple[float, float], n: int, patients: int) -> dict[str, Any]:
    if np.isnan(auroc):
        return Value(None, None, None, n, patients, "all cases are of one kind").to_json()
    if np.isnan(interval[0]):
        reason = "no interval: the variance is 0, or one kind of case is of a single patient"
        return Value(float(auroc), None, None, n, patients, reason).to_json()
    return Value(float(auroc), *interval, n, patients).to_json()
