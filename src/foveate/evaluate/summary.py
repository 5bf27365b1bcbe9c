"""All numbers of one part of a cohort, each with n, patients and an interval: ``metrics.json``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.metrics import precision_recall_curve, roc_curve

from foveate.errors import UsageError
from foveate.evaluate.agreement import agreement
from foveate.evaluate.classwise import Classwise
from foveate.evaluate.delong import delong_intervals
from foveate.evaluate.discrimination import Bools, Discrimination
from foveate.evaluate.intervals import Bootstrap, Floats
from foveate.evaluate.options import EvaluateOptions
from foveate.evaluate.patients import per_patient
from foveate.evaluate.probabilities.abstention import abstention
from foveate.evaluate.probabilities.calibration import calibration
from foveate.evaluate.probabilities.thresholds import operating_points
from foveate.evaluate.probabilities.utility import (
    check_prevalence,
    decision_curves,
    predictive_value_intervals,
)
from foveate.evaluate.sample import are_known
from foveate.evaluate.subgroups import subgroups
from foveate.evaluate.table import DEFAULT_THRESHOLD, SEEN, PredictionTable
from foveate.types import Track, quiet

#: Metric of the whole cohort → the per-class metric that it averages.
OVERALL = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced_accuracy",
    "f1_macro": "f1",
    "precision_macro": "precision",
    "recall_macro": "recall",
    "auroc_macro": "auroc",
    "ap_macro": "ap",
}
_PER_CLASS = ("auroc", "ap", "precision", "npv", "recall", "specificity", "f1")
_BY_VIEWS = ("accuracy", "balanced_accuracy", "auroc_macro")
_CURVE_POINTS = 500  # more would not show in a figure


def evaluate_predictions(
    table: PredictionTable,
    *,
    split: str = "test",
    thresholds: Mapping[str, float] | None = None,
    n_boot: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    options: EvaluateOptions | None = None,
    validation: PredictionTable | None = None,
    track: Track = quiet,
) -> dict[str, Any]:
    """Evaluate the predictions of one part.

    Args:
        table: predictions, of any parts.
        split: the part to evaluate.
        thresholds: of the findings (multi-label), chosen on validation cases; 0.5 unless given.
        n_boot: bootstrap replicates; 0 for no intervals.
        level: of the intervals.
        seed: of the bootstrap.
        options: what else is told; None takes the defaults.
        validation: cases of the part ``val`` that limits are fitted on; None takes those of the table, where
            they are not the ones to evaluate.
        track: shows progress.

    Returns:
        Plain JSON: whether it is known who is who (``patients_known``), how many cases were left out because
        their truth is not known (``without_truth``) or the model learned from them (``seen``), metrics over
        all classes and per class, confusion, calibration, what the operating points reach
        (``operating_points``), curves, and the main metrics by which views the cases had (``by_views``), in
        ``subgroups``, ``per_patient``, and where the model may abstain (``abstention``). Undefined values are
        None with a reason. Definitions stand in the modules of these names, ``discrimination``,
        ``calibration`` and ``thresholds``.

    Raises:
        UsageError: the part has no case, or a threshold is for no finding of this cohort.
    """
    _check(table, split, thresholds)
    part = table.part(split)
    known = part.only(np.asarray(~np.isnan(part.truth).all(axis=1)))
    chosen = options or EvaluateOptions()
    check_prevalence(chosen.prevalence, table.classes)
    bootstrap = Bootstrap(n_boot, level, seed, chosen.interval)
    counted = _Counted.of(known, thresholds, bootstrap, track)
    validation = (table if validation is None else validation).part("val")
    if split == "val":  # what is fitted must not be told on it
        validation = validation.part("none")
    return {
        "task": known.task,
        "classes": list(known.classes),
        "split": split,
        "n": len(known.case_ids),
        "patients": len(set(known.patient_ids)),
        "patients_known": are_known(known.case_ids, known.patient_ids),
        "without_truth": len(part.case_ids) - len(known.case_ids),
        "seen": table.splits.count(SEEN),
        "bootstrap": {
            "n": n_boot,
            "level": level,
            "unit": "patient",
            "seed": seed,
            "interval": chosen.interval,
        },
        "metrics": {name: counted.overall(name) for name in OVERALL},
        "per_class": {name: counted.per_class(k) for k, name in enumerate(known.classes)},
        "delong": delong_intervals(known, level),
        "agreement": agreement(known, counted.decided, bootstrap, track, order=chosen.order),
        "confusion": _confusion(known, counted.decided),
        "calibration": calibration(known, bootstrap, track),
        "operating_points": operating_points(known, validation, chosen, bootstrap, track),
        "at_prevalence": {
            name: counted.at_prevalence(known.classes.index(name), share)
            for name, share in chosen.prevalence.items()
        },
        "decision_curves": decision_curves(known, bootstrap, track),
        "curves": {name: _curves(known, k) for k, name in enumerate(known.classes)},
        "by_views": _by_views(counted, track),
        "subgroups": subgroups(known, chosen, bootstrap, thresholds, track),
        "per_patient": per_patient(known, chosen, bootstrap, thresholds, track),
        "abstention": abstention(known, validation, chosen, bootstrap, thresholds, track),
    }


@dataclass(frozen=True)
class _Counted:
    """Everything that the values of one part are put together from.

    Attributes:
        thresholds: of the findings.
        decided: ``(N, K)`` what the model decides.
        bootstrap: of the intervals.
        classwise: the figures of the cases with known truth.
    """

    thresholds: Mapping[str, float]
    decided: Bools
    bootstrap: Bootstrap
    classwise: Classwise

    @classmethod
    def of(
        cls,
        table: PredictionTable,
        thresholds: Mapping[str, float] | None,
        bootstrap: Bootstrap,
        track: Track,
    ) -> _Counted:
        """Compute every metric on the cohort and on every replicate."""
        decided = table.decisions(thresholds)
        discrimination = Discrimination(table, decided)
        once = discrimination(np.ones((1, len(table.case_ids))))
        point = {name: values[0] for name, values in once.items()}
        replicates = bootstrap.replicates(discrimination, table.patient_ids, track)
        classwise = Classwise(table, discrimination, bootstrap, point, replicates)
        return cls(thresholds or {}, decided, bootstrap, classwise)

    @property
    def table(self) -> PredictionTable:
        """The cases with known truth."""
        return self.classwise.table

    def overall(self, name: str) -> dict[str, Any]:
        """One metric averaged over the classes for which it is defined."""
        return self.classwise.average(OVERALL[name]).to_json()

    def per_class(self, k: int) -> dict[str, Any]:
        """Every metric of one class against the rest."""
        truth = self.table.truth[:, k]
        name = self.table.classes[k]
        threshold = self.thresholds.get(name, DEFAULT_THRESHOLD) if self.table.task == "multilabel" else None
        values = {metric: self.classwise.of_class(metric, k).to_json() for metric in _PER_CLASS}
        return {"n": int((truth == 1).sum()), **values, "threshold": threshold}

    def at_prevalence(self, k: int, prevalence: float) -> dict[str, Any]:
        """Predictive values of one class where it is as frequent as stated."""
        truth = self.table.truth[:, k]
        known = ~np.isnan(truth)
        recall, specificity = (self.classwise.of_class(name, k) for name in ("recall", "specificity"))
        ppv, npv = predictive_value_intervals(recall, specificity, prevalence, self.bootstrap)
        return {
            "prevalence": prevalence,
            "observed": float((truth[known] == 1).mean()) if known.any() else None,
            "ppv": ppv.to_json(),
            "npv": npv.to_json(),
        }


def _by_views(counted: _Counted, track: Track) -> dict[str, Any]:
    """The main metrics for each set of views that cases were classified from, the most frequent first.

    Empty if the predictions do not name views.
    """
    found: dict[str, Any] = {}
    table = counted.table
    if not any(table.views):
        return found
    for names, count in Counter(table.views).most_common():
        same = counted
        if count < len(table.case_ids):
            cases = table.only(np.array([name == names for name in table.views], dtype=bool))
            same = _Counted.of(cases, counted.thresholds, counted.bootstrap, track)
        found[names or "unknown"] = {
            "n": count,
            "patients": len(set(same.table.patient_ids)),
            "metrics": {name: same.overall(name) for name in _BY_VIEWS},
        }
    return found


def _check(table: PredictionTable, split: str, thresholds: Mapping[str, float] | None) -> None:
    if split not in table.splits:
        held = ", ".join(sorted({repr(name) for name in table.splits})) or "none"
        raise UsageError(
            f"no prediction is of the part '{split}'", fix=f"predict its cases first; parts held: {held}"
        )
    unknown = sorted(set(thresholds or {}) - set(table.classes))
    if unknown or (thresholds and table.task == "multiclass"):
        raise UsageError(
            f"thresholds for {', '.join(unknown or sorted(thresholds or {}))} cannot be used here",
            fix="thresholds belong to findings (multi-label); multi-class takes the most probable class",
        )


def _confusion(table: PredictionTable, decided: Bools) -> dict[str, Any]:
    """Multi-class: counts with truth in rows. Multi-label: four counts per finding."""
    positive, negative = table.truth == 1, table.truth == 0
    if table.task == "multiclass":
        counts = positive.astype(np.int64).T @ decided.astype(np.int64)
        return {"labels": list(table.classes), "counts": counts.tolist()}
    return {
        name: {
            "tn": int((negative & ~decided)[:, k].sum()),
            "fp": int((negative & decided)[:, k].sum()),
            "fn": int((positive & ~decided)[:, k].sum()),
            "tp": int((positive & decided)[:, k].sum()),
        }
        for k, name in enumerate(table.classes)
    }


def _curves(table: PredictionTable, k: int) -> dict[str, dict[str, list[float]]]:
    """ROC and precision-recall curve of one class for drawing; empty where AUROC is undefined."""
    known = ~np.isnan(table.truth[:, k])
    truth, scores = table.truth[known, k], table.probabilities[known, k]
    if len(np.unique(truth)) < 2:
        return {"roc": {"fpr": [], "tpr": []}, "pr": {"recall": [], "precision": []}}
    fpr, tpr, _ = roc_curve(truth, scores)
    precision, recall, _ = precision_recall_curve(truth, scores, drop_intermediate=True)
    return {
        "roc": _thinned({"fpr": fpr, "tpr": tpr}),
        "pr": _thinned({"recall": recall, "precision": precision}),
    }


def _thinned(curve: Mapping[str, Floats]) -> dict[str, list[float]]:
    """At most ``_CURVE_POINTS`` points, both ends among them."""
    length = len(next(iter(curve.values())))
    chosen = np.linspace(0, length - 1, min(length, _CURVE_POINTS)).round().astype(int)
    return {name: [float(value) for value in values[chosen]] for name, values in curve.items()}
