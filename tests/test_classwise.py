"""Figures of classes where cases are few or all right: no interval is a point."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit

from foveate.evaluate import evaluate_predictions, short_intervals
from foveate.evaluate.classwise import ap_interval, exact_intervals
from foveate.evaluate.delong import few_patients_interval, newcombe_interval
from foveate.evaluate.discrimination import Ranking
from foveate.evaluate.intervals import Value
from foveate.evaluate.options import EvaluateOptions
from foveate.evaluate.rates import Rates, clopper_pearson, wilson
from foveate.evaluate.results.metrics import Metrics
from foveate.evaluate.short_intervals import noted
from test_discrimination import random_multilabel, table_of

SEVEN = 0.025 ** (1 / 7)  # Clopper and Pearson's lower bound of 7 of 7: 0.5904


def _perfect(patients: list[str] | None = None) -> Metrics:
    """Seven positives and seven negatives of one finding, all decided right."""
    truth = np.repeat([[1.0], [0.0]], 7, axis=0)
    spread = np.linspace(0.0, 0.1, 14)[:, None]
    table = table_of("multilabel", truth, 0.8 * truth + spread, patients=patients)
    return evaluate_predictions(table, n_boot=200, options=EvaluateOptions(prevalence={"c0": 0.1}))


def _bounds(value: Value) -> tuple[float | None, float | None]:
    return value.low, value.high


def test_seven_of_seven_is_no_certainty() -> None:
    found = _perfect()
    own = found.per_class["c0"]
    for name in ("recall", "specificity", "precision", "npv"):
        assert _bounds(own.figure(name)) == pytest.approx((SEVEN, 1)), name
        assert own.figure(name).reason is None
    jaccard = SEVEN  # F1 = 2 J / (1 + J), of the seven that have it or are said to have it
    assert _bounds(own.f1) == pytest.approx((2 * jaccard / (1 + jaccard), 1))
    assert _bounds(own.auroc) == pytest.approx(newcombe_interval(1, 7, 7))
    assert 0.6 < own.auroc.low < 0.75
    assert _bounds(own.ap) == pytest.approx(wilson(1, 7))
    assert _bounds(found.metrics.accuracy) == pytest.approx((0.025 ** (1 / 14), 1))
    # the mean of sensitivity and specificity: half the root of two squares
    assert _bounds(found.metrics.balanced_accuracy) == pytest.approx((1 - (1 - SEVEN) / 2**0.5, 1))
    point = found.operating_points or own
    assert point
    at = found.at_prevalence["c0"]
    assert _bounds(at.ppv) == pytest.approx((SEVEN * 0.1 / (SEVEN * 0.1 + (1 - SEVEN) * 0.9), 1))
    assert _bounds(at.npv) == pytest.approx((SEVEN * 0.9 / (SEVEN * 0.9 + (1 - SEVEN) * 0.1), 1))
    # kappa if as many were wrong as 14 of 14 allows, half of all answers agreeing by chance
    wrong = 1 - 0.025 ** (1 / 14)
    for name in ("kappa", "mcc"):
        assert _bounds(found.agreement.metrics[name]) == pytest.approx((1 - wrong / 0.5, 1))
    selective = found.abstention.selective.confidence.metrics
    assert _bounds(selective.error) == pytest.approx((0, wrong))
    assert _bounds(selective.accuracy_at_80) == pytest.approx((1 - wrong / 0.8, 1))
    assert selective.aurc.high == pytest.approx(wrong * (1 - np.log(wrong)))


def test_no_interval_of_a_perfect_model_is_a_point() -> None:
    def walk(content: object, path: str) -> None:
        if isinstance(content, dict):
            if {"value", "low", "high"} <= set(content) and content["low"] is not None:
                least = 1e-4 if path.endswith("within_bins") else 1e-3  # itself 0.0002
                assert content["high"] - content["low"] > least, path
            for name, part in content.items():
                walk(part, f"{path}.{name}")

    walk(_perfect().to_json(), "")


def test_cases_of_a_patient_that_are_all_right_count_as_one() -> None:
    """Seven positives of four patients are worth less than four: 49 / 13."""
    patients = ["a", "a", "b", "b", "c", "c", "d"]
    own = _perfect([*patients, *(name.upper() for name in patients)]).per_class["c0"]
    assert _bounds(own.recall) == pytest.approx((0.025 ** (13 / 49), 1))
    assert _bounds(own.auroc) == pytest.approx(newcombe_interval(1, 49 / 13, 49 / 13))
    assert _bounds(own.ap) == pytest.approx(wilson(1, 49 / 13))


def test_rates_of_single_cases_are_clopper_and_pearson_s() -> None:
    table = random_multilabel(5, 60, 3, 7)
    decided = table.decisions()
    found = exact_intervals(table, decided, 0.9)
    for k in range(3):
        present, absent, said = table.truth[:, k] == 1, table.truth[:, k] == 0, decided[:, k]
        for name, (hits, asked) in {
            "recall": (present & said, present),
            "specificity": (absent & ~said, absent),
            "precision": (present & said, (present | absent) & said),
            "npv": (absent & ~said, (present | absent) & ~said),
            "accuracy": ((present & said) | (absent & ~said), present | absent),
        }.items():
            known = np.array(clopper_pearson(hits.sum(), asked.sum(), 0.9))
            assert found[name][k] == pytest.approx(known), name


def test_newcombe_s_bounds_are_the_roots_of_his_quartic() -> None:
    """``m n (A - a)^2 = z^2 a (1 - a) (...)`` times ``(2 - a) (1 + a)``: another way to solve it."""
    for area, m, n in ((0.893, 58, 51), (0.6, 5, 9), (1.0, 7, 7), (0.0, 4, 30), (0.99, 12.5, 80.25)):
        a, further = np.poly1d([1, 0]), (m + n) / 2 - 1
        two, one = np.poly1d([-1, 2]), np.poly1d([1, 1])
        inner = two * one + further * np.poly1d([-1, 1]) * one + further * a * two
        known = m * n * (area - a) ** 2 * two * one - 1.959964**2 * a * np.poly1d([-1, 1]) * inner
        roots = np.sort([root.real for root in known.roots if abs(root.imag) < 1e-9 and -1e-9 <= root <= 1])
        low, high = newcombe_interval(area, m, n)
        expected = [0.0, roots[-1]] if area == 0 else roots[-2:]
        assert [low, high] == pytest.approx(expected, abs=1e-6), (area, roots)


class TestAveragePrecision:
    def test_worked_by_hand(self) -> None:
        """Twenty patients: Student's t with 19 degrees of freedom, 2.0930, times the root of 20 / 19."""
        reach = 2.0930 * (20 / 19) ** 0.5
        counts, half = np.ones(20), np.array([expit(-1.0), expit(1.0), np.nan])
        found = ap_interval(0.5, counts, np.tile(half[:2], 50))
        assert found == pytest.approx((expit(-reach), expit(reach)), abs=1e-4)
        assert ap_interval(0.5, counts, np.append(np.tile(half[:2], 50), np.nan)) == found
        # one of 1 counts as far above as the lowest lies below: here as 2
        capped = ap_interval(0.5, counts, np.tile([expit(-2.0), 1.0], 50))
        assert capped == pytest.approx((expit(-2 * reach), expit(2 * reach)), abs=1e-4)

    def test_where_replicates_do_not_serve(self) -> None:
        counts = np.r_[np.ones(13), 2.0]
        assert ap_interval(0.7, counts, None) == pytest.approx(wilson(0.7, 225 / 17))
        assert ap_interval(1.0, np.ones(40), None) == pytest.approx(wilson(1.0, 40))
        many = np.full(100, 0.6)
        assert ap_interval(0.7, np.zeros(3), many) is None and ap_interval(0.7, np.ones(40), None) is None
        many[:21] = np.nan
        assert ap_interval(0.7, np.ones(40), many) is None  # undefined in more than a fifth
        assert ap_interval(0.6, np.ones(40), np.full(100, 0.6)) is None  # all the same

    def test_it_holds_the_truth_where_quantiles_of_replicates_do_not(self) -> None:
        draws = np.random.default_rng(4)

        def cohort(count: int) -> tuple[np.ndarray, np.ndarray]:
            truth = (draws.random(count) < 0.5).astype(float)
            return truth, truth + draws.normal(size=count)

        truth, scores = cohort(200_000)
        real = float(Ranking.of(scores, truth)(np.ones((1, len(truth))))[1][0])
        held = np.zeros(2)
        for _ in range(300):
            truth, scores = cohort(40)
            ranking = Ranking.of(scores, truth)
            ap = float(ranking(np.ones((1, 40)))[1][0])
            drawn = ranking(draws.multinomial(40, np.full(40, 1 / 40), size=300).astype(float))[1]
            low, high = np.quantile(drawn, (0.025, 0.975))
            ours = ap_interval(ap, truth, drawn)
            assert ours is not None
            held += [low <= real <= high, ours[0] <= real <= ours[1]]
        plain, own = held / 300
        assert own > 0.925 and own > plain + 0.02


