"""Whether probabilities mean what they say, as functions of case weights (see ``intervals``).

* Multi-class: a prediction is the class that the model decides for, its confidence the probability of that
  class, its outcome whether it is true: one per case. Brier score: mean over cases of ``sum_k (p_k -
  y_k)^2``, in [0, 2] (Brier 1950, as defined there; half of it is also in use).
* Multi-label: a prediction is a case and a finding with known truth, its confidence the probability of the
  finding, its outcome whether it is present; all findings pooled. Brier score: mean of ``(p - y)^2``, in [0,
  1].
* Expected calibration error (Naeini et al. 2015, AAAI): predictions in 15 bins of equal width, ``sum_b n_b /
  n * |mean outcome - mean confidence|``. A bin holds ``low <= confidence < high``, the last also 1. With
  equal mass (Nguyen and O'Connor 2015, EMNLP) each bin holds as many predictions as ties allow, by the
  15-quantiles of the cohort itself; it holds ``low < confidence <= high``, the first also its low end.
* Classwise ECE (Kull et al. 2019, NeurIPS, equation 1): the mean over the classes of the ECE of each class
  against the rest, with bins of equal width.
* Decomposition of the Brier score (Murphy 1973, J. Appl. Meteorol. 12:595), class by class over the bins of
  equal width, added up as the score itself is: ``reliability - resolution + uncertainty + within_bins``.
  Reliability (0 is best) is what calibration can mend, resolution (more is better) is what tells cases apart,
  uncertainty is a matter of the cohort. ``within_bins`` is what cases of one bin differ by (Stephenson et al.
  2008, Weather Forecast. 23:752); it is 0 where all of them have the same probability.
* Log loss: ``-log`` of the probability of what is true, with natural logarithms; a probability of 0 counts as
  2.2e-16, as in scikit-learn.
* Excess of a class: mean probability minus share of cases that have it; positive where it is said too often
  (calibration in the large, with the sign turned).

ECE is never negative, so that chance alone lifts it: it falls with the number of cases, and resampling lifts
it once more. Intervals of the errors and of the reliability therefore take their lower bound from ``gaps``
and their upper one from the percentiles of the replicates, or the value itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.special import xlogy

from foveate.evaluate.averages import average_interval
from foveate.evaluate.gaps import Gaps
from foveate.evaluate.intervals import Bootstrap, Floats, Interval, Value, mean_of_defined, ratio
from foveate.evaluate.measured import Measured
from foveate.evaluate.results.probabilities import (
    CalibratedFigures,
    CalibrationBin,
    CalibrationChange,
    CalibrationFigures,
    ClassCalibration,
    RawCalibration,
)
from foveate.evaluate.table import PredictionTable
from foveate.types import Track, quiet

BINS = 15
OVERALL = (
    "ece",
    "ece_equal_mass",
    "ece_classwise",
    "brier",
    "reliability",
    "resolution",
    "uncertainty",
    "within_bins",
    "log_loss",
)
PER_CLASS = ("ece", "brier", "log_loss", "excess")
CHANGE = ("ece", "brier", "log_loss")
_LEAST = float(np.finfo(np.float64).eps)


class Calibration:
    """Every calibration figure of a table of predictions, as one function of case weights.

    Args:
        table: N cases over K classes; cases without truth count for nothing.
        probabilities: ``(N, K)`` other probabilities than the raw ones, NaN where there are none; None takes
            the raw ones. Decisions stay those of the raw ones.
        bins: number of bins.
    """

    def __init__(self, table: PredictionTable, probabilities: Floats | None = None, bins: int = BINS) -> None:
        stated = table.probabilities if probabilities is None else probabilities
        self.multiclass = table.task == "multiclass"
        self.known = ~np.isnan(table.truth) & ~np.isnan(stated)
        truth = np.where(self.known, table.truth, np.nan)
        width = np.linspace(0.0, 1.0, bins + 1)
        self._classes = _Binned(stated, truth, width, by_class=True)
        if self.multiclass:
            best = table.probabilities.argmax(axis=1)[:, None]
            stated_best, right = (np.take_along_axis(of, best, axis=1) for of in (stated, truth))
        else:
            stated_best, right = stated, truth
        self._width = _Binned(stated_best, right, width) if self.multiclass else None
        self._mass = _Binned(stated_best, right, _quantiles(stated_best, right, bins), upper=True)
        self._answers = (~np.isnan(right)).sum(axis=1).astype(np.float64)
        self._squares = np.where(self.known, (stated - truth) ** 2, 0.0)
        self._patient = np.unique(np.asarray(table.patient_ids), return_inverse=True)[1]
        certain = np.clip(stated, _LEAST, 1 - _LEAST)
        self._losses = -np.where(self.known, xlogy(truth, certain) + xlogy(1 - truth, 1 - certain), 0.0)
        own = -np.where(self.known, xlogy(truth, certain), 0.0)
        self._loss = (own if self.multiclass else self._losses).sum(axis=1)

    def __call__(self, weights: Floats) -> dict[str, Floats]:
        """Figures for ``(B, N)`` case weights, NaN without any known truth.

        Returns:
            The names in ``OVERALL``, each ``(B,)``; ``class_<name>`` for those in ``PER_CLASS``, ``(B, K)``.
        """
        by_class = self._classes(weights)
        answers, cases, single = weights @ self._answers, by_class.total, by_class.error()
        brier = ratio(weights @ self._squares.sum(axis=1), answers)
        parts = {
            name: ratio((values * cases).sum(axis=1), answers)
            for name, values in by_class.decomposition().items()
        }
        kept = parts["reliability"] - parts["resolution"] + parts["uncertainty"]
        return {
            "ece": self._pooled(weights, by_class).error()[:, 0],
            "ece_equal_mass": self._mass(weights).error()[:, 0],
            "ece_classwise": mean_of_defined(single),
            "brier": brier,
            **parts,
            "within_bins": brier - kept,
            "log_loss": ratio(weights @ self._loss, answers),
            "class_ece": single,
            "class_brier": ratio(weights @ self._squares, cases),
            "class_log_loss": ratio(weights @ self._losses, cases),
            "class_excess": ratio((by_class.stated - by_class.observed).sum(axis=2), cases),
        }

    def lower_bounds(self, level: float) -> dict[str, Floats]:
        """Lower bounds of what chance lifts (see ``gaps``): ``(1,)``, of ``class_ece`` ``(K,)``."""
        pooled, patient, classes = self._width or self._classes, self._patient, range(self.known.shape[1])
        by_class = self._classes.gaps(patient, by_class=True, answers=float(self._answers.sum()))
        gaps = {
            "ece": [pooled.gaps(patient)],
            "ece_equal_mass": [self._mass.gaps(patient)],
            "class_ece": [self._classes.gaps(patient, k) for k in classes],
        }
        found = {name: np.array([own.lower_bound(1, level) for own in parts]) for name, parts in gaps.items()}
        return found | {"reliability": np.array([by_class.lower_bound(2, level)])}

    def bins(self) -> tuple[CalibrationBin, ...]:
        """Points of the reliability curve: mean confidence and share of true outcomes; None in empty bins."""
        once = np.ones((1, len(self.known)))
        return _points(self._pooled(once, self._classes(once)), self._classes.edges)[0]

    def bins_equal_mass(self) -> tuple[CalibrationBin, ...]:
        """The same, with as many predictions in each bin as ties allow."""
        return _points(self._mass(np.ones((1, len(self.known)))), self._mass.edges)[0]

    def bins_of_classes(self) -> list[tuple[CalibrationBin, ...]]:
        """The same for each class against the rest, with bins of equal width."""
        return _points(self._classes(np.ones((1, len(self.known)))), self._classes.edges)

    def _pooled(self, weights: Floats, by_class: _Sums) -> _Sums:
        """Sums over all predictions in bins of equal width; multi-label, over those of all findings."""
        return by_class.pooled() if self._width is None else self._width(weights)


def calibration(table: PredictionTable, bootstrap: Bootstrap, track: Track = quiet) -> RawCalibration:
    """The block ``calibration`` of ``metrics.json``.

    Args:
        table: N cases.
        bootstrap: of the intervals.
        track: shows progress.
    """
    forms = {"raw": Calibration(table)}
    if not np.isnan(table.calibrated).all():
        among = np.where(np.isnan(table.calibrated), np.nan, table.probabilities)
        forms["calibrated"] = Calibration(table, table.calibrated)
        forms["among"] = Calibration(table, among) if np.isnan(among).any() else forms["raw"]

    def statistic(weights: Floats) -> dict[str, Floats]:
        """Every form's figures for case weights ``(B, N)``, and the change from raw to calibrated."""
        found = {id(form): form(weights) for form in forms.values()}
        by_form = {name: found[id(form)] for name, form in forms.items()}
        named = {f"{name}:{key}": value for name, own in by_form.items() for key, value in own.items()}
        if "calibrated" in forms:
            change = {key: by_form["calibrated"][key] - by_form["among"][key] for key in CHANGE}
            named |= {f"change:{key}": value for key, value in change.items()}
        return named

    measured = Measured.of(statistic, table, bootstrap, track)
    raw = _Form("raw", forms["raw"], measured).figures(table.classes)
    if "calibrated" not in forms:
        return RawCalibration(**dict(raw))
    change = {key: measured.tell(f"change:{key}", reason=_lacking(forms["calibrated"])) for key in CHANGE}
    calibrated = _Form("calibrated", forms["calibrated"], measured).figures(table.classes)
    both = CalibratedFigures(**dict(calibrated), change=CalibrationChange(**change))
    return RawCalibration(**dict(raw), calibrated=both)


