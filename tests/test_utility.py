"""Decision curves and predictive values: published and hand-worked cases, and a slow twin."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from foveate.errors import UsageError
from foveate.evaluate import evaluate_predictions
from foveate.evaluate.options import EvaluateOptions
from foveate.evaluate.probabilities.utility import AT, CURVE, NetBenefit, predictive_values
from test_discrimination import random_multilabel, table_of


def test_predictive_values_of_the_liver_scan_elsewhere() -> None:
    """Altman and Bland 1994, BMJ 309:102: 231 of 258 found, 54 of 86 cleared."""
    sensitivity, specificity = np.array(231 / 258), np.array(54 / 86)
    ppv, npv = predictive_values(sensitivity, specificity, 258 / 344)
    assert (round(float(ppv), 2), round(float(npv), 2)) == (0.88, 0.67)  # 231 / 263 and 54 / 81
    ppv, npv = predictive_values(sensitivity, specificity, 0.25)
    assert (round(float(ppv), 2), round(float(npv), 2)) == (0.45, 0.95)
    nobody, everybody = predictive_values(np.array([0.0, 1.0]), np.array([1.0, 0.0]), 0.3)
    assert np.isnan(nobody[0])  # no positive answer
    assert np.isnan(everybody[1])  # no negative answer


def test_net_benefit_worked_by_hand() -> None:
    """100 cases, 20 with the disease; 15 of these and 12 others are acted on from 20 % on, odds of 1 to 4."""
    truth = np.repeat([1.0, 1, 0, 0], [15, 5, 12, 68])[:, None]
    stated = np.repeat([0.2, 0.1, 0.6, 0.1], [15, 5, 12, 68])[:, None]
    found = {name: v[0, 0] for name, v in NetBenefit(stated, truth, [0.2])(np.ones((1, 100))).items()}
    assert found["model"] == pytest.approx(0.15 - 0.12 / 4)
    assert found["treat_all"] == pytest.approx(0.20 - 0.80 / 4)
    assert found["gain"] == pytest.approx(0.12)
    low = {name: v[0, 0] for name, v in NetBenefit(stated, truth, [0.1])(np.ones((1, 100))).items()}
    assert low["model"] == low["treat_all"] == pytest.approx(0.2 - 0.8 / 9)  # everybody is acted on
    assert low["gain"] == pytest.approx(0)


@pytest.mark.parametrize("seed", range(3))
def test_a_loop_over_cases_agrees(seed: int) -> None:
    table = random_multilabel(seed, 40, 2, 20)
    weights = np.random.default_rng(seed).integers(0, 3, size=(2, 40)).astype(float)
    limits = [0.1, 0.35]
    found = NetBenefit(table.probabilities, table.truth, limits)(weights)
    for row, weight in enumerate(weights):
        for k in range(2):
            for place, limit in enumerate(limits):
                true = false = positive = n = 0.0
                for case in range(40):
                    if np.isnan(table.truth[case, k]):
                        continue
                    n += weight[case]
                    positive += weight[case] * table.truth[case, k]
                    if table.probabilities[case, k] >= limit:
                        true += weight[case] * table.truth[case, k]
                        false += weight[case] * (1 - table.truth[case, k])
                odds = limit / (1 - limit)
                model, all_ = (true - false * odds) / n, (positive - (n - positive) * odds) / n
                at = k * 2 + place
                assert found["model"][row, at] == pytest.approx(model)
                assert found["treat_all"][row, at] == pytest.approx(all_)
                assert found["gain"][row, at] == pytest.approx(model - max(all_, 0))


def test_metrics_json_holds_curves_and_figures_of_them() -> None:
    table = random_multilabel(2, 80, 2, 1000)
    found = evaluate_predictions(table, n_boot=60).decision_curves
    assert found.probabilities == "raw"
    for name in table.classes:
        row = found.per_class[name]
        assert len(row.model) == len(row.treat_all) == len(CURVE)
        assert list(row.at) == [f"{t:g}" for t in AT]
        for t in AT:
            figures = row.at[f"{t:g}"]
            assert figures.model.value == pytest.approx(row.model[CURVE.index(t)])
            assert figures.model.low <= figures.model.value <= figures.model.high
            gain = figures.model.value - max(figures.treat_all.value, 0)
            assert figures.gain.value == pytest.approx(gain)


def test_calibrated_probabilities_are_taken_where_every_case_has_them() -> None:
    table = random_multilabel(3, 50, 2, 1000)
    calibrated = replace(table, calibrated=table.probabilities**2)
    found = evaluate_predictions(calibrated, n_boot=0).decision_curves
    squared = replace(table, probabilities=table.probabilities**2)
    assert found.probabilities == "calibrated"
    expected = evaluate_predictions(squared, n_boot=0).decision_curves.per_class
    assert found.per_class == expected
    part = replace(table, calibrated=np.where(np.arange(50)[:, None] > 0, table.probabilities, np.nan))
    assert evaluate_predictions(part, n_boot=0).decision_curves.probabilities == "raw"


def test_a_finding_that_nobody_knows_has_no_curve() -> None:
    truth = np.array([[1.0, np.nan], [0, np.nan], [1, np.nan]])
    found = evaluate_predictions(table_of("multilabel", truth, np.full((3, 2), 0.4)), n_boot=20)
    row = found.decision_curves.per_class["c1"]
    assert set(row.model) == {None}
    assert row.at["0.1"].model.value is None
    assert row.at["0.1"].model.reason


def test_predictive_values_at_a_stated_prevalence() -> None:
    table = random_multilabel(6, 120, 2, 50)
    options = EvaluateOptions(prevalence={"c1": 0.02})
    found = evaluate_predictions(table, n_boot=200, options=options)
    told, row = found.at_prevalence["c1"], found.per_class["c1"]
    recall, specificity = row.recall.value, row.specificity.value
    expected = recall * 0.02 / (recall * 0.02 + (1 - specificity) * 0.98)
    assert told.ppv.value == pytest.approx(expected)
    assert told.ppv.low < expected < told.ppv.high
    assert told.observed == pytest.approx(np.nanmean(table.truth[:, 1]))
    here = EvaluateOptions(prevalence={"c1": told.observed})
    own = evaluate_predictions(table, n_boot=0, options=here).at_prevalence["c1"]
    assert own.ppv.value == pytest.approx(row.precision.value)
    assert own.npv.value == pytest.approx(row.npv.value)


def test_predictive_values_that_are_undefined_say_why() -> None:
    truth = np.eye(2)[[0, 0, 0, 0]]
    options = EvaluateOptions(prevalence={"c1": 0.5})
    found = evaluate_predictions(table_of("multiclass", truth, truth * 0.8 + 0.1), n_boot=20, options=options)
    assert found.at_prevalence["c1"].ppv.value is None
    assert found.at_prevalence["c1"].ppv.reason == "no positive case"


@pytest.mark.parametrize("prevalence", [{"c9": 0.1}, {"c0": 0.0}, {"c0": 1.0}])
def test_a_prevalence_without_sense_is_refused(prevalence: dict[str, float]) -> None:
    table = random_multilabel(1, 20, 2, 9)
    with pytest.raises(UsageError, match="prevalence"):
        evaluate_predictions(table, n_boot=0, options=EvaluateOptions(prevalence=prevalence))
