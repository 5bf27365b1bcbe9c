"""Prediction sets: the quantile by hand, both scores against slow twins, coverage by simulation."""

from __future__ import annotations

import json

import numpy as np
import pytest
from numpy.typing import NDArray

from foveate.errors import UsageError
from foveate.evaluate.probabilities.conformal import SetRule, conformal_quantile

Floats = NDArray[np.float64]


def drawn(count: int, draws: np.random.Generator, classes: int = 4) -> tuple[Floats, Floats]:
    """Probabilities that are true: the class of each case is drawn from them."""
    odds = np.exp(draws.normal(size=(count, classes)))
    probabilities = odds / odds.sum(axis=1, keepdims=True)
    labels = (probabilities.cumsum(axis=1) < draws.random((count, 1))).sum(axis=1)
    return probabilities, np.eye(classes)[labels]


def names(count: int) -> list[str]:
    return [f"p{number}" for number in range(count)]


@pytest.mark.parametrize(
    ("count", "coverage", "rank"), [(9, 0.9, 9), (10, 0.9, 10), (19, 0.9, 18), (99, 0.5, 50)]
)
def test_with_one_case_a_patient_the_limit_is_the_usual_order_statistic(
    count: int, coverage: float, rank: int
) -> None:
    scores = np.random.default_rng(0).permutation(count).astype(float)  # 0 … count - 1
    assert conformal_quantile(scores, names(count), coverage) == rank - 1  # ceil((n + 1) coverage), from 1


def test_too_few_patients_can_promise_nothing() -> None:
    assert conformal_quantile(np.arange(8.0), names(8), 0.9) == np.inf
    assert conformal_quantile(np.array([]), [], 0.5) == np.inf


def test_cases_of_a_patient_share_its_weight() -> None:
    # Patients weigh 1/4 each: a has scores 1, 2, 3, 4 (1/16 each), b has 5, c has 6; 1/4 is at infinity.
    scores, patients = np.array([6.0, 4, 3, 5, 2, 1]), list("caabaa")
    assert conformal_quantile(scores, patients, 3 / 16) == 3
    assert conformal_quantile(scores, patients, 0.25) == 4
    assert conformal_quantile(scores, patients, 0.26) == 5
    assert conformal_quantile(scores, patients, 0.75) == 6
    assert conformal_quantile(scores, patients, 0.76) == np.inf


def slow_score(row: Floats, answer: int, score: str) -> float:
    if score == "lac":
        return float(1 - row[answer])
    return float(sum(value for value in row if value > row[answer]))


@pytest.mark.parametrize("score", ["lac", "aps"])
def test_sets_are_those_of_a_slow_twin(score: str) -> None:
    probabilities, truth = drawn(60, np.random.default_rng(1))
    rule = SetRule.fit(
        probabilities[:40], truth[:40], names(40), task="multiclass", coverage=0.8, score=score
    )  # type: ignore[arg-type]
    scores = sorted(
        slow_score(row, int(yes.argmax()), score) for row, yes in zip(probabilities[:40], truth, strict=False)
    )
    limit = scores[int(np.ceil(41 * 0.8)) - 1]
    assert rule.limits == (pytest.approx(limit),)
    expected = [[slow_score(row, k, score) <= limit + 1e-12 for k in range(4)] for row in probabilities[40:]]
    assert rule.sets(probabilities[40:]).tolist() == expected
    assert (rule.absences(probabilities) == ~rule.sets(probabilities)).all()


@pytest.mark.parametrize("score", ["lac", "aps"])
def test_sets_cover_new_cases_as_promised(score: str) -> None:
    draws, held = np.random.default_rng(2), []
    for _ in range(600):
        probabilities, truth = drawn(250, draws)
        rule = SetRule.fit(
            probabilities[:49], truth[:49], names(49), task="multiclass", coverage=0.9, score=score
        )  # type: ignore[arg-type]
        held.append((rule.sets(probabilities[49:]) & (truth[49:] == 1)).any(axis=1).mean())
    assert np.mean(held) == pytest.approx(45 / 50, abs=3 * np.std(held) / 600**0.5)  # ceil(50 * 0.9) / 50


