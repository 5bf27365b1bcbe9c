"""Lower bounds of calibration errors that chance lifts."""

from __future__ import annotations

import numpy as np
import pytest

from foveate.evaluate.gaps import Gaps


def _cohort(seed: int, patients: int, wrong: float) -> Gaps:
    """Probabilities of which the true share is ``wrong`` away, one to three cases a patient."""
    draws = np.random.default_rng(seed)
    patient = np.repeat(np.arange(patients), draws.integers(1, 4, size=patients))
    true = draws.uniform(0.05, 0.65, size=len(patient))
    outcome = (draws.random(len(patient)) < true).astype(np.float64)
    stated = true + wrong
    return Gaps(stated, outcome, (stated * 15).astype(np.intp), patient)


def test_the_spread_of_a_bin_by_a_slow_twin() -> None:
    stated = np.array([0.1, 0.12, 0.11, 0.5, 0.52])
    outcome, place, patient = (
        np.array([0.0, 1, 0, 1, 1]),
        np.array([1, 1, 1, 7, 7]),
        np.array([4, 4, 9, 4, 9]),
    )
    gaps = Gaps(stated, outcome, place, patient)
    first = 1 / 3 - 0.11
    np.testing.assert_allclose(gaps._gap, [first, 0.49])
    for scale in (0.0, 0.5, 1.0):
        likely = np.clip(stated + scale * np.array([first] * 3 + [0.49] * 2), 0, 1)
        root = np.sqrt(likely * (1 - likely))
        low = np.sqrt((root[0] + root[1]) ** 2 + root[2] ** 2) / 3  # two cases of patient 4 move together
        high = np.sqrt(root[3] ** 2 + root[4] ** 2) / 2
        np.testing.assert_allclose(gaps._spread(scale), [low, high])


def test_a_perfectly_calibrated_model_may_have_no_error() -> None:
    bounds = [_cohort(seed, 40, 0.0).lower_bound(1, 0.95) for seed in range(60)]
    assert np.mean([bound == 0 for bound in bounds]) >= 0.95
    assert max(bounds) < 0.05


def test_a_badly_calibrated_one_has_and_the_bound_lies_below_the_truth() -> None:
    few = [_cohort(seed, 40, 0.3).lower_bound(1, 0.95) for seed in range(60)]
    assert np.mean([bound <= 0.3 for bound in few]) >= 0.95
    assert np.median(few) > 0.15
    many = _cohort(0, 4000, 0.3).lower_bound(1, 0.95)
    assert 0.28 < many < 0.3
    assert _cohort(0, 4000, 0.3).lower_bound(2, 0.95) == pytest.approx(0.09, abs=0.01)  # a squared error
