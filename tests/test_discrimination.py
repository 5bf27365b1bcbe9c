"""Discrimination against scikit-learn, slow twins and hand-worked cases, and the shape of metrics.json."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import sklearn.metrics as reference
from hypothesis import given, settings
from hypothesis import strategies as st

from foveate.errors import UsageError
from foveate.evaluate import choose_operating_thresholds, evaluate_predictions
from foveate.evaluate.discrimination import Discrimination, Ranking
from foveate.evaluate.results.metrics import ConfusionMatrix, Metrics
from foveate.evaluate.table import PredictionTable
from foveate.types import Task

EXACT = {"rtol": 0, "atol": 1e-9, "equal_nan": True}
many = settings(deadline=None, max_examples=80, derandomize=True)


def table_of(
    task: Task,
    truth: np.ndarray,
    probabilities: np.ndarray,
    *,
    patients: list[str] | None = None,
    splits: list[str] | None = None,
) -> PredictionTable:
    """A table of any arrays; one patient a case and all cases of the test part unless given."""
    cases, classes = truth.shape
    return PredictionTable(
        task=task,
        classes=tuple(f"c{k}" for k in range(classes)),
        case_ids=tuple(f"case{n}" for n in range(cases)),
        patient_ids=tuple(patients or (f"p{n}" for n in range(cases))),
        splits=tuple(splits or ("test",) * cases),
        logits=np.zeros(truth.shape),  # rows need not sum to one: nothing but the probabilities counts
        probabilities=probabilities.astype(np.float64),
        truth=truth.astype(np.float64),
    )


def random_multiclass(seed: int, cases: int, classes: int, steps: int) -> PredictionTable:
    """Random labels, of which some classes may be absent, and probabilities in ``steps`` levels (ties)."""
    draws = np.random.default_rng(seed)
    labels = draws.integers(draws.integers(1, classes + 1), size=cases)
    return table_of("multiclass", np.eye(classes)[labels], _levels(draws, (cases, classes), steps))


def random_multilabel(seed: int, cases: int, classes: int, steps: int) -> PredictionTable:
    draws = np.random.default_rng(seed)
    truth = (draws.random((cases, classes)) < draws.random(classes)).astype(float)
    truth[draws.random(truth.shape) < 0.2] = np.nan
    return table_of("multilabel", truth, _levels(draws, (cases, classes), steps))


def _levels(draws: np.random.Generator, shape: tuple[int, int], steps: int) -> np.ndarray:
    return draws.integers(0, steps + 1, size=shape) / steps


def _weights(seed: int, cases: int) -> np.ndarray:
    draws = np.random.default_rng(seed + 1)
    weights = draws.random(cases) * draws.integers(0, 2, size=cases)
    return np.ones(cases) if weights.sum() == 0 else weights


def _quietly(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*args, **options)


def _reference_of_class(
    truth: np.ndarray, scores: np.ndarray, decided: np.ndarray, weights: np.ndarray
) -> dict[str, float]:
    """scikit-learn's numbers for one class against the rest; NaN where this project calls them undefined."""
    kept = ~np.isnan(truth) & (weights > 0)
    truth, scores, decided, weights = truth[kept] == 1, scores[kept], decided[kept], weights[kept]
    options: dict[str, Any] = {"sample_weight": weights, "zero_division": np.nan}
    both = truth.any() and not truth.all()
    if len(truth) == 0:
        return dict.fromkeys(("auroc", "ap", "precision", "npv", "recall", "specificity", "f1"), np.nan)
    return {
        "auroc": reference.roc_auc_score(truth, scores, sample_weight=weights) if both else np.nan,
        "ap": reference.average_precision_score(truth, scores, sample_weight=weights) if both else np.nan,
        "precision": _quietly(reference.precision_score, truth, decided, **options),
        "npv": _quietly(reference.precision_score, ~truth, ~decided, **options),
        "recall": _quietly(reference.recall_score, truth, decided, **options),
        "specificity": _quietly(reference.recall_score, ~truth, ~decided, **options),
        "f1": _quietly(reference.f1_score, truth, decided, **options),
    }


