"""Splits: patients and twins never part, every case is somewhere once, and each part gets its share."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedGroupKFold

from cohort_files import case_of, cohort_of
from foveate.data.manifest.manifest import load_manifest
from foveate.data.splits import split_cohort
from foveate.data.stratify import stratify
from foveate.errors import InputRefused, UsageError
from foveate.evaluate.results.splits import PARTS, Splits
from foveate.study.settings import SplitConfig
from foveate.types import Case, Cohort


@st.composite
def cohorts(draw: st.DrawFn) -> Cohort:
    """3 to 30 patients of 1 to 5 cases, with a label each or with three findings."""
    sizes = draw(st.lists(st.integers(1, 5), min_size=3, max_size=30))
    multilabel = draw(st.booleans())
    cases: list[Case] = []
    for patient, size in enumerate(sizes):
        for _ in range(size):
            if multilabel:
                truth = {name: draw(st.sampled_from((0, 0, 1, None))) for name in "abc"}
                cases.append(case_of(len(cases), f"p{patient}", **truth))
            else:
                cases.append(case_of(len(cases), f"p{patient}", draw(st.sampled_from("xxyz"))))
    return cohort_of(cases, "xyz")


def patients_of(cohort: Cohort, splits: Splits, fold: int = 0) -> dict[str, set[str]]:
    parts: dict[str, set[str]] = {}
    for case in cohort.cases:
        parts.setdefault(case.patient_id, set()).add(splits.folds[fold][case.case_id])
    return parts


class TestProperties:
    @settings(max_examples=60, deadline=None)
    @given(cohorts(), st.integers(0, 9))
    def test_hold_out(self, cohort: Cohort, seed: int) -> None:
        splits = split_cohort(cohort, SplitConfig(seed=seed))
        assert list(splits.folds[0]) == [case.case_id for case in cohort.cases]
        assert set(splits.folds[0].values()) == set(PARTS)
        assert all(len(parts) == 1 for parts in patients_of(cohort, splits).values())
        assert sum(len(cases) for cases in splits.parts().values()) == len(cohort.cases)

    @settings(max_examples=40, deadline=None)
    @given(cohorts(), st.integers(2, 3))
    def test_folds(self, cohort: Cohort, folds: int) -> None:
        splits = split_cohort(cohort, SplitConfig(folds=folds, val=0))
        tests = [set(splits.parts(fold)["test"]) for fold in range(folds)]
        assert sum(map(len, tests)) == len(set.union(*tests)) == len(cohort.cases)
        for fold in range(folds):
            assert all(len(parts) == 1 for parts in patients_of(cohort, splits, fold).values())
            assert set(splits.folds[fold].values()) == {"train", "test"}

    @pytest.mark.slow
    @settings(max_examples=30, deadline=None)
    @given(cohorts(), st.sampled_from((SplitConfig(), SplitConfig(folds=2, val=0))), st.data())
    def test_rows_in_another_order_and_another_run(
        self, cohort: Cohort, config: SplitConfig, data: st.DataObject
    ) -> None:
        shuffled = data.draw(st.permutations(cohort.cases))
        other = cohort_of(shuffled, cohort.classes)
        one, two, three = (
            split_cohort(cohort, config),
            split_cohort(other, config),
            split_cohort(cohort, config),
        )
        assert one == three
        assert [dict(fold) for fold in one.folds] == [dict(fold) for fold in two.folds]

    @settings(max_examples=40, deadline=None)
    @given(cohorts(), st.data())
    def test_twins_stay_together(self, cohort: Cohort, data: st.DataObject) -> None:
        names = [case.case_id for case in cohort.cases]
        twins = data.draw(st.lists(st.lists(st.sampled_from(names), min_size=2, max_size=3), max_size=4))
        try:
            splits = split_cohort(cohort, twins=twins)
        except InputRefused as error:
            assert error.code == "too-few-patients"
            return
        for group in twins:
            assert len({splits.folds[0][name] for name in group}) == 1
        assert all(len(parts) == 1 for parts in patients_of(cohort, splits).values())


def many(count: int, labels: str, seed: int = 0) -> Cohort:
    """Patients of 1 to 6 cases who mostly keep to one label."""
    rng = np.random.default_rng(seed)
    cases: list[Case] = []
    for patient in range(count):
        usual = rng.choice(list(labels))
        for _ in range(rng.integers(1, 7)):
            label = usual if rng.random() < 0.8 else rng.choice(list(labels))
            cases.append(case_of(len(cases), f"p{patient}", str(label)))
    return cohort_of(cases)


class TestBalance:
    @pytest.mark.parametrize("seed", range(4))
    def test_shares_of_cases_and_classes(self, seed: int) -> None:
        cohort = many(150, "wwwwwxxxyz", seed)
        splits = split_cohort(cohort, SplitConfig(test=0.2, val=0.25, seed=seed))
        label = {case.case_id: case.label for case in cohort.cases}
        everywhere = Counter(label.values())
        for part, share in (("train", 0.6), ("val", 0.2), ("test", 0.2)):
            inside = Counter(label[name] for name in splits.parts()[part])
            assert sum(inside.values()) == pytest.approx(share * len(cohort.cases), abs=2)
            for name in cohort.classes:
                assert inside[name] == pytest.approx(share * everywhere[name], abs=3)
        assert splits.warnings == ()

    def test_findings_of_several_kinds(self) -> None:
        rng = np.random.default_rng(5)
        rate = {"often": 0.4, "some": 0.15, "rare": 0.05}
        truths = [{name: int(rng.random() < p) for name, p in rate.items()} for _ in range(900)]
        cases = [case_of(n, f"p{n // 3}", **truth) for n, truth in enumerate(truths)]
        cohort = cohort_of(cases)
        folds = split_cohort(cohort, SplitConfig(folds=5))
        truth = {case.case_id: case.findings for case in cases}
        for name in rate:
            counts = [sum(bool(truth[case][name]) for case in folds.parts(fold)["test"]) for fold in range(5)]
            assert max(counts) - min(counts) <= 3

    @pytest.mark.parametrize("seed", range(3))
    def test_no_worse_than_scikit_learn(self, seed: int) -> None:
        cohort = many(80, "wwwwxxyz", seed)
        labels = np.array([case.label for case in cohort.cases])
        groups = np.array([case.patient_id for case in cohort.cases])

        def spread(parts: list[np.ndarray]) -> float:
            """Largest distance of a class's count in a fold from a fifth of all."""
            counts = np.array([[(labels[part] == name).sum() for name in cohort.classes] for part in parts])
            return float(np.abs(counts - counts.sum(axis=0) / 5).max())

        theirs = StratifiedGroupKFold(5, shuffle=True, random_state=seed).split(labels, labels, groups)
        splits = split_cohort(cohort, SplitConfig(folds=5, seed=seed))
        place = {case.case_id: index for index, case in enumerate(cohort.cases)}
        ours = [np.array([place[name] for name in splits.parts(fold)["test"]]) for fold in range(5)]
        assert spread(ours) <= spread([test for _, test in theirs])

    def test_a_division_worked_by_hand(self) -> None:
        # Six groups, two of each class: half of each class on either side is the only even division.
        counts = np.repeat(np.eye(3), 2, axis=0)
        part = stratify(counts, np.ones(6), np.array([0.5, 0.5]), np.random.default_rng(0))
        assert (counts[part == 0].sum(axis=0) == 1).all() and (counts[part == 1].sum(axis=0) == 1).all()

    def test_large_groups_do_not_tip_the_scales(self) -> None:
        # 40 + 10 × 6 cases of one class: a fifth is only reached without the large group.
        sizes = np.array([40.0] + [6.0] * 10)
        part = stratify(sizes[:, None], sizes, np.array([0.8, 0.2]), np.random.default_rng(0))
        assert sizes[part == 1].sum() == 18

    def test_seeds_differ(self) -> None:
        cohort = many(60, "xy")
        assert (
            split_cohort(cohort, SplitConfig(seed=1)).folds != split_cohort(cohort, SplitConfig(seed=2)).folds
        )