def test_patients_of_many_cases_do_not_spoil_the_promise() -> None:
    """Hard patients have many cases: per case a naive quantile would be right, per patient it is too wide."""
    draws, by_rule, naive = np.random.default_rng(3), [], []
    for _ in range(1500):
        hard = draws.random(41) < 0.3
        counts = np.where(hard, 12, 1)
        patients = np.repeat(np.arange(41), counts)
        scores = draws.normal(size=len(patients)) + 3 * hard[patients]
        known = patients < 40
        new = scores[~known][0]  # a case of a new patient
        by_rule.append(new <= conformal_quantile(scores[known], patients[known], 0.8))
        naive.append(new <= conformal_quantile(scores[known], names(int(known.sum())), 0.8))
    assert 0.8 - 0.025 < np.mean(by_rule) < 0.8 + 1 / 41 + 0.025
    assert np.mean(naive) > 0.88


def test_findings_are_questions_of_their_own_with_two_answers() -> None:
    draws = np.random.default_rng(4)
    probabilities = draws.random((400, 3))
    truth = (draws.random((400, 3)) < probabilities).astype(float)
    truth[::7, 1] = np.nan
    rule = SetRule.fit(probabilities, truth, names(400), task="multilabel", coverage=0.9)
    assert rule.cases == (400, 342, 400)
    for k in range(3):
        known = ~np.isnan(truth[:, k])
        alone = np.stack([1 - probabilities[known, k], probabilities[known, k]], axis=1)
        binary = np.stack([truth[known, k] == 0, truth[known, k] == 1], axis=1).astype(float)
        twin = SetRule.fit(alone, binary, names(int(known.sum())), task="multiclass", coverage=0.9)
        assert rule.limits[k] == pytest.approx(twin.limits[0])
    here, gone = rule.sets(probabilities), rule.absences(probabilities)
    held = np.where(truth == 1, here, gone)[~np.isnan(truth)]
    assert held.mean() == pytest.approx(0.9, abs=0.01)
    assert (here & gone).any() and rule.doubts(probabilities) == [""] * 400


def test_sets_in_words_and_why_to_abstain() -> None:
    rule = SetRule("multiclass", "lac", 0.9, (0.55,), (30,), (30,))
    probabilities = np.array([[0.8, 0.1, 0.1], [0.5, 0.5, 0.0], [0.4, 0.3, 0.3]])
    assert rule.texts(probabilities, ("a", "b", "c")) == ["a", "a;b", ""]
    assert rule.doubts(probabilities) == ["", "set-large", "set-empty"]
    findings = SetRule("multilabel", "lac", 0.9, (0.4, 0.7, 0.4, 0.4), (30,) * 4, (30,) * 4)
    assert findings.texts(np.array([[0.9, 0.5, 0.5, 0.1]]), ("a", "b", "c", "d")) == ["a;b?;c!"]


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_adaptive_sets_are_never_empty(task: str) -> None:
    probabilities, truth = drawn(200, np.random.default_rng(5))
    rule = SetRule.fit(probabilities, truth, names(200), task=task, coverage=0.3, score="aps")  # type: ignore[arg-type]
    assert (rule.sets(probabilities) | rule.absences(probabilities)).all() or task == "multiclass"
    assert rule.sets(probabilities).any(axis=1).all() or task == "multilabel"


def test_a_rule_comes_back_from_json() -> None:
    truth = np.array([[1, np.nan], [0, np.nan], [1, np.nan]])
    rule = SetRule.fit(
        np.array([[0.9, 0.1], [0.2, 0.1], [0.6, 0.1]]), truth, names(3), task="multilabel", coverage=0.5
    )
    assert np.isinf(rule.limits[1]) and np.isfinite(rule.limits[0])
    text = json.dumps(rule.to_json(), allow_nan=False)
    assert SetRule.from_json(json.loads(text)) == rule


@pytest.mark.parametrize(("coverage", "score"), [(1.0, "lac"), (0.9, "raps")])
def test_a_rule_that_makes_no_sense_is_refused(coverage: float, score: str) -> None:
    with pytest.raises(UsageError, match="make no sense"):
        SetRule.fit(
            np.ones((1, 1)), np.ones((1, 1)), ["p"], task="multiclass", coverage=coverage, score=score
        )  # type: ignore[arg-type]
