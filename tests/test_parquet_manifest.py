"""A Parquet manifest is read by the rules of a CSV; names stay text, or are refused where digits are lost."""

from __future__ import annotations

import decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cohort_files import good, image_folder, problems, write_csv
from foveate.data.manifest.manifest import load_manifest
from foveate.data.manifest.rows import ManifestRows, read_table
from foveate.errors import ManifestRefused

LONG = "00012345678901234567890"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return image_folder(tmp_path)


def write(path: Path, table: dict[str, object]) -> Path:
    pq.write_table(pa.table(table), path, row_group_size=2)
    return path


def of_patients(folder: Path, patients: object) -> Path:
    rows = good(3)
    columns = {name: [row[name] for row in rows] for name in ("case_id", "label", "image")}
    return write(folder / "manifest.parquet", {**columns, "patient_id": patients})


def test_the_same_table_as_csv_and_as_parquet_is_the_same_cohort(folder: Path) -> None:
    rows = [row | {"age": age, "mask": ""} for row, age in zip(good(), (7, 70, 5, 1), strict=True)]
    csv = load_manifest(write_csv(folder / "m.csv", rows)).cases
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    parquet = load_manifest(write(folder / "m.parquet", columns)).cases  # by content, whatever the name
    assert parquet == csv and [case.row for case in parquet] == [2, 3, 4, 5]


def test_names_of_23_digits_and_zeros_in_front_survive(folder: Path) -> None:
    names = [LONG, "0017", "P 3"]
    cohort = load_manifest(of_patients(folder, names))
    assert [case.patient_id for case in cohort.cases] == names


@pytest.mark.parametrize(
    "values, expected",
    [
        (pa.array([17, 2**62 + 1, 3]), ["17", "4611686018427387905", "3"]),
        (pa.array([17.0, 18.0, 3.0]), ["17.0", "18.0", "3.0"]),
        (pa.array([decimal.Decimal(LONG), 1, 2], pa.decimal128(38)), [LONG.lstrip("0"), "1", "2"]),
        (pa.array(["017", "18", "3"]).dictionary_encode(), ["017", "18", "3"]),
    ],
)
def test_numbers_are_written_out(folder: Path, values: object, expected: list[str]) -> None:
    cohort = load_manifest(of_patients(folder, values))
    assert [case.patient_id for case in cohort.cases] == expected


@pytest.mark.parametrize("lost", [1.2345678901234567e22, 2.0**53, 1e15 + 9e15])
def test_fractions_that_lost_digits_are_refused_by_row(folder: Path, lost: float) -> None:
    with pytest.raises(ManifestRefused) as refused:
        load_manifest(of_patients(folder, pa.array([1.0, lost, 2.0])))
    (problem,) = refused.value.problems
    assert problem.startswith("row 3: patient_id is '") and "spreadsheet cut" in problem


def test_nothing_is_not_known(folder: Path) -> None:
    for values in (pa.array(["p", None, "q"]), pa.array([1.0, float("nan"), 2.0]), pa.array([1, None, 2])):
        with pytest.raises(ManifestRefused) as refused:
            load_manifest(of_patients(folder, values))
        assert refused.value.problems == ("row 3: patient_id is empty: the patient must be known",)


def test_findings_may_be_truths_and_numbers(folder: Path) -> None:
    columns = {"patient_id": ["p", "q", "r"], "image": ["a.png", "b.png", "c.png"]}
    columns |= {"mass": pa.array([True, False, None]), "node": pa.array([1.0, -1.0, 0.0])}
    cohort = load_manifest(write(folder / "m.parquet", columns))
    assert [dict(case.findings) for case in cohort.cases] == [
        {"mass": 1, "node": 1}, {"mass": 0, "node": None}, {"mass": None, "node": 0},
    ]  # fmt: skip


def test_rows_can_be_gone_through_one_by_one(folder: Path) -> None:
    path = of_patients(folder, ["p", "q", "r"])
    streamed = list(ManifestRows.at(path))
    assert streamed == list(read_table(path).rows) and len(streamed) == 3


def test_what_is_no_table_is_refused(folder: Path) -> None:
    assert "cannot be read" in problems(folder, b"PAR1 and nothing else")[0]
    path = write(folder / "m.parquet", {"case_id": ["a"], "image": [["a.png"]], "raw": [b"x"]})
    with pytest.raises(ManifestRefused, match="image, raw hold lists or bytes"):
        load_manifest(path)