class TestWarnings:
    def test_a_class_too_rare_is_said(self) -> None:
        cases = [case_of(n, f"p{n}", "rare" if n < 2 else "xy"[n % 2]) for n in range(60)]
        splits = split_cohort(cohort_of(cases))
        assert splits.warnings == ("rare (2 patients) is in no case of val",)
        folds = split_cohort(cohort_of(cases), SplitConfig(folds=3, val=0))
        (warning,) = folds.warnings
        assert warning.startswith("rare (2 patients) is in no case of test (fold ")

    def test_a_share_that_cannot_be_reached_is_said(self) -> None:
        cases = [case_of(n, "giant" if n < 50 else f"p{n}", "xy"[n % 2]) for n in range(60)]
        splits = split_cohort(cohort_of(cases), SplitConfig(test=0.5, val=0))
        shares = {part: len(names) for part, names in splits.parts().items() if names}
        assert sorted(shares.values()) == [10, 50]
        assert splits.warnings[0].startswith(
            f"train holds {shares['train'] / 60:.0%} of the cases instead of 50%"
        )

    def test_an_unused_column_is_said(self) -> None:
        cases = [Case(f"c{n}", f"p{n}", {}, label="xy"[n % 2], split="train") for n in range(20)]
        assert "column split is not used" in split_cohort(cohort_of(cases)).warnings[0]

    def test_too_few_patients(self) -> None:
        cohort = cohort_of([case_of(n, f"p{n % 2}", "xy"[n % 2]) for n in range(40)])
        with pytest.raises(InputRefused, match=r"2 patients .* cannot make 3 parts") as caught:
            split_cohort(cohort)
        assert caught.value.code == "too-few-patients"
        with pytest.raises(InputRefused, match="cannot make 5 parts"):
            split_cohort(cohort, SplitConfig(folds=5))
        assert set(split_cohort(cohort, SplitConfig(val=0)).folds[0].values()) == {"train", "test"}

    def test_twins_of_another_manifest(self) -> None:
        with pytest.raises(UsageError, match="'stranger'"):
            split_cohort(many(10, "xy"), twins=[["c0001", "stranger"]])
        both = [["c0000", f"c{n:04d}"] for n in range(1, len(many(10, "xy").cases))]
        with pytest.raises(InputRefused, match="1 patients"):
            split_cohort(many(10, "xy"), twins=both)
        assert split_cohort(many(10, "xy"), SplitConfig(keep_twins_together=False), twins=both).folds


