"""Calibration against a hand-worked case, a slow twin and scikit-learn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, log_loss

from foveate.evaluate import evaluate_predictions
from foveate.evaluate.intervals import Bootstrap
from foveate.evaluate.probabilities.calibration import CHANGE, OVERALL, Calibration, Floats, calibration
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
    assert [b.n for b in bins] == [0] * 7 + [1, 0, 2, 0, 0, 0, 0, 1]
    assert dict(bins[9]) == {
        "low": pytest.approx(0.6),
        "high": pytest.approx(2 / 3),
        "confidence": pytest.approx(0.63),
        "accuracy": 0.5,
        "n": 2,
    }
    assert bins[0].confidence is bins[0].accuracy is None


def test_a_bin_holds_its_lower_edge_and_the_last_one_both() -> None:
    edges = np.linspace(0, 1, 16)[:, None]
    bins = Calibration(table_of("multilabel", np.zeros((16, 1)), edges)).bins()
    assert [b.n for b in bins] == [1] * 14 + [2]


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
    bins = [b for b in Calibration(table).bins() if b.n]
    np.testing.assert_allclose([b.accuracy for b in bins], outcome, atol=1e-12)
    np.testing.assert_allclose([b.confidence for b in bins], confidence, atol=1e-12)
    assert sum(b.n for b in bins) == known.sum()


def test_a_perfectly_sure_and_right_model_is_calibrated() -> None:
    found = evaluate_predictions(table_of("multiclass", np.eye(3), np.eye(3)), n_boot=20).calibration
    assert (found.ece.value, found.brier.value) == (0.0, 0.0)


def test_calibration_on_average_is_near_zero_for_honest_probabilities() -> None:
    draws = np.random.default_rng(0)
    p = draws.random((20_000, 1))
    table = table_of("multilabel", (draws.random((20_000, 1)) < p).astype(float), p)
    assert Calibration(table)(np.ones((1, 20_000)))["ece"][0] < 0.02
    overconfident = table_of("multilabel", (draws.random((20_000, 1)) < 0.5).astype(float), p)
    assert Calibration(overconfident)(np.ones((1, 20_000)))["ece"][0] == pytest.approx(0.25, abs=0.02)


def _slow_murphy(p: Floats, y: Floats, bins: int = 15) -> tuple[float, float, float]:
    """Reliability, resolution and uncertainty of one class, by loops over bins."""
    rate = y.mean()
    reliability = resolution = 0.0
    for b in range(bins):
        low, high = b / bins, (b + 1) / bins
        inside = (p >= low) & ((p < high) | ((b == bins - 1) & (p == 1)))
        if inside.any():
            reliability += inside.sum() * (p[inside].mean() - y[inside].mean()) ** 2
            resolution += inside.sum() * (y[inside].mean() - rate) ** 2
    return reliability / len(p), resolution / len(p), rate * (1 - rate)


@many
@given(
    seed=st.integers(0, 10**6), cases=st.integers(2, 60), task=st.sampled_from(["multiclass", "multilabel"])
)
def test_the_decomposition_equals_a_slow_twin_and_adds_up(seed: int, cases: int, task: str) -> None:
    table = (
        random_softmax(seed, cases, 3) if task == "multiclass" else random_multilabel(seed, cases, 3, 10**6)
    )
    known = ~np.isnan(table.truth)
    if not known.any():
        return
    found = {name: values[0] for name, values in Calibration(table)(np.ones((1, cases))).items()}
    parts = np.zeros(3)
    answers = known[:, 0].sum() if task == "multiclass" else known.sum()
    for k in range(3):
        own = known[:, k]
        if own.any():
            parts += (
                np.array(_slow_murphy(table.probabilities[own, k], table.truth[own, k])) * own.sum() / answers
            )
    assert [found[name] for name in ("reliability", "resolution", "uncertainty")] == pytest.approx(
        list(parts), abs=1e-9
    )
    total = found["reliability"] - found["resolution"] + found["uncertainty"] + found["within_bins"]
    assert total == pytest.approx(found["brier"], abs=1e-12)


def test_the_decomposition_by_hand() -> None:
    """Ten forecasts of 0.2 (3 come true) and ten of 0.8 (6 do): nothing differs within a bin."""
    p = np.repeat([0.2, 0.8], 10)[:, None]
    y = np.concatenate([np.arange(10) < 3, np.arange(10) < 6]).astype(float)[:, None]
    found = {
        name: values[0]
        for name, values in Calibration(table_of("multilabel", y, p))(np.ones((1, 20))).items()
    }
    assert found["reliability"] == pytest.approx((0.1**2 + 0.2**2) / 2)
    assert found["resolution"] == pytest.approx(0.15**2)
    assert found["uncertainty"] == pytest.approx(0.45 * 0.55)
    assert found["within_bins"] == pytest.approx(0, abs=1e-12)
    assert found["class_excess"][0] == pytest.approx(0.05)


@many
@given(seed=st.integers(0, 10**6), cases=st.integers(3, 40))
def test_log_loss_equals_scikit_learns(seed: int, cases: int) -> None:
    weights = np.random.default_rng(seed).integers(1, 4, size=cases).astype(float)
    table = random_softmax(seed, cases, 3)
    known = ~np.isnan(table.truth[:, 0])
    if not known.any():
        return
    p, y, w = table.probabilities[known], table.truth[known], weights[known]
    found = Calibration(table)(weights[None])
    expected = log_loss(y.argmax(1), p, sample_weight=w, labels=[0, 1, 2])
    assert found["log_loss"][0] == pytest.approx(expected, rel=1e-9)
    for k in range(3):
        alone = log_loss(y[:, k], p[:, k], sample_weight=w, labels=[0, 1])
        assert found["class_log_loss"][0, k] == pytest.approx(alone, rel=1e-9)
        assert found["class_brier"][0, k] == pytest.approx(np.average((p - y)[:, k] ** 2, weights=w))


def test_a_truth_that_was_called_impossible_costs_as_much_as_in_scikit_learn() -> None:
    table = table_of("multiclass", np.eye(2), np.array([[1.0, 0.0], [1.0, 0.0]]))
    found = Calibration(table)(np.ones((1, 2)))["log_loss"][0]
    assert found == pytest.approx(log_loss([0, 1], table.probabilities))


def test_bins_of_equal_mass_equal_scikit_learns_curve() -> None:
    table = random_multilabel(2, 400, 3, 10**6)
    known = ~np.isnan(table.truth)
    p, y = table.probabilities[known], table.truth[known]
    outcome, confidence = calibration_curve(y, p, n_bins=15, strategy="quantile")
    form = Calibration(table)
    bins = [b for b in form.bins_equal_mass() if b.n]
    np.testing.assert_allclose([b.accuracy for b in bins], outcome, atol=1e-12)
    np.testing.assert_allclose([b.confidence for b in bins], confidence, atol=1e-12)
    error = sum(b.n * abs(b.accuracy - b.confidence) for b in bins) / len(p)
    assert form(np.ones((1, 400)))["ece_equal_mass"][0] == pytest.approx(error, abs=1e-12)
    assert max(b.n for b in bins) - min(b.n for b in bins) <= 1, "there are no ties here"


def test_equal_probabilities_stay_in_one_bin() -> None:
    table = table_of("multilabel", np.tile([[0], [1]], (15, 1)), np.full((30, 1), 0.4))
    form = Calibration(table)
    assert sorted(b.n for b in form.bins_equal_mass()) == [0] * 14 + [30]
    assert form(np.ones((1, 30)))["ece_equal_mass"][0] == pytest.approx(0.1)


def test_classwise_error_is_the_mean_over_the_classes() -> None:
    table = random_softmax(7, 200, 4)
    known = ~np.isnan(table.truth[:, 0])
    single = [
        _slow_ece(list(table.probabilities[known, k]), list(table.truth[known, k]), [1.0] * int(known.sum()))
        for k in range(4)
    ]
    found = Calibration(table)(np.ones((1, 200)))
    assert found["class_ece"][0] == pytest.approx(single)
    assert found["ece_classwise"][0] == pytest.approx(np.mean(single))


def test_raw_and_calibrated_stand_side_by_side_and_the_change_is_paired() -> None:
    draws = np.random.default_rng(3)
    right = draws.random((300, 2))
    truth = (draws.random((300, 2)) < right).astype(float)
    raw = np.clip(right * 1.6 - 0.3, 0.001, 0.999)
    half = right.copy()
    half[:, 1] = np.nan  # the second finding could not be fitted
    table = replace(table_of("multilabel", truth, raw), calibrated=half)
    found = calibration(table, Bootstrap(200))
    alone = calibration(table_of("multilabel", truth[:, :1], raw[:, :1]), Bootstrap(0))
    for name in CHANGE:
        change = found.calibrated.change.figure(name)
        assert change.value == pytest.approx(
            found.calibrated.figure(name).value - alone.figure(name).value
        ), name
        assert change.value < 0
    assert found.calibrated.change.brier.high < 0, "the improvement is told from chance"
    assert found.calibrated.per_class["c1"].ece.reason == "not calibrated"
    assert [sum(b.n for b in part.bins) for part in (found, found.calibrated)] == [600, 300]


def test_without_calibration_there_is_nothing_beside_the_raw_figures() -> None:
    assert calibration(random_softmax(0, 50, 3), Bootstrap(0)).calibrated is None


def test_decisions_stay_raw_when_calibration_changes_the_most_probable_class() -> None:
    table = table_of("multiclass", np.array([[1, 0]]), np.array([[0.6, 0.4]]))
    (filled,) = [b for b in Calibration(table, np.array([[0.3, 0.7]])).bins() if b.n]
    assert (filled.confidence, filled.accuracy) == (0.3, 1.0)


def test_no_known_case_is_undefined_by_name() -> None:
    table = table_of("multiclass", np.full((4, 2), np.nan), np.full((4, 2), 0.5))
    found = calibration(table, Bootstrap(20))
    assert {found.figure(name).reason for name in OVERALL} == {"no known case"}
    assert {found.figure(name).value for name in OVERALL} == {None}