@pytest.mark.slow
@many
@given(
    seed=st.integers(0, 10**6),
    cases=st.integers(1, 40),
    classes=st.integers(2, 5),
    steps=st.sampled_from([1, 3, 1000]),
    task=st.sampled_from(["multiclass", "multilabel"]),
)
def test_per_class_metrics_equal_scikit_learn_with_sample_weight(
    seed: int, cases: int, classes: int, steps: int, task: Task
) -> None:
    make = random_multiclass if task == "multiclass" else random_multilabel
    table, weights = make(seed, cases, classes, steps), np.stack([_weights(seed, cases), np.ones(cases)])
    decided = table.decisions()
    found = Discrimination(table, decided)(weights)
    for row, weight in enumerate(weights):
        for k in range(classes):
            expected = _reference_of_class(
                table.truth[:, k], table.probabilities[:, k], decided[:, k], weight
            )
            for name, value in expected.items():
                np.testing.assert_allclose(found[name][row, k], value, err_msg=f"{name} of c{k}", **EXACT)


@pytest.mark.slow
@many
@given(
    seed=st.integers(0, 10**6),
    cases=st.integers(1, 40),
    classes=st.integers(2, 5),
    steps=st.sampled_from([2, 999]),
)
def test_multiclass_overall_metrics_equal_scikit_learn(
    seed: int, cases: int, classes: int, steps: int
) -> None:
    table = random_multiclass(seed, cases, classes, steps)
    truth, decided = table.truth.argmax(1), table.decisions().argmax(1)
    found = evaluate_predictions(table, n_boot=0)
    macro: dict[str, Any] = {"average": "macro", "labels": list(range(classes)), "zero_division": np.nan}
    expected = {
        "accuracy": reference.accuracy_score(truth, decided),
        "balanced_accuracy": _quietly(reference.balanced_accuracy_score, truth, decided),
        "f1_macro": _quietly(reference.f1_score, truth, decided, **macro),
        "precision_macro": _quietly(reference.precision_score, truth, decided, **macro),
        "recall_macro": _quietly(reference.recall_score, truth, decided, **macro),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(found.metrics.figure(name).value, value, err_msg=name, **EXACT)
    counts = reference.confusion_matrix(truth, decided, labels=range(classes))
    assert found.confusion == ConfusionMatrix(labels=table.classes, counts=counts.tolist())


@pytest.mark.slow
@many
@given(seed=st.integers(0, 10**6), classes=st.integers(2, 5), steps=st.sampled_from([2, 999]))
def test_macro_auroc_and_ap_equal_scikit_learn_where_every_class_occurs(
    seed: int, classes: int, steps: int
) -> None:
    draws = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(classes), draws.integers(classes, size=20)])
    raw = draws.integers(1, steps + 2, size=(len(labels), classes)).astype(float)
    table = table_of("multiclass", np.eye(classes)[labels], raw / raw.sum(1, keepdims=True))
    found = evaluate_predictions(table, n_boot=0).metrics
    auroc = np.mean([reference.roc_auc_score(labels == k, table.probabilities[:, k]) for k in range(classes)])
    np.testing.assert_allclose(found.auroc_macro.value, auroc, **EXACT)
    if classes > 2:
        auroc = reference.roc_auc_score(labels, table.probabilities, multi_class="ovr", average="macro")
        np.testing.assert_allclose(found.auroc_macro.value, auroc, **EXACT)
    ap = reference.average_precision_score(np.eye(classes)[labels], table.probabilities, average="macro")
    np.testing.assert_allclose(found.ap_macro.value, ap, **EXACT)
    assert found.auroc_macro.reason == "no interval was asked for"


def _mean(values: list[float]) -> float | None:
    defined = [value for value in values if not np.isnan(value)]
    return sum(defined) / len(defined) if defined else None


@pytest.mark.slow
@many
@given(
    seed=st.integers(0, 10**6),
    cases=st.integers(1, 30),
    classes=st.integers(1, 5),
    steps=st.sampled_from([2, 999]),
)
def test_multilabel_averages_leave_out_what_is_undefined(
    seed: int, cases: int, classes: int, steps: int
) -> None:
    table = random_multilabel(seed, cases, classes, steps)
    limits = {name: 0.3 + 0.1 * k for k, name in enumerate(table.classes)}
    decided, found = table.decisions(limits), evaluate_predictions(table, thresholds=limits, n_boot=0)
    rows = [
        _reference_of_class(table.truth[:, k], table.probabilities[:, k], decided[:, k], np.ones(cases))
        for k in range(classes)
    ]
    accuracies = []
    for k in range(classes):
        known = ~np.isnan(table.truth[:, k])
        accuracies.append(
            float((decided[known, k] == table.truth[known, k]).mean()) if known.any() else np.nan
        )
    expected = {
        "accuracy": _mean(accuracies),
        "balanced_accuracy": _mean([(row["recall"] + row["specificity"]) / 2 for row in rows]),
        "f1_macro": _mean([row["f1"] for row in rows]),
        "precision_macro": _mean([row["precision"] for row in rows]),
        "recall_macro": _mean([row["recall"] for row in rows]),
        "auroc_macro": _mean([row["auroc"] for row in rows]),
        "ap_macro": _mean([row["ap"] for row in rows]),
    }
    for name, value in expected.items():
        assert found.metrics.figure(name).value == (
            None if value is None else pytest.approx(value, abs=1e-9)
        ), name
    for k, name in enumerate(table.classes):
        known = ~np.isnan(table.truth[:, k])
        if known.any():
            truth = table.truth[known, k] == 1
            counts = reference.confusion_matrix(truth, decided[known, k], labels=[False, True])
            assert list(dict(found.confusion[name]).values()) == counts.ravel().tolist()
        assert found.per_class[name].threshold == limits[name]
        assert found.per_class[name].auroc.n == known.sum()