def with_column(*texts: str) -> Cohort:
    cases = [
        Case(f"c{n:03d}", f"p{n // 2}", {}, label="xy"[n % 2], metadata={"official": text})
        for n, text in enumerate(texts)
    ]
    return cohort_of(cases)


class TestColumn:
    def test_words_are_understood(self) -> None:
        cohort = with_column("Train", "training", "VALID", "validation", "test", "holdout")
        splits = split_cohort(cohort, SplitConfig(column="official"))
        assert list(splits.folds[0].values()) == ["train", "train", "val", "val", "test", "test"]

    def test_validation_is_drawn_by_patient(self) -> None:
        cohort = with_column(*["train_val"] * 40, *["test"] * 10)
        splits = split_cohort(cohort, SplitConfig(column="official", val=0.2))
        assert {part: len(cases) for part, cases in splits.parts().items()} == {
            "train": 32,
            "val": 8,
            "test": 10,
        }
        assert all(len(parts) == 1 for parts in patients_of(cohort, splits).values())
        assert "no val part: 20% of its train part was drawn" in splits.warnings[0]

    def test_a_leak_is_said_and_left_to_the_audit(self) -> None:
        splits = split_cohort(with_column("train", "val", "train", "test"), SplitConfig(column="official"))
        assert "2 patients lie in more than one part" in splits.warnings[0]

    def test_words_that_are_not(self) -> None:
        with pytest.raises(InputRefused, match=r"'fold1' \(2\), empty \(1\)(.|\n)*use train") as caught:
            split_cohort(with_column("fold1", "train", "", "fold1", "test"), SplitConfig(column="official"))
        assert caught.value.code == "unknown-part"

    def test_no_such_column(self) -> None:
        with pytest.raises(UsageError, match=r"'oficial'(.|\n)*did you mean 'official'"):
            split_cohort(with_column("train", "test"), SplitConfig(column="oficial"))
        with pytest.raises(UsageError, match="no column 'split'"):
            split_cohort(with_column("train", "test"), SplitConfig(column="split"))

    def test_parts_that_are_missing(self) -> None:
        with pytest.raises(InputRefused, match="no train part"):
            split_cohort(with_column("val", "test"), SplitConfig(column="official"))
        splits = split_cohort(with_column("train", "train", "val", "val"), SplitConfig(column="official"))
        assert "no test part" in splits.warnings[0]
        with pytest.raises(UsageError, match="not folds"):
            split_cohort(with_column("train", "test"), SplitConfig(column="official", folds=2))

    def test_several_columns_are_a_split_each(self) -> None:
        words = [("Train", "val"), ("Val", "train"), ("train", "train"), ("test", "TEST"), ("test", "test")]
        cases = [
            Case(f"c{n}", f"p{n}", {}, label="xy"[n % 2], metadata={"fold1": one, "fold2": other})
            for n, (one, other) in enumerate(words)
        ]
        splits = split_cohort(cohort_of(cases), SplitConfig(column=("fold1", "fold2")))
        assert [list(fold.values()) for fold in splits.folds] == [
            ["train", "val", "train", "test", "test"],
            ["val", "train", "train", "test", "test"],
        ]
        assert (
            SplitConfig(column=("fold1", "fold2")).rounds == 2 and SplitConfig(column="fold1").rounds is None
        )
        assert SplitConfig(folds=3).rounds == 3 and SplitConfig().rounds is None
        with pytest.raises(UsageError, match="no fold 2"):
            splits.parts(2)
        with pytest.raises(UsageError, match="no column 'fold3'"):
            split_cohort(cohort_of(cases), SplitConfig(column=("fold1", "fold3")))

    def test_the_reserved_column(self) -> None:
        cases = [Case(f"c{n}", f"p{n}", {}, label="xy"[n % 2], split=PARTS[n % 3]) for n in range(9)]
        splits = split_cohort(cohort_of(cases), SplitConfig(column="split"))
        assert list(splits.folds[0].values()) == ["train", "val", "test"] * 3 and splits.warnings == ()

    def test_the_official_parts_of_nih(self, real_data: Path) -> None:
        cohort = load_manifest(real_data / "nih_cxr14_1000" / "labels.csv")
        splits = split_cohort(cohort, SplitConfig(column="official_split"))
        assert len(splits.parts()["test"]) == 83
        assert all(len(parts) == 1 for parts in patients_of(cohort, splits).values())


