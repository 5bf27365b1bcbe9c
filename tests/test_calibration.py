"""Calibration against a hand-worked case, a slow twin and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from foveate.evaluate import evaluate_predictions
from foveate.evaluate.calibration import Calibration
from foveate.evaluate.table import PredictionTable
from test_discrimination import random_multilabel, table_of

many = settings(deadline=None, max_examples=60, derandomize=True)


def random_softmax(seed: int, cases: int, classes: int) -> PredictionTable:
    draws = np.random.default_rng(seed)
    scores = np.exp(draws.normal(size=(cases, classes)) * 2)
    truth = np.eye(classes)[draws.integers(classes, size=cases)]
    truth[draws.random(cases) < 0.1] = np.nan
    return table_of("multiclass", truth, scores / scores.sum(1, keepdims=True))


def test_hand_worked_case() -> None:
    """Two predictions in the bin 0.6 to 0.667, one right; one at 1.0, right; one at 0.5, wrong."""
    probabilities = np.array([[0.62, 0.38], [0.36, 0.64], [1.0, 0.0], [0.5, 0.5]])
    truth = np.array([[1, 0], [1, 0], [1, 0], [0, 1]])
    table = table_of("multiclass", truth, probabilities)
    found = Calibration(table)(np.ones((1, 4)))
    assert found["ece"][0] == pytest.approx((abs(1 - 1.26) + 0 + 0.5) / 4)
    brier = (2 * 0.38**2 + 2 * 0.64**2 + 0 + 2 * 0.5**2) / 4
    assert found["brier"][0] == pytest.approx(brier)
    bins = Calibration(table).bins()
    assert [b["n"] for b in bins] == [0] * 7 + [1, 0, 2, 0, 0, 0, 0, 1]
    assert bins[9] == {
        "low": pytest.approx(0.6),
        "high": pytest.approx(2 / 3),
        "confidence": pytest.approx(0.63),
        "accuracy": 0.5,
        "n": 2,
    }
    assert bins[0]["confidence"] is bins[0]["accuracy"] is None


def test_a_bin_holds_its_lower_edge_and_the_last_one_both() -> None:
    edges = np.linspace(0, 1, 16)[:, None]
    bins = Calibration(table_of("multilabel", np.zeros((16, 1)), edges)).bins()
    assert [b["n"] for b in bins] == [1] * 14 + [2]


def _slow_ece(confidence: list[float], outcome: list[float], weights: list[float], bins: int = 15) -> float:
    total = 0.0
    for b in range(bins):
        inside = [
            (c, o, w)
            for c, o, w in zip(confidence, outcome, weights, strict=True)
            if b / bins <= c < (b + 1) / bins or (b == bins - 1 and c == 1)
        ]
        if mass := sum(w for *_, w in inside):
            mean_confidence = sum(c * w for c, _, w in inside) / mass
            mean_outcome = sum(o * w for _, o, w in inside) / mass
            total += mass / sum(weights) * abs(mean_confidence - mean_outcome)
    return total


@many
@given(seed=st.integers(0, 10**6), cases=st.integers(2, 40), classes=st.integers(2, 5))
def test_multiclass_equals_a_slow_twin_and_scikit_learn(seed: int, cases: int, classes: int) -> None:
    table = random_softmax(seed, cases, classes)
    weights = np.random.default_rng(seed).integers(1, 4, size=cases).astype(float)
    known = ~np.isnan(table.truth[:, 0])
    if not known.any():
        return
    found = Calibration(table)(weights[None])
    p, y, w = table.probabilities[known], table.truth[known], weights[known]
    right = (p.argmax(1) == y.argmax(1)).astype(float)
    assert found["ece"][0] == pytest.approx(_slow_ece(list(p.max(1)), list(right), list(w)), abs=1e-9)
    labels = list(range(classes))
    expected = brier_score_loss(y.argmax(1), p, sample_weight=w, labels=labels, scale_by_half=False)
    assert found["brier"][0] == pytest.approx(expected, abs=1e-9)


@many
@given(seed=st.integers(0, 10**6), cases=st.integers(2, 40), classes=st.integers(1, 5))
def test_multilabel_pools_the_known_findings(seed: int, cases: int, classes: int) -> None:
    table = random_multilabel(seed, cases, classes, 10**6)
    known = ~np.isnan(table.truth)
    if not known.any():
        return
    p, y = table.probabilities[known], table.truth[known]
    found = Calibration(table)(np.ones((1, cases)))
    assert found["ece"][0] == pytest.approx(_slow_ece(list(p), list(y), [1.0] * len(p)), abs=1e-9)
    assert found["brier"][0] == pytest.approx(((p - y) ** 2).mean(), abs=1e-9)
    if 0 < y.sum() < len(y):
        assert found["brier"][0] == pytest.approx(brier_score_loss(y, p), abs=1e-9)


def test_reliability_bins_equal_scikit_learns_curve() -> None:
    table = random_multilabel(2, 400, 3, 10**6)
    known = ~np.isnan(table.truth)
    outcome, confidence = calibration_curve(table.truth[known], table.probabilities[known], n_bins=15)
    bins = [b for b in Calibration(table).bins() if b["n"]]
    np.testing.assert_allclose([b["accuracy"] for b in bins], outcome, atol=1e-12)
    np.testing.assert_allclose([b["confidence"] for b in bins], confidence, atol=1e-12)
    assert sum(b["n"] for b in bins) == known.sum()


def test_a_perfectly_sure_and_right_model_is_calibrated() -> None:
    found = evaluate_predictions(table_of("multiclass", np.eye(3), np.eye(3)), n_boot=20)["calibration"]
    assert (found["ece"]["value"], found["brier"]["value"]) == (0.0, 0.0)


def test_calibration_on_average_is_near_zero_for_honest_probabilities() -> None:
    draws = np.random.default_rng(0)
    p = draws.random((20_000, 1))
    table = table_of("multilabel", (draws.random((20_000, 1)) < p).astype(float), p)
    assert Calibration(table)(np.ones((1, 20_000)))["ece"][0] < 0.02
    overconfident = table_of("multilabel", (draws.random((20_000, 1)) < 0.5).astype(float), p)
    assert Calibration(overconfident)(np.ones((1, 20_000)))["ece"][0] == pytest.approx(0.25, abs=0.02)
