"""Shifts between two cohorts: beside SciPy, beside cases worked by hand, and how often chance alarms."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats
from scipy.special import softmax
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from foveate.evaluate.intervals import Bootstrap, Value
from foveate.evaluate.results.shift import (
    ColumnShift,
    ColumnShifts,
    ComparedCohort,
    FigureShift,
    LabelShift,
    NumberShift,
    PerformanceShift,
    SeenCases,
    ShareShift,
    Shift,
    TogetherShift,
)
from foveate.evaluate.shift import (
    Cohorts,
    category_shift,
    column_shifts,
    in_words,
    label_shift,
    number_shift,
    performance_shift,
    reweighted_accuracy,
)
from foveate.evaluate.table import PredictionTable
from foveate.report.sections.shift import _by_reason

FEW = Bootstrap(200)
Floats = NDArray[np.float64]


def cohorts(source: int, new: int, cases: int = 1) -> Cohorts:
    """So many patients of either, each with so many cases."""
    return Cohorts.of(
        [f"p{n}" for n in range(source) for _ in range(cases)],
        [f"p{n}" for n in range(new) for _ in range(cases)],
    )


def table(
    truth: list[int], scores: Floats, patients: list[str] | None = None, split: str = "test"
) -> PredictionTable:
    """Predictions of classes a, b, …; the logits are the scores."""
    names = tuple(f"c{n}" for n in range(len(truth)))
    return PredictionTable(
        "multiclass",
        tuple("abc"[: scores.shape[1]]),
        names,
        names,
        ("test",) * len(truth),
        scores,
        softmax(scores, axis=1),
        np.eye(scores.shape[1])[truth],
    )


def random_table(count: int, seed: int, signal: float) -> PredictionTable:
    draws = np.random.default_rng(seed)
    truth = draws.integers(3, size=count)
    return table(truth.tolist(), draws.normal(size=(count, 3)) + signal * np.eye(3)[truth])


class TestNumbers:
    def test_the_chance_of_a_larger_one_is_mann_whitneys(self) -> None:
        draws = np.random.default_rng(0)
        one, other = (
            draws.integers(8, size=30).astype(float),
            draws.integers(2, 10, size=20).astype(float),
        )  # ties
        found = number_shift(np.r_[one, other], cohorts(30, 20), FEW)
        u = stats.mannwhitneyu(other, one).statistic
        assert found.larger.value == pytest.approx(u / (30 * 20))
        assert found.source == tuple(np.quantile(one, (0.25, 0.5, 0.75)).tolist())
        assert found.larger.low < found.larger.value < found.larger.high

    def test_p_is_that_of_all_exchanges(self) -> None:
        values = np.array([1.0, 2, 3, 5, 4, 6, 7, 8])
        new = np.repeat([False, True], 4)

        def far(members: tuple[int, ...]) -> float:
            inside = np.isin(np.arange(8), members)
            u = stats.mannwhitneyu(values[inside], values[~inside]).statistic
            return float(abs(u / 16 - 0.5))

        every = [far(members) for members in combinations(range(8), 4)]
        exact = np.mean([each >= far((4, 5, 6, 7)) - 1e-12 for each in every])
        found = number_shift(values, Cohorts(new, np.arange(8)), FEW).p
        assert found == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / 999))

    def test_cases_of_a_patient_are_no_further_evidence(self) -> None:
        values = np.random.default_rng(1).normal(size=24) + np.repeat([0, 0.8], [12, 12])
        once = number_shift(values, cohorts(12, 12), FEW)
        often = number_shift(values.repeat(10), cohorts(12, 12, cases=10), FEW)
        assert often.larger.value == pytest.approx(once.larger.value)
        assert often.p == pytest.approx(once.p, abs=0.03)
        width = [each.larger.high - each.larger.low for each in (once, often)]
        assert width[1] == pytest.approx(width[0], rel=0.25)

    def test_unknown_values_are_left_out(self) -> None:
        found = number_shift(np.array([1, np.nan, 2, 3, np.nan, 4.0]), cohorts(3, 3), FEW)
        assert found.larger.n == 4 and found.larger.value == 1
        nothing = number_shift(np.array([1, 2, np.nan, np.nan]), cohorts(2, 2), FEW)
        assert nothing.larger.value is None and nothing.p is None and nothing.new is None

    @pytest.mark.slow
    def test_chance_alone_alarms_as_often_as_it_says(self) -> None:
        """Cohorts that do not differ, three cases a patient that resemble each other."""
        draws, alarms = np.random.default_rng(2), 0
        for _ in range(200):
            values = (draws.normal(size=30)[:, None] + 0.5 * draws.normal(size=(30, 3))).ravel()
            alarms += number_shift(values, cohorts(18, 12, cases=3), Bootstrap(0)).p < 0.05
        assert 2 <= alarms <= 19  # 10 are expected, with a standard deviation of 3.1


class TestValues:
    def test_by_hand(self) -> None:
        found = category_shift(["m", "m", "f", "", "m", "f", "f", "f"], cohorts(4, 4), FEW)
        assert {name: (own.source, own.new) for name, own in found.values.items()} == {
            "f": (0.25, 0.75),
            "m": (0.5, 0.25),
            "unknown": (0.25, 0.0),
        }
        assert found.distance == pytest.approx((0.5 + 0.25 + 0.25) / 2)
        assert found.most == "f" and found.difference.value == 0.5

    def test_p_of_two_values_is_that_of_all_exchanges(self) -> None:
        texts = ["x", "x", "x", "y", "y", "y", "y", "x"]
        has = np.array([text == "x" for text in texts])
        observed = abs(has[4:].mean() - has[:4].mean())
        every = [abs(has[list(m)].mean() - np.delete(has, m).mean()) for m in combinations(range(8), 4)]
        exact = np.mean([each >= observed - 1e-12 for each in every])
        assert category_shift(texts, cohorts(4, 4), FEW).p == pytest.approx(exact, abs=0.06)

    def test_labels_of_findings_count_where_they_are_known(self) -> None:
        truth = np.array(
            [[1, np.nan], [1, 1], [0, 1], [0, 0], [0, np.nan], [0, np.nan], [1, np.nan], [0, np.nan]]
        )
        found = label_shift(truth, ["nodule", "effusion"], cohorts(4, 4), FEW)
        assert (found["nodule"].source, found["nodule"].new) == (0.5, 0.25)
        assert found["nodule"].difference.value == -0.25
        assert found["effusion"].difference.value is None and found["effusion"].p_holm is None
        assert found["nodule"].p_holm == found["nodule"].p  # the only test that there is


class TestColumns:
    def columns(self, apart: float) -> dict[str, list[str]]:
        draws = np.random.default_rng(3)
        width = draws.normal(100, 5, size=80) + apart * np.repeat([0, 1], 40)
        return {
            "width": [f"{value:.1f}" for value in width],
            "scanner": [("A", "B")[n] for n in draws.integers(2, size=80)],
            "name": [f"file {n}" for n in range(80)],
            "kind": ["png"] * 80,
        }

    def test_what_differs_is_told_and_the_rest_is_not(self) -> None:
        found = column_shifts(self.columns(apart=15), cohorts(40, 40), FEW)
        assert set(found.columns) == {"width", "scanner"} and set(found.left_out) == {"name", "kind"}
        assert found.columns["width"].p_holm == pytest.approx(2 / 1000)
        assert found.columns["scanner"].p_holm > 0.05
        assert found.together.auroc.low > 0.85 and found.together.columns[0] == "width"
        assert found.together.p < 0.01

    def test_cohorts_that_do_not_differ_are_not_told_apart(self) -> None:
        found = column_shifts(self.columns(apart=0), cohorts(40, 40), FEW)
        assert all(own.p_holm > 0.05 for own in found.columns.values())
        assert found.together.auroc.low < 0.5 < found.together.auroc.high + 0.1


class TestPerformance:
    def test_figures_are_sklearns_and_the_difference_is_theirs(self) -> None:
        source, new = random_table(150, 0, signal=2), random_table(90, 1, signal=0.7)
        found = performance_shift(source, new, {}, Bootstrap(400)).metrics
        for side, each in (("source", source), ("new", new)):
            truth, said = each.truth.argmax(axis=1), each.probabilities.argmax(axis=1)
            auroc = np.mean([roc_auc_score(truth == k, each.probabilities[:, k]) for k in range(3)])
            assert getattr(found["auroc_macro"], side).value == pytest.approx(auroc)
            assert getattr(found["accuracy"], side).value == pytest.approx((truth == said).mean())
            assert getattr(found["balanced_accuracy"], side).value == pytest.approx(
                balanced_accuracy_score(truth, said)
            )
        gap = found["accuracy"].difference
        assert gap.value == pytest.approx(found["accuracy"].new.value - found["accuracy"].source.value)
        rates = [(getattr(found["accuracy"], side).value, n) for side, n in (("source", 150), ("new", 90))]
        normal = 2 * 1.96 * np.sqrt(sum(rate * (1 - rate) / n for rate, n in rates))
        assert gap.high - gap.low == pytest.approx(normal, rel=0.15)
        assert found["auroc_macro"].p < 0.02 and found["auroc_macro"].difference.high < 0

    def test_other_class_frequencies_alone_by_hand(self) -> None:
        sure, unsure = [3.0, 0.0], [0.0, 3.0]
        home = table(
            [0] * 5 + [1] * 4, np.array([sure] * 4 + [unsure] + [unsure] * 2 + [sure] * 2)
        )  # recalls 0.8, 0.5
        here = table([0, 1, 1, 1], np.array([sure, unsure, unsure, sure]))
        assert reweighted_accuracy(home, here) == pytest.approx(0.25 * 0.8 + 0.75 * 0.5)
        none_of_b = table([0, 0], np.array([sure, sure]))
        assert reweighted_accuracy(none_of_b, here) is None
        assert reweighted_accuracy(home, none_of_b) == pytest.approx(0.8)


def value(value: float, low: float, high: float) -> Value:
    return Value(value, low, high, 40, 20)


def columns(auroc: Value, **own: ColumnShift) -> ColumnShifts:
    return ColumnShifts(columns=own, together=TogetherShift(auroc=auroc, p=None, columns=()))


def shift(**changed: Any) -> Shift:
    """A shift of which nothing is worth saying, but for what is changed."""
    nothing: dict[str, Any] = {
        "level": 0.95,
        "source": ComparedCohort(name="home", cases=40, patients=20),
        "new": ComparedCohort(name="here", cases=40, patients=20),
        "performance": PerformanceShift(metrics={}),
        "labels": LabelShift(classes={}),
        "images": columns(value(0.5, 0.4, 0.6)),
        "metadata": columns(value(0.5, 0.4, 0.6)),
        "novelty": NumberShift(source=None, new=None, larger=value(0.5, 0.4, 0.6), p=0.9),
    }
    return Shift(**nothing | changed)


def said(found: Shift) -> list[tuple[str, str]]:
    return [(item.code, item.sentence) for item in in_words(found)]


class TestWords:
    @pytest.mark.parametrize(
        ("gap", "code", "words"),
        [
            (
                (-0.2, -0.1),
                "worse-here",
                "It does worse here: macro AUROC is 0.70 [0.60, 0.80] here and 0.85",
            ),
            ((0.1, 0.2), "better-here", "It does better here"),
            ((-0.1, 0.1), "not-shown-to-differ", "It is not shown to do worse or better here"),
        ],
    )
    def test_performance(self, gap: tuple[float, float], code: str, words: str) -> None:
        own = FigureShift(
            new=value(0.7, 0.6, 0.8), source=value(0.85, 0.8, 0.9), difference=value(-0.15, *gap), p=None
        )
        ((told, text),) = said(shift(performance=PerformanceShift(metrics={"auroc_macro": own})))
        assert told == code and text.startswith(words)

    def test_what_is_not_shown_is_not_said(self) -> None:
        assert said(shift()) == []
        unclear = ShareShift(source=0.2, new=0.3, difference=value(0.1, -0.1, 0.3), p=0.3, p_holm=0.3)
        assert said(shift(labels=LabelShift(classes={"a": unclear}))) == []

    def test_labels_columns_and_what_was_seen(self) -> None:
        number = NumberShift(source=(1, 2, 3), new=(4, 5, 6), larger=value(0.9, 0.8, 1), p=0.01, p_holm=0.01)
        label = ShareShift(source=0.2, new=0.3, difference=value(0.1, 0.05, 0.2), p=0.004, p_holm=0.004)
        words = dict(
            said(
                shift(
                    labels=LabelShift(classes={"a": label}),
                    images=columns(value(0.98, 0.9, 1), width=number),
                    seen=SeenCases(cases=68, known=68, right=68),
                )
            )
        )
        assert words["labels-differ"].startswith(
            "a is more frequent here: 30% of the cases, and 20% of those it"
        )
        assert words["images-differ"] == (
            "The images differ: width (median 5 here, 2 at home). Together they tell the cohorts apart with "
            "an AUROC of 0.98."
        )
        assert words["seen"] == (
            "68 cases are set apart, since the model learned from them; 68 of 68 are answered right."
        )


def test_what_is_left_out_for_one_reason_is_said_together() -> None:
    same = "the same everywhere"
    assert _by_reason({"t2: width": same, "name": "too many values", "dwi: width": same}) == [
        f"t2: width, dwi: width ({same})",
        "name (too many values)",
    ]