class _Form:
    """Figures and curves of one form of the probabilities.

    Args:
        name: of the form.
        form: its figures.
        measured: the figures of all forms, by ``<form>:<figure>``.
    """

    def __init__(self, name: str, form: Calibration, measured: Measured) -> None:
        self.name, self.form, self.measured = name, form, measured
        self.counts, self.patients = form.known.sum(axis=0), len(set(measured.patients))
        self.lower = (
            form.lower_bounds(measured.bootstrap.level) if measured.replicates and form.known.any() else {}
        )

    def figures(self, classes: Sequence[str]) -> CalibrationFigures:
        """Everything, as it stands in the file."""
        curves = self.form.bins_of_classes()
        per_class = [{key: self._of_class(key, k) for key in PER_CLASS} for k in range(len(classes))]
        overall = {key: self._overall(key) for key in OVERALL if key != "ece_classwise"}
        mean = average_interval(
            [own["ece"] for own in per_class], self.measured.replicates.get(f"{self.name}:class_ece")
        )
        return CalibrationFigures(
            **overall,
            ece_classwise=self._overall("ece_classwise", mean),
            bins=self.form.bins(),
            bins_equal_mass=self.form.bins_equal_mass(),
            per_class={
                label: ClassCalibration(**per_class[k], bins=curves[k]) for k, label in enumerate(classes)
            },
        )

    def _overall(self, key: str, exact: Interval | None = None) -> Value:
        exact = exact or self._bounds(key, 0)
        return self.measured.tell(f"{self.name}:{key}", reason=_lacking(self.form), exact=exact)

    def _of_class(self, key: str, k: int) -> Value:
        lacking = "" if self.counts[k] else "no known case" if self.name == "raw" else "not calibrated"
        return self.measured.tell(
            f"{self.name}:class_{key}",
            k,
            n=int(self.counts[k]),
            reason=lacking,
            exact=self._bounds(f"class_{key}", k),
        )

    def _bounds(self, key: str, at: int) -> Interval | None:
        """The interval of what chance lifts: a lower bound that knows it, and the percentile's upper one."""
        least = self.lower.get(key)
        if least is None or np.isnan(least[at]):
            return None
        name, bootstrap = f"{self.name}:{key}", replace(self.measured.bootstrap, method="percentile")
        point, drawn = (np.atleast_1d(of[name].T) for of in (self.measured.point, self.measured.replicates))
        drawn = np.atleast_2d(drawn)[at, : bootstrap.n]
        upper = bootstrap.value(float(point[at]), drawn, n=0, patients=self.patients).high
        return None if upper is None else (float(least[at]), max(upper, float(point[at])))


