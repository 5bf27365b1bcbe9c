"""Tests of a difference against statsmodels, enumeration, simulation and published numbers."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.stats import binomtest
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.multitest import multipletests

from foveate.evaluate.comparing.hypothesis import bootstrap_p, holm, mcnemar, replicates_needed
from foveate.evaluate.comparing.ranking import indistinguishable, ranked
from foveate.evaluate.comparing.wording import shown_p
from foveate.evaluate.intervals import Bootstrap


def outcomes(both: int, first: int, second: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    """Which cases each model decides right, from the four counts."""
    rows = [(True, True)] * both + [(True, False)] * first + [(False, True)] * second
    right = np.array(rows + [(False, False)] * neither, dtype=bool).reshape(-1, 2)
    return right[:, 0], right[:, 1]


@pytest.mark.parametrize("first", range(0, 12, 3))
@pytest.mark.parametrize("second", [0, 1, 6, 30])
def test_mcnemar_is_that_of_statsmodels_and_a_sign_test(first: int, second: int) -> None:
    found = mcnemar(*outcomes(40, first, second, 7))
    counts = (found.n, found.both, found.only_first, found.only_second, found.neither)
    assert counts == (47 + first + second, 40, first, second, 7)
    assert found.p == pytest.approx(statsmodels_mcnemar([[40, first], [second, 7]]).pvalue, abs=1e-12)
    if first + second:
        assert found.p == pytest.approx(binomtest(first, first + second).pvalue, abs=1e-12)
    assert found.p_mid <= found.p


def test_published_mid_p() -> None:
    # Fagerland, Lydersen and Laake (2013), tables 1 and 4: airway hyper-responsiveness before and after stem
    # cell transplantation (Bentur et al. 2009), 1 and 7 discordant pairs of 21.
    found = mcnemar(*outcomes(1, 1, 7, 12))
    assert (round(found.p, 4), round(found.p_mid, 4)) == (0.0703, 0.0391)


def test_cases_of_a_patient_change_places_together() -> None:
    chance = np.random.default_rng(3)
    for _ in range(5):
        patients = [f"p{number}" for number in chance.integers(7, size=25)]
        first, second = chance.random((2, 25)) < 0.6
        leads = [
            sum(int(a) - int(b) for a, b, who in zip(first, second, patients, strict=True) if who == name)
            for name in sorted(set(patients))
        ]
        sums = [abs(np.dot(signs, leads)) for signs in product((-1, 1), repeat=len(leads))]
        seen = abs(sum(leads))
        found = mcnemar(first, second, patients)
        assert found.p == pytest.approx(np.mean([value >= seen for value in sums]))
        both = np.mean([value > seen for value in sums]), np.mean([value == seen for value in sums])
        assert found.p_mid == pytest.approx(both[0] + both[1] / 2)
    # Ten patients, each with four cases that one model alone decides right: 10 signs, not 40.
    whole = mcnemar(np.ones(40, bool), np.zeros(40, bool), [f"p{case // 4}" for case in range(40)])
    assert whole.p == pytest.approx(2 / 2**10)


def test_bootstrap_p_agrees_with_the_interval() -> None:
    chance = np.random.default_rng(0)
    agreed = 0
    for shift in np.linspace(-0.6, 0.6, 41):
        values = chance.normal(shift, 1, 30)
        draws = Bootstrap(1999, 0.9, 1)
        found = draws.replicates(lambda w, v=values: {"mean": w @ v / 30}, [f"p{i}" for i in range(30)])
        interval = draws.value(float(values.mean()), found["mean"], n=30, patients=30)
        assert interval.low is not None and interval.high is not None
        p = bootstrap_p(found["mean"], 30)
        if abs(p - 0.1) > 0.002:  # closer to the level the quantile may fall between two replicates
            assert (p < 0.1) == (interval.low > 0 or interval.high < 0)
            agreed += p < 0.1
    assert 5 < agreed < 36


def test_bootstrap_p_where_there_is_nothing_to_tell() -> None:
    assert bootstrap_p(np.zeros(100)) == 1
    assert bootstrap_p(np.full(100, 1e-17)) == 1  # rounding errors of equal figures
    assert np.isnan(bootstrap_p(np.full(100, 0.25)))  # replicates that do not differ say nothing
    assert np.isnan(bootstrap_p(np.array([])))
    assert np.isnan(bootstrap_p(np.array([np.nan] * 30 + [0.1] * 60 + [0.2] * 10)))
    drawn = np.array([0.1] * 999 + [0.2] * 1000)
    assert bootstrap_p(drawn) == 2 / 2000  # the smallest there can be
    assert bootstrap_p(drawn, 10**7) == pytest.approx(2 / 2000, rel=1e-4)
    few = 2 * stats.t.sf(stats.norm.isf(1 / 2000) * np.sqrt(6 / 7), 6)  # of seven patients
    assert bootstrap_p(drawn, 7) == pytest.approx(few) and few > 0.02
    assert bootstrap_p(np.zeros(100), 7) == 1


@pytest.mark.parametrize("cases", [1, 4])
def test_under_the_null_one_test_in_twenty_is_below_a_twentieth(cases: int) -> None:
    """Two models that are as good, 60 patients whose cases share their luck: 400 cohorts."""
    chance = np.random.default_rng(8)
    below_mcnemar, below_bootstrap = 0, 0
    names = [f"p{case // cases}" for case in range(60 * cases)]
    for seed in range(400):
        luck = np.repeat(chance.normal(0, 1, (2, 60)), cases, axis=1)
        first, second = (luck + chance.normal(0, 1, luck.shape)) > -0.8
        below_mcnemar += mcnemar(first, second, names).p < 0.05
        lead = first.astype(float) - second
        draws = Bootstrap(400, seed=seed)
        found = draws.replicates(lambda w, v=lead: {"lead": w @ v / len(v)}, names)
        below_bootstrap += bootstrap_p(found["lead"]) < 0.05
    assert below_mcnemar <= 0.05 * 400 + 3 * np.sqrt(400 * 0.05 * 0.95)  # exact: never more than it says
    assert 0.02 * 400 < below_bootstrap < 0.09 * 400
    if cases > 1:  # what ignoring patients would do
        naive = mcnemar(np.repeat(np.arange(20) < 14, 5), np.repeat(np.arange(20) >= 14, 5))
        by_patient = mcnemar(
            np.repeat(np.arange(20) < 14, 5),
            np.repeat(np.arange(20) >= 14, 5),
            [f"p{i // 5}" for i in range(100)],
        )
        assert naive.p < 0.001 < 0.1 < by_patient.p


def test_holm_by_hand_and_undefined_tests_do_not_count() -> None:
    # Sorted 0.01, 0.02, 0.03, 0.04 times 4, 3, 2, 1, none smaller than the one before.
    assert holm(np.array([0.01, 0.04, 0.03, 0.02])) == pytest.approx([0.04, 0.06, 0.06, 0.06])
    found = holm(np.array([0.01, np.nan, 0.04]))
    assert found[[0, 2]] == pytest.approx([0.02, 0.04]) and np.isnan(found[1])
    assert np.isnan(holm(np.array([np.nan]))).all() and len(holm(np.array([]))) == 0
    assert 2 / (1 + replicates_needed(45, 0.95)) * 45 < 0.05


@pytest.mark.slow
@settings(max_examples=20)  # statsmodels collects all garbage at each call
@given(st.lists(st.floats(0, 1) | st.sampled_from([0.0, 0.01, 1.0]), min_size=1, max_size=20))
def test_holm_is_that_of_statsmodels(p: list[float]) -> None:
    np.testing.assert_allclose(holm(np.array(p)), multipletests(p, method="holm")[1], atol=1e-15)


def test_ranks_in_each_replicate() -> None:
    samples = np.array([[0.9, 0.8, 0.7], [0.8, 0.8, 0.9], [0.5, np.nan, 0.4]])
    found = ranked(samples)
    assert found[:2].tolist() == [[1, 2, 3], [2.5, 2.5, 1]] and np.isnan(found[2]).all()
    assert ranked(samples[:1], lower_is_better=True).tolist() == [[3, 2, 1]]
    assert ranked(np.array([[0.1 + 0.2, 0.3]])).tolist() == [[1.5, 1.5]]  # equal but for rounding


def test_bars_join_neighbours_of_whom_no_pair_differs() -> None:
    order = {"a": 1.2, "b": 2.0, "c": 2.9, "d": 3.9}

    def joined(*pairs: str) -> list[list[str]]:
        return indistinguishable(order, {frozenset(pair) for pair in pairs})

    assert joined() == [["a", "b", "c", "d"]]
    assert joined("ad") == [["a", "b", "c"], ["b", "c", "d"]]
    assert joined("ac", "ad", "bd", "bc") == [["a", "b"], ["c", "d"]]
    assert joined("ab", "ac", "ad", "bc", "bd", "cd") == []
    assert joined("ab") == [["b", "c", "d"]]  # a cannot reach c over b


def test_p_values_as_they_are_written() -> None:
    said = {0.79052734: "p = 0.79", 0.0004: "p < 0.001", 1.0: "p = 1", 0.9996: "p = 1", 0.0391: "p = 0.039"}
    assert {p: shown_p(p) for p in said} == said and shown_p(None) == "p undefined"
