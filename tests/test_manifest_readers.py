"""Cohorts are read whole and archives row by row: both understand the same odd table alike."""

from __future__ import annotations

import csv
import io
import tracemalloc
from dataclasses import fields, replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cohort_files import picture, write_image
from foveate.data.manifest.columns import Expected
from foveate.data.manifest.manifest import load_manifest
from foveate.data.manifest.names import digest, standing_twice
from foveate.data.manifest.paths import Root
from foveate.data.manifest.rows import ManifestRows, read_table
from foveate.deploy.archive.listing import Naming, case_of, manifest_lines
from foveate.deploy.engines.facts import Facts
from foveate.errors import InputRefused, ManifestRefused
from foveate.types import Case
from pixel_mean import FACTS

LABELS = replace(FACTS, classes=("x", "y"))
FINDINGS = replace(FACTS, task="multilabel", classes=("edema", "mass"))
READ_LATER = ("mask", "split", "metadata")  # of no use to an archive


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cohort")
    for number, name in enumerate(("1.png", "2.png", "2.jpg", "sub/3.png", "organ.png")):
        write_image(folder / name, picture(number, (16, 24)))
    for name in ("a.nii", "b.nii.gz"):
        nibabel.save(nibabel.Nifti1Image(np.zeros((8, 8, 4), np.int16), np.eye(4)), folder / name)
    return folder


def whole(path: Path, facts: Facts, naming: Naming) -> list[Case]:
    cohort = load_manifest(
        path,
        label=naming.label if naming.label != "label" else None,
        views=list(facts.views),
        patient=naming.patient,
        case=naming.case,
        expected=Expected(facts.task, facts.classes),
    )
    return [without(case) for case in cohort.cases]


def by_row(path: Path, facts: Facts, naming: Naming) -> list[Case]:
    return [without(case_of(line, Root.at(path.parent))) for line in manifest_lines(path, facts, naming)]


def without(case: Case) -> Case:
    kept = {field.name: getattr(case, field.name) for field in fields(Case) if field.name not in READ_LATER}
    return Case(**kept)


def table(folder: Path, text: str, **options: str) -> Path:
    path = folder / "m.csv"
    path.write_text(text, newline="", **options)
    return path


ODD = {
    "BOM, semicolons, Windows lines": (
        "\ufeffcase_id;patient_id;label;image\r\n007;01;x;1.png\r\n008;01;y;2.png\r\n"
    ),
    "tabs, an unnamed column, empty fields at the end": (
        "case_id\t\tpatient_id\tlabel\timage\n1\tz\tp\tx\t1.png\t\t\n2\t\tp\ty\t2.png\n"
    ),
    "blank lines and blanks around cells": (
        "\n \ncase_id , patient_id,label,image\n\n a , p ,x, 1.png \n,,,\nb,q,,2.png\n"
    ),
    "quoted line breaks, separators and quotes": (
        'case_id,patient_id,label,image,note\n"a\nb",p,x,1.png,"1; ""two""\r\nthree"\n"c,d",q,y,2.png,\n'
    ),
    "lines of an old Mac": "case_id,patient_id,label,image\ra,p,x,1.png\rb,q,y,2.png\r",
    "relative paths, Windows paths, organs": (
        "case_id,patient_id,label,image,organ_mask\n01,p,x,./sub/../1.png,organ.png\n1,p,y,sub\\3.png,\n"
    ),
    "no names: endings only where they are needed": (
        "patient_id,label,image\n01,x,1.png\n02,y,2.png\n02,x,2.jpg\n03,y,sub/3.png\n"
    ),
    "no truth, no patients": "case_id,image\n001,1.png\n002,2.png\n",
    "slices of volumes": (
        "patient_id,label,image,slice\np,x,a.nii,0\np,y,a.nii,3.0\nq,x,b.nii.gz,1\nq,y,b.nii.gz,2\n"
    ),
    "slices that are none": "patient_id,label,image,slice\np,x,1.png,upper\nq,y,2.png,7\n",
}


@pytest.mark.parametrize("text", ODD.values(), ids=ODD.keys())
def test_both_readers_read_an_odd_table_alike(folder: Path, text: str) -> None:
    path = table(folder, text)
    cases = whole(path, LABELS, Naming())
    assert cases == by_row(path, LABELS, Naming())
    assert len(cases) in (2, 4) and all(case.views["image"].exists() for case in cases)


