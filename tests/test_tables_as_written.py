"""Tables as people and programs write them: what is understood by a stated rule, told, or refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cohort_files import Row, changed, good, image_folder, problems, write_csv
from foveate.data.manifest.columns import Expected
from foveate.data.manifest.manifest import load_manifest
from foveate.data.manifest.truth import loosely, whole
from foveate.data.manifest.words import Missing, cells, is_blank, is_nobody, meaning, plain
from foveate.errors import ManifestRefused
from foveate.study.settings import TableRules
from foveate.types import Cohort

#: What R, pandas, Excel, SQL, SAS, SPSS and people write for "not known".
NA = ("NA", "na", "N/A", "n/a", "n.a.", "nan", "NaN", "NaT", "NULL", "null", "<NA>", ".", "?", "-", "–",
      "#N/A",       "#DIV/0!", "#NV", "\\N",
      "\u00a0", "\u200b", "ＮＡ", " NA ", '="NA"')  # fmt: skip
UNKNOWN = ("unknown", "Unknown", "UNK", "missing", "not available", "unbekannt", "k.A.", "inconnu")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return image_folder(tmp_path)


def read(folder: Path, rows: Sequence[Row], **options: object) -> Cohort:
    return load_manifest(write_csv(folder / "m.csv", rows), **options)  # type: ignore[arg-type]


def findings(*columns: Sequence[object], names: Sequence[str] = ("mass", "node", "clot")) -> list[Row]:
    """Rows with the values of each finding, one patient and image each."""
    cells = zip(*columns, strict=True)
    return [
        {"patient_id": f"p{letter}", "image": f"{letter}.png", **dict(zip(names, values, strict=False))}
        for letter, values in zip("abcdef", cells, strict=False)
    ]


def values_of(cohort: Cohort, name: str) -> list[int | None]:
    return [case.findings[name] for case in cohort.cases]


class TestWords:
    @pytest.mark.parametrize("word", NA)
    def test_not_known_in_every_column(self, word: str) -> None:
        (text,) = cells([word])
        assert is_blank(text) and is_nobody(text) and meaning(text, Missing.of(None)) == "unknown"

    @pytest.mark.parametrize("word", UNKNOWN)
    def test_not_known_as_truth_or_patient_but_told_apart_in_metadata(self, word: str) -> None:
        assert not is_blank(word) and is_nobody(word) and meaning(word, Missing.of(None)) == "unknown"

    @pytest.mark.parametrize(
        "word", ["N", "no", "Nancy", "NAD", "0", "17", "a.b", "-1", "neg", "nano", "n/a-1"]
    )
    def test_what_only_begins_like_them_is_something(self, word: str) -> None:
        assert not is_blank(word) and not is_nobody(word)

    def test_findings_in_any_coding(self) -> None:
        expected = {
            "present": "1 1.0 1,0 1.00 +1 1e0 １ TRUE True true T yes Y y POS + ja wahr vrai Checked",
            "absent": "0 0.0 0,0 -0 ０ FALSE f no N negative neg nein Falsch faux Unchecked",
            "uncertain": "-1 -1.0 -1,0 −1 u U uncertain possible Equivocal",
            "unknown": "9 99 999 -9 -99 9.0 99,0 NA nan NULL . ? unknown",
        }
        for what, words in expected.items():
            for word in words.split():
                assert meaning(word, Missing.of(None)) == what, word
        for word in ("2", "0.5", "01", "x", "none", "maybe?", "10", "-2", "1;0", "8"):
            with pytest.raises(ValueError, match=r".*"):
                meaning(word, Missing.of(None))

    def test_a_spreadsheet_keeps_zeros_by_a_formula(self) -> None:
        assert cells(['="00017"', " x ", "\ufeffa\u00a0", '=""', '="']) == ["00017", "x", "a", "", '="']

    @given(st.text(max_size=12))
    def test_plain_is_settled_and_cells_are_stripped(self, text: str) -> None:
        assert plain(plain(text)) == plain(text)
        (cell,) = cells([text])
        assert cells([cell]) == [cell] or cell.startswith('="')


class TestLabels:
    @pytest.mark.parametrize("word", ["", *NA, *UNKNOWN])
    def test_a_word_for_not_known_is_no_class(self, folder: Path, word: str) -> None:
        found = problems(folder, changed("label", "x", word, "y", word, "x", "y"))
        assert [text.split(":")[0] for text in found] == ["row 3", "row 5"]
        assert "left-out" in found[0] and "left-out" not in found[1]
        cohort = read(folder, changed("label", "x", word, "y", word), rules=TableRules(unlabelled="left-out"))
        assert (cohort.classes, [case.row for case in cohort.cases]) == (("x", "y"), [2, 4])
        assert "2 cases without a label left out" in cohort.reading.notes

    def test_a_model_that_is_asked_may_meet_unknown_labels(self, folder: Path) -> None:
        cohort = read(
            folder, changed("label", "x", "NA", "1.0", "unknown"), expected=Expected("multiclass", ("1", "x"))
        )
        assert [case.label for case in cohort.cases] == ["x", None, "1", None]

    def test_none_is_a_class_and_said_to_be_one(self, folder: Path) -> None:
        rows = changed("label", "None", "mild", "None", "severe")
        cohort = read(folder, rows)
        assert cohort.classes == ("None", "mild", "severe")
        assert any("'None' is taken for a class" in note for note in cohort.reading.notes)
        asked = TableRules(missing=["none"], unlabelled="left-out")
        assert read(folder, rows, rules=asked).classes == ("mild", "severe")

    def test_a_class_that_is_named_is_one_whatever_it_is_called(self, folder: Path) -> None:
        rows = changed("label", "NA", "EU", "unknown", "EU")
        assert read(folder, rows, classes=["EU", "NA", "unknown"]).cases[0].label == "NA"
        rows = changed("label", "unknown", "EU", "unknown", "EU")
        assert read(folder, rows, rules=TableRules(missing=[])).classes == ("EU", "unknown")

    def test_numbers_that_went_through_floats_are_the_same(self, folder: Path) -> None:
        cohort = read(folder, changed("label", "1", "0", "1.0", "0,0"))
        assert [case.label for case in cohort.cases] == ["1", "0", "1", "0"]
        assert any("'1.0' as '1' (1)" in note for note in cohort.reading.notes)
        kept = read(folder, changed("label", "1.0", "1.5", "2.0", "1.5"))
        assert kept.classes == ("1.0", "1.5", "2.0")

    @pytest.mark.parametrize("other", ["Benign", "BENIGN"])
    def test_another_case_is_refused(self, folder: Path, other: str) -> None:
        (found,) = problems(folder, changed("label", "benign", other, "benign", "y"))
        assert found == f"row 3: the label '{other}' is elsewhere written 'benign'"

    @pytest.mark.parametrize("other", ["non-small", "non_small", "Non  small"])
    def test_another_joint_is_refused(self, folder: Path, other: str) -> None:
        (found,) = problems(folder, changed("label", "non small", other, "non small", "y"))
        assert "is elsewhere written 'non small'" in found

    @pytest.mark.parametrize(
        "other", ["benign ", "\u00a0benign", "benign\u200b", "ｂｅｎｉｇｎ", '="benign"']
    )
    def test_what_the_eye_takes_for_the_same_is_the_same(self, folder: Path, other: str) -> None:
        assert read(folder, changed("label", "benign", other, "y", "y")).classes == ("benign", "y")

    def test_keys_by_hand(self) -> None:
        assert whole("1.0") == whole("1,00") == "1" and whole("1.05") == "1.05" and whole("v1.0") == "v1.0"
        assert loosely("T1-2") != loosely("T12") and loosely("Grade 01") == loosely("grade_1")
        assert loosely("A+") != loosely("A-") and loosely("1.05") != loosely("1.5")

    def test_several_findings_in_a_cell_are_asked_for(self, folder: Path) -> None:
        rows = changed("label", "Mass|Node", "Mass", "No Finding", "NA", "Node", "Mass | Clot")
        found = problems(folder, rows)
        assert [text.split(":")[0] for text in found] == ["row 2", "row 5", "row 7"]
        assert "`separator: '|'`" in found[0]
        cohort = read(folder, rows, rules=TableRules(separator="|"))
        assert (cohort.task, cohort.classes) == ("multilabel", ("Clot", "Mass", "No Finding", "Node"))
        assert values_of(cohort, "Mass") == [1, 1, 0, None, 0, 1]
        assert values_of(cohort, "Clot") == [0, 0, 0, None, 0, 1]

    def test_parts_that_are_labels_by_themselves_make_a_list(self, folder: Path) -> None:
        (found,) = problems(folder, changed("label", "HCC", "ICC", "HCC/ICC", "HCC"))
        assert found.startswith("row 4: the label 'HCC/ICC' seems to name several findings")
        rows = changed("label", "HCC", "ICC", "HCC/ICC", "AV/Node")
        cohort = read(folder, rows, classes=["HCC", "ICC", "HCC/ICC", "AV/Node"])
        assert cohort.cases[2].label == "HCC/ICC"
        assert (
            read(folder, changed("label", "AV/Node", "ICC", "HCC, mixed", "ICC")).cases[0].label == "AV/Node"
        )


class TestFindings:
    @pytest.mark.parametrize(
        "cells, expected",
        [
            (("1.0", "0.0", "-1.0", "", "1.0", "0.0"), [1, 0, None, None, 1, 0]),  # CheXpert, MIMIC
            (("1", "0", "NA", "1", "0", "NA"), [1, 0, None, 1, 0, None]),  # R
            (("1", "0", "9", "99", "-9", "0"), [1, 0, None, None, None, 0]),  # registries, SPSS
            (("1", "0", "u", "1", "0", "1"), [1, 0, None, 1, 0, 1]),
            (("TRUE", "FALSE", "NA", "TRUE", "FALSE", ""), [1, 0, None, 1, 0, None]),
            (("True", "False", "nan", "1", "0", "True"), [1, 0, None, 1, 0, 1]),  # pandas
            (("Yes", "No", "Unknown", "no", "YES", ""), [1, 0, None, 0, 1, None]),
            (("positive", "negative", "equivocal", "neg", "pos", "?"), [1, 0, None, 0, 1, None]),
            (("Checked", "Unchecked", "Checked", "Unchecked", "", "."), [1, 0, 1, 0, None, None]),  # REDCap
            (("1,0", "0,0", "-1,0", "1,0", "k.A.", "0,0"), [1, 0, None, 1, None, 0]),  # German Excel
            (("１", "０", "１", "−1", " 1", "0\u00a0"), [1, 0, 1, None, 1, 0]),
            (("WAHR", "FALSCH", "#XY", "WAHR", "FALSCH", "FALSCH"), None),
        ],
    )
    def test_every_coding_is_a_finding(
        self, folder: Path, cells: Sequence[str], expected: list[int | None] | None
    ) -> None:
        other = (1, 0, 1, 0, 1, 0)
        if expected is None:  # a word that nobody listed: asked for, not dropped
            found = problems(folder, findings(cells, other), findings=["mass", "node"])
            assert found[0].startswith("row 4: mass is '#XY'")
            return
        cohort = read(folder, findings(cells, other))
        assert cohort.classes == ("mass", "node") and values_of(cohort, "mass") == expected
        assert values_of(read(folder, findings(cells, other), findings=["mass"]), "mass") == expected

    @pytest.mark.parametrize("uncertain, value", [("unknown", None), ("positive", 1), ("negative", 0)])
    def test_uncertain_is_what_the_study_says(self, folder: Path, uncertain: str, value: int | None) -> None:
        cohort = read(
            folder, findings(("1", "0", "-1"), ("u", "1", "0")), rules=TableRules(uncertain=uncertain)
        )
        assert values_of(cohort, "mass") == [1, 0, value] and values_of(cohort, "node") == [value, 1, 0]
        (note,) = [note for note in cohort.reading.notes if "mass" in note]
        assert "'-1' taken for" in note and uncertain in note

    def test_nothing_that_looks_like_a_finding_is_dropped_without_a_word(self, folder: Path) -> None:
        content = findings(
            (1, 0, 1, 0, 1, 0), (0, 1, 2, 0, 1, 0), ("yes", "", "yes", "", "", ""), (1, 2, 2, 1, 2, 1),
            ("no", "yes", "ex", "ex", "no", "yes"), (31, 40, 52, 61, 70, 0),
            names=("mass", "nodes", "smoker", "sex", "habit", "age"),
        )  # fmt: skip
        cohort = read(folder, content)
        assert cohort.classes == ("mass",)
        assert cohort.reading.metadata == ("nodes", "smoker", "sex", "habit", "age")
        assert set(cohort.reading.aside) == {"nodes", "smoker", "sex", "habit"}
        assert "'2'" in cohort.reading.aside["nodes"] and "'ex'" in cohort.reading.aside["habit"]

    def test_a_typo_does_not_make_metadata_of_a_finding(self, folder: Path) -> None:
        rows = [
            {"patient_id": f"p{n}", "image": f"{'abcdef'[n % 6]}.png", "mass": "?" if n == 7 else n % 2}
            for n in range(6)
        ] + [{"patient_id": "p0", "image": "a.png", "mass": value} for value in ("0", "O")]
        for number, row in enumerate(rows):
            row["case_id"] = f"c{number:02d}"
        rows[6]["mass"] = rows[0]["mass"]
        odd = problems(folder, [*rows, *(row | {"case_id": f"d{n}"} for n, row in enumerate(rows[:6]))])
        assert odd[0].startswith("row 9: mass is 'O', where nearly all others say present or absent")

    def test_classes_in_columns_of_their_own(self, folder: Path) -> None:
        content = findings((1, 0, 0, 1), (0, 1, 0, 0), ("0.0", "0.0", "1.0", "0.0"))
        cohort = read(folder, content)
        assert cohort.task == "multilabel"
        assert any("one_hot: true" in note for note in cohort.reading.notes)
        cohort = read(folder, content, rules=TableRules(one_hot=True))
        assert (cohort.task, cohort.classes) == ("multiclass", ("clot", "mass", "node"))
        assert [case.label for case in cohort.cases] == ["mass", "node", "clot", "mass"]
        content = findings((1, 1, 0, 0, ""), (0, 1, 0, 1, ""), (0, 0, 0, 0, "NA"))
        found = problems(folder, content, rules=TableRules(one_hot=True))
        assert [text.split(":")[0] for text in found] == ["row 3", "row 4", "row 6"]
        assert "mass and node are 1: one_hot needs exactly one 1" in "".join(found)
        assert "none of mass, node, clot is 1" in "".join(found)

    def test_a_label_beside_metadata_in_words_is_no_mixture(self, folder: Path) -> None:
        content = [row | {"smoker": "yes" if n % 2 else "no"} for n, row in enumerate(good())]
        assert read(folder, content).task == "multiclass"
        for words in (("1", "0", "NA", "1"), ("1.0", "0.0", "-1.0", "")):
            content = [row | {"mass": word} for row, word in zip(good(), words, strict=True)]
            assert "mixed" in problems(folder, content)[0]


class TestCells:
    @pytest.mark.parametrize("word", NA)
    def test_a_patient_must_be_known(self, folder: Path, word: str) -> None:
        found = problems(folder, changed("patient_id", "p1", word, "p2", word))
        assert [text.split(" is ")[0] for text in found] == ["row 3: patient_id", "row 5: patient_id"]
        assert all("the patient must be known" in text for text in found)

    @pytest.mark.parametrize("word", [*UNKNOWN, "None", "none", "anonymous", "Anonymized"])
    def test_no_patient_is_called_unknown(self, folder: Path, word: str) -> None:
        assert len(problems(folder, changed("patient_id", "p1", word, "p2", "p3"))) == 1
        assert len(problems(folder, changed("case_id", "p1", word, "p2", "p3"))) == 1

    @pytest.mark.parametrize("word", NA)
    def test_a_view_is_missing_and_metadata_are_blank(self, folder: Path, word: str) -> None:
        content = [
            row | {"t2": other, "age": word, "mask": word, "split": word}
            for row, other in zip(good(3), ("d.png", word, "e.png"), strict=True)
        ]
        cohort = read(folder, content)
        assert [sorted(case.views) for case in cohort.cases] == [["image", "t2"], ["image"], ["image", "t2"]]
        assert {case.metadata["age"] for case in cohort.cases} == {""}
        assert {(case.mask, case.split) for case in cohort.cases} == {(None, None)}

    def test_metadata_keep_their_words(self, folder: Path) -> None:
        content = [row | {"contrast": "none", "sex": "unknown"} for row in good()]
        assert read(folder, content).cases[0].metadata == {"contrast": "none", "sex": "unknown"}

    def test_every_problem_in_one_pass(self, folder: Path) -> None:
        content = changed("label", "x", "NA", "X", "y", "x|y")
        content[4]["patient_id"] = "NULL"
        content[3]["image"] = "."
        found = problems(folder, content)
        assert [text.split(":")[0] for text in found] == ["row 3", "row 4", "row 5", "row 6", "row 6"]

    def test_one_way_of_reading_several_classes(self) -> None:
        with pytest.raises(ValueError, match="one of the two"):
            TableRules(one_hot=True, separator="|")

    def test_boxes_say_which_case_was_meant(self, folder: Path) -> None:
        boxes = [{"case_id": "CA", "label": "x", "x": 1, "y": 1, "w": 2, "h": 2}]
        with pytest.raises(ManifestRefused, match="no case 'CA' in the manifest: is it 'ca'"):
            read(folder, good(), boxes=write_csv(folder / "boxes.csv", boxes))
