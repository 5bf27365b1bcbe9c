"""Operating points: a slow twin of every rule, figures against scikit-learn, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix

from foveate.errors import UsageError
from foveate.evaluate import evaluate_predictions
from foveate.evaluate.intervals import Bootstrap
from foveate.evaluate.options import EvaluateOptions
from foveate.evaluate.probabilities.thresholds import (
    choose_operating_points,
    choose_operating_thresholds,
    operating_points,
)
from foveate.evaluate.table import PredictionTable

many = settings(deadline=None, max_examples=60, derandomize=True)


def table_of(
    truth: np.ndarray, scores: np.ndarray, task: str = "multilabel", split: str = "val"
) -> PredictionTable:
    cases, classes = truth.shape
    names = tuple(f"{split}{number}" for number in range(cases))
    return PredictionTable(
        task,  # type: ignore[arg-type]
        tuple(f"c{k}" for k in range(classes)),
        names,
        names,
        (split,) * cases,
        np.zeros((cases, classes)),
        scores.astype(float),
        truth.astype(float),
    )


def _rates(scores: list[float], truth: list[float], limit: float) -> tuple[float, float]:
    hit = sum(score >= limit and y == 1 for score, y in zip(scores, truth, strict=True))
    cleared = sum(score < limit and y == 0 for score, y in zip(scores, truth, strict=True))
    return hit / truth.count(1), cleared / truth.count(0)


@many
@given(seed=st.integers(0, 10**6), cases=st.integers(2, 40), target=st.sampled_from([0.5, 0.8, 0.9, 0.99]))
def test_targets_are_reached_at_the_least_cost(seed: int, cases: int, target: float) -> None:
    draws = np.random.default_rng(seed)
    truth = (np.arange(cases) < 1 + draws.integers(cases - 1)).astype(float)
    scores = np.round(draws.random(cases), 1)
    table = table_of(truth[:, None], scores[:, None])
    rates = {limit: _rates(list(scores), list(truth), limit) for limit in set(scores.tolist())}

    point = choose_operating_points(table, rule="sensitivity", target=target)["c0"]
    assert point.threshold == max(limit for limit, (found, _) in rates.items() if found >= target)
    assert (point.sensitivity, point.specificity) == pytest.approx(rates[point.threshold])

    point = choose_operating_points(table, rule="specificity", target=target)["c0"]
    reaching = [limit for limit, (_, found) in rates.items() if found >= target]
    assert point.threshold == (min(reaching) if reaching else max(rates))
    assert (point.reason is None) == bool(reaching)
    assert (point.sensitivity, point.specificity) == pytest.approx(rates[point.threshold])
    assert (point.present, point.absent) == (truth.sum(), cases - truth.sum())


@many
@given(seed=st.integers(0, 10**6), cases=st.integers(6, 60))
def test_what_points_reach_elsewhere_equals_scikit_learns_counts(seed: int, cases: int) -> None:
    draws = np.random.default_rng(seed)
    truth, scores = draws.integers(0, 2, (cases, 2)), np.round(draws.random((cases, 2)), 2)
    truth[:2] = [[0, 0], [1, 1]]
    val, test = (
        table_of(truth, scores),
        table_of(truth[::-1], np.round(draws.random((cases, 2)), 2), split="test"),
    )
    found = operating_points(test, val, EvaluateOptions(threshold="f1"), Bootstrap(0))
    for k, point in enumerate(found.values()):
        decided = test.probabilities[:, k] >= point.chosen.threshold
        (tn, fp), (fn, tp) = confusion_matrix(test.truth[:, k], decided, labels=[0, 1])
        pairs = {
            "sensitivity": (tp, tp + fn),
            "specificity": (tn, tn + fp),
            "ppv": (tp, tp + fp),
            "npv": (tn, tn + fn),
        }
        for name, (part, whole) in pairs.items():
            value = point.figure(name).value
            assert value == (pytest.approx(part / whole) if whole else None), name
    assert found["c0"].chosen == choose_operating_points(val, rule="f1")["c0"]


def test_undefined_figures_are_named() -> None:
    val = table_of(np.array([[1], [0]]), np.array([[0.9], [0.1]]))
    test = table_of(np.array([[0], [0]]), np.array([[0.2], [0.3]]), split="test")
    point = operating_points(test, val, EvaluateOptions(), Bootstrap(50))["c0"]
    assert (point.sensitivity.value, point.sensitivity.reason) == (None, "no positive case")
    assert (point.ppv.value, point.ppv.reason) == (None, "no predicted case")
    assert (point.specificity.value, point.npv.value) == (1.0, 1.0)
    everything = table_of(np.array([[1], [1]]), np.array([[0.9], [0.95]]), split="test")
    point = operating_points(everything, val, EvaluateOptions(), Bootstrap(50))["c0"]
    assert point.specificity.reason == "no negative case"
    assert point.npv.reason == "every case is predicted"


def test_multiclass_points_are_told_and_decide_nothing() -> None:
    draws = np.random.default_rng(4)
    truth = np.eye(3)[draws.integers(3, size=80)]
    scores = truth * 0.4 + draws.random((80, 3))
    table = table_of(truth, scores / scores.sum(axis=1, keepdims=True), "multiclass")
    assert choose_operating_thresholds(table) == {}
    assert list(choose_operating_points(table)) == ["c0", "c1", "c2"]


def test_points_are_chosen_on_validation_and_told_on_other_cases_only() -> None:
    draws = np.random.default_rng(5)
    truth, scores = draws.integers(0, 2, (60, 1)), draws.random((60, 1))
    both = table_of(truth, scores)
    assert evaluate_predictions(both, split="val", n_boot=0).operating_points == {}
    for split, message in (("test", "flatter"), ("train", "no prediction")):
        with pytest.raises(UsageError, match=message):
            choose_operating_points(both, split=split)
    with pytest.raises(UsageError, match="youden, f1, sensitivity, specificity"):
        choose_operating_points(both, rule="best")
    with pytest.raises(UsageError, match="between 0 and 1"):
        choose_operating_points(both, target=1.0)


def test_a_class_of_one_kind_has_no_point() -> None:
    table = table_of(np.array([[1, 1], [1, 0]]), np.array([[0.9, 0.2], [0.3, 0.1]]))
    assert list(choose_operating_points(table)) == ["c1"]
