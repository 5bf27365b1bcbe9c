"""Tests of "these two do not differ", and what is left of their p-values when many are done at once.

* McNemar (1947, Psychometrika 12:153): if two models are as good, of the cases that only one of them decides
  right half should be either's. ``p`` is exact; ``p_mid`` counts the observed split half, which is less
  conservative (Fagerland, Lydersen and Laake 2013, BMC Med. Res. Methodol. 13:91). Where patients have
  several cases, the two models change places for a patient with all of its cases, not case by case: the
  exact randomization test of ``sum_k d_k`` with ``d_k`` the difference in right cases of patient k and every
  sign equally likely (Fisher 1935, The Design of Experiments, section 21). With one case a patient this is
  McNemar's exact test.
* Bootstrap: the level at which the percentile interval of a difference would just reach 0 (Efron and
  Tibshirani 1993, section 15.4; with one added above and below, as in Davison and Hinkley 1997, section 4.4).
  It holds for any figure and any patients, and agrees with the interval beside it, which reaches further out
  for few patients (see ``intervals``). It cannot be smaller than ``2 / (n + 1)`` with n replicates, and for
  few patients not nearly as small.
* Holm (1979, Scand. J. Stat. 6:65): the chance of even one false finding among all stays below the level,
  however the tests depend on each other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtr
from scipy.stats import binom

from foveate.evaluate.intervals import MAX_UNDEFINED, Floats

_ZERO = 1e-12  # differences of equal figures may leave rounding errors


@dataclass(frozen=True, slots=True)
class McNemar:
    """Two models' decisions about the same cases.

    Attributes:
        n: number of cases.
        both, only_first, only_second, neither: how many of them were decided right by whom.
        p: exact, two-sided.
        p_mid: the mid-p value, two-sided.
    """

    n: int
    both: int
    only_first: int
    only_second: int
    neither: int
    p: float
    p_mid: float


def mcnemar(
    first: NDArray[np.bool_], second: NDArray[np.bool_], patient_ids: Sequence[str] | None = None
) -> McNemar:
    """Compare two models by the cases that only one of them decides right.

    Args:
        first: ``(N,)`` whether the first model is right.
        second: ``(N,)`` the same of the second.
        patient_ids: of each case; None takes every case as a patient of its own.
    """
    one, other = int((first & ~second).sum()), int((second & ~first).sum())
    both, neither = int((first & second).sum()), int((~first & ~second).sum())
    _, patient = np.unique(np.arange(len(first)) if patient_ids is None else patient_ids, return_inverse=True)
    leads = np.bincount(patient, weights=first.astype(float) - second).round().astype(int)
    sums, chance = _signed_sums(np.abs(leads[leads != 0]))
    as_far = float(chance[np.abs(sums) == abs(one - other)].sum())
    further = float(chance[np.abs(sums) > abs(one - other)].sum())
    return McNemar(len(first), both, one, other, neither, min(1.0, further + as_far), further + as_far / 2)


def _signed_sums(sizes: NDArray[np.int_]) -> tuple[NDArray[np.int_], Floats]:
    """Every value that the sum of these numbers can take with signs tossed, and its probability."""
    chance: Floats = np.ones(1)
    for size, count in zip(*np.unique(sizes, return_counts=True), strict=True):
        spaced = np.zeros(2 * size * count + 1)  # size * (2 * heads - count), from the lowest
        spaced[:: 2 * size] = binom.pmf(np.arange(count + 1), count, 0.5)
        chance = np.convolve(chance, spaced)
    return np.arange(len(chance)) - len(chance) // 2, chance


def bootstrap_p(replicates: Floats, patients: int | None = None) -> float:
    """Two-sided p-value of "the difference is 0" from its bootstrap replicates.

    Args:
        replicates: ``(n,)`` of the difference, NaN where undefined.
        patients: number that was drawn from; None for very many.

    Returns:
        NaN where there is no interval either: no replicate, too many of them undefined, or all equal and not
        0.
    """
    defined = replicates[~np.isnan(replicates)]
    if not len(defined) or len(replicates) - len(defined) > MAX_UNDEFINED * len(replicates):
        return math.nan
    low, high = defined.min(), defined.max()
    if high - low < _ZERO < abs(low):
        return math.nan
    fewer = min((defined <= _ZERO).sum(), (defined >= -_ZERO).sum())
    p = float(min(1.0, 2 * (1 + fewer) / (1 + len(defined))))
    return p if patients is None or patients < 2 else unexpanded(p, patients)


def unexpanded(p: float, patients: int) -> float:
    """The level of Student's t that the expanded interval of few patients takes for a normal level ``p``."""
    reached = float(ndtri(p / 2)) * math.sqrt((patients - 1) / patients)
    return float(min(1.0, 2 * stdtr(patients - 1, reached)))


def replicates_needed(tests: int, level: float) -> int:
    """Bootstrap replicates whose smallest p-value, corrected for so many tests, is half of 1 - level."""
    return math.ceil(4 * tests / (1 - level))


def holm(p: Floats) -> Floats:
    """Corrected p-values, ``(M,)``; NaN, an undefined test, stays so and does not count as one."""
    corrected = np.full(len(p), np.nan)
    rising = np.argsort(p)[: np.count_nonzero(~np.isnan(p))]  # NaN is sorted to the end
    steps = p[rising] * np.arange(len(rising), 0, -1)
    corrected[rising] = np.minimum(np.maximum.accumulate(steps), 1)
    return corrected
