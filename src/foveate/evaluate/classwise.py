"""Figures of each class, and their averages, as values with the interval that suits them.

* Sensitivity, specificity, PPV, NPV, accuracy: exact (``rates``). F1 is ``2 J / (1 + J)`` of the share J of
  cases that are decided right among those that have the class or are decided to have it, and its bounds are
  those of J (Hand, Christen and Kirielle 2021, Mach. Learn. 110:451).
* AUROC: replicates of patients; where few patients have or lack the class, or it is 0 or 1, Newcombe's
  (``delong``).
* AP: symmetric on the scale of log odds (Boyd, Eng and Page 2013, ECML PKDD, section 4), and as wide
  as replicates of patients say; where few patients have the class, or it is 1, Wilson's interval of a rate of
  as many cases as have the class, here cases that patients answer all alike (Kish). Quantiles of replicates
  cover too seldom: who is drawn twice stands beside himself in the ranking, which lifts AP.
* Balanced accuracy and all averages over classes: from those of their parts (``averages``); where a part has
  no interval, replicates of patients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit

from foveate.evaluate.averages import average_interval
from foveate.evaluate.delong import FEW, few_patients_interval
from foveate.evaluate.discrimination import Bools, Discrimination
from foveate.evaluate.intervals import (
    MAX_UNDEFINED,
    ROUNDING,
    Bootstrap,
    Floats,
    Interval,
    Value,
    expanded,
    mean_of_defined,
)
from foveate.evaluate.rates import Rates, effective_number, pair, wilson
from foveate.evaluate.short_intervals import noted
from foveate.evaluate.table import PredictionTable

_EXACT = ("recall", "specificity", "precision", "npv", "f1", "accuracy")


class Classwise:
    """The figures of the classes of a table.

    Args:
        table: N cases with known truth over K classes.
        discrimination: of these cases.
        bootstrap: of the intervals.
        point: by metric, ``(K,)`` on the cohort; multi-class accuracy ``(1,)``.
        replicates: by metric, the same on every replicate, ``(B, K)``; none where there is no interval.
    """

    def __init__(
        self,
        table: PredictionTable,
        discrimination: Discrimination,
        bootstrap: Bootstrap,
        point: Mapping[str, Floats],
        replicates: Mapping[str, Floats],
    ) -> None:
        self.table, self.discrimination, self.bootstrap = table, discrimination, bootstrap
        self.point, self.replicates = point, replicates
        names, self._patient = np.unique(np.asarray(table.patient_ids), return_inverse=True)
        self._patients = len(names)
        self._exact = exact_intervals(table, discrimination.decided, bootstrap.level) if bootstrap.n else {}
        self._told: dict[tuple[str, int], Value] = {}

    def of_class(self, metric: str, k: int) -> Value:
        """A metric of one class, over the cases of which that class is known."""
        if (metric, k) not in self._told:
            known = ~np.isnan(self.table.truth[:, k])
            parts = self.replicates.get(metric)
            value = self.bootstrap.value(
                float(self.point[metric][k]),
                None if parts is None else parts[:, k],
                n=int(known.sum()),
                patients=int(np.count_nonzero(np.bincount(self._patient[known]))),
                reason=self.discrimination.why_undefined(metric)[k],
                exact=self._interval(metric, k),
            )
            self._told[metric, k] = noted(value, metric)
        return self._told[metric, k]

    def average(self, metric: str, classes: Sequence[int] | NDArray[np.intp] | None = None) -> Value:
        """A metric averaged over the classes for which it is defined.

        Args:
            metric: of the classes.
            classes: to average over; all of them unless given.
        """
        chosen = np.arange(len(self.point[metric])) if classes is None else np.asarray(classes)
        parts = self.replicates.get(metric)
        drawn = None if parts is None else parts[:, chosen]
        exact = average_interval([self.of_class(metric, int(k)) for k in chosen], drawn)
        value = self.bootstrap.value(
            float(mean_of_defined(self.point[metric][chosen])),
            None if drawn is None else mean_of_defined(drawn),
            n=len(self.table.case_ids),
            patients=self._patients,
            reason=self._left_out(metric, chosen, drawn if exact is None else None),
            exact=exact,
        )
        return noted(value, f"{metric} averaged")

    def _interval(self, metric: str, k: int) -> Interval | None:
        """The interval of one class that needs no replicates, if it has one."""
        if np.isnan(self.point[metric][k]) or not self._exact:
            return None
        if metric in self._exact:
            return pair(self._exact[metric][k])
        if metric == "balanced_accuracy":
            two = ("recall",) if self.table.task == "multiclass" else ("recall", "specificity")
            return average_interval([self.of_class(name, k) for name in two], None)
        truth, level = self.table.truth[:, k], self.bootstrap.level
        if metric == "auroc":
            return few_patients_interval(self.table.ranks[:, k], truth, self._patient, level)
        ap, counts = float(self.point[metric][k]), np.bincount(self._patient, truth == 1)
        drawn = self.replicates[metric][: self.bootstrap.n, k] if metric in self.replicates else None
        return ap_interval(ap, counts, drawn, level)

    def _left_out(self, metric: str, classes: NDArray[np.intp], drawn: Floats | None) -> str:
        """Which classes an average is without, and how many replicates are without a further one."""
        if metric == "accuracy" and self.table.task == "multiclass":
            return "" if self.table.case_ids else "no known case"
        why = self.discrimination.why_undefined(metric)
        gone = [f"{self.table.classes[k]} ({why[k]})" for k in classes if why[k]]
        texts = [f"undefined and left out: {', '.join(gone)}"] if gone else []
        if drawn is not None:
            lacking = np.isnan(drawn[: self.bootstrap.n]) & ~np.isnan(self.point[metric][classes])
            if count := int(lacking.any(axis=1).sum()):
                texts.append(
                    f"a further class was undefined and left out in {count} of {self.bootstrap.n} replicates"
                )
        return "; ".join(texts)


def exact_intervals(table: PredictionTable, decided: Bools, level: float) -> dict[str, Floats]:
    """Exact intervals of the metrics that are rates, or follow from one.

    Args:
        table: N cases over K classes.
        decided: ``(N, K)`` what the model decides.
        level: coverage that they have at least.

    Returns:
        By metric ``(K, 2)``, NaN where undefined; multi-class accuracy ``(1, 2)``.
    """
    present, absent = table.truth == 1, table.truth == 0
    known, right = present | absent, np.where(decided, present, absent)
    if table.task == "multiclass":
        known, right = known.any(axis=1, keepdims=True), (present & decided).any(axis=1, keepdims=True)
    pairs = {
        "recall": (present & decided, present),
        "specificity": (absent & ~decided, absent),
        "precision": (present & decided, (present | absent) & decided),
        "npv": (absent & ~decided, (present | absent) & ~decided),
        "f1": (present & decided, present | (absent & decided)),
        "accuracy": (right, known),
    }
    hits, asked = (np.concatenate([pairs[name][part] for name in _EXACT], axis=1) for part in (0, 1))
    bounds = Rates.of(hits, asked, table.patient_ids).intervals(level)
    cuts = np.cumsum([pairs[name][0].shape[1] for name in _EXACT])[:-1]
    found = dict(zip(_EXACT, np.split(bounds, cuts), strict=True))
    return found | {"f1": 2 * found["f1"] / (1 + found["f1"])}


def ap_interval(
    ap: float, counts: ArrayLike, replicates: Floats | None, level: float = 0.95
) -> Interval | None:
    """Interval of an average precision.

    Args:
        ap: the average precision.
        counts: ``(P,)`` cases with the class of each patient.
        replicates: ``(B,)`` of it, over patients, NaN where undefined; None where there are none.
        level: coverage aimed at.

    Returns:
        Both bounds. On the scale of log odds they lie apart from the value by the root mean square distance
        of the replicates times ``expanded`` of the patients with the class; a replicate counts as no farther
        above than the lowest one lies below, since one of 1 has no log odds. Of few such patients, or of 1,
        Wilson's. None where the class is missing or too few replicates are defined.
    """
    patients = int(np.count_nonzero(counts))
    if not patients:
        return None
    if patients < FEW or ap >= 1:
        return wilson(ap, effective_number(counts), level)
    defined = np.empty(0) if replicates is None else replicates[~np.isnan(replicates)]
    if replicates is None or len(defined) < (1 - MAX_UNDEFINED) * len(replicates) or defined.min() >= ap:
        return None
    apart = logit(np.clip(defined, ROUNDING, 1 - ROUNDING)) - logit(ap)
    apart = np.minimum(apart, -apart.min())
    reach = expanded((1 + level) / 2, patients) * float(np.sqrt((apart**2).mean()))
    return float(expit(logit(ap) - reach)), float(expit(logit(ap) + reach))
