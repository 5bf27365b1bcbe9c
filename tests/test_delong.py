"""AUROC in closed form: published examples, slow twins written from the papers, and undefined cases."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from foveate.evaluate import evaluate_predictions
from foveate.evaluate.delong import delong, delong_interval, delong_test
from foveate.evaluate.discrimination import Discrimination
from foveate.evaluate.intervals import Bootstrap
from test_discrimination import random_multiclass, table_of

# Hanley and McNeil 1982, Radiology 143:29, Table I: ratings 1 to 5 of 109 computed tomography images.
NORMAL, ABNORMAL = (33, 6, 6, 11, 2), (3, 2, 2, 11, 33)

# DeLong, DeLong and Clarke-Pearson 1988: albumin, total protein, K-G score, and whether surgery helped; the
# 43 of 49 patients with all three, as in the manual of SAS/STAT, PROC LOGISTIC, "Comparing ROC curves".
OVARIAN = np.fromstring(
    """3.0 5.8 10 0  3.2 6.3 5 1  3.9 6.8 3 1  2.8 4.8 6 0  3.2 5.8 3 1  0.9 4.0 5 0  2.5 5.7 8 0  1.6 5.6 5 1
    3.8 5.7 5 1  3.7 6.7 6 1  3.2 5.4 4 1  3.8 6.6 6 1  4.1 6.6 5 1  3.6 5.7 5 1  4.3 7.0 4 1  3.6 6.7 4 0
    2.3 4.4 6 1  4.2 7.6 4 0  4.0 6.6 6 0  3.5 5.8 6 1  3.8 6.8 7 1  3.0 4.7 8 0  4.5 7.4 5 1  3.7 7.4 5 1
    3.1 6.6 6 1  4.1 8.2 6 1  4.3 7.0 5 1  4.3 6.5 4 1  3.2 5.1 5 1  2.6 4.7 6 1  3.3 6.8 6 0  1.7 4.0 7 0
    3.7 6.1 5 1  3.3 6.3 7 1  4.2 7.7 6 1  3.5 6.2 5 1  2.9 5.7 9 0  2.1 4.8 7 1  2.8 6.2 8 0  4.0 7.0 7 1
    3.3 5.7 6 1  3.7 6.9 5 1  3.6 6.6 5 1""",
    sep=" ",
).reshape(-1, 4)


def test_ratings_of_hanley_and_mcneil() -> None:
    scores = np.repeat([1.0, 2, 3, 4, 5] * 2, [*NORMAL, *ABNORMAL])
    truth = np.repeat([0.0, 1.0], [sum(NORMAL), sum(ABNORMAL)])
    areas, covariance = delong(scores, truth)
    error = np.sqrt(covariance[0, 0])
    assert areas[0] == pytest.approx(0.893, abs=5e-4)  # as published
    # Stata's manual, roctab on the same data: 0.8932, 0.0307, 0.83295 to 0.95339
    assert areas[0] == pytest.approx(0.8932, abs=5e-5)
    assert error == pytest.approx(0.0307, abs=5e-5)
    bounds = areas[0] + np.array([-1, 1]) * stats.norm.ppf(0.975) * error
    np.testing.assert_allclose(bounds, [0.83295, 0.95339], atol=5e-6)


def test_the_ovarian_example_of_delong_as_sas_prints_it() -> None:
    albumin, protein, score, truth = OVARIAN.T
    areas, covariance = delong(np.stack([score, albumin, protein]) * [[-1], [1], [1]], truth)
    np.testing.assert_allclose(areas, [0.7258, 0.7366, 0.6478], atol=5e-5)
    np.testing.assert_allclose(np.sqrt(np.diag(covariance)), [0.1028, 0.0927, 0.1000], atol=5e-5)
    found = delong_test(protein, -score, truth)
    np.testing.assert_allclose(found, [-0.0780, -0.2830, 0.1271, 0.4561], atol=5e-5)
    np.testing.assert_allclose(
        delong_test(albumin, -score, truth), [0.0108, -0.1761, 0.1976, 0.9102], atol=5e-5
    )


def _slow(scores: np.ndarray, truth: np.ndarray, patients: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Obuchowski 1997 by loops over pairs and patients."""
    names = list(dict.fromkeys(patients))
    areas, sums = [], []
    for row in scores:
        pairs = {
            (i, j): 1.0 if row[i] > row[j] else 0.5 if row[i] == row[j] else 0.0
            for i in np.flatnonzero(truth == 1)
            for j in np.flatnonzero(truth == 0)
        }
        positives, negatives = {i for i, _ in pairs}, {j for _, j in pairs}
        area = sum(pairs.values()) / len(pairs)
        x = {i: sum(pairs[i, j] for j in negatives) / len(negatives) for i in positives}
        y = {j: sum(pairs[i, j] for i in positives) / len(positives) for j in negatives}
        areas.append(area)
        sums.append(
            [
                (
                    sum(x[i] - area for i in positives if patients[i] == name),
                    sum(y[j] - area for j in negatives if patients[j] == name),
                )
                for name in names
            ]
        )
    s, m, n = np.array(sums), len(positives), len(negatives)
    with_x = len({patients[i] for i in positives})
    with_y = len({patients[j] for j in negatives})
    all_ = len(names)
    covariance = np.empty((len(scores), len(scores)))
    for a in range(len(scores)):
        for b in range(len(scores)):
            s10 = with_x / ((with_x - 1) * m) * (s[a, :, 0] * s[b, :, 0]).sum()
            s01 = with_y / ((with_y - 1) * n) * (s[a, :, 1] * s[b, :, 1]).sum()
            s11 = all_ / (all_ - 1) * (s[a, :, 0] * s[b, :, 1]).sum()
            s11 += all_ / (all_ - 1) * (s[b, :, 0] * s[a, :, 1]).sum()
            covariance[a, b] = s10 / m + s01 / n + s11 / (m * n)
    return np.array(areas), covariance