@many
@given(seed=st.integers(0, 10**6), cases=st.integers(1, 12), steps=st.sampled_from([2, 5, 999]))
def test_auroc_counts_pairs_and_ap_counts_steps(seed: int, cases: int, steps: int) -> None:
    """Slow twins written from the definitions."""
    table = random_multilabel(seed, cases, 1, steps)
    truth, scores = table.truth[:, 0], table.probabilities[:, 0]
    (auroc,), (ap,) = Ranking.of(scores, truth)(np.ones((1, cases)))
    ups, downs = scores[truth == 1], scores[truth == 0]
    if len(ups) == 0 or len(downs) == 0:
        assert np.isnan(auroc)
        assert np.isnan(ap)
        return
    wins = sum((up > down) + 0.5 * (up == down) for up in ups for down in downs)
    assert auroc == pytest.approx(wins / (len(ups) * len(downs)), abs=1e-12)
    area, before = 0.0, 0.0
    for limit in sorted(set(scores[~np.isnan(truth)]), reverse=True):
        recall = (ups >= limit).mean()
        area += (recall - before) * (ups >= limit).sum() / ((ups >= limit).sum() + (downs >= limit).sum())
        before = recall
    assert ap == pytest.approx(area, abs=1e-12)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("task", ["multilabel", "multiclass"])
def test_cases_are_ranked_by_their_logits_where_probabilities_are_rounded_to_one(
    task: Task, kind: Any
) -> None:
    """Of the four pairs of a positive (30, 50) and a negative (20, 40) three are in order: 3/4."""
    odds, truth = np.array([20.0, 30, 40, 50]), np.array([0.0, 1, 0, 1])
    single = (1 / (1 + np.exp(-odds.astype(kind)))).astype(float)
    assert kind is np.float64 or set(single) == {1.0}, "this is what rounding makes of them"
    logits, scores, known = odds[:, None], single[:, None], truth[:, None]
    if task == "multiclass":  # the same log odds with other logits: each class against the other
        logits = np.stack([odds + 3, np.full(4, 3.0)], axis=1)
        scores, known = (np.stack([each, 1 - each], axis=1) for each in (single, truth))
    names = ("x", "y")[: logits.shape[1]]
    table = PredictionTable(task, names, tuple("abcd"), tuple("abcd"), ("test",) * 4, logits, scores, known)
    found = _quietly(evaluate_predictions, table, n_boot=0)
    assert [found.per_class[name].auroc.value for name in names] == [0.75] * len(names)
    assert found.delong.per_class["x"].value == 0.75
    area = reference.auc(found.curves["x"].roc.fpr, found.curves["x"].roc.tpr)
    assert area == pytest.approx(reference.roc_auc_score(truth, odds)) == 0.75


def test_hand_worked_ranking() -> None:
    scores, truth = np.array([0.9, 0.8, 0.7, 0.6]), np.array([1.0, 0.0, 1.0, 0.0])
    (auroc,), (ap,) = Ranking.of(scores, truth)(np.ones((1, 4)))
    assert auroc == 3 / 4  # three of four pairs in order
    assert ap == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_a_weight_is_a_number_of_copies(task: Task) -> None:
    make = random_multiclass if task == "multiclass" else random_multilabel
    table = make(3, 30, 4, 5)
    times = np.random.default_rng(0).integers(0, 4, size=30)
    weighted = Discrimination(table, table.decisions())(times[None].astype(float))
    copies = table_of(task, np.repeat(table.truth, times, 0), np.repeat(table.probabilities, times, 0))
    plain = Discrimination(copies, copies.decisions())(np.ones((1, times.sum())))
    assert weighted.keys() == plain.keys()
    for name, values in plain.items():
        np.testing.assert_allclose(weighted[name], values, err_msg=name, **EXACT)


