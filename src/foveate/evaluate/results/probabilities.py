"""Parts of ``metrics.json`` about probabilities: calibration, thresholds, what acting and abstaining gain.

What a figure is stands in the modules of ``evaluate.probabilities`` that compute it.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from foveate.evaluate.intervals import Value
from foveate.evaluate.results.file import Part
from foveate.evaluate.results.operating_point import OperatingPoint
from foveate.evaluate.results.parts import ABSENT, Figures, Unmade
from foveate.types import Task


class CalibrationBin(Part):
    """Predictions of about one probability.

    Attributes:
        low, high: edges of the bin.
        confidence: mean stated probability; None in an empty bin.
        accuracy: share of true outcomes; None in an empty bin.
        n: predictions.
    """

    low: float
    high: float
    confidence: float | None
    accuracy: float | None
    n: int


class ClassCalibration(Figures):
    """Calibration of one class against the rest; figures as ``calibration`` defines them."""

    ece: Value = ABSENT
    brier: Value = ABSENT
    log_loss: Value = ABSENT
    excess: Value = ABSENT
    bins: tuple[CalibrationBin, ...]


class CalibrationFigures(Figures):
    """Calibration of one form of the probabilities.

    Attributes:
        bins: of equal width.
        bins_equal_mass: of as many predictions each.
        per_class: by class.
    """

    ece: Value = ABSENT
    ece_equal_mass: Value = ABSENT
    ece_classwise: Value = ABSENT
    brier: Value = ABSENT
    reliability: Value = ABSENT
    resolution: Value = ABSENT
    uncertainty: Value = ABSENT
    within_bins: Value = ABSENT
    log_loss: Value = ABSENT
    bins: tuple[CalibrationBin, ...]
    bins_equal_mass: tuple[CalibrationBin, ...] = ()
    per_class: dict[str, ClassCalibration] = Field(default_factory=dict)


class CalibrationChange(Figures):
    """Calibrated minus raw, paired: negative is better."""

    ece: Value = ABSENT
    brier: Value = ABSENT
    log_loss: Value = ABSENT


class CalibratedFigures(CalibrationFigures):
    """Calibration of the calibrated probabilities.

    Attributes:
        change: from the raw ones, over what is calibrated.
    """

    change: CalibrationChange


class RawCalibration(CalibrationFigures):
    """Calibration of the raw probabilities.

    Attributes:
        calibrated: the same of the calibrated ones; None where nothing was calibrated.
    """

    calibrated: CalibratedFigures | None = None


class OperatingFigures(Figures):
    """What a threshold reaches on the evaluated cases.

    Attributes:
        chosen: the threshold.
    """

    chosen: OperatingPoint
    sensitivity: Value
    specificity: Value
    ppv: Value
    npv: Value


class PrevalenceFigures(Part):
    """Predictive values where a class is as frequent as stated.

    Attributes:
        prevalence: stated.
        observed: in the evaluated cases; None where none is known.
        ppv, npv: predictive values.
    """

    prevalence: float
    observed: float | None
    ppv: Value
    npv: Value


class ThresholdBenefit(Part):
    """Net benefit at one threshold: of the model, of treating all, and what the model gains."""

    model: Value
    treat_all: Value
    gain: Value


class DecisionCurve(Part):
    """Net benefit of acting on one class.

    Attributes:
        model, treat_all: at each threshold of the curves; None where no case is known.
        at: by threshold, with intervals.
    """

    model: tuple[float | None, ...]
    treat_all: tuple[float | None, ...]
    at: dict[str, ThresholdBenefit]


class DecisionCurves(Part):
    """Net benefit of every class.

    Attributes:
        probabilities: the form that was taken, ``calibrated`` or ``raw``.
        thresholds: of the curves.
        per_class: by class.
    """

    probabilities: str
    thresholds: tuple[float, ...]
    per_class: dict[str, DecisionCurve]


class SetCoverage(Figures):
    """How often prediction sets hold the truth, and how large they are (see ``abstention``)."""

    coverage: Value
    patient_coverage: Value = ABSENT
    size: Value
    one: Value
    none: Value
    one_right: Value


class ClassSets(Part):
    """Prediction sets of the cases of one class, or of one finding."""

    coverage: Value
    size: Value


class PredictionSets(Part):
    """Prediction sets: the rule, fitted on validation cases, and what it reaches.

    Attributes:
        task, score, coverage, limits, cases, patients: of the rule, as ``conformal.SetRule`` has them; a
            limit of None holds every answer.
        reason: which sets say nothing, or None.
        metrics: over all classes.
        per_class: by class.
    """

    task: Task
    score: Literal["lac", "aps"]
    coverage: float
    limits: tuple[float | None, ...]
    cases: tuple[int, ...]
    patients: tuple[int, ...]
    reason: str | None
    metrics: SetCoverage
    per_class: dict[str, ClassSets]


class FlaggedFigures(Figures):
    """Share of cases flagged as novel, and how the answers on either side fare."""

    flagged: Value
    accuracy_novel: Value
    accuracy_familiar: Value


class NoveltyFlags(Part):
    """Cases that are flagged as novel.

    Attributes:
        familiar: share of cases that shall not be flagged.
        threshold: of novelty; None where no case can be flagged.
        within: shares of new cases between which the familiar ones lie; None where that is not known.
        reason: what limits the threshold, or None.
        metrics: what it flags.
    """

    familiar: float
    threshold: float | None
    within: tuple[float, float] | None = None
    reason: str | None
    metrics: FlaggedFigures


class RiskFigures(Figures):
    """What leaving out answers gains: area under the curve, error of all, accuracies of those kept."""

    aurc: Value
    error: Value
    accuracy_at_80: Value
    accuracy_at_90: Value


class RiskCurve(Part):
    """Share of wrong answers over the share that is kept; None where undefined."""

    coverage: tuple[float, ...]
    risk: tuple[float | None, ...]


class SelectiveOrder(Part):
    """Answers left out in one order."""

    metrics: RiskFigures
    curve: RiskCurve


class SelectiveOrders(Part):
    """The least sure answers left out first, and those on the most novel cases."""

    confidence: SelectiveOrder | Unmade
    novelty: SelectiveOrder | Unmade


class Abstention(Part):
    """What is gained where the model may say that it does not know.

    Attributes:
        replicates: of the bootstrap; fewer than elsewhere where the table is very large.
        sets, novelty, selective: each as its class says.
    """

    replicates: int = 0
    sets: PredictionSets | Unmade
    novelty: NoveltyFlags | Unmade
    selective: SelectiveOrders