def _lacking(form: Calibration) -> str:
    return "" if form.known.any() else "no known case"


@dataclass(frozen=True, slots=True)
class _Sums:
    """Sums over the predictions of each bin, ``(B, groups, bins)`` each."""

    count: Floats
    stated: Floats
    observed: Floats

    @property
    def total(self) -> Floats:
        """Number of predictions, ``(B, groups)``."""
        return np.asarray(self.count.sum(axis=2))

    def pooled(self) -> _Sums:
        """All groups as one."""
        return _Sums(*(part.sum(axis=1, keepdims=True) for part in (self.count, self.stated, self.observed)))

    def error(self) -> Floats:
        """Expected calibration error, ``(B, groups)``."""
        return ratio(np.abs(self.observed - self.stated).sum(axis=2), self.total)

    def decomposition(self) -> dict[str, Floats]:
        """The three parts of Murphy, ``(B, groups)`` each."""
        rate = ratio(self.observed.sum(axis=2), self.total)
        filled = np.where(self.count > 0, self.count, 1.0)
        gaps = (self.stated - self.observed) ** 2 / filled
        apart = np.where(self.count > 0, (self.observed / filled - rate[..., None]) ** 2 * self.count, 0.0)
        return {
            "reliability": np.nan_to_num(ratio(gaps.sum(axis=2), self.total)),
            "resolution": np.nan_to_num(ratio(apart.sum(axis=2), self.total)),
            "uncertainty": np.nan_to_num(rate * (1 - rate)),
        }


