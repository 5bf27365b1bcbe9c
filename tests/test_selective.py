"""Leaving out answers: against the definition, case by case, and against hand-worked numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from foveate.evaluate.intervals import Bootstrap
from foveate.evaluate.options import EvaluateOptions
from foveate.evaluate.probabilities.abstention import NoveltyFigures, SetFigures, abstention
from foveate.evaluate.probabilities.conformal import SetRule
from foveate.evaluate.probabilities.selective import STEPS, Selective, answers
from foveate.evaluate.results.parts import Unmade
from foveate.evaluate.table import PredictionTable


def test_aurc_and_accuracies_by_hand() -> None:
    # From the surest: right, right, wrong, right, wrong → risks 0, 0, 1/3, 1/4, 2/5.
    sureness, right = np.array([0.5, 0.9, 0.7, 0.8, 0.6]), np.array([[0.0], [1], [0], [1], [1]])
    order = Selective(sureness, right)
    found = order(np.ones((1, 5)))
    assert found["aurc"][0] == pytest.approx((0 + 0 + 1 / 3 + 1 / 4 + 2 / 5) / 5)
    assert found["error"][0] == pytest.approx(2 / 5)
    assert found["accuracy_at_80"][0] == pytest.approx(3 / 4)  # the first four
    assert found["accuracy_at_90"][0] == pytest.approx(
        (3 + 0 * 0.5) / 4.5
    )  # and half of the fifth, a wrong one
    curve = order.curve()
    assert curve[9] == 0 and curve[29] == pytest.approx(1 / 3) and curve[-1] == pytest.approx(2 / 5)


def test_weights_are_copies_of_cases_and_ties_stay_together() -> None:
    draws = np.random.default_rng(0)
    sureness, right = draws.integers(0, 12, 60).astype(float), (draws.random((60, 2)) < 0.7).astype(float)
    right[::9, 1] = np.nan
    weights = draws.integers(0, 4, (5, 60)).astype(float)
    found = Selective(sureness, right)(weights)
    for row, times in enumerate(weights.astype(int)):
        copied = Selective(np.repeat(sureness, times), np.repeat(right, times, axis=0))
        for name, values in copied(np.ones((1, times.sum()))).items():
            assert found[name][row] == pytest.approx(values[0])
        slow = []
        for k in range(2):
            sure, good = np.repeat(sureness, times), np.repeat(right[:, k], times)
            sure, good = sure[~np.isnan(good)], good[~np.isnan(good)]
            slow.append(np.mean([1 - good[sure >= one].mean() for one in sure]))
        assert found["aurc"][row] == pytest.approx(np.mean(slow))


def test_many_different_values_are_joined_into_steps_with_hardly_a_difference() -> None:
    draws = np.random.default_rng(1)
    sureness = draws.random(3 * STEPS)
    right = (draws.random((3 * STEPS, 1)) < 0.5 + sureness[:, None] / 2).astype(float)
    found = Selective(sureness, right)(np.ones((1, 3 * STEPS)))
    ranked = 1 - right[np.argsort(-sureness), 0]
    exact = (ranked.cumsum() / np.arange(1, 3 * STEPS + 1)).mean()
    assert found["aurc"][0] == pytest.approx(exact, abs=1e-4)


def test_nothing_known_is_undefined() -> None:
    found = Selective(np.ones(3), np.full((3, 1), np.nan))(np.ones((2, 3)))
    assert all(np.isnan(values).all() for values in found.values())


def table(count: int = 120, task: str = "multiclass", novelty: bool = True) -> PredictionTable:
    draws = np.random.default_rng(2)
    truth = np.eye(3)[draws.integers(3, size=count)]
    if task == "multilabel":
        truth = (draws.random((count, 3)) < 0.4).astype(float)
        truth[::11, 2] = np.nan
    logits = draws.normal(size=(count, 3)) + 2 * np.nan_to_num(truth) - (task == "multilabel")
    odds = np.exp(logits)
    probabilities = odds / odds.sum(axis=1, keepdims=True) if task == "multiclass" else odds / (1 + odds)
    return PredictionTable(
        task=task,  # type: ignore[arg-type]
        classes=("a", "b", "c"),
        case_ids=tuple(f"c{n}" for n in range(count)),
        patient_ids=tuple(f"p{n // 2}" for n in range(count)),
        splits=tuple("val" if n % 3 == 0 else "test" for n in range(count)),
        logits=logits,
        probabilities=probabilities,
        truth=truth,
        novelty=draws.random(count) if novelty else np.empty(0),
    )


def test_sureness_is_the_probability_or_the_distance_from_the_threshold() -> None:
    one = table()
    sureness, right = answers(one, one.decisions())
    assert sureness[:, 0].tolist() == one.probabilities.max(axis=1).tolist()
    assert right[:, 0].tolist() == (one.probabilities.argmax(1) == one.truth.argmax(1)).tolist()
    many, limits = table(task="multilabel"), {"a": 0.3}
    sureness, right = answers(many, many.decisions(limits), limits)
    odds = many.probabilities / (1 - many.probabilities)
    assert sureness[:, 0] == pytest.approx(np.abs(np.log(odds[:, 0] / (3 / 7))))
    assert sureness[:, 1] == pytest.approx(np.abs(np.log(odds[:, 1])))
    assert np.isnan(right[::11, 2]).all() and not np.isnan(right[:, :2]).any()


def test_figures_of_sets_by_hand() -> None:
    rule = SetRule("multiclass", "lac", 0.9, (0.6,), (9,), (9,))
    probabilities = np.array([[0.7, 0.2, 0.1], [0.5, 0.4, 0.1], [0.35, 0.33, 0.32], [0.1, 0.8, 0.1]])
    cases = replace(
        table(4, novelty=False),
        probabilities=probabilities,
        truth=np.eye(3)[[0, 1, 2, 0]],
        patient_ids=("p", "p", "p", "q"),
    )
    found = {name: values[0] for name, values in SetFigures(rule, cases)(np.ones((1, 4))).items()}
    # The sets are {a}, {a, b}, {} and {b}; the first two hold the truth.
    assert found["coverage"] == 2 / 4 and found["patient_coverage"] == pytest.approx((2 / 3 + 0) / 2)
    assert (
        found["size"] == 1
        and found["one"] == 2 / 4
        and found["none"] == 1 / 4
        and found["one_right"] == 1 / 2
    )
    assert found["class_coverage"].tolist() == [1 / 2, 1, 0]
    assert found["class_size"].tolist() == [1, 2, 0]


def test_figures_of_flags_by_hand() -> None:
    novel, right = np.array([True, False, False]), np.array([[0.0, 1], [1, np.nan], [0, 1]])
    found = NoveltyFigures(novel, right)(np.array([[1.0, 1, 1], [0, 1, 1]]))
    assert found["flagged"].tolist() == pytest.approx([1 / 3, 0])
    assert found["accuracy_novel"][0] == 0.5 and np.isnan(found["accuracy_novel"][1])
    assert found["accuracy_familiar"][0] == 0.75  # 1/2 of the first question, 1 of the second


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_the_block_measures_on_test_what_validation_fitted(task: str) -> None:
    whole = table(task=task)
    options, bootstrap = EvaluateOptions(coverage=0.8, familiar=0.7), Bootstrap(50)
    found = abstention(whole.part("test"), whole, options, bootstrap)
    val, test = whole.part("val"), whole.part("test")
    rule = SetRule.fit(val.probabilities, val.truth, val.patient_ids, task=whole.task, coverage=0.8)
    assert found.sets.limits == rule.limits
    alone = SetFigures(rule, test)(np.ones((1, len(test.case_ids))))
    for name, value in found.sets.metrics.named().items():
        assert value.value == pytest.approx(alone[name][0])
        assert value.low <= value.value <= value.high
    assert found.novelty.metrics.flagged.value == pytest.approx(
        np.mean(test.novelty > found.novelty.threshold)
    )
    flagged = found.novelty.metrics.accuracy_novel.n
    assert flagged + found.novelty.metrics.accuracy_familiar.n == len(test.case_ids)
    shuffled = replace(
        whole, truth=np.where(np.array(whole.splits)[:, None] == "val", whole.truth, whole.truth[::-1])
    )
    moved = abstention(shuffled.part("test"), shuffled, options, bootstrap)
    assert moved.sets.limits == found.sets.limits  # test labels do not reach the fit


def test_what_cannot_be_fitted_says_why() -> None:
    whole, options, none = table(novelty=False), EvaluateOptions(), Bootstrap(0)
    found = abstention(whole.part("val"), whole, options, none)
    assert "validation" in found.sets.reason and isinstance(found.sets, Unmade)
    found = abstention(whole.part("test"), whole, options, none)
    assert "novelty" in found.novelty.reason and "novelty" in found.selective.novelty.reason
    few = whole.only(np.arange(120) < 20)  # validation cases of seven patients
    found = abstention(few.part("test"), few, options, none)
    assert found.sets.limits == (None,) and "too few" in found.sets.reason
    assert found.sets.metrics.coverage.value == 1
