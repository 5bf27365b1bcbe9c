"""Figures by which views the cases had: each set of views is a cohort of its own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from foveate.evaluate import evaluate_predictions
from foveate.evaluate.table import PredictionTable

BOTH, ONE = "t2+dwi", "t2"


def table(views: tuple[str, ...], count: int = 12) -> PredictionTable:
    """Three classes in turn, answers that are mostly right; two cases a patient. No views: not known."""
    count, draws = len(views) or count, np.random.default_rng(0)
    labels = np.arange(count) % 3
    probabilities = draws.dirichlet(np.ones(3), count) + 0.8 * np.eye(3)[labels]
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    return PredictionTable(
        task="multiclass",
        classes=("a", "b", "c"),
        case_ids=tuple(f"c{n}" for n in range(count)),
        patient_ids=tuple(f"p{n // 2}" for n in range(count)),
        splits=("test",) * count,
        logits=np.log(probabilities),
        probabilities=probabilities,
        truth=np.eye(3)[labels],
        views=views,
    )


def test_each_set_of_views_has_the_figures_of_its_cases_alone() -> None:
    whole = table((ONE, BOTH, BOTH) * 10)
    found = evaluate_predictions(whole, n_boot=60, seed=3).by_views
    assert list(found) == [BOTH, ONE]  # the most frequent first
    for names, figures in found.items():
        there = np.array([views == names for views in whole.views])
        alone = evaluate_predictions(replace(whole.only(there), views=()), n_boot=60, seed=3)
        assert (figures.n, figures.patients) == (there.sum(), alone.patients)
        assert list(figures.metrics) == ["accuracy", "balanced_accuracy", "auroc_macro"]
        for metric, value in figures.metrics.items():
            assert value == alone.metrics.figure(metric)
        right = whole.probabilities[there].argmax(1) == whole.truth[there].argmax(1)
        assert figures.metrics["accuracy"].value == pytest.approx(right.mean())
        assert figures.metrics["accuracy"].low <= right.mean() <= figures.metrics["accuracy"].high


def test_what_a_small_set_cannot_say_is_undefined_with_its_reason() -> None:
    views = (BOTH,) * 9 + (ONE,)
    found = evaluate_predictions(table(views), n_boot=20).by_views[ONE]  # one case, of class a
    assert (found.n, found.patients) == (1, 1)
    auroc = found.metrics["auroc_macro"]
    assert auroc.value is None and "a (no negative case)" in auroc.reason
    assert "no positive case" in auroc.reason
    assert found.metrics["accuracy"].low is None
    assert "one patient" in found.metrics["accuracy"].reason


def test_one_set_of_views_repeats_the_cohort_and_none_says_nothing() -> None:
    same = evaluate_predictions(table((ONE,) * 12), n_boot=20)
    assert same.by_views[ONE].metrics["accuracy"] == same.metrics.accuracy
    assert evaluate_predictions(table(()), n_boot=0).by_views == {}
    partly = evaluate_predictions(table((ONE,) * 8 + ("",) * 4), n_boot=0).by_views
    assert {names: figures.n for names, figures in partly.items()} == {ONE: 8, "unknown": 4}
