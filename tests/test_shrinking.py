"""Corrections of probabilities are kept as far as patients that they were not fitted on gain by them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit, softmax
from sklearn.metrics import log_loss

from foveate.evaluate.probabilities.calibrators import Calibrator, Floats, Method
from foveate.evaluate.probabilities.shrinking import FOLDS, SHARES, fit_shrunk, folds, log_losses
from foveate.types import Task
from test_calibrators import METHODS, multiclass, multilabel


def _alone(truth: Floats) -> list[str]:
    return [f"p{n}" for n in range(len(truth))]


def _pairs(truth: Floats) -> list[str]:
    return [f"p{n // 2}" for n in range(len(truth))]


def test_patients_are_never_on_both_sides_and_dealt_out_evenly() -> None:
    names = [f"p{n}" for n in np.random.default_rng(0).integers(60, size=200)]
    fold, patient = folds(names)
    assert all(len(set(fold[patient == p])) == 1 for p in set(patient))
    dealt = np.bincount([fold[patient == p][0] for p in set(patient)])
    assert len(dealt) == FOLDS and np.ptp(dealt) <= 1
    order = np.random.default_rng(1).permutation(200)
    np.testing.assert_array_equal(folds([names[place] for place in order])[0], fold[order])


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_the_decision_by_a_slow_twin(method: Method) -> None:
    """Loops over shares, folds and patients, with scikit-learn's log loss."""
    logits, truth = multiclass(90, overconfidence=1.6, seed=4)
    names = _pairs(truth)
    found = fit_shrunk(logits, truth, names, task="multiclass", method=method)
    fold, patient = folds(names)
    told = np.full((len(SHARES), 90), np.nan)
    for row, share in enumerate(SHARES):
        for number in set(fold):
            held = fold == number
            part = Calibrator.fit(logits[~held], truth[~held], task="multiclass", method=method)
            stated = softmax(logits[held], axis=1)
            if part.fitted:
                stated = part.blended(float(share)).apply(logits[held])
            for case, p in zip(np.flatnonzero(held), stated, strict=True):
                told[row, case] = log_loss([truth[case].argmax()], [p], labels=range(4))
    change = told - told[0]
    sums = np.array([[row[patient == p].sum() for p in range(45)] for row in change])
    errors = np.sqrt(45 / 44 * ((sums - 2 * change.mean(axis=1, keepdims=True)) ** 2).sum(axis=1)) / 90
    best = int(np.argmin(change.mean(axis=1) + errors))
    assert found.fits[0].share == pytest.approx(SHARES[best])
    check = found.fits[0].check
    assert check is not None
    expected = {"raw": told[0], "kept": told[best], "whole": told[-1]}
    assert {name: check[name] for name in expected} == pytest.approx(
        {name: losses.mean() for name, losses in expected.items()}
    )
    assert (check["error"], check["patients"]) == (pytest.approx(errors[best]), 45)
    whole = Calibrator.fit(logits, truth, task="multiclass", method=method)
    if best:
        np.testing.assert_allclose(found.apply(logits), whole.blended(SHARES[best]).apply(logits))


def test_a_strong_miscalibration_is_mended_nearly_as_well_as_can_be() -> None:
    logits, truth = multiclass(150, overconfidence=3.0)
    kept = fit_shrunk(logits, truth, _pairs(truth), task="multiclass")
    others, real = multiclass(20_000, overconfidence=3.0, seed=9)
    raw, best, found = (
        log_losses(stated, real, "multiclass").mean()
        for stated in (softmax(others, axis=1), softmax(others / 3, axis=1), kept.apply(others))
    )
    assert raw - best > 0.3
    assert raw - found > 0.9 * (raw - best)
    assert kept.fits[0].share > 0.7


@pytest.mark.slow
@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_good_probabilities_are_left_alone_or_hardly_touched(task: Task) -> None:
    """Forty validation parts of 60 cases of a calibrated model: what is kept costs next to nothing."""

    def drawn(cases: int, seed: int) -> tuple[Floats, Floats]:
        return multiclass(cases, seed=seed) if task == "multiclass" else multilabel(cases, seed=seed)

    others, real = drawn(4000, 999)
    stated = softmax(others, axis=1) if task == "multiclass" else expit(others)
    raw = log_losses(stated, real, task).mean()
    changes = []
    for seed in range(40):
        logits, truth = drawn(60, seed)
        found = fit_shrunk(logits, truth, _alone(truth), task=task)
        corrected = found.apply(others) if found.fitted else stated
        corrected = np.where(np.isnan(corrected), stated, corrected)
        changes.append(log_losses(corrected, real, task).mean() - raw)
    assert np.mean(changes) < 0.003
    assert np.mean(np.array(changes) > 0.005) <= 0.2


def test_what_is_not_kept_says_why_and_leaves_the_raw_probabilities() -> None:
    logits, truth = multiclass(60, seed=2)
    found = fit_shrunk(logits, truth, _alone(truth), task="multiclass")
    assert not found.fitted
    (fit,) = found.fits
    assert (fit.parameters, fit.share) == (None, 0.0)
    assert str(fit.reason).startswith("not shown to help: log loss ")
    assert str(fit.reason).endswith("cross-validated over 60 patients")
    assert Calibrator.from_json(found.to_json()) == found


def test_each_finding_decides_for_itself() -> None:
    logits, truth = multilabel(200)
    logits[:, 1] += 2.5  # said far too often
    found = fit_shrunk(logits, truth, _alone(truth), task="multilabel")
    assert [fit.parameters is not None for fit in found.fits] == [False, True, False]
    corrected = found.apply(logits)
    assert np.isnan(corrected[:, [0, 2]]).all()
    assert abs(corrected[:, 1].mean() - truth[:, 1].mean()) < 0.05
    assert found.fitted


def test_few_patients_decide_nothing() -> None:
    logits, truth = multiclass(60, overconfidence=3.0)
    names = [f"p{n % 4}" for n in range(60)]
    found = fit_shrunk(logits, truth, names, task="multiclass")
    assert found.fits[0].reason == "validation cases of 4 patients are fewer than 5"
    assert not fit_shrunk(logits, truth, names, task="multiclass", method="none").fits
