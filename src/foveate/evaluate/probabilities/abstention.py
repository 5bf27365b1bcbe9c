"""What is gained when the model may say that it does not know: sets, leaving out, novelty; with intervals.

Whatever is fitted (the limits of the sets, the threshold of novelty) is fitted on the validation part, as
the bundle has it, and measured on the part that is evaluated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foveate.evaluate.intervals import Bootstrap, Floats, Interval, Statistic, mean_of_defined, ratio
from foveate.evaluate.measured import Measured, affordable
from foveate.evaluate.options import EvaluateOptions
from foveate.evaluate.probabilities.conformal import SetRule, familiar_limit, share_within
from foveate.evaluate.probabilities.selective import FIGURES, GRID, Selective, answers, edge_intervals
from foveate.evaluate.rates import Rates, pair
from foveate.evaluate.results.parts import Unmade
from foveate.evaluate.results.probabilities import (
    Abstention,
    ClassSets,
    FlaggedFigures,
    NoveltyFlags,
    PredictionSets,
    RiskCurve,
    RiskFigures,
    SelectiveOrder,
    SelectiveOrders,
    SetCoverage,
)
from foveate.evaluate.table import PredictionTable
from foveate.types import Track, quiet

Bools = NDArray[np.bool_]
SETS = ("coverage", "patient_coverage", "size", "one", "none", "one_right")
_NO_VALIDATION = "no validation cases besides the evaluated ones, which it would have to be fitted on"
_NO_NOVELTY = "the predictions do not tell the novelty of every case"
_NOT_HELD = (
    "too few validation patients: the limit is wider, that of a log-normal distribution with 90 % confidence"
)
_TOO_FEW = "too few validation patients for the share asked for"


def abstention(
    part: PredictionTable,
    table: PredictionTable,
    options: EvaluateOptions,
    bootstrap: Bootstrap,
    thresholds: Mapping[str, float] | None = None,
    track: Track = quiet,
) -> Abstention:
    """The block ``abstention`` of ``metrics.json``.

    Args:
        part: the cases to evaluate, each with some known truth.
        table: all predictions; it is fitted on those of the part ``val``, if it has any and they are not
            the ones to evaluate.
        options: the coverage and the score of the sets, and the share of familiar cases.
        bootstrap: of the intervals.
        thresholds: of the findings (multi-label).
        track: shows progress.
    """
    validation = table.part("val")
    if "val" in part.splits:
        validation = validation.only(np.zeros(len(validation.case_ids), dtype=bool))
    sureness, right = answers(part, part.decisions(thresholds), thresholds)
    told = _Told(part, affordable(bootstrap, part), track)
    return Abstention(
        replicates=told.bootstrap.n,
        sets=told.sets(validation, options),
        novelty=told.novelty(validation, right, options),
        selective=SelectiveOrders(
            confidence=told.selective(sureness, right),
            novelty=told.selective(-part.novelty, right),
        ),
    )


class SetFigures:
    """How often prediction sets hold the truth and how large they are, as one function of case weights.

    A set answers one question: which class a case is of (multi-class), or whether a finding is present
    (multi-label, all findings pooled).

    Args:
        rule: fitted on other cases.
        table: N cases over K classes.
    """

    def __init__(self, rule: SetRule, table: PredictionTable) -> None:
        here, gone, truth = rule.sets(table.probabilities), rule.absences(table.probabilities), table.truth
        known = ~np.isnan(truth)
        if table.task == "multiclass":
            size, held = here.sum(axis=1, keepdims=True), (here & (truth == 1)).any(axis=1, keepdims=True)
            asked, of_class = known.any(axis=1, keepdims=True), truth == 1
        else:
            size, held = here.astype(int) + gone, np.where(truth == 1, here, gone)
            asked, of_class = known, known
        single = asked & (size == 1)
        pooled = (asked, asked & held, asked * size, single, asked & (size == 0), single & held)
        self._sums = np.stack([part.sum(axis=1) for part in pooled], axis=1).astype(np.float64)
        _, index, counts = np.unique(
            np.asarray(table.patient_ids, dtype=object), return_inverse=True, return_counts=True
        )
        self._shares = self._sums[:, :2] / np.maximum(counts[index], 1)[:, None]
        self._class = np.concatenate([of_class, of_class & held, of_class * size], axis=1).astype(np.float64)

    def __call__(self, weights: Floats) -> dict[str, Floats]:
        """Figures for ``(B, N)`` case weights.

        Returns:
            ``coverage``, ``patient_coverage`` (each patient counts the same), ``size`` (answers in a set),
            ``one`` and ``none`` (share of sets with one answer and with none), ``one_right`` (share of sets
            with one answer that hold the truth), each ``(B,)``; ``class_coverage`` and ``class_size``
            ``(B, K)``: of the cases of each class, or of all cases for each finding.
        """
        asked, held, size, single, empty, right = (weights @ self._sums).T
        by_patient, held_by_patient = (weights @ self._shares).T
        count, covered, filled = np.split(weights @ self._class, 3, axis=1)
        return {
            "coverage": ratio(held, asked),
            "patient_coverage": ratio(held_by_patient, by_patient),
            "size": ratio(size, asked),
            "one": ratio(single, asked),
            "none": ratio(empty, asked),
            "one_right": ratio(right, single),
            "class_coverage": ratio(covered, count),
            "class_size": ratio(filled, count),
        }

    def intervals(self, patient_ids: Sequence[str], level: float) -> dict[str, Floats]:
        """Exact intervals of the shares among them, ``(1, 2)``, those of the classes ``(K, 2)``."""
        asked, held, _, single, empty, right = self._sums.T[:, :, None]
        by_patient, held_by_patient = self._shares.T[:, :, None]
        count, covered, _ = np.split(self._class, 3, axis=1)
        parts = {
            "coverage": (held, asked),
            "patient_coverage": (held_by_patient, by_patient),
            "one": (single, asked),
            "none": (empty, asked),
            "one_right": (right, single),
            "class_coverage": (covered, count),
        }
        return {
            name: Rates.of(hits, whole, patient_ids).intervals(level) for name, (hits, whole) in parts.items()
        }


class NoveltyFigures:
    """How many cases are flagged as novel, and how the others fare, as one function of case weights.

    Args:
        novel: ``(N,)`` whether a case is flagged.
        right: ``(N, M)`` 1 where an answer is right, 0 where it is wrong, NaN where unknown.
    """

    def __init__(self, novel: Bools, right: Floats) -> None:
        self._novel = novel.astype(np.float64)
        self._groups = [
            (np.where(kept[:, None], ~np.isnan(right), 0.0), np.where(kept[:, None], right == 1, 0.0))
            for kept in (novel, ~novel)
        ]

    def __call__(self, weights: Floats) -> dict[str, Floats]:
        """``flagged``, ``accuracy_novel``, ``accuracy_familiar``, each ``(B,)``, for ``(B, N)`` weights."""
        novel, familiar = (
            mean_of_defined(ratio(weights @ right, weights @ known)) for known, right in self._groups
        )
        return {
            "flagged": ratio(weights @ self._novel, weights.sum(axis=1)),
            "accuracy_novel": novel,
            "accuracy_familiar": familiar,
        }

    def intervals(self, patient_ids: Sequence[str], level: float) -> dict[str, Interval | None]:
        """Exact intervals of those that are a rate of cases; with several findings, accuracies are not."""
        pairs = [(self._novel[:, None], np.ones((len(self._novel), 1)))]
        names = ["flagged"]
        if all(known.shape[1] == 1 for known, _ in self._groups):
            pairs += [(right, known) for known, right in self._groups]
            names += ["accuracy_novel", "accuracy_familiar"]
        return {
            name: pair(Rates.of(hits, asked, patient_ids).intervals(level)[0])
            for name, (hits, asked) in zip(names, pairs, strict=True)
        }


@dataclass(frozen=True, slots=True)
class _Told:
    """The evaluated part, ready to be measured; ``validation`` is empty where nothing may be fitted."""

    part: PredictionTable
    bootstrap: Bootstrap
    track: Track

    def sets(self, validation: PredictionTable, options: EvaluateOptions) -> PredictionSets | Unmade:
        """Prediction sets fitted on validation cases, and how often they hold the truth here."""
        if not validation.case_ids:
            return Unmade(reason=_NO_VALIDATION)
        rule = SetRule.fit(
            validation.probabilities,
            validation.truth,
            validation.patient_ids,
            task=validation.task,
            coverage=options.coverage,
            score=options.set_score,
        )
        figures = SetFigures(rule, self.part)
        measured = self._measured(figures)
        exact = figures.intervals(self.part.patient_ids, self.bootstrap.level)
        truth = self.part.truth
        asked = truth == 1 if rule.task == "multiclass" else ~np.isnan(truth)
        figures_by_name = {
            name: measured.tell(name, exact=pair(exact[name][0]) if name in exact else None) for name in SETS
        }
        return PredictionSets(
            **rule.to_json(),
            reason=_limited(rule, self.part.classes),
            metrics=SetCoverage(**figures_by_name),
            per_class={
                name: ClassSets(
                    coverage=measured.tell(
                        "class_coverage", k, cases=asked[:, k], exact=pair(exact["class_coverage"][k])
                    ),
                    size=measured.tell("class_size", k, cases=asked[:, k]),
                )
                for k, name in enumerate(self.part.classes)
            },
        )

    def novelty(
        self, validation: PredictionTable, right: Floats, options: EvaluateOptions
    ) -> NoveltyFlags | Unmade:
        """Cases flagged as novel by validation's limit, and how right answers are on either side of it."""
        if not validation.case_ids:
            return Unmade(reason=_NO_VALIDATION)
        if np.isnan(validation.novelty).any() or np.isnan(self.part.novelty).any():
            return Unmade(reason=_NO_NOVELTY)
        threshold, held = familiar_limit(validation.novelty, validation.patient_ids, options.familiar)
        patients = len(set(validation.patient_ids))
        novel = self.part.novelty > threshold
        figures = NoveltyFigures(novel, right)
        measured = self._measured(figures)
        exact = figures.intervals(self.part.patient_ids, self.bootstrap.level)
        cases = {"flagged": None, "accuracy_novel": novel, "accuracy_familiar": ~novel}
        told = {name: measured.tell(name, cases=own, exact=exact.get(name)) for name, own in cases.items()}
        reached = bool(np.isfinite(threshold))
        return NoveltyFlags(
            familiar=options.familiar,
            threshold=threshold if reached else None,
            within=share_within(patients, options.familiar) if held else None,
            reason=None if held else _NOT_HELD if reached else f"{_TOO_FEW}: no case is flagged",
            metrics=FlaggedFigures(**told),
        )

    def selective(self, sureness: Floats, right: Floats) -> SelectiveOrder | Unmade:
        """Risk over coverage, the surest cases ``(N,)`` first; ``right`` is 1 for right answers."""
        if np.isnan(sureness).any():
            return Unmade(reason=_NO_NOVELTY)
        order = Selective(sureness, right)
        measured = self._measured(order)
        edges = edge_intervals(right, self.part.patient_ids, self.bootstrap.level)
        return SelectiveOrder(
            metrics=RiskFigures(**{name: measured.tell(name, edge=edges.get(name)) for name in FIGURES}),
            curve=RiskCurve(coverage=tuple(GRID.tolist()), risk=tuple(order.curve())),
        )

    def _measured(self, statistic: Statistic) -> Measured:
        return Measured.of(statistic, self.part, self.bootstrap, self.track)


def _limited(rule: SetRule, classes: Sequence[str]) -> str | None:
    """Which sets say nothing, because too few patients were there to fit their limit."""
    names = classes if rule.task == "multilabel" else ("all classes",)
    open_ = [name for name, limit in zip(names, rule.limits, strict=True) if np.isinf(limit)]
    return f"{_TOO_FEW}: sets hold every answer ({', '.join(open_)})" if open_ else None