@pytest.mark.parametrize("each", [1, 3])
def test_the_fast_form_equals_loops_over_pairs(each: int) -> None:
    draws = np.random.default_rng(each)
    truth = draws.integers(2, size=36).astype(float)
    scores = draws.integers(6, size=(3, 36)) + truth
    patients = np.array([f"p{n // each}" for n in range(36)])
    found, slow = delong(scores, truth, list(patients)), _slow(scores, truth, patients)
    np.testing.assert_allclose(found[0], slow[0], atol=1e-12)
    np.testing.assert_allclose(found[0], [roc_auc_score(truth, row) for row in scores], atol=1e-12)
    np.testing.assert_allclose(found[1], slow[1], atol=1e-12)


def test_patients_of_one_case_each_are_independent_cases() -> None:
    draws = np.random.default_rng(4)
    truth, scores = draws.integers(2, size=50).astype(float), draws.normal(size=(2, 50))
    alone = [f"p{n}" for n in range(50)]
    for one, other in zip(delong(scores, truth), delong(scores, truth, alone), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-14)


def test_ten_copies_of_each_case_are_no_news() -> None:
    """Ten equal cases a patient: the clustered variance is that of one case, the naive one a tenth."""
    draws = np.random.default_rng(7)
    truth = np.repeat([0.0, 1.0], 40)
    scores = draws.normal(size=80) + truth
    copied, patients = np.repeat(scores, 10), [f"p{n // 10}" for n in range(800)]
    single = delong(scores, truth)[1][0, 0]
    assert delong(copied, np.repeat(truth, 10), patients)[1][0, 0] == pytest.approx(single, rel=1e-9)
    assert delong(copied, np.repeat(truth, 10))[1][0, 0] == pytest.approx(single / 10, rel=0.03)


def test_the_clustered_error_is_about_that_of_the_bootstrap() -> None:
    draws = np.random.default_rng(3)
    patient = np.repeat(np.arange(150), 4)
    truth = draws.integers(2, size=600).astype(float)
    scores = truth + draws.normal(size=150)[patient] + draws.normal(size=600)
    names = [f"p{n}" for n in patient]
    table = table_of("multilabel", truth[:, None], (stats.norm.cdf(scores))[:, None], patients=names)
    drawn = Bootstrap(2000).replicates(Discrimination(table, table.decisions()), names)["auroc"][:, 0]
    assert np.sqrt(delong(scores, truth, names)[1][0, 0]) == pytest.approx(drawn.std(), rel=0.06)