def test_few_patients_have_newcombe_s_interval_and_many_do_not() -> None:
    draws = np.random.default_rng(2)
    truth = np.repeat([1.0, 0.0], [10, 40])
    scores = truth + draws.normal(size=50)
    alone = [f"p{n}" for n in range(50)]
    found = few_patients_interval(scores, truth, alone)
    area = (scores[:10, None] > scores[10:]).mean()
    assert found == pytest.approx(newcombe_interval(area, 10, 40))
    assert few_patients_interval(np.tile(scores, 2), np.tile(truth, 2), [str(n) for n in range(100)]) is None
    doubled = few_patients_interval(np.repeat(scores, 2), np.repeat(truth, 2), list(np.repeat(alone, 2)))
    assert doubled == pytest.approx(found)  # every case twice tells nothing more
    assert few_patients_interval(scores, np.ones(50), alone) is None


def test_what_is_known_to_be_short_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(short_intervals, "COVERAGE", {"ece": {7: 80, 15: 92, 60: 93}})
    value = Value(0.1, 0.05, 0.2, 30, 20)
    short = "interval known to be too short: it held the truth in 92 of 100 simulated cohorts of 15 patients"
    assert noted(value, "ece").reason == short
    assert noted(value, "brier") is value
    assert noted(Value(0.1, 0.05, 0.2, 30, 60), "ece").reason is None
    monkeypatch.setattr(short_intervals, "COVERAGE", {"ece": {7: 80, 60: 89}})
    assert noted(Value(0.1, 0.05, 0.2, 300, 240), "ece").reason is not None
    assert noted(Value(0.1, 0.05, 0.2, 300, 241), "ece").reason is None  # more than was simulated
    few = noted(Value(0.1, 0.05, 0.2, 30, 3, "limited"), "ece")
    assert str(few.reason).startswith("limited; interval known") and "80 of 100" in str(few.reason)
    assert noted(Value(0.1, None, None, 30, 3, "no interval"), "ece").reason == "no interval"


def test_what_is_listed_as_short_is_so_at_some_size() -> None:
    for name, sizes in short_intervals.COVERAGE.items():
        assert min(sizes.values()) < short_intervals.SURELY < short_intervals.ENOUGH, name
    assert not {"ap", "auroc", "recall", "specificity"} & set(short_intervals.COVERAGE)


def test_coverage_of_clustered_rates_is_what_they_say() -> None:
    """Fifteen patients with one to three cases that share half of their luck: 300 cohorts."""
    draws, held = np.random.default_rng(6), 0
    for _ in range(300):
        patient = np.repeat(np.arange(15), draws.integers(1, 4, size=15))
        luck = (draws.normal(size=15)[patient] + draws.normal(size=len(patient))) / 2**0.5
        right = luck < 0.8416  # four of five
        rates = Rates.of(right[:, None], np.ones((len(patient), 1)), [str(p) for p in patient])
        low, high = rates.intervals()[0]
        held += low <= 0.8 <= high
    assert held >= 0.94 * 300
