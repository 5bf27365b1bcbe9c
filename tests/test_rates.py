"""Exact intervals of rates, and what the cases of a patient count for."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from foveate.evaluate.rates import Rates, clopper_pearson, effective_number, wilson


@pytest.mark.parametrize(("hits", "cases"), [(7, 7), (0, 7), (3, 7), (1, 1), (59, 60), (250, 1000)])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_independent_cases_have_the_interval_of_scipy(hits: int, cases: int, level: float) -> None:
    known = stats.binomtest(hits, cases).proportion_ci(level, "exact")
    low, high = clopper_pearson(hits, cases, level)
    assert (float(low), float(high)) == pytest.approx((known.low, known.high))
    told = np.arange(cases) < hits
    rates = Rates.of(told[:, None], np.ones((cases, 1)), [f"p{n}" for n in range(cases)])
    assert rates.intervals(level)[0] == pytest.approx([known.low, known.high])
    score = stats.binomtest(hits, cases).proportion_ci(level, "wilson")
    assert wilson(hits / cases, cases, level) == pytest.approx((score.low, score.high))


def test_seven_of_seven_as_clopper_and_pearson_have_it() -> None:
    low, high = clopper_pearson(7, 7)
    assert float(low) == pytest.approx(0.025 ** (1 / 7))
    assert (round(float(low), 2), float(high)) == (0.59, 1.0)


def test_exact_intervals_hold_every_rate_at_least_as_often_as_they_say() -> None:
    """All outcomes of 7 and of 15 cases, weighed by their chance: no simulation."""
    for cases in (7, 15):
        low, high = clopper_pearson(np.arange(cases + 1), np.full(cases + 1, cases))
        for rate in np.linspace(0.01, 0.99, 99):
            held = (low <= rate) & (rate <= high)
            assert stats.binom.pmf(np.arange(cases + 1), cases, rate)[held].sum() >= 0.95


def test_cases_of_a_patient_that_are_all_alike_count_as_one() -> None:
    """Five patients with three cases each, all of one kind in a patient, are as five cases."""
    patients = [f"p{n // 3}" for n in range(15)]
    for right in (5, 0):
        hits = np.repeat(np.arange(5) < right, 3)[:, None]
        rates = Rates.of(hits, np.ones((15, 1)), patients)
        assert rates.effective_cases() == pytest.approx([5])
        assert rates.intervals()[0] == pytest.approx(np.array(clopper_pearson(right, 5)).tolist())
    assert effective_number([3, 3, 3]) == pytest.approx(3)
    assert effective_number([4, 1, 1]) == pytest.approx(2)  # 36 / 18


def test_the_effective_number_of_cases_by_a_slow_twin() -> None:
    """Korn and Graubard's, written from the paper, patient by patient."""
    draws = np.random.default_rng(3)
    for _ in range(20):
        patient = np.repeat(np.arange(12), draws.integers(1, 4, size=12))
        luck = draws.normal(size=12)[patient] + draws.normal(size=len(patient))
        hit, asked = luck > -0.5, draws.random(len(patient)) < 0.9
        hit &= asked
        sums = [(hit[patient == p].sum(), asked[patient == p].sum()) for p in range(12)]
        sums = [(y, w) for y, w in sums if w]
        n, m = sum(w for _, w in sums), len(sums)
        rate = sum(y for y, _ in sums) / n
        variance = m / (m - 1) * sum((y - rate * w) ** 2 for y, w in sums) / n**2
        size = rate * (1 - rate) / variance
        size *= (stats.t.ppf(0.975, n - 1) / stats.t.ppf(0.975, m - 1)) ** 2
        size = min(max(size, n**2 / sum(w**2 for _, w in sums)), n)
        found = Rates.of(hit[:, None], asked[:, None], [f"p{p}" for p in patient])
        assert found.effective_cases() == pytest.approx([size])
        assert found.patients.tolist() == [m]
        low, high = (
            stats.beta.ppf(0.025, rate * size, size - rate * size + 1),
            stats.beta.ppf(0.975, rate * size + 1, size - rate * size),
        )
        assert found.intervals()[0] == pytest.approx([low, high])


def test_what_nobody_is_asked_has_no_interval() -> None:
    found = Rates.of(np.zeros((4, 2)), [[0, 1]] * 4, ["a", "a", "b", "c"]).intervals()
    assert np.isnan(found[0]).all()
    assert found[1, 0] == 0
    shares = Rates.of([[1 / 3]] * 3 + [[0.5], [0]], [[1 / 3]] * 3 + [[0.5], [0.5]], list("aaabb"))
    assert shares.effective_cases() == pytest.approx([2])  # patients that each count once
