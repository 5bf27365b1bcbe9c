"""``metrics.json``: every figure of the evaluated part of a cohort.

What a figure is stands in the modules that compute it: ``summary``, ``discrimination``, ``agreement``,
``delong``, ``subgroups``, ``patients``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from foveate.evaluate.intervals import Value
from foveate.evaluate.results.bootstrap import IntervalFacts
from foveate.evaluate.results.file import Part, ResultFile
from foveate.evaluate.results.parts import ABSENT, ALPHA, Figures, Unmade
from foveate.evaluate.results.probabilities import (
    Abstention,
    DecisionCurves,
    OperatingFigures,
    PrevalenceFigures,
    RawCalibration,
)
from foveate.types import Task


class CohortFigures(Figures):
    """Figures over all classes; the averages are of the classes for which a figure is defined."""

    accuracy: Value = ABSENT
    balanced_accuracy: Value = ABSENT
    f1_macro: Value = ABSENT
    precision_macro: Value = ABSENT
    recall_macro: Value = ABSENT
    auroc_macro: Value = ABSENT
    ap_macro: Value = ABSENT


class ClassFigures(Figures):
    """Figures of one class against the rest.

    Attributes:
        n: cases that have the class.
        threshold: from which probability on a finding is decided to be present; None for classes.
    """

    n: int
    auroc: Value = ABSENT
    ap: Value = ABSENT
    precision: Value = ABSENT
    npv: Value = ABSENT
    recall: Value = ABSENT
    specificity: Value = ABSENT
    f1: Value = ABSENT
    threshold: float | None = None

    @property
    def prevalence(self) -> float | None:
        """Share of the cases of which the class is known that have it; None where there is no such case."""
        return self.n / self.auroc.n if self.auroc.n else None


class DelongIntervals(Part):
    """AUROC of each class with an interval in closed form.

    Attributes:
        assumes: what was taken to be independent, in words.
        level: of the intervals.
        per_class: by class.
    """

    assumes: str
    level: float = 0.95
    per_class: dict[str, Value]


class AgreementFigures(Part):
    """Agreement beyond chance.

    Attributes:
        order: of the classes, which the weighted kappas take; None where they have none.
        metrics: by figure; of findings, averages.
        per_class: by finding and figure; None for classes.
    """

    order: tuple[str, ...] | None = None
    metrics: dict[str, Value]
    per_class: dict[str, dict[str, Value]] | None = None


class ConfusionMatrix(Part):
    """Which class was taken for which.

    Attributes:
        labels: K classes.
        counts: ``K x K``, truth in rows.
    """

    labels: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


class FindingCounts(Part):
    """Decisions on one finding: true and false negatives, false and true positives."""

    tn: int
    fp: int
    fn: int
    tp: int


class RocCurve(Part):
    """False and true positive rates; empty where undefined."""

    fpr: tuple[float, ...]
    tpr: tuple[float, ...]


class PrCurve(Part):
    """Recall and precision; empty where undefined."""

    recall: tuple[float, ...]
    precision: tuple[float, ...]


class ClassCurves(Part):
    """Curves of one class, for drawing."""

    roc: RocCurve
    pr: PrCurve


class ViewsFigures(Part):
    """The main figures, by name, of the cases that have the same views: ``n`` of so many ``patients``."""

    n: int
    patients: int
    metrics: dict[str, Value]


class SubgroupFigures(Part):
    """Figures of one group.

    Attributes:
        n: cases.
        patients: of so many patients.
        reason: why the group is only counted; None where it is told.
        metrics: over all classes; None where it is only counted.
        per_class: by class and figure.
    """

    n: int
    patients: int
    reason: str | None
    metrics: dict[str, Value] | None = None
    per_class: dict[str, dict[str, Value]] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SubgroupGap(Value):
    """What the group with the largest figure has more than that with the smallest.

    Attributes:
        largest, smallest: the two groups; None where no class can be compared.
        p: chance of as large a gap if groups did not differ.
        p_holm: the same, corrected for all gaps of the file.
    """

    largest: str | None = None
    smallest: str | None = None
    p: float | None = None
    p_holm: float | None = None

    @property
    def shown(self) -> bool:
        """Whether chance does not explain it."""
        return self.p_holm is not None and self.p_holm < ALPHA


class SubgroupColumn(Part):
    """Groups by one column of the manifest.

    Attributes:
        kind: of the groups.
        reason: why the column was not divided; None where it was.
        replicates: of the bootstrap.
        groups: by name.
        gaps: by figure; none where fewer than two groups are told.
    """

    kind: str
    reason: str | None
    replicates: int = 0
    groups: dict[str, SubgroupFigures]
    gaps: dict[str, SubgroupGap]


class PatientFigures(Part):
    """Figures of patients instead of cases.

    Attributes:
        how: the cases of a patient were put together.
        patients: that figures are of.
        left_out: patients whose cases are of different classes.
        most_cases: of one patient.
        metrics: over all classes.
        per_class: by class and figure.
    """

    how: Literal["mean", "max"]
    patients: int
    left_out: int
    most_cases: int
    metrics: dict[str, Value]
    per_class: dict[str, dict[str, Value]]


class UnlikeImages(Part):
    """Cases whose images plainly differ from the training images.

    Attributes:
        share: of all cases of the part, with its exact interval over patients.
        cases: how many.
        kinds: by doubt (``unlike-colour``, …) the cases that raise it, the most frequent first.
    """

    share: Value
    cases: int
    kinds: dict[str, int]


class Metrics(ResultFile):
    """Every figure of one part of a cohort.

    Attributes:
        task, classes: of the cohort.
        split: the part that was evaluated.
        n, patients: its cases of known truth, and whose they are.
        patients_known: whether it is known who is who.
        without_truth: cases left out because their truth is not known.
        seen: cases left out because the model learned from them.
        bootstrap: how intervals were made.
        metrics: over all classes.
        per_class: by class.
        confusion: of classes one matrix, of findings counts by name.
        by_views: by the views that cases had, joined by ``+``; empty where no view is named.
        unlike: None where no case is.
        others: None where the version that wrote the file did not compute them.
    """

    NAME: ClassVar[str] = "metrics.json"
    MADE_BY: ClassVar[str] = "evaluate"

    task: Task
    classes: tuple[str, ...]
    split: str
    n: int
    patients: int
    patients_known: bool = True
    without_truth: int = 0
    seen: int = 0
    bootstrap: IntervalFacts
    metrics: CohortFigures
    per_class: dict[str, ClassFigures]
    delong: DelongIntervals | None = None
    agreement: AgreementFigures | None = None
    confusion: Annotated[ConfusionMatrix | dict[str, FindingCounts], Field(union_mode="left_to_right")]
    calibration: RawCalibration
    operating_points: dict[str, OperatingFigures] = Field(default_factory=dict)
    at_prevalence: dict[str, PrevalenceFigures] = Field(default_factory=dict)
    decision_curves: DecisionCurves | None = None
    curves: dict[str, ClassCurves]
    by_views: dict[str, ViewsFigures] = Field(default_factory=dict)
    subgroups: dict[str, SubgroupColumn] | None = None
    per_patient: PatientFigures | Unmade | None = None
    abstention: Abstention | None = None
    unlike: UnlikeImages | None = None

    @property
    def thresholds(self) -> Mapping[str, float]:
        """From which probability on each finding is decided to be present; none for classes."""
        return {
            name: found.threshold for name, found in self.per_class.items() if found.threshold is not None
        }
