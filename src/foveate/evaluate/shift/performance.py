"""How much better or worse a model does in another cohort than at home."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from foveate.evaluate.discrimination import Discrimination
from foveate.evaluate.hypothesis import bootstrap_p
from foveate.evaluate.intervals import Bootstrap, Floats, mean_of_defined
from foveate.evaluate.shift.cohorts import Json
from foveate.evaluate.summary import OVERALL
from foveate.evaluate.table import PredictionTable


def performance_shift(
    source: PredictionTable, new: PredictionTable, thresholds: Mapping[str, float], bootstrap: Bootstrap
) -> Json:
    """Figures at home and in the new cohort, and their difference.

    Args:
        source: predictions of the test part that the model comes from, each case with some known truth.
        new: the same of the new cohort.
        thresholds: of the findings (multi-label), the same for both.
        bootstrap: of the intervals; percentile intervals of the difference of two independent sets.

    Returns:
        By figure ``source``, ``new`` and ``difference`` as values, and ``p``; ``accuracy`` also has
        ``reweighted`` (multi-class): what the recalls at home would give with the class frequencies of the
        new cohort.
    """
    sides = [
        _measured(table, thresholds, Bootstrap(bootstrap.n, bootstrap.level, bootstrap.seed + place))
        for place, table in enumerate((source, new))
    ]
    told: Json = {}
    for name in OVERALL:
        (one, one_drawn), (other, other_drawn) = (side[name] for side in sides)
        n, patients = (
            len(source.case_ids) + len(new.case_ids),
            len(set(source.patient_ids)) + len(set(new.patient_ids)),
        )
        drawn = None if one_drawn is None or other_drawn is None else other_drawn - one_drawn
        tables = zip(("source", "new"), (source, new), (one, other), (one_drawn, other_drawn), strict=True)
        p = np.nan if drawn is None else bootstrap_p(drawn)
        told[name] = {
            side: _value(point, replicates, table, bootstrap) for side, table, point, replicates in tables
        } | {
            "difference": Bootstrap(bootstrap.n, bootstrap.level)
            .value(other - one, drawn, n=n, patients=patients)
            .to_json(),
            "p": None if np.isnan(p) else p,
        }
    if source.task == "multiclass":
        told["accuracy"]["reweighted"] = reweighted_accuracy(source, new)
    return told


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


def _measured(
    table: PredictionTable, thresholds: Mapping[str, float], bootstrap: Bootstrap
) -> dict[str, tuple[float, Floats | None]]:
    """Each overall figure of a table, and its replicates."""
    figures = Discrimination(table, table.decisions(thresholds))
    point = figures(np.ones((1, len(table.case_ids))))
    drawn = bootstrap.replicates(figures, table.patient_ids)
    return {
        name: (float(mean_of_defined(point[source])[0]), mean_of_defined(drawn[source]) if drawn else None)
        for name, source in OVERALL.items()
    }


def _value(point: float, drawn: Floats | None, table: PredictionTable, bootstrap: Bootstrap) -> Json:
    own = Bootstrap(bootstrap.n, bootstrap.level)
    return own.value(point, drawn, n=len(table.case_ids), patients=len(set(table.patient_ids))).to_json()
