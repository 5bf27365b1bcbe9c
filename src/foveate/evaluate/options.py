"""Choices of an evaluation beyond the table of predictions itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class EvaluateOptions:
    """What else is told, and from what.

    Attributes:
        interval: ``bca`` or ``percentile``, as ``intervals`` has them.
        prevalence: of classes, where predictive values shall also be told at it, each in (0, 1).
        metadata: by case id, the other columns of the manifest, as text.
        subgroups: columns to tell figures apart by; None looks for age, sex, site and scanner.
        min_group: patients that a subgroup needs for its figures to be told.
        per_patient: how the cases of a patient are put together, or ``none``.
        coverage: share of cases whose prediction set shall hold the truth.
        set_score: score of conformity of the prediction sets.
        familiar: share of cases that shall not be flagged as novel.
        order: of the classes, from one end of a scale to the other; None where they have none.
        threshold: rule by which the operating point of each class is chosen on validation cases.
        target: the sensitivity or specificity that the rule aims at.
    """

    interval: Literal["percentile", "bca"] = "bca"
    prevalence: Mapping[str, float] = field(default_factory=dict)
    metadata: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    subgroups: tuple[str, ...] | None = None
    min_group: int = 10
    per_patient: Literal["mean", "max", "none"] = "mean"
    coverage: float = 0.9
    set_score: Literal["lac", "aps"] = "lac"
    familiar: float = 0.95
    order: tuple[str, ...] | None = None
    threshold: Literal["youden", "f1", "sensitivity", "specificity"] = "youden"
    target: float = 0.9
