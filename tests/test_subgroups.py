"""Groups of cases and patients: who is in which, figures against scikit-learn, gaps by simulation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, recall_score, roc_auc_score

from foveate.evaluate.grouping import MISSING, group, telling_columns
from foveate.evaluate.intervals import Bootstrap
from foveate.evaluate.measured import affordable
from foveate.evaluate.options import EvaluateOptions
from foveate.evaluate.patients import by_patient, per_patient
from foveate.evaluate.results.parts import Unmade
from foveate.evaluate.subgroups import VIEWS, chance_of_gap, subgroups
from foveate.evaluate.table import PredictionTable


def table(
    truth: np.ndarray, probabilities: np.ndarray, patients: list[str], task: str = "multiclass"
) -> PredictionTable:
    count, classes = truth.shape
    return PredictionTable(
        task=task,  # type: ignore[arg-type]
        classes=tuple("abcdef"[:classes]),
        case_ids=tuple(f"c{n}" for n in range(count)),
        patient_ids=tuple(patients),
        splits=("test",) * count,
        logits=np.log(probabilities),
        probabilities=probabilities,
        truth=truth,
    )


def invented(count: int = 240, per_patient: int = 2, seed: int = 0) -> PredictionTable:
    draws = np.random.default_rng(seed)
    labels = np.repeat(draws.integers(3, size=count // per_patient), per_patient)
    probabilities = draws.dirichlet(np.ones(3), count) + 0.5 * np.eye(3)[labels]
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    return table(np.eye(3)[labels], probabilities, [f"p{n // per_patient}" for n in range(count)])


def told(name: str, values: list[str]) -> list[str]:
    found = group(name, values)
    return [found.names[place] for place in found.members]


def test_ages_are_bands_whatever_their_unit() -> None:
    ages = ["17.9", "18", "39", "040Y", "64", "65", "006M", "100", "", "nan"]
    bands = ["under 18", "18–39", "18–39", "40–64", "40–64", "65 and over", "under 18", "65 and over"]
    assert told("patient_age", ages) == [*bands, MISSING, MISSING]
    assert group("PatientAge", ages).kind == "bands"
    assert group("dosage", ages[:6]).kind == "values"  # no word of it is age
    assert told("age", ["young", "old", "old"]) == ["young", "old", "old"]


def test_numbers_are_thirds_with_their_bounds_and_equals_stay_together() -> None:
    found = group("dose", [str(number) for number in range(1, 31)])
    assert found.names == ("up to 10", "over 10, up to 20", "over 20")
    assert np.bincount(found.members).tolist() == [10, 10, 10]
    most_alike = ["0"] * 20 + [str(number) for number in range(1, 14)]
    assert group("dose", most_alike).names == ("up to 0", "over 0, up to 2", "over 2")
    none_between = group("dose", ["0"] * 90 + [str(number) for number in range(1, 14)])
    assert none_between.names == ("up to 0", "over 0")


def test_values_are_groups_in_their_order_and_too_many_are_refused() -> None:
    assert group("site", ["b", "10", " a ", "9", "?", "b"]).names == ("9", "10", "a", "b", MISSING)
    names = group("name", [f"s{number}" for number in range(13)])
    assert names.kind == "refused" and "13 different values" in names.reason and names.names == ()
    assert group("site", ["", "NA"]).kind == "refused"


def test_telling_columns_are_found_by_their_words() -> None:
    names = [
        "image_path",
        "Patient Age",
        "PatientSex",
        "Manufacturer",
        "page",
        "scanner_model",
        "essay",
        "view",
    ]
    assert telling_columns(names) == ["Patient Age", "PatientSex", "Manufacturer", "scanner_model", "view"]


def test_figures_of_groups_are_those_of_their_cases_by_scikit_learn() -> None:
    whole = invented()
    sexes = ["F" if n % 3 else "M" for n in range(240)]
    metadata = {case: {"sex": sex} for case, sex in zip(whole.case_ids, sexes, strict=True)}
    found = subgroups(whole, EvaluateOptions(metadata=metadata), Bootstrap(100))["sex"]
    values = {}
    for name in "FM":
        rows = np.array([sex == name for sex in sexes])
        truth, scores = whole.truth[rows].argmax(1), whole.probabilities[rows]
        values[name] = {
            "accuracy": accuracy_score(truth, scores.argmax(1)),
            "balanced_accuracy": balanced_accuracy_score(truth, scores.argmax(1)),
            "auroc_macro": roc_auc_score(truth, scores, multi_class="ovr"),
        }
        part = found.groups[name]
        assert (part.n, part.patients) == (
            rows.sum(),
            len({p for p, k in zip(whole.patient_ids, rows, strict=True) if k}),
        )
        for figure, value in values[name].items():
            assert part.metrics[figure].value == pytest.approx(value)
            assert part.metrics[figure].low < value < part.metrics[figure].high
        recalls = recall_score(truth, scores.argmax(1), average=None)
        assert [one["recall"].value for one in part.per_class.values()] == pytest.approx(list(recalls))
    for figure, gap in found.gaps.items():
        expected = values["F"][figure] - values["M"][figure]
        assert gap.value == pytest.approx(abs(expected))
        assert (gap.largest, gap.smallest) == (("F", "M") if expected > 0 else ("M", "F"))
        assert gap.low < gap.value < gap.high and 0 < gap.p <= gap.p_holm <= 1


def test_chance_of_a_gap_takes_no_row_of_the_jackknife() -> None:
    whole = invented()
    metadata = {case: {"sex": "FM"[n % 2]} for n, case in enumerate(whole.case_ids)}
    plain, skewed = (
        subgroups(whole, EvaluateOptions(metadata=metadata), Bootstrap(60, method=method))["sex"].gaps
        for method in ("percentile", "bca")
    )
    assert [gap.p for gap in plain.values()] == [gap.p for gap in skewed.values()]
    assert plain["auroc_macro"].low != skewed["auroc_macro"].low


def test_very_large_tables_have_fewer_replicates() -> None:
    small, large = invented(12), invented(600)
    assert affordable(Bootstrap(2000), small).n == 2000
    wide = replace(large, probabilities=np.broadcast_to(0.5, (25_000, 14)))
    assert affordable(Bootstrap(2000), wide).n == 571
    assert affordable(Bootstrap(100), wide).n == 100


def test_small_groups_are_counted_but_not_told_and_missing_values_are_a_group() -> None:
    whole = invented(60)
    sites = ["big"] * 40 + ["small"] * 8 + [""] * 12  # of 20, 4 and 6 patients
    metadata = {case: {"site": site, "note": case} for case, site in zip(whole.case_ids, sites, strict=True)}
    options = EvaluateOptions(metadata=metadata, min_group=6)
    found = subgroups(whole, options, Bootstrap(0))
    assert list(found) == ["site"]
    groups = found["site"].groups
    assert list(groups) == ["big", "small", MISSING]
    assert groups["small"].metrics is None and groups["small"].reason == "fewer than 6 patients"
    assert found["site"].gaps["accuracy"].p is None  # no replicates were asked for
    asked = subgroups(whole, replace(options, subgroups=("note", "absent")), Bootstrap(0))
    assert {name: column.groups for name, column in asked.items()} == {"note": {}, "absent": {}}
    assert "too many" in asked["note"].reason and "no case" in asked["absent"].reason


def test_a_gap_is_over_the_classes_that_each_group_has_enough_of() -> None:
    whole = invented(240, per_patient=1, seed=1)
    sites = np.where(np.arange(240) < 120, "x", "y")
    gone = (sites == "y") & (whole.truth[:, 2] == 1)
    part, sites = whole.only(~gone), sites[~gone]
    metadata = {case: {"site": str(site)} for case, site in zip(part.case_ids, sites, strict=True)}
    found = subgroups(part, EvaluateOptions(metadata=metadata), Bootstrap(200))["site"]
    means = [
        np.mean(
            recall_score(
                part.truth[sites == site].argmax(1),
                part.probabilities[sites == site].argmax(1),
                labels=[0, 1],
                average=None,
            )
        )
        for site in "xy"
    ]
    gap = found.gaps["balanced_accuracy"]
    assert gap.value == pytest.approx(abs(means[0] - means[1])) and gap.reason.endswith(": a, b")
    left_out = found.groups["y"].metrics["balanced_accuracy"].reason
    assert "c (no positive case)" in left_out
    nothing = subgroups(
        part.only(np.arange(len(sites)) < 120), EvaluateOptions(metadata=metadata, min_group=1), Bootstrap(0)
    )
    assert nothing["site"].gaps == {}


def test_views_are_a_column_of_their_own() -> None:
    whole = replace(invented(), views=("t2+dwi",) * 160 + ("t2",) * 80)
    found = subgroups(whole, EvaluateOptions(), Bootstrap(50))
    assert list(found) == [VIEWS] and list(found[VIEWS].groups) == ["t2", "t2+dwi"]
    assert subgroups(invented(), EvaluateOptions(), Bootstrap(0)) == {}


def test_gaps_of_groups_that_do_not_differ_are_seldom_called_large() -> None:
    """Five groups of 60 that differ by chance: p is below 0.05 in about 5 % of cohorts."""
    draws, small, picked = np.random.default_rng(4), 0, 0
    for _ in range(1500):
        means = draws.binomial(60, 0.8, size=5) / 60
        replicates = draws.binomial(60, means, size=(200, 5)) / 60
        small += chance_of_gap(means, replicates) < 0.05
        difference = replicates[:, means.argmax()] - replicates[:, means.argmin()]
        picked += np.quantile(difference, 0.025) > 0
    assert 0.02 < small / 1500 < 0.08
    assert picked / 1500 > 0.15  # the interval of the difference alone does not know that it was picked


def test_the_chance_of_a_gap_by_hand() -> None:
    means = np.array([0.5, 0.8])
    drawn = np.array([[0.5, 0.8], [0.6, 0.6], [0.4, 0.9], [0.8, 0.8], [np.nan, 0.8]])
    # Deviations (0, 0), (0.1, -0.2), (-0.1, 0.1), (0.3, 0) spread over 0, 0.3, 0.2, 0.3: two reach 0.3.
    assert chance_of_gap(means, drawn) == pytest.approx((1 + 2) / (1 + 4))


def test_patients_by_hand() -> None:
    probabilities = np.array(
        [[0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.1, 0.1, 0.8], [0.5, 0.4, 0.1], [0.3, 0.3, 0.4]]
    )
    truth = np.array([[0, 1, 0], [np.nan] * 3, [0, 0, 1], [1, 0, 0], [0, 1, 0]], dtype=float)
    cases = table(truth, probabilities, ["q", "q", "p", "r", "r"])
    found, left_out = by_patient(cases, "mean")
    assert (found.case_ids, left_out) == (("p", "q"), 1)  # the cases of r are of two classes
    assert found.probabilities == pytest.approx(np.array([[0.1, 0.1, 0.8], [0.4, 0.5, 0.1]]))
    assert found.truth.tolist() == [[0, 0, 1], [0, 1, 0]]
    most, _ = by_patient(cases, "max")
    assert most.probabilities[1] == pytest.approx(np.array([0.6, 0.7, 0.1]) / 1.4)
    assert found.logits == pytest.approx(np.log(found.probabilities))


def test_findings_of_patients_are_three_valued_or() -> None:
    nan = np.nan
    truth = np.array([[1, 0, 0], [nan, nan, 0], [0, 1, nan], [0, 0, nan]])
    probabilities = np.array([[0.9, 0.2, 0.1], [0.5, 0.4, 0.3], [0.1, 0.6, 0.5], [0.2, 0.2, 0.7]])
    cases = table(truth, probabilities, ["p", "p", "q", "q"], task="multilabel")
    found, left_out = by_patient(cases, "max")
    assert left_out == 0
    np.testing.assert_array_equal(found.truth, [[1, nan, 0], [0, 1, nan]])
    assert found.probabilities == pytest.approx(np.array([[0.9, 0.4, 0.3], [0.2, 0.6, 0.7]]))
    assert by_patient(cases, "mean")[0].probabilities[0] == pytest.approx([0.7, 0.3, 0.2])


def test_the_block_of_patients_is_that_of_a_table_of_patients() -> None:
    whole = invented()
    found = per_patient(whole, EvaluateOptions(per_patient="max"), Bootstrap(50))
    patients = sorted(set(whole.patient_ids))
    rows = [[n for n, name in enumerate(whole.patient_ids) if name == patient] for patient in patients]
    scores = np.array([whole.probabilities[own].max(axis=0) for own in rows])
    scores /= scores.sum(axis=1, keepdims=True)
    labels = [whole.truth[own[0]].argmax() for own in rows]
    assert (found.patients, found.left_out, found.most_cases) == (120, 0, 2)
    assert found.metrics["auroc_macro"].value == pytest.approx(
        roc_auc_score(labels, scores, multi_class="ovr")
    )
    assert found.metrics["accuracy"].n == 120
    one = invented(per_patient=1)
    assert per_patient(one, EvaluateOptions(), Bootstrap(0)) == Unmade(reason="every patient has one case")
    assert isinstance(per_patient(whole, EvaluateOptions(per_patient="none"), Bootstrap(0)), Unmade)
