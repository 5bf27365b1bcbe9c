"""How much better or worse a model does in another cohort than at home."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from foveate.evaluate.averages import difference_interval
from foveate.evaluate.classwise import Classwise
from foveate.evaluate.comparing.hypothesis import bootstrap_p
from foveate.evaluate.discrimination import Discrimination
from foveate.evaluate.intervals import Bootstrap, Value, mean_of_defined
from foveate.evaluate.results.shift import FigureShift, PerformanceShift
from foveate.evaluate.summary import OVERALL
from foveate.evaluate.table import PredictionTable


def performance_shift(
    source: PredictionTable, new: PredictionTable, thresholds: Mapping[str, float], bootstrap: Bootstrap
) -> PerformanceShift:
    """Figures at home and in the new cohort, and their difference.

    Args:
        source: predictions of the test part that the model comes from, each case with some known truth.
        new: the same of the new cohort.
        thresholds: of the findings (multi-label), the same for both.
        bootstrap: of the intervals; that of the difference follows from those of both sides.
    """
    home, away = (
        _classwise(table, thresholds, replace(bootstrap, seed=bootstrap.seed + place, method="percentile"))
        for place, table in enumerate((source, new))
    )
    told: dict[str, FigureShift] = {}
    for name, metric in OVERALL.items():
        one, other = home.average(metric), away.average(metric)
        p = np.nan
        if metric in home.replicates:
            drawn = mean_of_defined(away.replicates[metric]) - mean_of_defined(home.replicates[metric])
            p = bootstrap_p(drawn, min(one.patients, other.patients))
        by_frequencies = name == "accuracy" and source.task == "multiclass"
        told[name] = FigureShift(
            source=one,
            new=other,
            difference=_difference(other, one),
            p=None if np.isnan(p) else p,
            reweighted=reweighted_accuracy(source, new) if by_frequencies else None,
        )
    return PerformanceShift(metrics=told)


def reweighted_accuracy(source: PredictionTable, new: PredictionTable) -> float | None:
    """The accuracy of the source if its classes were as frequent as in the new cohort (multi-class).

    None where the new cohort has a class of which the source has no case.
    """
    right = source.decisions()[source.truth == 1]
    recall = np.array(
        [
            right[source.truth.argmax(axis=1) == k].mean() if (source.truth[:, k] == 1).any() else np.nan
            for k in range(len(source.classes))
        ]
    )
    shares = new.truth.mean(axis=0)
    found = float(np.where(shares > 0, recall, 0) @ shares)
    return None if np.isnan(found) else found


def _classwise(table: PredictionTable, thresholds: Mapping[str, float], bootstrap: Bootstrap) -> Classwise:
    """The figures of a table, and their replicates."""
    figures = Discrimination(table, table.decisions(thresholds))
    point = {name: values[0] for name, values in figures(np.ones((1, len(table.case_ids)))).items()}
    return Classwise(table, figures, bootstrap, point, bootstrap.replicates(figures, table.patient_ids))


def _difference(new: Value, source: Value) -> Value:
    """How much larger a figure is in the new cohort, which shares no patient with the source."""
    point = None if new.value is None or source.value is None else new.value - source.value
    low, high = difference_interval(new, source, independent=True) or (None, None)
    reason = "; ".join(dict.fromkeys(filter(None, (new.reason, source.reason)))) or None
    return Value(point, low, high, new.n + source.n, new.patients + source.patients, reason)
