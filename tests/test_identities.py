"""Names of patients and cases: two spellings of one are one, refused, or two, as the study says."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cohort_files import changed, good, image_folder, problems, write_csv
from foveate.data.manifest.identities import alike
from foveate.data.manifest.manifest import load_manifest
from foveate.study.settings import TableRules
from foveate.types import Cohort

SAME = [
    ("00017", "17"), ("P17", "p17"), ("P 17", "P17"), ("P-17", "P17"), ("P_17", "p 17"), ("P007", "p7"),
    ("17.0", "017"), ("'00017", "17"), ("S01-P003", "s1_p3"), ("A 1 B", "a1b"),
    ("01-07", "1 7"), ("0", "000"),
]  # fmt: skip
DIFFERENT = [
    ("1-7", "17"), ("P1-7", "P17"), ("17.1", "17"), ("1.05", "1.5"), ("P1", "P10"), ("10", "1"), ("A1", "B1"),
    ("17", "-17"), ("1.2.840.10", "1.2.840.1"), ("0", "O"),
]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return image_folder(tmp_path)


def read(folder: Path, *names: str, column: str = "patient_id", ids: str = "checked") -> Cohort:
    path = write_csv(folder / "m.csv", changed(column, *names))
    return load_manifest(path, rules=TableRules.model_validate({"ids": ids}))


def people(cohort: Cohort) -> list[str]:
    return [case.patient_id for case in cohort.cases]


@pytest.mark.parametrize("one, other", SAME)
def test_likely_spellings_of_one_have_one_key(one: str, other: str) -> None:
    assert one != other and alike(one) == alike(other)


@pytest.mark.parametrize("one, other", DIFFERENT)
def test_others_have_their_own(one: str, other: str) -> None:
    assert alike(one) != alike(other)


@given(st.text("Pp017 -_.", min_size=1, max_size=8))
def test_a_key_is_the_key_of_itself_in_plain_names(name: str) -> None:
    key = alike(name)
    assert alike(key.upper()) == alike(key)
    assert alike(f" {name}".strip()) == alike(name.strip())


@given(st.integers(0, 10**23), st.integers(0, 10**23), st.integers(0, 5))
def test_numbers_are_alike_as_their_values_are(one: int, other: int, zeros: int) -> None:
    assert (alike(str(one)) == alike("0" * zeros + str(other))) is (one == other)


@pytest.mark.parametrize("one, other", [pair for pair in SAME if "17.0" not in pair])
def test_spellings_are_refused_with_every_row_and_the_way_out(folder: Path, one: str, other: str) -> None:
    found = problems(folder, changed("patient_id", one, other, "q", one, other))
    assert [text.split(":")[0] for text in found] == ["row 3", "row 6"]
    assert f"patient_id is '{other}', and in row 2 '{one}'" in found[0]
    assert "ids: as-written" in found[0] and "ids: normalised" in found[0]
    assert people(read(folder, one, other, "q", ids="as-written")) == [one, other, "q"]
    first, second, third = people(read(folder, one, other, "q", ids="normalised"))
    assert first == second in (one, other) and third == "q"


def test_names_that_went_through_floats_are_one_and_that_is_told(folder: Path) -> None:
    cohort = read(folder, "17", "17.0", "18.0", "18", "19.0")
    assert people(cohort) == ["17", "17", "18", "18", "19.0"]
    assert cohort.reading.notes == ("patient_id: read '17.0' as '17', '18.0' as '18'",)


def test_a_fraction_that_means_something_is_no_float(folder: Path) -> None:
    (found,) = problems(folder, changed("patient_id", "17", "17.0", "17.1", "18.2"))
    assert found.startswith("row 3: patient_id is '17.0', and in row 2 '17'")


@pytest.mark.parametrize("odd", ["１７", "17\u200b", "\u00a017", "\ufeff17", '="17"'])
def test_what_the_eye_takes_for_the_same_is_one_patient(folder: Path, odd: str) -> None:
    assert people(read(folder, "17", odd, "18")) == ["17", "17", "18"]


def test_an_inner_blank_of_another_kind_is_a_blank(folder: Path) -> None:
    cohort = read(folder, "P 17", "P\u00a017", "P\u300017", "q")
    assert people(cohort) == ["P 17", "P 17", "P 17", "q"]
    assert "2 cells with odd blanks" in cohort.reading.notes[0]


def test_names_stay_as_they_are_written_where_nothing_clashes(folder: Path) -> None:
    long = "00012345678901234567890"
    names = (long, "017.0", "p 1", "P-2")
    assert people(read(folder, *names)) == list(names)


@pytest.mark.parametrize("cut", ["1E+22", "1.23457E+22", "1,23457E+22", "1.2345678901234568e+22"])
def test_numbers_that_a_spreadsheet_cut_are_refused(folder: Path, cut: str) -> None:
    found = problems(folder, changed("patient_id", "p1", cut, "p2", cut))
    assert [text.split(":")[0] for text in found] == ["row 3", "row 5"] and "spreadsheet" in found[0]
    assert len(problems(folder, changed("case_id", "p1", cut, "p2", "p3"))) == 1
    assert people(read(folder, "p1", cut, ids="as-written")) == ["p1", cut]


def test_names_that_only_look_cut_are_names(folder: Path) -> None:
    names = ["1e5", "3E-2", "E+22", "12E+3", "20000000000000000000"]
    assert people(read(folder, *names)) == names


def test_long_numbers_that_all_end_in_zeros_were_cut(folder: Path) -> None:
    first, second = "12345678901234500000000", "12345678901234600000000"
    assert len(problems(folder, changed("patient_id", first, second, "p", "q"))) == 2
    kept = [first, "12345678901234600000001", "p"]
    assert people(read(folder, *kept)) == kept


def test_one_case_of_two_names(folder: Path) -> None:
    (found,) = problems(folder, changed("case_id", "C1", "c1", "d", "e"))
    assert "case_id is 'c1', and in row 2 'C1'" in found
    assert [case.case_id for case in read(folder, "C1", "c1", column="case_id", ids="as-written").cases] == [
        "C1",
        "c1",
    ]
    path = write_csv(folder / "manifest.csv", changed("case_id", "C1", "c1", "d", "e"))
    (found,) = problems(folder, path.read_text(), rules=TableRules(ids="normalised"))
    assert "is already in row 2" in found


def test_a_column_that_names_both_is_compared_once(folder: Path) -> None:
    rows = [{key: value for key, value in row.items() if key != "patient_id"} for row in good(3)]
    rows[1]["case_id"] = "CA"
    (found,) = problems(folder, rows, patient="case_id")
    assert found.startswith("row 3: case_id is 'CA', and in row 2 'ca'")


def test_files_that_name_cases_are_what_they_are(folder: Path) -> None:
    rows = [{key: value for key, value in row.items() if key == "label"} for row in good(2)]
    for row, name in zip(rows, ("a.png", "sub/../A.png"), strict=True):
        row["image"] = name
    (folder / "A.png").write_bytes((folder / "b.png").read_bytes())
    (folder / "sub").mkdir()
    assert len(load_manifest(write_csv(folder / "m.csv", rows), patient="case_id").cases) == 2
