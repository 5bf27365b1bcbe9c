"""Figures of several models on the cohort and on every replicate, drawn so that they can be subtracted.

All entries of a comparison are computed on the same replicates: a *sample* of a figure is an array whose
first row is the figure on the cohort itself and whose other rows are its bootstrap replicates, so that a
difference of models, or a mean over seeds, is the difference or mean of their samples, row by row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from foveate.evaluate.discrimination import Bools, Discrimination
from foveate.evaluate.intervals import Bootstrap, Floats, Statistic, mean_of_defined, ratio
from foveate.evaluate.localization import CaseScore
from foveate.evaluate.probabilities.calibration import Calibration
from foveate.evaluate.summary import OVERALL
from foveate.evaluate.table import PredictionTable

#: Figures that localization gives, by their names in ``CaseScore``.
LOCALIZED = (
    "pointing_game",
    "iou",
    "energy_inside",
    "cell_hit",
    "plane_pointing",
    "plane_iou",
    "depth_error",
)
#: Figures of calibration, of the raw probabilities, and of the calibrated ones where a run has them.
OF_CALIBRATION = ("ece", "brier", "log_loss")
CALIBRATED = tuple(f"{name}_calibrated" for name in OF_CALIBRATION)
FIGURES = (*OVERALL, *OF_CALIBRATION, *CALIBRATED, *LOCALIZED)
PER_CLASS = ("auroc", "ap", "recall", "specificity", "f1")
#: Localization of single classes: boxes that overlap a true one by at least so much, or as in ``CaseScore``.
LOCATED: dict[str, float | None] = {
    "localized_0.5": 0.5,
    "localized_0.3": 0.3,
    "pointing_game": None,
    "cell_hit": None,
    "plane_pointing": None,
}
#: Share of a map's maximum from which its pixels make up those boxes; the same for every run.
TAU = 0.5
LOWER_IS_BETTER = frozenset((*OF_CALIBRATION, *CALIBRATED, "depth_error"))

#: By figure, ``(1 + n, ...)``: the cohort itself, then n replicates. ``class:<metric>`` and
#: ``located:<measure>`` are ``(1 + n, K)``.
Samples = Mapping[str, Floats]
Key = tuple[str, str]
#: What tells the trainings of a variant apart: a seed, or ``"0, fold 3"`` where each is tested on a fold.
Seed = Any


@dataclass(frozen=True)
class RunFigures:
    """What one run left to be compared: its cases with known truth, in the order of their names.

    Attributes:
        table: its predictions of the test part.
        thresholds: of the findings (multi-label), chosen on its validation cases.
        scores: of its heat maps; empty where nothing was marked or explained.
        swept: the shares of a map's maximum at which the scores know how boxes do.
        beside: the same of the controls and the ceiling, by their names in ``CaseScore.method``.
    """

    table: PredictionTable
    thresholds: Mapping[str, float] = field(default_factory=dict)
    scores: Sequence[CaseScore] = ()
    swept: Sequence[float] = ()
    beside: Mapping[str, Sequence[CaseScore]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        known = np.asarray(~np.isnan(self.table.truth).all(axis=1))
        order = np.argsort(np.asarray(self.table.case_ids, dtype=object)[known], kind="stable")
        object.__setattr__(self, "table", self.table.only(known).taken(order))

    def only(self, cases: Set[str]) -> RunFigures:
        """The same on these cases."""
        keep = np.array([case in cases for case in self.table.case_ids], dtype=bool)

        def kept(rows: Sequence[CaseScore]) -> list[CaseScore]:
            return [row for row in rows if row.case_id in cases]

        beside = {method: kept(rows) for method, rows in self.beside.items()}
        return RunFigures(self.table.only(keep), self.thresholds, kept(self.scores), self.swept, beside)

    def overlap(self, score: CaseScore) -> float:
        """IoU of the largest box from ``TAU`` on with a true one; NaN where that share was not tried."""
        known = TAU in self.swept and len(score.largest_ious) == len(self.swept)
        return score.largest_ious[list(self.swept).index(TAU)] if known else float("nan")

    @property
    def right(self) -> Bools:
        """``(N, K)`` whether the decision about each class is right; False where the truth is unknown."""
        decided = self.table.decisions(self.thresholds)
        return np.asarray(np.where(decided, self.table.truth == 1, self.table.truth == 0))

    @property
    def marked(self) -> frozenset[Key]:
        """The pairs of case and class that its heat maps were scored on."""
        return frozenset((row.case_id, row.label) for row in self.scores)


@dataclass(frozen=True)
class Drawing:
    """The test cases of all seeds, one behind the other, as the bootstrap draws them.

    Attributes:
        patient_ids: of every case of every seed, N in all.
        places: of each seed, the place of each of its cases among the N.
        bootstrap: of the intervals.
    """

    patient_ids: list[str]
    places: Mapping[Seed, Mapping[str, int]]
    bootstrap: Bootstrap

    @classmethod
    def of(cls, tables: Mapping[Seed, PredictionTable], bootstrap: Bootstrap) -> Drawing:
        """Line up the cases of every seed, given by the table of any of its entries."""
        patients: list[str] = []
        places = {}
        for seed, table in tables.items():
            places[seed] = {case: len(patients) + number for number, case in enumerate(table.case_ids)}
            patients += table.patient_ids
        return cls(patients, places, bootstrap)

    def classified(self, entry: RunFigures, seed: Seed) -> Samples:
        """Every figure of one entry that its predictions give."""
        own = np.array([self.places[seed][case] for case in entry.table.case_ids], dtype=np.intp)
        discrimination = Discrimination(entry.table, entry.table.decisions(entry.thresholds))
        raw = Calibration(entry.table)
        mended = (
            None
            if np.isnan(entry.table.calibrated).any()
            else Calibration(entry.table, entry.table.calibrated)
        )

        def statistic(weights: Floats) -> dict[str, Floats]:
            mine = weights[:, own]
            by_class = discrimination(mine)
            before = raw(mine)
            after = mended(mine) if mended else dict.fromkeys(OF_CALIBRATION, np.full(len(mine), np.nan))
            return {
                **{name: mean_of_defined(by_class[source]) for name, source in OVERALL.items()},
                **{name: before[name] for name in OF_CALIBRATION},
                **{f"{name}_calibrated": after[name] for name in OF_CALIBRATION},
                **{f"class:{metric}": by_class[metric] for metric in PER_CLASS},
            }

        return self._sampled(statistic)

    def localized(self, entry: RunFigures, seed: Seed, keys: Set[Key]) -> Samples:
        """Every figure of one entry that its heat maps give, over these pairs of case and class."""
        rows = [row for row in entry.scores if (row.case_id, row.label) in keys]
        where = np.array([self.places[seed][row.case_id] for row in rows], dtype=np.intp)
        times = Counter((row.case_id, row.label) for row in rows)
        shares = np.array([1 / times[row.case_id, row.label] for row in rows])  # views count once together
        scores = np.array([[getattr(row, name) for name in LOCALIZED] for row in rows])
        table = scores.reshape(-1, len(LOCALIZED))
        known = ~np.isnan(table)

        def statistic(weights: Floats) -> dict[str, Floats]:
            counted = weights[:, where] * shares
            means = ratio(counted @ np.where(known, table, 0.0), counted @ known)
            return {name: means[:, place] for place, name in enumerate(LOCALIZED)}

        return self._sampled(statistic)

    def located(self, entry: RunFigures, seed: Seed) -> Samples:
        """Localization of each class over its marked cases, of which the wrongly answered are some."""
        rows = [row for row in entry.scores if row.label in entry.table.classes]
        where = np.array([self.places[seed][row.case_id] for row in rows], dtype=np.intp)
        times = Counter((row.case_id, row.label) for row in rows)
        shares = np.array([1 / times[row.case_id, row.label] for row in rows])  # views count once together
        classes = np.array([entry.table.classes.index(row.label) for row in rows], dtype=np.intp)
        own = np.eye(len(entry.table.classes))[classes]  # (M, K)
        values = {name: _reached(entry, rows, name) for name in LOCATED}

        def statistic(weights: Floats) -> dict[str, Floats]:
            counted = weights[:, where] * shares
            return {
                f"located:{name}": ratio(counted @ np.where(own == 1, value[:, None], 0.0), counted @ own)
                for name, value in values.items()
            }

        return self._sampled(statistic)

    def _sampled(self, statistic: Statistic) -> Samples:
        point = statistic(np.ones((1, len(self.patient_ids))))
        drawn = self.bootstrap.replicates(statistic, self.patient_ids)
        return {
            name: np.concatenate([values, drawn[name]]) if name in drawn else values
            for name, values in point.items()
        }


def _reached(entry: RunFigures, rows: Sequence[CaseScore], name: str) -> Floats:
    """``(M,)`` a score as it stands, or 1 where the box overlaps by at least so much; NaN where unknown."""
    if (least := LOCATED[name]) is None:
        return np.array([getattr(row, name) for row in rows], dtype=np.float64)
    ious = np.array([entry.overlap(row) for row in rows], dtype=np.float64)
    return np.where(np.isnan(ious), np.nan, ious >= least)


def minus(one: Samples, other: Samples) -> Samples:
    """The paired difference of the figures that both have."""
    return {name: one[name] - other[name] for name in one if name in other}


def over_seeds(parts: Sequence[Samples]) -> Samples:
    """The mean over seeds of what is defined."""
    return {name: mean_of_defined(np.stack([part[name] for part in parts], axis=-1)) for name in parts[0]}
