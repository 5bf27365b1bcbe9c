"""The sections of a study that say how answers are tested: maps, figures, calibration, trust, shortcuts."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from foveate.study.methods import OPTIONS, Baseline, Rule, RuleKind, Score, options_of
from foveate.study.settings import Settings

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(gt=0, lt=1)]


class ExplainConfig(Settings):
    """Which heat maps are drawn.

    Attributes:
        method: a name in the ``EXPLAINERS`` table.
        targets: explain the ``true`` class, the ``predicted`` one, or ``both``.
        split: parts whose cases are explained.
        limit: highest number of cases per part, of as many patients as possible; None explains all.
        score: what gradients, integrated gradients, SmoothGrad and occlusion explain: the class's ``logit``,
            or its probability by ``softmax`` or ``sigmoid``.
        baseline: the image that says nothing, for integrated gradients and occlusion: ``zero`` (after
            normalization), ``mean`` (each channel's own), ``blur``, ``black``, or ``random``.
        baselines: how many of ``random`` are averaged over.
        ig_steps: points on integrated gradients' path from the baseline to the image.
        ig_rule: where they lie: ``midpoint`` of equal steps, ``gauss_legendre`` nodes, or ``left`` ends.
        weigh_views: with several views, also ask how much each counts (Shapley values), which takes a
            prediction for every set of views: 255 with eight of them.
    """

    method: str = "gradcam"
    targets: Literal["both", "true", "predicted"] = "both"
    split: tuple[Literal["train", "val", "test"], ...] = ("val", "test")
    limit: Count | None = None
    score: Score = "logit"
    baseline: Baseline = "zero"
    baselines: Count = 10
    ig_steps: Annotated[int, Field(ge=2)] = 50
    ig_rule: Rule = "midpoint"
    weigh_views: bool = True

    @model_validator(mode="after")
    def _all_read(self) -> Self:
        """An option that the method does not read is a misunderstanding; defaults are what runs spell out."""
        changed = [name for name in OPTIONS if getattr(self, name) != type(self).model_fields[name].default]
        read = options_of(self.method)
        if idle := [name for name in changed if name not in read]:
            reads = f"which reads {', '.join(read)}" if read else "which reads no such option"
            verb = "does" if len(idle) == 1 else "do"
            raise ValueError(f"{', '.join(idle)} {verb} nothing for {self.method}, {reads}")
        if "baselines" in changed and self.baseline != "random":
            raise ValueError(
                f"baselines does nothing unless the baseline is random, and it is {self.baseline}"
            )
        return self


class LocalizeConfig(Settings):
    """How heat maps become boxes.

    Attributes:
        rule: ``peak`` cuts at a share of the maximum and keeps the largest component; ``two_thresholds``
            keeps every component at 60 and at 180 of 255; ``top`` takes the hottest 5 %; ``patch`` the window
            with the largest mean, one cell of the map's grid.
        thresholds: candidates, as shares of a map's maximum; the validation cases choose.
    """

    rule: RuleKind = "peak"
    thresholds: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = (0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)


class CalibrateConfig(Settings):
    """What is fitted on validation cases and travels in the bundle.

    Attributes:
        method: how probabilities are corrected: ``temperature``, ``platt``, ``isotonic``, ``none``, or
            ``auto``: temperature for one class a case, Platt for findings.
        threshold: operating point of each class or finding: highest ``youden`` index or ``f1``, or the
            one that reaches a ``sensitivity`` or ``specificity`` of ``target``.
        target: the sensitivity or specificity aimed at.
    """

    method: Literal["auto", "temperature", "platt", "isotonic", "none"] = "auto"
    threshold: Literal["youden", "f1", "sensitivity", "specificity"] = "youden"
    target: Share = 0.9


class AbstainConfig(Settings):
    """When the model should say that it does not know.

    Attributes:
        coverage: share of cases whose prediction set shall hold the truth.
        score: of conformity: ``lac`` (least ambiguous sets) or ``aps`` (adaptive sets).
        novelty: share of validation cases that shall count as familiar.
    """

    coverage: Share = 0.9
    score: Literal["lac", "aps"] = "lac"
    novelty: Share = 0.95


class EvaluateConfig(Settings):
    """How sure the numbers are, and for whom they hold.

    Attributes:
        bootstrap: resamples of patients.
        level: of the intervals.
        interval: ``bca`` (bias-corrected and accelerated; closer to its level for few patients) or
            ``percentile``.
        prevalence: of classes, where the predictive values shall also be told at it.
        subgroups: columns of the manifest to tell figures apart by; None looks for age, sex, site, scanner.
        min_group: patients that a subgroup needs for its figures to be told.
        per_patient: how the cases of a patient are put together: ``mean`` or ``max`` of the probabilities, or
            ``none``.
        order: classes that are grades, from one end of the scale to the other: weighted kappas are told too.
    """

    bootstrap: Annotated[int, Field(ge=100)] = 1000
    level: Share = 0.95
    interval: Literal["percentile", "bca"] = "bca"
    prevalence: dict[str, Share] = Field(default_factory=dict)
    subgroups: list[str] | None = None
    min_group: Count = 10
    per_patient: Literal["mean", "max", "none"] = "mean"
    order: list[str] | None = None


class TrustConfig(Settings):
    """How heat maps are tested.

    Attributes:
        methods: names in the ``EXPLAINERS`` table.
        cases: highest number of test cases to test them on.
    """

    methods: tuple[str, ...] = ("gradcam", "hirescam", "integrated_gradients", "smoothgrad")
    cases: Count = 100


class ProbeConfig(Settings):
    """How shortcuts are looked for.

    Attributes:
        tiles: along the longer side of the image.
        cases: highest number of test cases to ask.
    """

    tiles: Annotated[int, Field(ge=4, le=32)] = 8
    cases: Count = 200
