"""Comparisons: a case worked by hand, a slow twin, scikit-learn, and what they refuse."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, f1_score, roc_auc_score
from statsmodels.stats.multitest import multipletests

from foveate.errors import InputRefused, UsageError
from foveate.evaluate.comparing import comparison
from foveate.evaluate.comparing.comparison import check_same_cases, enough_replicates
from foveate.evaluate.comparing.hypothesis import mcnemar
from foveate.evaluate.comparing.paired import CALIBRATED, FIGURES, RunFigures
from foveate.evaluate.intervals import Bootstrap
from foveate.evaluate.localization import CaseScore
from foveate.evaluate.scores import read_scores, write_scores
from foveate.evaluate.table import PredictionTable
from test_intervals import tail_of

CLASSES = ("cyst", "FNH")
OF_VOLUMES = ("cell_hit", "plane_pointing", "plane_iou", "depth_error")


def compare(*args: Any, **named: Any) -> dict[str, Any]:
    """What ``comparison.json`` holds of a comparison."""
    return comparison.compare(*args, **named).to_json()


def table(scores: list[float], truth: list[int], patients: list[str], first: int = 0) -> PredictionTable:
    """Two classes; ``scores`` are the probabilities of the second, of cases a0, a1, …"""
    p = np.stack([1 - np.array(scores), np.array(scores)], axis=1)
    names = tuple(f"a{first + number}" for number in range(len(scores)))
    parts = ("test",) * len(scores)
    return PredictionTable(
        "multiclass", CLASSES, names, tuple(patients), parts, np.log(p), p, np.eye(2)[truth]
    )


def score(case: str, patient: str, hit: float, label: str = "FNH") -> CaseScore:
    return CaseScore(case, patient, label, "heatmap", hit, hit / 2, 0.5, 0.5, hit / 4, 0.1, False)


TRUTH, PATIENTS = [0, 0, 1, 1], ["p", "p", "q", "r"]


def hand(*scores: list[float]) -> dict[int, RunFigures]:
    """The four cases of the hand-worked comparison, with the scores of each seed."""
    return {seed: RunFigures(table(values, TRUTH, PATIENTS)) for seed, values in enumerate(scores)}


HAND = {
    "plain": hand([0.2, 0.6, 0.4, 0.9], [0.1, 0.2, 0.8, 0.9]),
    "ours": hand([0.1, 0.2, 0.4, 0.9], [0.1, 0.6, 0.8, 0.9]),
}


def test_a_case_worked_by_hand() -> None:
    # plain: seed 0 decides 0 1 0 1, so 2 of 4 are right and the pair (a1, a2) is out of order: AUROC 3/4.
    #        seed 1 is right throughout.
    # ours:  seed 0 decides 0 0 0 1, seed 1 decides 0 1 1 1: 3 of 4 and AUROC 1 each.
    found = compare(HAND, "plain", Bootstrap(200))
    plain, ours = found["figures"]["plain"], found["figures"]["ours"]
    assert plain["accuracy"]["seeds"] == {"0": 0.5, "1": 1.0}
    assert plain["accuracy"]["value"] == 0.75
    assert plain["accuracy"]["sd"] == pytest.approx(np.sqrt(2) / 4)  # (0.5 - 0.75)^2 + (1 - 0.75)^2 = 1/8
    assert plain["auroc_macro"]["value"] == pytest.approx(7 / 8)
    assert ours["accuracy"]["value"] == 0.75 and ours["accuracy"]["sd"] == 0
    assert ours["auroc_macro"]["value"] == 1
    difference = found["differences"]["ours"]
    assert difference["accuracy"]["seeds"] == {"0": 0.25, "1": -0.25}
    assert difference["accuracy"]["value"] == 0
    assert difference["auroc_macro"]["value"] == pytest.approx(1 / 8)
    assert difference["auroc_macro"]["n"] == 4 and difference["auroc_macro"]["patients"] == 3
    assert list(found["differences"]) == ["ours"] and found["patients"] == 3
    assert found["cases"] == {"0": 4, "1": 4}


def random_variants(seed: int, *, resplit: bool) -> dict[str, dict[int, RunFigures]]:
    """Three variants, three seeds; with ``resplit`` every seed tests other cases of one pool of patients."""
    chance = np.random.default_rng(seed)
    found: dict[str, dict[int, RunFigures]] = {"a": {}, "b": {}, "c": {}}
    for number in range(3):
        first = 7 * number if resplit else 0
        truth = chance.integers(2, size=24) if resplit or number == 0 else truth
        patients = [f"p{(first + case) // 3}" for case in range(24)]
        for label in found:
            p = np.clip(truth * 0.25 + chance.integers(1, 6, 24) / 8, 0.125, 0.875)  # exact ties
            scores = [
                score(f"a{first + case}", patients[case], float(chance.random() < 0.5)) for case in range(9)
            ]
            found[label][number] = RunFigures(
                table(p.tolist(), truth.tolist(), patients, first), scores=scores
            )
    return found


def patients_of(variants: dict[str, dict[int, RunFigures]], label: str, figure: str) -> int:
    """How many patients a figure rests on, over all seeds."""
    found = set()
    for entry in variants[label].values():
        marked = {row.case_id for row in entry.scores}
        for case, patient in zip(entry.table.case_ids, entry.table.patient_ids, strict=True):
            if figure != "pointing_game" or case in marked:
                found.add(patient)
    return len(found)


def twin(
    variants: dict[str, dict[int, RunFigures]], label: str, other: str, figure: str, n: int
) -> tuple[float, float]:
    """The paired interval by loops: draw patients, repeat their cases, ask scikit-learn, subtract."""

    def value(entry: RunFigures, rows: list[int]) -> float:
        truth, p = entry.table.truth[rows, 1], entry.table.probabilities[rows, 1]
        if figure == "pointing_game":
            hits = {row.case_id: row.pointing_game for row in entry.scores}
            marked = [hits[entry.table.case_ids[row]] for row in rows if entry.table.case_ids[row] in hits]
            return float(np.mean(marked)) if marked else float("nan")
        if figure == "auroc_macro":
            return roc_auc_score(truth, p) if len(set(truth)) == 2 else float("nan")
        score = {"balanced_accuracy": balanced_accuracy_score, "f1_macro": None}[figure]
        if score is None:
            return float(f1_score(truth, p > 0.5, average="macro", labels=sorted({*truth, *(p > 0.5)})))
        return float(score(truth, p > 0.5))

    tables = [entry.table for entry in variants[label].values()]
    names = np.unique(np.array([name for item in tables for name in item.patient_ids], dtype=object))
    draws = np.random.default_rng(4)
    values = []
    for drawn in draws.integers(len(names), size=(n, len(names))):
        by_seed = []
        for seed in variants[label]:
            ids = np.array(variants[label][seed].table.patient_ids, dtype=object)
            rows = [row for name in names[drawn] for row in np.flatnonzero(ids == name)]
            if rows:
                by_seed.append(value(variants[label][seed], rows) - value(variants[other][seed], rows))
        values.append(np.nanmean(by_seed) if not np.isnan(by_seed).all() else np.nan)
    tail = tail_of(patients_of(variants, label, figure), 0.9)
    low, high = np.nanquantile(values, [tail, 1 - tail])
    return float(low), float(high)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
@pytest.mark.parametrize("resplit", [False, True], ids=["one split", "a split a seed"])
@pytest.mark.parametrize("figure", ["auroc_macro", "balanced_accuracy", "f1_macro", "pointing_game"])
def test_paired_intervals_are_those_of_a_loop_over_scikit_learn(figure: str, resplit: bool) -> None:
    variants = random_variants(1, resplit=resplit)
    found = compare(variants, "a", Bootstrap(150, 0.9, seed=4))["differences"]["b"][figure]
    assert (found["low"], found["high"]) == pytest.approx(twin(variants, "b", "a", figure, 150), abs=1e-12)


def test_pairing_is_what_makes_the_interval_narrow() -> None:
    # Both variants are the same but for one case: whoever is drawn, they differ by little.
    variants = random_variants(2, resplit=False)
    first = variants["a"][0].table
    p = first.probabilities.copy()
    p[0, 1] -= 0.13  # past its ties
    twin_of_a = variants["a"] | {0: RunFigures(replace(first, probabilities=p))}
    found = compare({"a": variants["a"], "b": twin_of_a}, "a", Bootstrap(300))
    single, paired = found["figures"]["b"]["auroc_macro"], found["differences"]["b"]["auroc_macro"]
    assert paired["high"] - paired["low"] < 0.2 * (single["high"] - single["low"])
    same = compare({"a": variants["a"], "b": variants["a"]}, "a", Bootstrap(100))["differences"]["b"]
    assert all(
        same[figure]["value"] == 0 and same[figure]["low"] is None and same[figure]["p"] == 1
        for figure in FIGURES
        if figure not in (*CALIBRATED, *OF_VOLUMES)
    )
    assert all(same[figure]["value"] is None for figure in OF_VOLUMES)  # these maps are of planes


def test_a_lost_run_is_left_out_of_its_pair_only() -> None:
    variants = random_variants(3, resplit=False)
    whole = compare(variants, "a", Bootstrap(100))
    del variants["b"][1]
    found = compare(variants, "a", Bootstrap(100))
    assert list(found["differences"]["b"]["accuracy"]["seeds"]) == ["0", "2"]
    for figure, value in found["differences"]["c"].items():  # all but the correction, which counts the tests
        assert {**value, "p_holm": 0} == {**whole["differences"]["c"][figure], "p_holm": 0}
    mean = np.mean([whole["differences"]["b"]["accuracy"]["seeds"][seed] for seed in ("0", "2")])
    assert found["differences"]["b"]["accuracy"]["value"] == pytest.approx(mean)
    variants["b"] = {}
    found = compare(variants, "a", Bootstrap(100))
    assert list(found["figures"]) == ["a", "c"] and list(found["differences"]) == ["c"]


def test_heat_maps_are_paired_by_case_and_class_and_views_count_together() -> None:
    base = HAND["plain"][0]
    one = replace(
        base, scores=[score("a2", "q", 1), score("a2", "q", 0), score("a3", "r", 1), score("a0", "p", 0)]
    )
    two = replace(base, scores=[score("a2", "q", 0), score("a3", "r", 0), score("a0", "p", 1, "cyst")])
    found = compare({"one": {0: one}, "two": {0: two}}, "two", Bootstrap(100))
    own, paired = found["figures"]["one"]["pointing_game"], found["differences"]["one"]["pointing_game"]
    assert own["value"] == pytest.approx((0.5 + 1 + 0) / 3) and (own["n"], own["patients"]) == (3, 3)
    assert paired["value"] == pytest.approx((0.5 + 1) / 2) and (paired["n"], paired["patients"]) == (2, 2)
    assert found["figures"]["one"]["iou"]["value"] == pytest.approx(own["value"] / 2)
    assert own["sd"] is None
    none = compare({"one": {0: base}, "two": {0: two}}, "two", Bootstrap(100))["figures"]["one"]["iou"]
    assert none["value"] is None and "nothing was explained" in none["reason"]


def test_what_is_unlike_is_refused_all_of_it_at_once() -> None:
    base = HAND["plain"][0].table
    other = {
        "truth": {0: RunFigures(replace(base, truth=1 - base.truth))},
        "patients": {0: RunFigures(replace(base, patient_ids=("p", "p", "q", "s")))},
        "classes": {0: RunFigures(replace(base, classes=("cyst", "HCC")))},
        "cases": {0: RunFigures(base.only(np.array([True, True, True, False])))},
    }
    with pytest.raises(UsageError) as caught:
        check_same_cases({"base": {0: RunFigures(base)}, **other})
    told = {"truth": "true classes", "patients": "patients", "classes": "classes", "cases": "test cases"}
    for label, what in told.items():
        assert f"- {label} and base differ in their {what}" in str(caught.value)
    assert "test cases (1 case: a3 only in base)" in str(caught.value)
    several = {
        "x": {0: RunFigures(base), 1: RunFigures(base)},
        "y": {1: RunFigures(replace(base, truth=1 - base.truth))},
    }
    with pytest.raises(
        UsageError, match=r"seed 1: y and x differ in their true classes \(of 4 cases: a0, a1"
    ):
        check_same_cases(several)
    with pytest.raises(UsageError, match="no run of the reference 'x'"):
        compare({"x": {}, "base": {0: RunFigures(base)}}, "x")


def test_the_order_of_rows_does_not_matter_and_cases_without_truth_do_not_count() -> None:
    base = HAND["plain"][0].table
    unknown = base.truth.copy()
    turned = base.only(np.array([True] * 4))
    back = [3, 1, 0, 2]
    turned = PredictionTable(
        base.task, CLASSES, tuple(base.case_ids[i] for i in back), tuple(base.patient_ids[i] for i in back),
        base.splits, base.logits[back], base.probabilities[back], unknown[back],
    )  # fmt: skip
    found = compare({"a": {0: RunFigures(base)}, "b": {0: RunFigures(turned)}}, "a", Bootstrap(100))
    assert found["figures"]["a"] == found["figures"]["b"]
    unknown[1] = np.nan
    found = compare({"a": {0: RunFigures(replace(base, truth=unknown))}}, "a", Bootstrap(100))
    assert found["cases"] == {"0": 3} and found["figures"]["a"]["accuracy"]["value"] == pytest.approx(2 / 3)


def test_scores_come_back_from_their_file_as_they_were(tmp_path: Path) -> None:
    rows = [score("a,1", "p", 1 / 3), replace(score("b", "q", 0.0), mask_iou=float("inf"), empty=True)]
    write_scores(tmp_path / "localization.csv", rows)
    assert repr(read_scores(tmp_path / "localization.csv")) == repr(rows)  # NaN is not equal to itself
    (tmp_path / "localization.csv").write_text("case_id,patient_id\na,p\n")
    with pytest.raises(InputRefused, match=r"localization\.csv: these scores cannot be read"):
        read_scores(tmp_path / "localization.csv")


def test_a_pair_is_told_class_by_class_with_the_tests_of_each() -> None:
    one, two = random_variants(5, resplit=False)["a"][0], random_variants(5, resplit=False)["b"][0]
    pair = compare({"a": {0: one}, "b": {0: two}}, "a", Bootstrap(400))["pairs"][0]
    assert (pair["first"], pair["second"], list(pair["per_class"])) == ("b", "a", list(CLASSES))
    truth = one.table.truth[:, 1]
    lead = roc_auc_score(truth, two.table.probabilities[:, 1]) - roc_auc_score(
        truth, one.table.probabilities[:, 1]
    )
    found = pair["per_class"]["FNH"]
    assert found["differences"]["auroc"]["value"] == pytest.approx(lead)
    assert found["delong"]["difference"] == pytest.approx(lead)
    assert found["delong"]["low"] < found["differences"]["auroc"]["value"] < found["delong"]["high"]
    right = [entry.table.probabilities.argmax(1) == entry.table.truth.argmax(1) for entry in (two, one)]
    expected = mcnemar(right[0], right[1], one.table.patient_ids)
    assert {name: pair["decisions"][name] for name in ("only_first", "only_second", "n", "p")} == {
        "only_first": expected.only_first, "only_second": expected.only_second, "n": 24, "p": expected.p,
    }  # fmt: skip
    # With two classes a decision is right for the one when it is for the other.
    assert found["decisions"]["p"] == pair["decisions"]["p"]
    several = compare(random_variants(5, resplit=False), "a", Bootstrap(100))["pairs"][0]
    assert several["decisions"] is None and several["per_class"]["FNH"]["delong"] is None


@pytest.mark.slow
def test_p_values_are_corrected_within_their_families() -> None:
    found = compare(random_variants(6, resplit=False), "a", Bootstrap(300), every_pair=True)
    assert [(pair["first"], pair["second"]) for pair in found["pairs"]] == [
        ("b", "a"),
        ("c", "a"),
        ("c", "b"),
    ]
    main = [pair["differences"]["auroc_macro"] for pair in found["pairs"]]
    others = [
        value
        for pair in found["pairs"]
        for name, value in pair["differences"].items()
        if name != "auroc_macro" and value["p"] is not None  # nothing is calibrated here
    ]
    for family in (main, others):
        p = [value["p"] for value in family]
        assert [value["p_holm"] for value in family] == pytest.approx(multipletests(p, method="holm")[1])
    assert found["tests"]["families"]["main figure"] == 3
    assert found["tests"]["families"]["other figures"] == len(others)
    assert found["differences"]["c"] == found["pairs"][1]["differences"]
    many = compare(random_variants(6, resplit=False), "a", Bootstrap(300))  # paired with the reference only
    assert [pair["first"] for pair in many["pairs"]] == ["b", "c"]
    assert many["ranks"] == found["ranks"]  # of every pair in any case


def scored(label: str, lead: float, patients: int = 60) -> dict[int, RunFigures]:
    """A model whose scores follow the truth by so much."""
    truth = [number % 2 for number in range(patients)]
    noise = np.random.default_rng(sum(map(ord, label))).random(patients)
    p = np.clip(0.1 + 0.5 * noise + lead * np.array(truth), 0.01, 0.99)
    return {0: RunFigures(table(p.tolist(), truth, [f"p{number}" for number in range(patients)]))}


def test_ranks_join_who_cannot_be_told_apart() -> None:
    variants = {"weak": scored("x", 0.0), "good": scored("y", 0.35), "twin": scored("z", 0.34)}
    found = compare(variants, "weak", Bootstrap(500), every_pair=True)
    models = found["ranks"]["models"]
    assert models["weak"]["value"] == 3 and models["good"]["value"] + models["twin"][
        "value"
    ] == pytest.approx(3)
    (joined,) = found["ranks"]["indistinguishable"]
    assert set(joined) == {"good", "twin"}
    by_pair = {(test["first"], test["second"]): test["p_holm"] for test in found["ranks"]["pairs"]}
    assert by_pair["good", "weak"] < 0.05 < by_pair["twin", "good"]
    sentences = [pair["sentence"] for pair in found["pairs"]]
    assert "good is better (p = 0.018" in sentences[0] and "not distinguishable" in sentences[2]


def test_the_sentence_counts_cases() -> None:
    # 101 patients; plain decides 90 right, ours 92: eight that only ours has right, six that only plain has.
    truth, patients = [1] * 101, [f"p{number}" for number in range(101)]
    plain = [0.9] * 84 + [0.1] * 8 + [0.9] * 6 + [0.1] * 3
    ours = [0.8] * 92 + [0.2] * 9
    variants = {
        name: {0: RunFigures(table(values, truth, patients))}
        for name, values in (("plain", plain), ("ours", ours))
    }
    (pair,) = compare(variants, "plain", Bootstrap(200))["pairs"]
    assert pair["sentence"] == (
        "ours decides 92 of 101 cases right, plain 90: 2 cases of 101 more (right in ours alone 8, in plain "
        "alone 6); not distinguishable (p = 0.79). The macro AUROC is undefined."
    )
    assert compare(variants, "plain", Bootstrap(200))["ranks"]["indistinguishable"] == []


def test_more_tests_need_more_replicates() -> None:
    variants = random_variants(1, resplit=False)
    assert enough_replicates(variants, 0.95) == 4 * 2 * len(FIGURES) / 0.05  # two pairs
    assert enough_replicates(variants, 0.95, every_pair=True) == pytest.approx(
        4 * 3 * len(FIGURES) / 0.05, abs=1
    )
    assert enough_replicates(variants, 0.9999) == 10_000


def test_calibrated_probabilities_are_compared_where_there_are_any() -> None:
    base = HAND["plain"][0].table
    mended = replace(base, calibrated=base.truth * 0.8 + 0.1)
    found = compare({"raw": {0: RunFigures(base)}, "mended": {0: RunFigures(mended)}}, "raw", Bootstrap(100))
    value = found["figures"]["mended"]
    assert value["brier_calibrated"]["value"] == pytest.approx(2 * 0.01)  # 0.1 off in both classes
    assert value["log_loss_calibrated"]["value"] == pytest.approx(-np.log(0.9))
    assert value["ece"] == found["figures"]["raw"]["ece"]
    assert found["figures"]["raw"]["brier_calibrated"]["value"] is None
    assert found["differences"]["mended"]["brier_calibrated"]["p"] is None