def test_unknown_truth_is_left_out() -> None:
    draws = np.random.default_rng(0)
    truth, scores = draws.integers(2, size=30).astype(float), draws.normal(size=30)
    more = np.concatenate([truth, [np.nan] * 5]), np.concatenate([scores, draws.normal(size=5)])
    for one, other in zip(delong(scores, truth), delong(more[1], more[0]), strict=True):
        np.testing.assert_array_equal(one, other)


def test_what_is_undefined() -> None:
    scores = np.array([0.1, 0.4, 0.35, 0.8])
    for single_class in (np.zeros(4), np.ones(4), np.full(4, np.nan)):
        areas, covariance = delong(scores, single_class)
        assert np.isnan(areas).all()
        assert np.isnan(covariance).all()
        assert np.isnan(delong_test(scores, -scores, single_class)).all()
    truth = np.array([0.0, 0, 1, 1])
    ties, none = delong(np.full(4, 0.5), truth)
    assert (ties[0], none[0, 0]) == (0.5, 0.0)
    assert np.isnan(delong_interval(ties[0], none[0, 0])).all()
    perfect, none = delong(truth, truth)
    assert (perfect[0], none[0, 0]) == (1.0, 0.0)
    assert np.isnan(delong_interval(perfect[0], none[0, 0])).all()
    lonely, unknown = delong(scores, np.array([0.0, 0, 0, 1]))
    assert lonely[0] == 1.0
    assert np.isnan(unknown).all()  # one positive case tells nothing about others
    assert np.isnan(delong(scores, truth, ["p", "q", "r", "r"])[1]).all()  # one patient with positives
    assert delong_test(scores, scores * 3, truth) == (0, 0, 0, 1)
    opposite = delong_test(truth, -truth, truth)
    assert opposite.difference == 1
    assert np.isnan(opposite[1:]).all()


def test_the_interval_is_symmetric_in_log_odds_and_stays_within_bounds() -> None:
    low, high = delong_interval(0.95, 0.03**2)
    assert 0 < low < 0.95 < high < 1
    odds = np.log([low / (1 - low), 0.95 / 0.05, high / (1 - high)])
    np.testing.assert_allclose(np.diff(odds), 1.959964 * 0.03 / (0.95 * 0.05), rtol=1e-6)
    assert delong_interval(0.95, 0.03**2, 0.9)[0] > low


def test_the_p_value_is_uniform_where_nothing_differs_and_patients_are_alike() -> None:
    draws, clustered, naive = np.random.default_rng(21), [], []
    patient = np.repeat(np.arange(60), 5)
    names = [f"p{n}" for n in patient]
    for _ in range(400):
        truth = draws.integers(2, size=60)[patient].astype(float)
        first, second = truth + draws.normal(size=(2, 60))[:, patient] + draws.normal(size=(2, 300)) / 2
        clustered.append(delong_test(first, second, truth, names).p)
        naive.append(delong_test(first, second, truth).p)
    assert stats.kstest(clustered, "uniform").pvalue > 0.01
    assert 0.03 <= np.mean(np.array(clustered) < 0.05) <= 0.075
    assert np.mean(np.array(naive) < 0.05) > 0.3  # cases taken to be independent promise too much


def test_metrics_json_says_what_was_taken_to_be_independent() -> None:
    table = random_multiclass(5, 60, 3, 1000)
    found = evaluate_predictions(table, n_boot=0).delong
    assert found.assumes == "independent cases"
    for k, name in enumerate(table.classes):
        areas, covariance = delong(table.probabilities[:, k], table.truth[:, k])
        value = found.per_class[name]
        expected = (areas[0], *delong_interval(areas[0], covariance[0, 0]))
        if np.isnan(areas[0]):
            assert (value.value, value.reason) == (None, "all cases are of one kind")
        else:
            assert (value.value, value.low, value.high) == pytest.approx(expected)
    shared = table_of("multiclass", table.truth, table.probabilities, patients=["p", "q", "r"] * 20)
    assert "patients" in evaluate_predictions(shared, n_boot=0).delong.assumes