def test_undefined_is_a_value_with_its_reason() -> None:
    truth = np.array([[1, 0, 0], [0, 1, 0], [1, 0, 0], [0, 1, 0]])
    probabilities = np.array([[0.9, 0.1, 0], [0.8, 0.2, 0], [0.7, 0.3, 0], [0.6, 0.4, 0]])
    found = evaluate_predictions(table_of("multiclass", truth, probabilities), n_boot=50)
    absent = found.per_class["c2"]
    assert absent.n == 0
    for name, reason in {
        "auroc": "no positive case",
        "ap": "no positive case",
        "recall": "no positive case",
        "precision": "no predicted case",
        "f1": "no positive or predicted case",
    }.items():
        assert (absent.figure(name).value, absent.figure(name).low) == (None, None)
        assert absent.figure(name).reason == reason
    assert absent.specificity.value == 1.0
    assert found.per_class["c1"].precision.reason == "no predicted case"
    assert found.per_class["c1"].f1.value == 0.0  # missed every time, but defined
    macro = found.metrics
    assert macro.auroc_macro.value == pytest.approx((0.75 + 0.75) / 2)
    assert macro.auroc_macro.reason.startswith("undefined and left out: c2 (no positive case)")
    assert macro.precision_macro.value == 0.5  # of c0 alone
    assert "c1 (no predicted case), c2 (no predicted case)" in macro.precision_macro.reason
    assert macro.recall_macro.value == 0.5
    assert found.curves["c2"].roc.fpr == found.curves["c2"].pr.recall == ()


def test_cases_without_truth_are_left_out_and_counted() -> None:
    truth = np.array([[1, 0], [0, 1], [np.nan, np.nan]])
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.9, 0.1]])
    found = evaluate_predictions(table_of("multiclass", truth, probabilities), n_boot=10)
    assert (found.n, found.patients, found.without_truth) == (2, 2, 1)
    assert found.metrics.accuracy.value == 1.0
    nothing = evaluate_predictions(table_of("multiclass", np.full((3, 2), np.nan), probabilities), n_boot=10)
    assert nothing.n == 0
    for value in (
        *nothing.metrics.named().values(),
        nothing.calibration.ece,
        nothing.calibration.brier,
    ):
        assert value.value is None
        assert "no known case" in value.reason


VALUE = {"value", "low", "high", "n", "patients", "reason"}


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_the_result_is_plain_json_of_the_documented_shape(task: Task) -> None:
    make = random_multiclass if task == "multiclass" else random_multilabel
    table = make(5, 60, 3, 1000)
    metrics = evaluate_predictions(table, n_boot=30, level=0.9, seed=4)
    found = metrics.to_json()
    text = json.dumps(found, allow_nan=False)
    assert Metrics.from_json(json.loads(text)) == metrics.model_copy(update={"format": 1})
    assert " ".join(found) == (
        "format task classes split n patients patients_known without_truth seen bootstrap metrics per_class"
        " delong agreement confusion calibration operating_points at_prevalence decision_curves curves"
        " by_views subgroups per_patient abstention unlike"
    )
    assert found["bootstrap"] == {
        "n": 30,
        "level": 0.9,
        "unit": "patient",
        "seed": 4,
        "interval": "bca",
    }
    assert " ".join(found["metrics"]) == (
        "accuracy balanced_accuracy f1_macro precision_macro recall_macro auroc_macro ap_macro"
    )
    for value in found["metrics"].values():
        assert set(value) == VALUE
    for row in found["per_class"].values():
        figures = {"auroc", "ap", "precision", "npv", "recall", "specificity", "f1"}
        assert set(row) == {"n", "threshold"} | figures
        assert all(set(row[name]) == VALUE for name in figures)
        assert row["threshold"] == (None if task == "multiclass" else 0.5)
    assert len(found["calibration"]["bins"]) == 15