def test_what_is_odd_is_read_as_it_stands_there(folder: Path) -> None:
    """By hand: zeros in front stay, blanks are unknown, and a name is as long as it must be."""
    zeros = by_row(table(folder, ODD["BOM, semicolons, Windows lines"]), LABELS, Naming())
    assert [(case.case_id, case.patient_id, case.row) for case in zeros] == [
        ("007", "01", 2),
        ("008", "01", 3),
    ]
    blank = by_row(table(folder, ODD["blank lines and blanks around cells"]), LABELS, Naming())
    assert [(case.case_id, case.label, case.row) for case in blank] == [("a", "x", 5), ("b", None, 7)]
    quoted = by_row(table(folder, ODD["quoted line breaks, separators and quotes"]), LABELS, Naming())
    assert [(case.case_id, case.row) for case in quoted] == [("a\nb", 2), ("c,d", 5)]
    named = by_row(table(folder, ODD["no names: endings only where they are needed"]), LABELS, Naming())
    assert [case.case_id for case in named] == ["1", "2.png", "2.jpg", "sub/3"]
    sliced = by_row(table(folder, ODD["slices of volumes"]), LABELS, Naming())
    assert [(case.case_id, case.slice_index) for case in sliced[:2]] == [("a#0", 0), ("a#3.0", 3)]
    plane = by_row(table(folder, ODD["slices that are none"]), LABELS, Naming())
    assert [(case.case_id, case.slice_index) for case in plane] == [("1", None), ("2", None)]


def test_findings_and_columns_of_other_names_are_read_alike(folder: Path) -> None:
    text = "scan,who,image,edema,more\n01,x,1.png,1,a\n02,x,2.png,,b\n03,y,2.jpg,0.0,c\n"
    path, naming = table(folder, text), Naming(case="scan", patient="who")
    cases = whole(path, FINDINGS, naming)
    assert cases == by_row(path, FINDINGS, naming)
    assert [case.findings for case in cases] == [{"edema": 1}, {"edema": None}, {"edema": 0}]


def test_both_readers_say_the_same_of_rows_that_are_none(folder: Path) -> None:
    """A cohort is refused with all of them; an archive leaves each of them out."""
    text = (
        "case_id,patient_id,edema,image,slice\n"
        "a,p,1,a.nii,0\nb,p,2,a.nii,1\nc,,1,a.nii,2\n,p,1,b.nii.gz,0\nd,p,1,,0\ne,p,0,b.nii.gz,top\nshort,p\n"
    )
    path = table(folder, text)
    with pytest.raises(ManifestRefused) as refused:
        whole(path, FINDINGS, Naming())
    lines = [line for line in manifest_lines(path, FINDINGS, Naming()) if "code" in line]
    assert [f"{line['where']}: {line['what']}" for line in lines] == list(refused.value.problems)
    assert [line["row"] for line in lines] == [3, 4, 5, 6, 7, 8]
    assert {line["code"] for line in lines} == {"bad-row"}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n \n",
        b"case_id,image,image\na,1.png,2.png\n",
        b"case_id,image\n\xff,1.png\n",
        b'case_id,image\na,"1.png\n',
        b"PK\x03\x04 a workbook",
        "case_id,image\n".encode("utf-16"),
        b"case_id,image\na\0,1.png\n",
        b"case_id,image\n" + 500 * b"a,1.png\n" + b"a\0,1.png\n",
        None,
    ],
)
def test_both_readers_refuse_what_is_no_table_alike(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "m.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputRefused) as one:
        read_table(path)
    with pytest.raises(InputRefused) as other:
        list(ManifestRows.at(path))
    assert str(one.value) == str(other.value) and type(one.value) is type(other.value)


CELL = st.text(st.sampled_from('ab01 ,;"\n\r\t.ä'), max_size=5)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(CELL, CELL, CELL), min_size=1, max_size=6), st.sampled_from(",;\t"), st.booleans())
def test_rows_survive_writing_and_reading(
    tmp_path: Path, rows: list[tuple[str, str, str]], mark: str, marked: bool
) -> None:
    """Both readers give what Python's own writer was given, whatever stands in a cell."""
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, delimiter=mark)
    writer.writerows([("one", "two", "three"), *rows])
    path = tmp_path / "m.csv"
    path.write_bytes(stream.getvalue().encode("utf-8-sig" if marked else "utf-8"))
    expected = [tuple(cell.strip() for cell in row) for row in rows if any(cell.strip() for cell in row)]
    found = [tuple(row.values.values()) for row in ManifestRows.at(path)]  # type: ignore[union-attr]
    assert found == expected
    if expected:
        assert [tuple(row.values.values()) for row in read_table(path).rows] == expected


def test_what_an_archive_holds_grows_by_some_bytes_a_row(tmp_path: Path) -> None:
    def peak(rows: int) -> int:
        path = tmp_path / f"{rows}.csv"
        with path.open("w") as stream:
            stream.write("patient_id,label,image,note\n")
            stream.writelines(f"p{n},x,folder/{n:09d}.png,{'long ' * 20}\n" for n in range(rows))
        tracemalloc.start()
        count = sum("code" not in line for line in manifest_lines(path, LABELS, Naming()))
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert count == rows
        return most

    assert (peak(6000) - peak(2000)) / 4000 < 100, "a row alone has 140 bytes, and takes some hundreds read"


def test_texts_that_stand_twice_are_known_by_eight_bytes() -> None:
    names = [str(number) for number in range(1000)]
    assert standing_twice(names) == frozenset() == standing_twice([])
    assert standing_twice([*names, "7", "11", "7"]) == {digest("7"), digest("11")}