class _Binned:
    """Predictions sorted into bins once, and summed up there for any case weights.

    Args:
        stated: ``(N, M)`` probabilities.
        outcome: ``(N, M)`` 1, 0, or NaN where a prediction does not count.
        edges: of the bins, rising.
        by_class: keep the M columns apart.
        upper: a bin holds its upper edge, not its lower one.
    """

    def __init__(
        self, stated: Floats, outcome: Floats, edges: Floats, *, by_class: bool = False, upper: bool = False
    ) -> None:
        self.edges, self._bins = edges, len(edges) - 1
        self._groups = stated.shape[1] if by_class else 1
        rows, columns = np.nonzero(~np.isnan(outcome))
        confidence, observed = stated[rows, columns], outcome[rows, columns]
        inner = np.searchsorted(edges[1:-1], confidence, side="left" if upper else "right")
        self._found = (rows, columns, confidence, observed, inner)
        place = inner + (columns * self._bins if by_class else 0)
        size = self._groups * self._bins
        values = np.concatenate([np.ones(len(rows)), confidence, observed])
        places = np.concatenate([place, place + size, place + 2 * size])
        self._matrix = csr_array((values, (np.tile(rows, 3), places)), shape=(len(stated), 3 * size))

    def __call__(self, weights: Floats) -> _Sums:
        """Sums for ``(B, N)`` case weights."""
        sums = np.asarray(weights @ self._matrix).reshape(len(weights), 3, self._groups, self._bins)
        return _Sums(sums[:, 0], sums[:, 1], sums[:, 2])

    def gaps(
        self,
        patient: NDArray[np.intp],
        column: int | None = None,
        *,
        by_class: bool = False,
        answers: float | None = None,
    ) -> Gaps:
        """Stated less observed in each bin: of one column, of all pooled, or of all side by side."""
        rows, columns, confidence, observed, inner = self._found
        place = inner + columns * self._bins if by_class else inner
        kept = slice(None) if column is None else columns == column
        return Gaps(confidence[kept], observed[kept], place[kept], patient[rows[kept]], answers)


def _points(sums: _Sums, edges: Floats) -> list[tuple[CalibrationBin, ...]]:
    """The reliability curve of each group, from sums at weight 1."""
    counts = sums.count[0].astype(int)
    stated, observed = ratio(sums.stated[0], counts), ratio(sums.observed[0], counts)
    return [
        tuple(
            CalibrationBin(
                low=float(edges[b]),
                high=float(edges[b + 1]),
                confidence=float(stated[g, b]) if count else None,
                accuracy=float(observed[g, b]) if count else None,
                n=int(count),
            )
            for b, count in enumerate(row)
        )
        for g, row in enumerate(counts)
    ]


def _quantiles(stated: Floats, outcome: Floats, bins: int) -> Floats:
    """Edges of bins that hold as many of the predictions that count."""
    counted: NDArray[np.float64] = stated[~np.isnan(outcome)]
    if counted.size == 0:
        return np.linspace(0.0, 1.0, bins + 1)
    return np.asarray(np.quantile(counted, np.linspace(0, 1, bins + 1)))
