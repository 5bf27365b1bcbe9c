"""How sure a number is: bootstrap intervals that resample patients, not cases.

Cases of one patient resemble each other, so resampling cases would promise more certainty than there is. Here
a replicate draws as many patients as there are, with replacement, each with all of its cases (the cluster
bootstrap: Field and Welsh 2007, J. R. Stat. Soc. B 69:369). A replicate is a vector of case weights: how
often the patient of each case was drawn. Every metric is a function of such weights, its value on the cohort
itself is that function at weight 1.

* ``percentile``: the quantiles of the replicates (Efron and Tibshirani 1993, chapter 13).
* ``bca``: these quantiles moved for the bias of the replicates and for the skewness of what single patients
  do to the metric (Efron 1987, J. Am. Stat. Assoc. 82:171; Efron and Tibshirani 1993, section 14.3). The
  skewness comes from a jackknife over patients; above ``GROUPS`` patients whole groups of patients, put
  together by lot, are left out, which estimates the same number (Shao and Tu 1995, section 2.3).

Replicates of few patients differ too little, and a normal quantile asks for too little of them. Both kinds
therefore take quantiles further out, by Student's t and ``sqrt(P / (P - 1))`` for P patients (the expanded
percentile interval: Hesterberg 2015, Am. Stat. 69:371). Where the replicates do not differ they say nothing
about other patients, and there is no interval but an exact one, if the figure has one (see ``rates``).

docs/statistics.md says how often each covers the truth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri, stdtrit

from foveate.errors import UsageError
from foveate.types import Track, quiet

Floats = NDArray[np.float64]
#: ``(B, N)`` case weights → arrays by name, each ``(B, ...)``, NaN where undefined.
Statistic = Callable[[Floats], Mapping[str, Floats]]
Interval = tuple[float, float]

MAX_UNDEFINED = 0.2
"""Above this share of undefined replicates no interval is given. A class that one patient alone has is absent
from 37 % of the replicates and gets none; one that two patients have is absent from 14 % and gets one."""
GROUPS = 200
"""Most rows of the jackknife."""
SAME = "no interval: the bootstrap replicates do not differ"
ROUNDING = 1e-12
"""Replicates that differ by less are one number, summed up in another order."""
_CHUNK = 500_000  # weights held at once: 4 MB, so that a chunk stays in the processor's cache


@dataclass(frozen=True, slots=True)
class Value:
    """A metric as it stands in every result file.

    Attributes:
        value: the metric on the cohort, or None where it is undefined.
        low, high: its interval, or None where there is none.
        n: number of cases it was computed from.
        patients: number of patients they belong to.
        reason: why the value or the interval is missing or limited, or None.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int
    patients: int
    reason: str | None = None

    def to_json(self) -> dict[str, float | int | str | None]:
        """As plain numbers, text and None."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """Patient-clustered bootstrap.

    Attributes:
        n: number of replicates; 0 for no intervals.
        level: coverage that the interval aims at.
        seed: of the draws; the same patients in the same order give the same replicates.
        method: how an interval is made of the replicates.
    """

    n: int = 1000
    level: float = 0.95
    seed: int = 0
    method: Literal["percentile", "bca"] = "percentile"

    def __post_init__(self) -> None:
        if self.n < 0 or not 0 < self.level < 1:
            raise UsageError(
                f"a bootstrap of {self.n} replicates at level {self.level} makes no sense",
                fix="give a number of replicates (0 for no intervals) and a level between 0 and 1",
            )

    def replicates(
        self, statistic: Statistic, patient_ids: Sequence[str], track: Track = quiet
    ) -> dict[str, Floats]:
        """Compute a statistic on every replicate.

        Args:
            statistic: function of ``(B, N)`` case weights.
            patient_ids: patient of each of the N cases.
            track: shows progress.

        Returns:
            Arrays by name, each ``(n, ...)``; none at all where there are fewer than two patients. With
            ``bca`` the rows of the jackknife, each without a patient or a group of patients, follow behind
            the n replicates: whatever is computed row by row may be given to ``value``.
        """
        _, index = np.unique(np.asarray(patient_ids, dtype=object), return_inverse=True)
        if self.n == 0 or index.max(initial=0) < 1:
            return {}
        chunks = list(self._chunks(len(index)))
        draws = np.random.default_rng(self.seed)
        parts = [statistic(_weights(draws, rows, index)) for rows in track(chunks, "Bootstrap")]
        if self.method == "bca":
            parts += [statistic(weights) for weights in self._left_out(index)]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def value(
        self,
        point: float,
        replicates: Floats | None,
        *,
        n: int,
        patients: int,
        reason: str = "",
        exact: Interval | None = None,
        edge: Interval | None = None,
    ) -> Value:
        """Put a metric together with its interval.

        Args:
            point: the metric on the cohort, NaN where undefined.
            replicates: of it, one for each row of ``replicates``, NaN where undefined, or None where there
                are none.
            n: number of cases.
            patients: number of patients.
            reason: what limits the value itself.
            exact: an interval that needs no replicates, to be told instead.
            edge: the same, to be told where the replicates do not differ.
        """
        if np.isnan(point):
            return Value(None, None, None, n, patients, reason or ("undefined" if n else "no such case"))
        if exact is None and replicates is not None and _same(replicates[: self.n]):
            exact = edge
        low, high, limit = self._interval(point, replicates, patients, exact)
        return Value(float(point), low, high, n, patients, "; ".join(filter(None, (reason, limit))) or None)

    def _interval(
        self, point: float, replicates: Floats | None, patients: int, exact: Interval | None
    ) -> tuple[float | None, float | None, str]:
        if self.n == 0:
            return None, None, "no interval was asked for"
        if patients < 2 or (replicates is None and exact is None):
            return None, None, "no interval: all cases are of one patient"
        if exact is not None or replicates is None:
            return *(exact or (None, None)), ""
        drawn, left_out = replicates[: self.n], replicates[self.n :]
        defined = drawn[~np.isnan(drawn)]
        lost = len(drawn) - len(defined)
        if lost > MAX_UNDEFINED * len(drawn):
            return None, None, f"no interval: undefined in {lost} of {len(drawn)} bootstrap replicates"
        if _same(drawn):
            return None, None, SAME
        tails, note = self._tails(point, defined, left_out, patients)
        low, high = (float(bound) for bound in np.quantile(defined, tails))
        notes = [note] if note else []
        if lost:
            notes += [f"{lost} of {len(drawn)} bootstrap replicates were undefined and left out"]
        if not low <= point <= high:
            notes += ["the value lies outside its interval: this metric is biased under resampling"]
        return low, high, "; ".join(notes)

    def _tails(self, point: float, defined: Floats, left_out: Floats, patients: int) -> tuple[Floats, str]:
        """Which quantiles of the replicates bound the interval, and why they are not those of ``bca``."""
        normal = expanded((1 + self.level) / 2, patients) * np.array([-1.0, 1.0])
        tails: Floats = np.asarray(ndtr(normal))
        if self.method == "percentile":
            return tails, ""
        below = float((defined < point).mean() + (defined == point).mean() / 2)
        if not 0 < below < 1:
            return tails, "percentile interval: all bootstrap replicates lie on one side of the value"
        if np.isnan(left_out).any():
            return tails, "percentile interval: undefined without some of the patients"
        bias = float(ndtri(below))
        shrunk = 1 - _acceleration(left_out) * (bias + normal)  # up to 0 where few patients are very uneven
        moved = bias + np.where(shrunk > 0, (bias + normal) / np.maximum(shrunk, ROUNDING), np.inf * normal)
        return np.asarray(ndtr(moved)), ""

    def _left_out(self, index: NDArray[np.intp]) -> Iterator[Floats]:
        """Case weights of the jackknife, 1 but for the cases of one patient or group, which have 0."""
        patients = int(index.max()) + 1
        groups = np.arange(patients) % min(patients, GROUPS)
        group = np.random.default_rng(self.seed).permutation(groups)[index]
        rows = np.arange(groups.max() + 1)
        step = max(1, _CHUNK // len(index))
        for start in range(0, len(rows), step):
            yield (group != rows[start : start + step, None]).astype(np.float64)

    def _chunks(self, cases: int) -> Iterator[int]:
        size = max(1, _CHUNK // cases)
        for start in range(0, self.n, size):
            yield min(size, self.n - start)


def expanded(share: float, patients: int) -> float:
    """The normal quantile at which replicates of few patients reach as far as Student's t.

    Args:
        share: of the distribution below it.
        patients: P, at least 2.

    Returns:
        ``t(share; P - 1) sqrt(P / (P - 1))`` (Hesterberg 2015).
    """
    return float(stdtrit(patients - 1, share)) * float(np.sqrt(patients / (patients - 1)))


def mean_of_defined(values: Floats) -> Floats:
    """Mean over the last axis of what is not NaN; NaN where nothing is defined."""
    defined = ~np.isnan(values)
    return ratio(np.where(defined, values, 0.0).sum(axis=-1), defined.sum(axis=-1))


def ratio(part: NDArray[np.generic], whole: NDArray[np.generic]) -> Floats:
    """``part / whole``, NaN where the whole is 0."""
    part, whole = np.broadcast_arrays(np.asarray(part, dtype=np.float64), np.asarray(whole, dtype=np.float64))
    result: Floats = np.full(whole.shape, np.nan)
    np.divide(part, whole, out=result, where=whole != 0)
    return result


def _weights(draws: np.random.Generator, rows: int, index: NDArray[np.intp]) -> Floats:
    """``(rows, N)`` case weights: how often the patient of each case was drawn."""
    patients = int(index.max()) + 1
    drawn = draws.integers(patients, size=(rows, patients)) + np.arange(rows)[:, None] * patients
    times = np.bincount(drawn.ravel(), minlength=rows * patients).reshape(rows, patients)
    return times[:, index].astype(np.float64)


def _same(replicates: Floats) -> bool:
    """Whether replicates are all one number, as far as they are defined."""
    defined = replicates[~np.isnan(replicates)]
    return bool(len(defined)) and bool(np.ptp(defined) <= ROUNDING)


def _acceleration(left_out: Floats) -> float:
    """A sixth of the skewness of what leaving out does (Efron and Tibshirani 1993, equation 14.15)."""
    change = left_out.mean() - left_out
    spread = float((change**2).sum() ** 1.5)
    return float((change**3).sum() / (6 * spread)) if spread else 0.0
