"""``localization.json``: how well heat maps point at what is marked, beside what they must beat."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from foveate.evaluate.intervals import Value
from foveate.evaluate.results.bootstrap import IntervalFacts
from foveate.evaluate.results.comparison import ComparedClass
from foveate.evaluate.results.file import Part, ResultFile, SparsePart

ByThreshold = dict[str, Value]


class LocalizationFigures(SparsePart):
    """Means of the scores of ``evaluate.localization.cases.CaseScore``; what was not scored is None.

    Attributes:
        chance, cell_chance, plane_chance: what a random point, cell, or point in the plane scores.
    """

    pointing_game: Value | None = None
    iou: Value | None = None
    iobb: Value | None = None
    mask_iou: Value | None = None
    dice: Value | None = None
    pixel_ap: Value | None = None
    energy_inside: Value | None = None
    centre_inside: Value | None = None
    half_inside: Value | None = None
    cell_hit: Value | None = None
    plane_pointing: Value | None = None
    plane_iou: Value | None = None
    depth_error: Value | None = None
    depth_error_mm: Value | None = None
    chance: Value | None = None
    cell_chance: Value | None = None
    plane_chance: Value | None = None

    def figure(self, name: str) -> Value | None:
        """A figure by its name; None where there is none, or no such figure."""
        value = getattr(self, name, None)
        return value if isinstance(value, Value) else None

    def named(self) -> dict[str, Value]:
        """The figures that there are, by name."""
        return {name: value for name in type(self).model_fields if (value := self.figure(name)) is not None}


class MethodLocalization(LocalizationFigures):
    """Every figure of one method.

    Attributes:
        max_box_acc, max_box_acc_v2: share of cases localized at thresholds of the validation cases, and
        max_box_acc_at_best, max_box_acc_v2_at_best: at the best thresholds of these cases.
        localization_accuracy, iobb_accuracy: share of cases that reach an IoU or IoBB, by it.
        false_positives_iou, false_positives_iobb: mean count of boxes per map that do not, by it.
        empty_maps: how many have no evidence.
    """

    max_box_acc: Value | None = None
    max_box_acc_v2: Value | None = None
    max_box_acc_at_best: Value | None = None
    max_box_acc_v2_at_best: Value | None = None
    localization_accuracy: ByThreshold = Field(default_factory=dict)
    iobb_accuracy: ByThreshold = Field(default_factory=dict)
    false_positives_iou: ByThreshold = Field(default_factory=dict)
    false_positives_iobb: ByThreshold = Field(default_factory=dict)
    empty_maps: int = 0

    def at(self, name: str, threshold: str) -> Value | None:
        """A figure by name and threshold; None where there is none."""
        values = getattr(self, name, None)
        return values.get(threshold) if isinstance(values, dict) else None


class MarkedCases(Part):
    """Some marked cases (n pairs of case and class), and the figures of each method on them."""

    n: int
    patients: int
    methods: dict[str, MethodLocalization]


class SizeGroups(SparsePart):
    """Marked cases by the share of the image that is marked; nothing where that is unknown.

    Attributes:
        rule: how the bounds were chosen.
        bounds: smallest and largest share, by group.
        strata: the groups.
    """

    rule: str | None = None
    bounds: dict[str, tuple[float, float]] | None = None
    strata: dict[str, MarkedCases] | None = None


class BoxRuleFacts(SparsePart):
    """How a map became boxes: kind of the rule, which regions are kept, threshold of each method."""

    kind: str | None = None
    keep: str | None = None
    threshold: dict[str, float] | float | None = None


class PublishedLocalization(Part):
    """Published figures: their source, the rule of their boxes, and by finding ``<figure> <threshold>``."""

    source: str
    rule: str
    rows: dict[str, dict[str, float]]


class Localization(ResultFile):
    """How well heat maps point at what is marked.

    Attributes:
        split: the part that was scored.
        explainer: name in the ``EXPLAINERS`` table.
        rule: how maps became boxes.
        threshold_chosen_on: the part on which the thresholds of the rule were chosen.
        iou_thresholds, iobb_thresholds, box_ious: overlaps asked for.
        bootstrap: of the intervals.
        left_out: by method, why it could not be scored.
        published: figures to stand beside these.
        overall: all marked cases.
        differences: by control, what the heat maps have more, paired on the same cases.
        by_class, by_size, by_answer, by_view: some of the cases.
        comparable: by class, figures that can stand beside another run's, since every run's boxes are cut at
            the same share of a map's maximum (``evaluate.comparing.paired.TAU``); empty in files of 0.1.0.
        reason: why nothing was scored.
    """

    NAME: ClassVar[str] = "localization.json"
    MADE_BY: ClassVar[str] = "localize"

    split: str
    explainer: str
    rule: BoxRuleFacts = BoxRuleFacts()
    threshold_chosen_on: str = "val"
    iou_thresholds: tuple[float, ...] = ()
    iobb_thresholds: tuple[float, ...] = ()
    box_ious: tuple[float, ...] = ()
    bootstrap: IntervalFacts | None = None
    left_out: dict[str, str] = Field(default_factory=dict)
    published: PublishedLocalization | None = None
    overall: MarkedCases
    differences: dict[str, LocalizationFigures] = Field(default_factory=dict)
    by_class: dict[str, MarkedCases] = Field(default_factory=dict)
    by_size: SizeGroups = SizeGroups()
    by_answer: dict[str, MarkedCases] = Field(default_factory=dict)
    by_view: dict[str, MarkedCases] = Field(default_factory=dict)
    comparable: dict[str, ComparedClass] = Field(default_factory=dict)
    reason: str | None = None