def test_the_curves_have_the_area_of_the_metrics() -> None:
    draws = np.random.default_rng(8)
    truth = (draws.random((3000, 1)) < 0.4).astype(float)
    probabilities = np.clip(truth * 0.1 + draws.random((3000, 1)) * 0.9, 0, 1)
    found = evaluate_predictions(table_of("multilabel", truth, probabilities), n_boot=0)
    roc, pr = found.curves["c0"].roc, found.curves["c0"].pr
    assert len(roc.fpr) == len(roc.tpr) == 500  # thinned for drawing
    assert (roc.fpr[0], roc.tpr[0], roc.fpr[-1], roc.tpr[-1]) == (0, 0, 1, 1)
    assert np.trapezoid(roc.tpr, roc.fpr) == pytest.approx(found.per_class["c0"].auroc.value, abs=2e-3)
    area = -np.trapezoid(pr.precision, pr.recall)
    assert area == pytest.approx(found.per_class["c0"].ap.value, abs=1e-2)


@many
@given(seed=st.integers(0, 10**6), cases=st.integers(2, 25), rule=st.sampled_from(["youden", "f1"]))
def test_thresholds_are_the_best_of_all_candidates(seed: int, cases: int, rule: str) -> None:
    draws = np.random.default_rng(seed)
    truth = (draws.random((cases, 2)) < 0.5).astype(float)
    truth[draws.random(truth.shape) < 0.2] = np.nan
    scores = draws.integers(0, 11, size=(cases, 2)) / 10
    chosen = choose_operating_thresholds(
        table_of("multilabel", truth, scores, splits=["val"] * cases), rule=rule
    )
    for k, name in enumerate(("c0", "c1")):
        known = ~np.isnan(truth[:, k])
        y, s = truth[known, k] == 1, scores[known, k]
        if y.all() or not y.any():
            assert name not in chosen
            continue
        gains = {limit: _gain(y, s >= limit, rule) for limit in set(s)}
        best = max(gains.values())
        assert chosen[name] == max(limit for limit, gain in gains.items() if gain > best - 1e-12)


def _gain(truth: np.ndarray, decided: np.ndarray, rule: str) -> float:
    if rule == "f1":
        return float(reference.f1_score(truth, decided))
    return float(decided[truth].mean() + (~decided[~truth]).mean() - 1)


def test_thresholds_never_look_at_test_cases() -> None:
    def chosen(truth: list[int], scores: list[float]) -> dict[str, float]:
        return choose_operating_thresholds(_column(truth, scores))

    assert chosen([1, 0, 1, 0], [0.3, 0.2, 0.9, 0.1]) == {"c0": 0.3}
    assert chosen([1, 0, 0, 1], [0.3, 0.2, 0.0, 1.0]) == {"c0": 0.3}
    assert chosen([1, 1, 1, 0], [0.3, 0.2, 0.9, 0.1]) == {}  # nothing to choose: both are positive


def _column(truth: list[int], scores: list[float]) -> PredictionTable:
    """One finding; two validation cases, then two test cases."""
    splits = ["val", "val", "test", "test"]
    return table_of("multilabel", np.array(truth)[:, None], np.array(scores)[:, None], splits=splits)


def test_thresholds_from_the_wrong_part_are_refused() -> None:
    table = _column([1, 0, 1, 0], [0.3, 0.2, 0.9, 0.1])
    with pytest.raises(UsageError, match="flatter"):
        choose_operating_thresholds(table, split="test")
    with pytest.raises(UsageError, match="part 'val'"):
        choose_operating_thresholds(table.part("test"))
    with pytest.raises(UsageError, match="youden, f1"):
        choose_operating_thresholds(table, rule="best")
    assert choose_operating_thresholds(table_of("multiclass", np.eye(2), np.eye(2))) == {}


def test_what_does_not_fit_together_is_refused() -> None:
    table = table_of("multiclass", np.eye(2), np.eye(2))
    with pytest.raises(UsageError, match=r"'val'.*\n.*'test'"):
        evaluate_predictions(table, split="val")
    with pytest.raises(UsageError, match="most probable class"):
        evaluate_predictions(table, thresholds={"c0": 0.5})
    with pytest.raises(UsageError, match="Fracture"):
        evaluate_predictions(table_of("multilabel", np.eye(2), np.eye(2)), thresholds={"Fracture": 0.5})
    with pytest.raises(UsageError, match="replicates"):
        evaluate_predictions(table, n_boot=-1)


def test_a_thousand_replicates_of_a_large_cohort_take_seconds() -> None:
    table = random_multilabel(0, 3000, 14, 10**6)
    start = time.process_time()
    found = evaluate_predictions(table, n_boot=1000)
    assert time.process_time() - start < 15  # about 2.5 s on one core; a loop over replicates takes minutes
    assert found.metrics.auroc_macro.low < 0.5 < found.metrics.auroc_macro.high
