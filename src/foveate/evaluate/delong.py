"""Areas under the ROC curve with their covariance in closed form, and the test of two of them.

An area is the mean, over all pairs of a positive and a negative case, of who scores higher (ties count half).
What one case adds to it is its *placement*: the share of the cases of the other kind that it is on the right
side of. The variance of the placements gives that of the area (DeLong, DeLong and Clarke-Pearson 1988,
Biometrics 44:837), and midranks give the placements without visiting the pairs (Sun and Xu 2014, IEEE Signal
Process. Lett. 21:1389).

Of few patients the placements vary too little, and not at all where every pair is ranked right. Where fewer
than ``FEW`` patients have a class, or fewer than that lack it, the interval is the score-like one of Newcombe
2006, Stat. Med. 25:559 (method 5), whose variance follows from the area itself.

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
from scipy.optimize import brentq
from scipy.special import expit, logit, ndtri
from scipy.stats import norm, rankdata

from foveate.evaluate.intervals import Floats, Interval, Value
from foveate.evaluate.rates import effective_number
from foveate.evaluate.results.metrics import DelongIntervals
from foveate.evaluate.table import PredictionTable

FEW = 15  # patients with a class, or without it, below which its placements do not estimate a variance
_EDGE = 1e-9  # how near to 0 or 1 an area is looked for
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


def delong(
    scores: Floats, truth: Floats, patient_ids: Sequence[str] | NDArray[Any] | None = None
) -> tuple[Floats, Floats]:
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
        known if patient_ids is None else np.asarray(patient_ids)[known], return_inverse=True
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


def few_patients_interval(
    scores: Floats, truth: Floats, patient_ids: Sequence[str] | NDArray[Any], level: float = 0.95
) -> Interval | None:
    """Interval of an AUROC that rests on few patients, or that is 0 or 1.

    Args:
        scores: ``(N,)``, higher for more likely.
        truth: ``(N,)`` 1, 0, or NaN where unknown.
        patient_ids: of the N cases.
        level: coverage aimed at.

    Returns:
        Newcombe's bounds at the numbers of positive and negative cases, both divided by how much more the
        area varies over patients than over cases (Obuchowski's variance over DeLong's). What it is divided by
        is at least 1 and at most what the cases of a patient could make of it if they were all alike, which
        is taken where the variances are 0. None where the class is not rare, or all cases are of one kind.
    """
    known = np.flatnonzero(~np.isnan(truth))
    scores, present = scores[known], truth[known] == 1
    if present.all() or not present.any():
        return None
    _, patient = np.unique(np.asarray(patient_ids)[known], return_inverse=True)
    counts = [np.bincount(patient[kind]) for kind in (present, ~present)]
    above, below = scores[present], scores[~present]
    apart = above.min() > below.max() or below.min() > above.max()
    if min((own > 0).sum() for own in counts) >= FEW and not apart:
        return None
    (area,), ((over_patients,),) = delong(scores, present.astype(np.float64), patient)
    _, ((over_cases,),) = delong(scores, present.astype(np.float64))
    most = max(float(own.sum()) / effective_number(own) for own in counts)
    told = 0 < area < 1 and over_patients > 0 and over_cases > 0
    times = min(max(over_patients / over_cases, 1.0), most) if told else most
    positives, negatives = (float(own.sum()) / times for own in counts)
    return newcombe_interval(float(area), positives, negatives, level)


def newcombe_interval(auroc: float, positives: float, negatives: float, level: float = 0.95) -> Interval:
    """Interval of one AUROC that needs no scores, and stands at 0 and 1 (Newcombe 2006, method 5).

    Args:
        auroc: the area A.
        positives, negatives: numbers of cases, m and n, also such that are not whole.
        level: coverage aimed at.

    Returns:
        The areas a with ``(A - a)^2 = z^2 V(a)``, where V is Hanley and McNeil's variance for exponential
        scores, made symmetric: with ``N = (m + n) / 2 - 1``,
        ``V = a (1 - a) (1 + N (1 - a) / (2 - a) + N a / (1 + a)) / (m n)``.
    """
    square, further = float(ndtri((1 + level) / 2)) ** 2, (positives + negatives) / 2 - 1

    def beyond(a: float) -> float:
        """Above 0 where an area is too far from the one observed."""
        spread = 1 + further * ((1 - a) / (2 - a) + a / (1 + a))
        return float((auroc - a) ** 2 - square * a * (1 - a) * spread / (positives * negatives))

    within = min(max(auroc, _EDGE), 1 - _EDGE)
    low = brentq(beyond, 0.0, within) if auroc > _EDGE else 0.0
    high = brentq(beyond, within, 1.0) if auroc < 1 - _EDGE else 1.0
    return float(low), float(high)


def delong_intervals(table: PredictionTable, level: float = 0.95) -> DelongIntervals:
    """The block ``delong`` of ``metrics.json``: AUROC of each class against the rest.

    Args:
        table: cases with known truth.
        level: of the intervals.
    """
    single = len(set(table.patient_ids)) == len(table.patient_ids)
    assumes = (
        "independent cases" if single else "independent patients (Obuchowski 1997), any number of cases each"
    )
    found, ranks = {}, table.ranks
    for k, name in enumerate(table.classes):
        truth = table.truth[:, k]
        known = np.flatnonzero(~np.isnan(truth))
        scores = ranks[:, k]
        areas, covariance = delong(scores, truth, table.patient_ids)
        interval = few_patients_interval(scores, truth, table.patient_ids, level) or delong_interval(
            areas[0], covariance[0, 0], level
        )
        found[name] = _value(areas[0], interval, len(known), len({table.patient_ids[case] for case in known}))
    return DelongIntervals(assumes=assumes, level=level, per_class=found)


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


def _value(auroc: float, interval: tuple[float, float], n: int, patients: int) -> Value:
    if np.isnan(auroc):
        return Value(None, None, None, n, patients, "all cases are of one kind")
    if np.isnan(interval[0]):
        reason = "no interval: the variance is 0, or one kind of case is of a single patient"
        return Value(float(auroc), None, None, n, patients, reason)
    return Value(float(auroc), *interval, n, patients)
