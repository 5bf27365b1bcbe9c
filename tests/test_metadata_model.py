"""Telling the truth without the disease: encoding by hand, AUROC and permutation against other libraries."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from foveate.evaluate.intervals import Bootstrap
from foveate.evaluate.metadata_model import (
    MOST_VALUES,
    best_columns,
    cross_scores,
    encode,
    fit_and_score,
    how_well_told,
    permutation_p,
)


class TestEncode:
    def test_numbers_kinds_and_what_is_left_out(self) -> None:
        found = encode(
            {
                "age": ["30", "", "50", "70"],
                "sex": ["f", "m", "f", ""],
                "same": ["1", "1", "1", "1"],
                "empty": ["", "", "", ""],
            }
        )
        assert found.owners == ("age", "age", "sex", "sex", "sex")
        np.testing.assert_array_equal(
            found.values.T,
            [[30, 50, 50, 70], [0, 1, 0, 0], [0, 0, 0, 1], [1, 0, 1, 0], [0, 1, 0, 0]],
        )
        assert found.columns == ("age", "sex")

    def test_names_of_single_cases_are_left_out(self) -> None:
        names = [f"case{number}x" for number in range(MOST_VALUES + 1)]
        assert encode({"name": names}).columns == ()
        assert encode({"name": [*names[:-1], names[0]]}).columns == ("name",)

    def test_infinite_numbers_are_left_out(self) -> None:
        assert encode({"odd": ["1", "inf", "nan", "2"]}).columns == ()

    def test_nothing(self) -> None:
        assert encode({}).values.shape == (0, 0)


class TestScores:
    def cohort(self, count: int = 90) -> tuple[np.ndarray, np.ndarray, list[str]]:
        draws = np.random.default_rng(3)
        truth = np.eye(3)[np.arange(count) % 3]
        scanner = (truth[:, 0] == 1) ^ (draws.random(count) < 0.1)
        return (
            np.stack([draws.normal(size=count), scanner], axis=1),
            truth,
            [f"p{n // 2}" for n in range(count)],
        )

    def test_a_telling_column_is_found_and_named(self) -> None:
        values, truth, patients = self.cohort()
        scores = cross_scores(values, truth, patients)
        told = how_well_told(scores, truth, patients, ("a", "b", "c"), Bootstrap(300))
        for k, name in enumerate("abc"):
            assert told.per_class[name].value == pytest.approx(roc_auc_score(truth[:, k], scores[:, k]))
        aurocs = [told.per_class[name].value or 0 for name in "abc"]
        assert told.macro.value == pytest.approx(np.mean(aurocs))
        assert aurocs[0] > 0.85 and told.p["a"] < 0.01
        features = encode(
            {"noise": [f"{v:.9f}" for v in values[:, 0]], "scanner": [f"s{v:.0f}" for v in values[:, 1]]}
        )
        assert best_columns(features, truth, most=1) == ("scanner",)

    def test_noise_tells_nothing(self) -> None:
        values, truth, patients = self.cohort()
        scores = cross_scores(values[:, :1], truth, patients)
        told = how_well_told(scores, truth, patients, ("a", "b", "c"), Bootstrap(100))
        assert min(told.p.values()) > 0.01

    def test_no_patient_is_scored_by_a_model_that_knows_it(self) -> None:
        # Every patient has a number of its own and its own truth: known patients would be told at once.
        patients = [f"p{n // 4}" for n in range(160)]
        truth = np.random.default_rng(0).integers(2, size=40).repeat(4)[:, None].astype(float)
        numbers = np.random.default_rng(1).permutation(40).repeat(4)[:, None].astype(float)
        known = roc_auc_score(truth[:, 0], fit_and_score(numbers, truth, numbers)[:, 0])
        unknown = roc_auc_score(truth[:, 0], cross_scores(numbers, truth, patients)[:, 0])
        assert known > 0.95 and unknown < 0.75

    def test_unknown_truth_and_absent_classes(self) -> None:
        values, truth, patients = self.cohort()
        truth = truth.copy()
        truth[::2, 1] = np.nan
        truth[:, 2] = 0
        scores = fit_and_score(values, truth, values)
        assert np.isnan(scores[:, 2]).all() and np.isfinite(scores[:, :2]).all()
        told = how_well_told(scores, truth, patients, ("a", "b", "c"), Bootstrap(100))
        assert told.per_class["c"].value is None and "none without it" in str(told.per_class["c"].reason)
        assert set(told.p) == {"a", "b"} and told.macro.value is not None


class TestPermutation:
    def test_against_all_permutations(self) -> None:
        scores, truth = np.array([0.9, 0.8, 0.8, 0.3, 0.2, 0.1]), np.array([1, 1, 0, 1, 0, 0.0])
        seen = roc_auc_score(truth, scores)
        exact = np.mean([roc_auc_score(order, scores) >= seen - 1e-12 for order in permutations(truth)])
        found = permutation_p(scores, truth, list("abcdef"), draws=20_000)
        assert found == pytest.approx(exact, abs=0.01)

    def test_each_patient_counts_once(self) -> None:
        once = permutation_p(
            np.array([0.9, 0.7, 0.2, 0.1]), np.array([1, 1, 0, 0.0]), list("abcd"), draws=5000
        )
        scores = np.array([0.8, 1.0, 0.7, 0.2, 0.1, 0.1])
        many = permutation_p(scores, np.array([1, 0, 1, 0, 0, 0.0]), list("aabcdd"), draws=5000)
        assert many == pytest.approx(once, abs=0.02) == pytest.approx(1 / 6, abs=0.02)

    def test_one_kind_of_patient_is_undefined(self) -> None:
        assert np.isnan(permutation_p(np.array([0.1, 0.2]), np.array([1.0, 1.0]), ["a", "b"]))
