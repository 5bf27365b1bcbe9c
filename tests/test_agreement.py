"""Kappa and the Matthews correlation against Cohen's own examples, scikit-learn and statsmodels."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score, matthews_corrcoef
from statsmodels.stats.inter_rater import cohens_kappa

from foveate.errors import UsageError
from foveate.evaluate import evaluate_predictions
from foveate.evaluate.agreement import Agreement, kappa, mcc
from foveate.evaluate.options import EvaluateOptions
from foveate.types import Task
from test_discrimination import random_multiclass, random_multilabel, table_of

# Cohen 1960, Educ. Psychol. Meas. 20:37: two judges' diagnoses of 200 patients; the costs are those of Cohen
# 1968, Psychol. Bull. 70:213.
JUDGES = np.array([[88.0, 14, 18], [10, 40, 10], [2, 6, 12]])
COSTS = np.array([[0.0, 1, 3], [1, 0, 6], [3, 6, 0]])


def test_cohens_own_examples() -> None:
    assert kappa(JUDGES, 1 - np.eye(3)) == pytest.approx(0.492, abs=5e-4)
    assert kappa(JUDGES, COSTS) == pytest.approx(0.348, abs=5e-4)


@pytest.mark.parametrize("seed", range(6))
def test_multiclass_equals_scikit_learn_and_statsmodels(seed: int) -> None:
    table = random_multiclass(seed, 60, 4, 7)
    decided = table.decisions()
    truth, answer = table.truth.argmax(axis=1), decided.argmax(axis=1)
    weights = np.stack([np.ones(60), np.random.default_rng(seed).integers(0, 3, size=60).astype(float)])
    found = Agreement(table, decided)
    values, confusion = found(weights), found.confusion(weights)[:, 0]
    for row, weight in enumerate(weights):
        for name, kind in (("kappa", None), ("kappa_linear", "linear"), ("kappa_quadratic", "quadratic")):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # one class alone: undefined in both
                expected = cohen_kappa_score(
                    truth, answer, weights=kind, sample_weight=weight, labels=list(range(4))
                )
            np.testing.assert_allclose(values[name][row, 0], expected, atol=1e-12, equal_nan=True)
        if min(confusion[row].sum(axis=0).max(), confusion[row].sum(axis=1).max()) < weight.sum():
            statsmodels = cohens_kappa(confusion[row], return_results=False)
            np.testing.assert_allclose(values["kappa"][row, 0], statsmodels, atol=1e-12)
        several = len(set(truth[weight > 0])) > 1 and len(set(answer[weight > 0])) > 1
        expected = matthews_corrcoef(truth, answer, sample_weight=weight) if several else np.nan
        np.testing.assert_allclose(values["mcc"][row, 0], expected, atol=1e-12, equal_nan=True)


@pytest.mark.parametrize("seed", range(4))
def test_each_finding_equals_scikit_learn_and_unknown_truth_is_left_out(seed: int) -> None:
    table = random_multilabel(seed, 50, 3, 9)
    decided = table.decisions()
    values = Agreement(table, decided)(np.ones((1, 50)))
    for k in range(3):
        known = ~np.isnan(table.truth[:, k])
        truth, answer = table.truth[known, k], decided[known, k]
        assert len(set(answer)) == 2
        assert values["kappa"][0, k] == pytest.approx(cohen_kappa_score(truth, answer))
        expected = matthews_corrcoef(truth, answer) if len(set(truth)) == 2 else np.nan
        assert values["mcc"][0, k] == pytest.approx(expected, nan_ok=True)
    for name in ("kappa", "mcc"):
        assert values[f"{name}_macro"][0] == pytest.approx(np.nanmean(values[name][0]))


def test_what_is_undefined() -> None:
    one_class = np.array([[9.0, 0], [0, 0]])
    assert np.isnan(kappa(one_class, 1 - np.eye(2)))
    assert np.isnan(mcc(one_class))
    always = np.array([[6.0, 0], [3, 0]])  # every answer is the first class
    assert kappa(always, 1 - np.eye(2)) == 0
    assert np.isnan(mcc(always))
    assert np.isnan(kappa(np.zeros((3, 3)), COSTS))


def test_weighted_kappas_take_the_stated_order_and_nothing_else() -> None:
    draws = np.random.default_rng(3)
    truth = np.eye(3)[draws.integers(0, 3, 40)]
    said = draws.dirichlet(np.ones(3), 40) + truth
    table = table_of("multiclass", truth, said / said.sum(axis=1, keepdims=True))
    stated = ("c2", "c0", "c1")
    found = evaluate_predictions(table, n_boot=0, options=EvaluateOptions(order=stated)).agreement
    rank = [stated.index(name) for name in ("c0", "c1", "c2")]
    answers = [[rank[k] for k in values.argmax(axis=1)] for values in (truth, said)]
    for name in ("linear", "quadratic"):
        expected = cohen_kappa_score(*answers, weights=name)
        assert found.metrics[f"kappa_{name}"].value == pytest.approx(expected)
    assert found.order == stated
    plain = evaluate_predictions(table, n_boot=0).agreement.metrics
    assert {name: plain[name].value for name in plain} == {
        name: pytest.approx(found.metrics[name].value) for name in ("kappa", "mcc")
    }
    with pytest.raises(UsageError, match="no order of these classes"):
        evaluate_predictions(table, n_boot=0, options=EvaluateOptions(order=("c0", "c1")))


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_metrics_json_tells_the_order_and_reasons(task: Task) -> None:
    truth = np.eye(3)[[0, 1, 2, 0, 1, 2] * 3]
    table = table_of(task, truth, truth * 0.5 + 0.25)
    found = evaluate_predictions(table, n_boot=30).agreement
    assert found.metrics["kappa"].value == found.metrics["mcc"].value == 1
    if task == "multiclass":
        assert found.order is None and set(found.metrics) == {"kappa", "mcc"}
    single = table_of(task, np.eye(2)[[0] * 8], np.eye(2)[[0] * 8])
    found = evaluate_predictions(single, n_boot=30).agreement
    assert set(found.metrics) == {"kappa", "mcc"}
    kappa_ = (found.metrics if found.per_class is None else found.per_class["c0"])["kappa"]
    assert (kappa_.value, kappa_.reason) == (None, "truth and answers are all of one class")
