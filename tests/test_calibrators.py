"""Calibrators against scikit-learn, planted miscalibration, loops, and what must not be fitted."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit, logit, softmax
from sklearn.calibration import _sigmoid_calibration, _TemperatureScaling
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import log_loss

from foveate.evaluate.probabilities.calibrators import Calibrator, Floats, Method
from foveate.types import Task

METHODS: tuple[Method, ...] = ("temperature", "platt", "isotonic")


def multiclass(cases: int, overconfidence: float = 1.0, seed: int = 0) -> tuple[Floats, Floats]:
    """Logits that are too large by a factor, and truths drawn from the right probabilities."""
    draws = np.random.default_rng(seed)
    right = draws.normal(size=(cases, 4)) * 1.5
    drawn = [draws.choice(4, p=row) for row in softmax(right, axis=1)]
    return right * overconfidence, np.eye(4)[drawn]


def multilabel(
    cases: int, slope: float = 1.0, intercept: float = 0.0, seed: int = 0
) -> tuple[Floats, Floats]:
    """Logits of three findings that need this slope and intercept, and truths drawn accordingly."""
    draws = np.random.default_rng(seed)
    logits = draws.normal(size=(cases, 3)) * 2
    return logits, (draws.random((cases, 3)) < expit(slope * logits + intercept)).astype(float)


def test_a_planted_temperature_is_found() -> None:
    logits, truth = multiclass(20_000, overconfidence=3.0)
    (fit,) = Calibrator.fit(logits, truth, task="multiclass", method="temperature").fits
    assert fit.parameters is not None and fit.parameters["temperature"] == pytest.approx(3.0, rel=0.05)


def test_temperature_equals_scikit_learns() -> None:
    """Each case counts once, and each class of it as one in N + K more: K imaginary cases, one a class."""
    logits, truth = multiclass(300, overconfidence=0.4, seed=1)
    calibrator = Calibrator.fit(logits, truth, task="multiclass", method="temperature")
    shares = (300 * truth + 1) / 304
    other = _TemperatureScaling().fit(
        np.repeat(logits, 4, axis=0), np.tile(np.arange(4.0), 300), sample_weight=shares.ravel()
    )
    assert calibrator.fits[0].parameters == {"temperature": pytest.approx(1 / other.beta_, rel=1e-5)}
    np.testing.assert_allclose(calibrator.apply(logits), softmax(logits * other.beta_, axis=1), rtol=1e-4)


@pytest.mark.slow
def test_temperature_of_a_finding_has_the_least_loss_of_all() -> None:
    logits, truth = multilabel(400, slope=0.5)
    calibrator = Calibrator.fit(logits, truth, task="multilabel", method="temperature")
    for k, fit in enumerate(calibrator.fits):
        assert fit.parameters is not None
        present = truth[:, k].sum()
        target = np.where(truth[:, k] == 1, (present + 1) / (present + 2), 1 / (402 - present))
        losses = {
            t: log_loss(
                np.repeat([1, 0], 400),
                np.tile(expit(logits[:, k] / t), 2),
                sample_weight=np.concatenate([target, 1 - target]),
            )
            for t in np.geomspace(0.1, 10, 800)
        }
        assert fit.parameters["temperature"] == pytest.approx(min(losses, key=losses.__getitem__), rel=0.01)


def test_platt_equals_scikit_learns_and_finds_what_was_planted() -> None:
    logits, truth = multilabel(500, slope=0.6, intercept=-1.2)
    for k, fit in enumerate(Calibrator.fit(logits, truth, task="multilabel", method="platt").fits):
        slope, intercept = _sigmoid_calibration(logits[:, k], truth[:, k])
        assert fit.parameters == {
            "slope": pytest.approx(-slope, abs=1e-4),
            "intercept": pytest.approx(-intercept, abs=1e-4),
        }
    logits, truth = multilabel(20_000, slope=0.6, intercept=-1.2)
    (first, *_) = Calibrator.fit(logits, truth, task="multilabel", method="platt").fits
    assert first.parameters == {
        "slope": pytest.approx(0.6, abs=0.05),
        "intercept": pytest.approx(-1.2, abs=0.06),
    }


def test_platt_never_turns_the_order_round() -> None:
    logits, truth = multilabel(200, slope=-1.0)
    calibrator = Calibrator.fit(logits, truth, task="multilabel", method="platt")
    assert np.ptp(calibrator.apply(logits), axis=0) == pytest.approx(0, abs=1e-6)
    assert calibrator.apply(logits)[0] == pytest.approx(truth.mean(axis=0), abs=0.01)


def test_isotonic_by_hand() -> None:
    """Ten cases at each of four probabilities, 1, 4, 2 and 9 present: the middle two fall and pool to 0.3."""
    stated = np.repeat([0.2, 0.4, 0.6, 0.8], 10)
    truth = np.concatenate([np.arange(10) < present for present in (1, 4, 2, 9)]).astype(float)
    logits = np.log(stated / (1 - stated))[:, None]
    calibrator = Calibrator.fit(logits, truth[:, None], task="multilabel", method="isotonic")
    asked = np.array([0.05, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.99])
    found = calibrator.apply(np.log(asked / (1 - asked))[:, None])[:, 0]
    np.testing.assert_allclose(found, [0.1, 0.1, 0.2, 0.3, 0.3, 0.3, 0.6, 0.9, 0.9], atol=1e-12)


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_classes_are_corrected_one_against_the_rest_and_sum_to_one(method: Method) -> None:
    logits, truth = multiclass(300, overconfidence=2.0, seed=3)
    found = Calibrator.fit(logits, truth, task="multiclass", method=method).apply(logits)
    single = np.empty_like(logits)
    for k in range(4):
        p = softmax(logits, axis=1)[:, k]
        odds = np.log(p / (1 - p))
        if method == "platt":
            slope, intercept = _sigmoid_calibration(odds, truth[:, k])
            single[:, k] = 1 / (1 + np.exp(slope * odds + intercept))
        else:
            single[:, k] = IsotonicRegression(out_of_bounds="clip").fit(p, truth[:, k]).predict(p)
    np.testing.assert_allclose(found, single / single.sum(axis=1, keepdims=True), atol=1e-4)


def test_classes_that_are_all_impossible_share_evenly() -> None:
    fit = {"scores": [0.0, 1.0], "values": [0.0, 0.0]}
    content = {"parameters": fit, "cases": 40, "reason": None}
    calibrator = Calibrator.from_json({"task": "multiclass", "method": "isotonic", "fits": [content] * 4})
    assert calibrator.apply(np.zeros((1, 4))).tolist() == [[0.25] * 4]


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
@pytest.mark.parametrize("method", METHODS)
def test_what_is_stored_answers_like_what_was_fitted(task: Task, method: Method) -> None:
    logits, truth = multiclass(120) if task == "multiclass" else multilabel(120)
    made = Calibrator.fit(logits, truth, task=task, method=method)
    read = Calibrator.from_json(json.loads(json.dumps(made.to_json(), allow_nan=False)))
    assert read == made and made.fitted
    np.testing.assert_array_equal(read.apply(logits), made.apply(logits))
    assert ((made.apply(logits) >= 0) & (made.apply(logits) <= 1)).all()


@pytest.mark.parametrize("method", METHODS)
def test_too_few_cases_are_not_fitted(method: Method) -> None:
    logits, truth = multiclass(19)
    found = Calibrator.fit(logits, truth, task="multiclass", method=method)
    assert not found.fitted and found.fits[0].reason == "19 validation cases are fewer than 20"
    assert np.isnan(found.apply(logits)).all()


def test_a_finding_with_too_few_of_a_kind_is_left_out_alone() -> None:
    logits, truth = multilabel(60)
    truth[:, 1] = 0
    truth[:4, 1] = 1
    truth[:, 2] = 1
    found = Calibrator.fit(logits, truth, task="multilabel", method="platt")
    assert [fit.reason for fit in found.fits] == [
        None,
        "validation cases with it: 4 of 60, fewer than 5",
        "validation cases without it: 0 of 60, fewer than 5",
    ]
    assert np.isnan(found.apply(logits)).any(axis=0).tolist() == [False, True, True]


def test_one_missing_class_leaves_all_uncorrected_where_they_depend_on_each_other() -> None:
    logits, truth = multiclass(100)
    kept = truth[:, 3] == 0
    for method in METHODS:
        found = Calibrator.fit(logits[kept], truth[kept], task="multiclass", method=method)
        assert found.fitted == (method == "temperature"), method


def test_a_temperature_where_all_is_right_stays_finite_and_none_where_nothing_is_known() -> None:
    """Of 40 cases, all right by a lead of 3, and one of each class: 41 of 44 for the right one."""
    truth = np.eye(4)[np.arange(40) % 4]
    found = Calibrator.fit(truth * 3, truth, task="multiclass", method="temperature")
    np.testing.assert_allclose(found.apply(truth[:4] * 3)[np.eye(4) == 1], 41 / 44, rtol=1e-6)
    found = Calibrator.fit(np.roll(truth, 1, axis=1) * 3, truth, task="multiclass", method="temperature")
    assert "say nothing" in (found.fits[0].reason or "")
    logits = 2.0 * np.where(np.arange(40) % 2, 1, -1)[:, None]
    right = (logits > 0).astype(float)
    found = Calibrator.fit(logits, right, task="multilabel", method="temperature")
    np.testing.assert_allclose(found.apply(logits), np.where(right, 21 / 22, 1 / 22), rtol=1e-6)
    found = Calibrator.fit(logits, 1 - right, task="multilabel", method="temperature")
    assert "say nothing" in (found.fits[0].reason or "")


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
@pytest.mark.parametrize("method", METHODS)
def test_a_part_of_a_correction_lies_between_none_and_all_of_it(task: Task, method: Method) -> None:
    logits, truth = multiclass(400, 2.0) if task == "multiclass" else multilabel(400, 0.5, -1.0)
    whole = Calibrator.fit(logits, truth, task=task, method=method)
    raw = softmax(logits, axis=1) if task == "multiclass" else expit(logits)
    np.testing.assert_allclose(whole.blended(0.0).apply(logits), raw, atol=1e-9)
    np.testing.assert_array_equal(whole.blended(1.0).apply(logits), whole.apply(logits))
    half = whole.blended(0.5)
    assert {fit.share for fit in half.fits} == {0.5}
    if task == "multiclass" and method == "temperature":
        hot = whole.fits[0].parameters
        assert hot is not None
        np.testing.assert_allclose(
            half.apply(logits), softmax(logits * (0.5 + 0.5 / hot["temperature"]), axis=1)
        )
    if task == "multilabel":
        corrected = whole.apply(logits)
        between = (
            (raw + corrected) / 2 if method == "isotonic" else expit((logit(raw) + logit(corrected)) / 2)
        )
        np.testing.assert_allclose(half.apply(logits), between, atol=1e-9)


def test_unknown_truth_counts_for_nothing() -> None:
    logits, truth = multilabel(80)
    holes = truth.copy()
    holes[60:] = np.nan
    part = Calibrator.fit(logits[:60], truth[:60], task="multilabel", method="isotonic")
    assert Calibrator.fit(logits, holes, task="multilabel", method="isotonic") == part


def test_the_method_follows_the_task_unless_named() -> None:
    assert Calibrator.fit(*multiclass(60), task="multiclass").method == "temperature"
    made = Calibrator.fit(*multilabel(60), task="multilabel")
    assert made.method == "platt"
    none = Calibrator.fit(*multilabel(60), task="multilabel", method="none")
    assert none == replace(made, method="none", fits=()) and not none.fitted
