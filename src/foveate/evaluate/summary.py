"""All numbers of one part of a cohort, each with n, patients and an interval: ``metrics.json``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import precision_recall_curve, roc_curve

from foveate.errors import UsageError
from foveate.evaluate.agreement import agreement
from foveate.evaluate.classwise import Classwise
from foveate.evaluate.delong import delong_intervals
from foveate.evaluate.discrimination import Bools, Discrimination
from foveate.evaluate.intervals import Bootstrap, Floats, Value
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
from foveate.evaluate.results.bootstrap import IntervalFacts
from foveate.evaluate.results.metrics import (
    ClassCurves,
    ClassFigures,
    CohortFigures,
    ConfusionMatrix,
    FindingCounts,
    Metrics,
    PrCurve,
    RocCurve,
    ViewsFigures,
)
from foveate.evaluate.results.probabilities import PrevalenceFigures
from foveate.evaluate.sample import are_known
from foveate.evaluate.subgroups import subgroups
from foveate.evaluate.table import DEFAULT_THRESHOLD, SEEN, PredictionTable
from foveate.evaluate.unlike import unlike_images
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
) -> Metrics:
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
        Everything that ``metrics.json`` holds. Undefined values are None with a reason.

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
    return Metrics(
        task=known.task,
        classes=known.classes,
        split=split,
        n=len(known.case_ids),
        patients=len(set(known.patient_ids)),
        patients_known=are_known(known.case_ids, known.patient_ids),
        without_truth=len(part.case_ids) - len(known.case_ids),
        seen=table.splits.count(SEEN),
        bootstrap=IntervalFacts(n=n_boot, level=level, seed=seed, interval=chosen.interval),
        metrics=CohortFigures(**{name: counted.overall(name) for name in OVERALL}),
        per_class={name: counted.per_class(k) for k, name in enumerate(known.classes)},
        delong=delong_intervals(known, level),
        agreement=agreement(known, counted.decided, bootstrap, track, order=chosen.order),
        confusion=_confusion(known, counted.decided),
        calibration=calibration(known, bootstrap, track),
        operating_points=operating_points(known, validation, chosen, bootstrap, track),
        at_prevalence={
            name: counted.at_prevalence(known.classes.index(name), share)
            for name, share in chosen.prevalence.items()
        },
        decision_curves=decision_curves(known, bootstrap, track),
        curves={name: _curves(known, k) for k, name in enumerate(known.classes)},
        by_views=_by_views(counted, track),
        subgroups=subgroups(known, chosen, bootstrap, thresholds, track),
        per_patient=per_patient(known, chosen, bootstrap, thresholds, track),
        abstention=abstention(known, validation, chosen, bootstrap, thresholds, track),
        unlike=unlike_images(part, level),
    )


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

    def overall(self, name: str) -> Value:
        """One metric averaged over the classes for which it is defined."""
        return self.classwise.average(OVERALL[name])

    def per_class(self, k: int) -> ClassFigures:
        """Every metric of one class against the rest."""
        truth = self.table.truth[:, k]
        name = self.table.classes[k]
        threshold = self.thresholds.get(name, DEFAULT_THRESHOLD) if self.table.task == "multilabel" else None
        values = {metric: self.classwise.of_class(metric, k) for metric in _PER_CLASS}
        return ClassFigures(n=int((truth == 1).sum()), **values, threshold=threshold)

    def at_prevalence(self, k: int, prevalence: float) -> PrevalenceFigures:
        """Predictive values of one class where it is as frequent as stated."""
        truth = self.table.truth[:, k]
        known = ~np.isnan(truth)
        recall, specificity = (self.classwise.of_class(name, k) for name in ("recall", "specificity"))
        ppv, npv = predictive_value_intervals(recall, specificity, prevalence, self.bootstrap)
        observed = float((truth[known] == 1).mean()) if known.any() else None
        return PrevalenceFigures(prevalence=prevalence, observed=observed, ppv=ppv, npv=npv)


def _by_views(counted: _Counted, track: Track) -> dict[str, ViewsFigures]:
    """The main metrics for each set of views that cases were classified from, the most frequent first.

    Empty if the predictions do not name views.
    """
    found: dict[str, ViewsFigures] = {}
    table = counted.table
    if not any(table.views):
        return found
    for names, count in Counter(table.views).most_common():
        same = counted
        if count < len(table.case_ids):
            cases = table.only(np.array([name == names for name in table.views], dtype=bool))
            same = _Counted.of(cases, counted.thresholds, counted.bootstrap, track)
        found[names or "unknown"] = ViewsFigures(
            n=count,
            patients=len(set(same.table.patient_ids)),
            metrics={name: same.overall(name) for name in _BY_VIEWS},
        )
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


def _confusion(table: PredictionTable, decided: Bools) -> ConfusionMatrix | dict[str, FindingCounts]:
    """Multi-class: counts with truth in rows. Multi-label: four counts per finding."""
    positive, negative = table.truth == 1, table.truth == 0
    if table.task == "multiclass":
        counts = positive.astype(np.int64).T @ decided.astype(np.int64)
        return ConfusionMatrix(labels=table.classes, counts=tuple(map(tuple, counts.tolist())))
    return {
        name: FindingCounts(
            tn=int((negative & ~decided)[:, k].sum()),
            fp=int((negative & decided)[:, k].sum()),
            fn=int((positive & ~decided)[:, k].sum()),
            tp=int((positive & decided)[:, k].sum()),
        )
        for k, name in enumerate(table.classes)
    }


def _curves(table: PredictionTable, k: int) -> ClassCurves:
    """ROC and precision-recall curve of one class for drawing; empty where AUROC is undefined."""
    known = ~np.isnan(table.truth[:, k])
    truth, scores = table.truth[known, k], table.ranks[known, k]
    if len(np.unique(truth)) < 2:
        return ClassCurves(roc=RocCurve(fpr=(), tpr=()), pr=PrCurve(recall=(), precision=()))
    fpr, tpr, _ = roc_curve(truth, scores)
    precision, recall, _ = precision_recall_curve(truth, scores, drop_intermediate=True)
    return ClassCurves(
        roc=RocCurve(fpr=_thinned(fpr), tpr=_thinned(tpr)),
        pr=PrCurve(recall=_thinned(recall), precision=_thinned(precision)),
    )


def _thinned(values: Floats) -> tuple[float, ...]:
    """At most ``_CURVE_POINTS`` of the values along a curve, both ends among them."""
    chosen = np.linspace(0, len(values) - 1, min(len(values), _CURVE_POINTS)).round().astype(int)
    return tuple(values[chosen].tolist())
