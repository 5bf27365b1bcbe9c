"""What is fitted after training: from validation cases alone, save what looks familiar (training cases)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from foveate.errors import InputRefused, UsageError
from foveate.evaluate.probabilities.conformal import SetRule
from foveate.evaluate.probabilities.shrinking import fit_shrunk
from foveate.evaluate.probabilities.thresholds import choose_operating_points
from foveate.evaluate.table import PredictionTable
from foveate.stations.batches import cases_of, prepared_batches
from foveate.stations.run import Run
from foveate.types import Case, Cohort, Prediction, Track

if TYPE_CHECKING:
    from foveate.bundle.bundle import Bundle
    from foveate.bundle.familiar import FamiliarImages
    from foveate.bundle.novelty import NoveltyScore
    from foveate.study.sections import AbstainConfig, CalibrateConfig

FAMILIAR, FAMILIAR_VOLUMES = 500, 100  # training cases at most whose features are looked at


def learn_familiar(run: Run, bundle: Bundle, cohort: Cohort, track: Track) -> Bundle:
    """The bundle with what a sample of the training cases is like, and a novelty score without threshold."""
    most = FAMILIAR_VOLUMES if bundle.preprocess.config.volumes else FAMILIAR
    cases = _sample(cases_of(run, cohort, ("train",)), most, run.study.seed)
    novelty, familiar = _novelty(bundle, cases, track)
    return replace(bundle, novelty=novelty, familiar=familiar)


def fit_on_validation(
    bundle: Bundle, predictions: Sequence[Prediction], calibrate: CalibrateConfig, abstain: AbstainConfig
) -> Bundle:
    """The bundle with operating points, calibration, set rule and threshold of novelty.

    Args:
        bundle: that made the predictions.
        predictions: of any parts; those of the part ``val`` alone are looked at.
        calibrate, abstain: what the study chose.

    Returns:
        The bundle as it was where there is no validation case.
    """
    val = PredictionTable.of(bundle.task, bundle.classes, predictions).part("val")
    if not val.case_ids:
        return bundle
    points = choose_operating_points(val, rule=calibrate.threshold, target=calibrate.target)
    findings = points if bundle.task == "multilabel" else {}
    return replace(
        bundle,
        operating_points=points,
        thresholds={name: point.threshold for name, point in findings.items()},
        calibration=fit_shrunk(
            val.logits, val.truth, val.patient_ids, task=val.task, method=calibrate.method
        ),
        set_rule=SetRule.fit(
            val.probabilities,
            val.truth,
            val.patient_ids,
            task=val.task,
            coverage=abstain.coverage,
            score=abstain.score,
        ),
        novelty=bundle.novelty
        and bundle.novelty.with_threshold(val.novelty, val.patient_ids, abstain.novelty),
    )


def _sample(cases: Sequence[Case], most: int, seed: int) -> list[Case]:
    """At most so many cases, drawn by chance, in their old order (slices of a volume stay together)."""
    if len(cases) <= most:
        return list(cases)
    drawn = np.random.default_rng(seed).choice(len(cases), size=most, replace=False)
    return [cases[place] for place in np.sort(drawn)]


def _novelty(
    bundle: Bundle, cases: Sequence[Case], track: Track
) -> tuple[NoveltyScore | None, FamiliarImages | None]:
    """Features and plain facts of training cases, summed up; None where they tell nothing apart."""
    from foveate.bundle.familiar import FamiliarImages
    from foveate.bundle.novelty import NoveltyScore
    from foveate.predict import features_of

    refused: list[InputRefused] = []  # as they were in training
    features, labels, facts, patients = [], [], [], []
    for batch in prepared_batches(bundle, cases, refused, track, "Looking at training cases"):
        features.append(features_of(bundle, batch))
        labels += [item.truth for item in batch]
        facts += [item.facts for item in batch]
        patients += [item.case.patient_id for item in batch]
    if not features:
        return None, None
    familiar = FamiliarImages.of(facts, patients)
    found, truth = np.concatenate(features), np.stack(labels)
    groups = truth.argmax(axis=1) if bundle.task == "multiclass" else None
    try:
        return NoveltyScore.fit(found, groups), familiar
    except UsageError:
        return None, familiar