class TestFile:
    def test_round_trip(self, tmp_path: Path) -> None:
        for config in (SplitConfig(), SplitConfig(folds=3, seed=4), SplitConfig(column="split")):
            cases = [Case(f"c{n}", f"p{n}", {}, label="xy"[n % 2], split=PARTS[n % 3]) for n in range(30)]
            splits = split_cohort(cohort_of(cases), config)
            splits.write(tmp_path)
            back = Splits.read(tmp_path)
            assert back is not None and back.to_json() == splits.to_json() and back.config == config
            assert splits.parts(0) == back.parts(0)
        with pytest.raises(UsageError, match="choose 0 to 0"):
            splits.parts(1)

    def test_a_file_of_0_1_0_opens(self, tmp_path: Path) -> None:
        old = {
            "manifest_sha256": "f" * 64,
            "config": {"test": 0.2, "val": 0.15, "folds": None, "fold": 0, "seed": 3, "column": None},
            "warnings": ["x is in no case of val"],
            "folds": [{"a": "train", "b": "test", "c": "seen"}],
        }
        (tmp_path / "splits.json").write_text(json.dumps(old))
        splits = Splits.read(tmp_path)
        assert splits is not None and splits.format == 0 and splits.config == SplitConfig(seed=3)
        assert splits.parts() == {"train": ["a"], "val": [], "test": ["b"], "seen": ["c"]}

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("", "Expecting value"),
            ("{}", "manifest_sha256: Field required"),
            ('{"config": {"x": 1}, "folds": [], "manifest_sha256": ""}', "config.x"),
            ('{"config": {}, "folds": [{"c": "dev"}], "manifest_sha256": ""}', "unknown part 'dev'"),
        ],
    )
    def test_damaged_files(self, tmp_path: Path, text: str, problem: str) -> None:
        (tmp_path / "splits.json").write_text(text)
        with pytest.raises(InputRefused, match=problem):
            Splits.read(tmp_path)
