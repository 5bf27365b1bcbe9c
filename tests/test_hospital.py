"""A hospital's export of real DICOM files becomes a table of series and a manifest that is read right."""

from __future__ import annotations

import csv
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from typer.testing import CliRunner

from dicom_files import FILES, dataset, slice_tags, write_dicom
from foveate.cli.app import app
from foveate.data.hospital.choices import ExportChoices, HospitalManifest
from foveate.data.hospital.export import manifest_from_export
from foveate.data.hospital.rules import rules_from_file, rules_from_options
from foveate.data.hospital.store import HeaderStore
from foveate.data.hospital.volumes import parts_of
from foveate.data.manifest.manifest import load_manifest
from foveate.errors import InputRefused, ManifestRefused, UsageError
from foveate.io.listed import listed_files
from foveate.io.reading import read_image

DRAW = np.random.default_rng(31)
AXIAL, SAGITTAL = (1, 0, 0, 0, 1, 0), (0, 1, 0, 0, 0, -1)


class Hospital:
    """Writes an export as archives do: any folders, names that say nothing."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.count = folder, 0

    def write(self, made: Dataset, place: str = "") -> Path:
        self.count += 1
        path = self.folder / place / f"I{self.count:06d}"
        path.parent.mkdir(parents=True, exist_ok=True)
        return write_dicom(path, made)

    def series(
        self, patient: str, study: str, description: str, *, slices: int = 4, place: str = "", value: int = 0,
        cosines: tuple[int, ...] = AXIAL, tags: Mapping[str, Any] = {}, uid: str = "",
    ) -> str:  # fmt: skip
        """Slices from the top down, in files whose order says nothing; pixels of slice k are value + k."""
        uid = uid or generate_uid()
        normal = np.cross(cosines[:3], cosines[3:])
        for k in DRAW.permutation(slices):
            made = dataset(np.full((6, 5), value + k, np.uint16), slice_tags(normal * k * 3.0, cosines))
            made.PatientID, made.StudyInstanceUID, made.SeriesInstanceUID = patient, study, uid
            made.StudyDate, made.AccessionNumber, made.Modality = "20240131", f"A{study}", "CT"
            made.SeriesDescription, made.InstanceNumber, made.PatientName = (
                description,
                int(k) + 1,
                "DOE^JOHN",
            )
            for name, told in tags.items():
                setattr(made, name, told)
            self.write(made, place)
        return uid


def table_of(found: HospitalManifest) -> list[dict[str, str]]:
    with found.table.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def rows_of(found: HospitalManifest) -> list[dict[str, str]]:
    assert found.path is not None
    with found.path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def made_of(folder: Path, *rules: str, **choices: Any) -> HospitalManifest:
    return manifest_from_export(
        folder, folder.parent / "manifest.csv", ExportChoices(rules_from_options(rules), **choices)
    )


def test_phases_of_a_flat_export_become_views_that_read_as_they_were_written(tmp_path: Path) -> None:
    """Two studies in one folder, slices mixed: each view is a list of files that reads as its series."""
    hospital = Hospital(tmp_path / "export")
    for k, patient in enumerate(("P1", "P2")):
        hospital.series(patient, f"1.2.{k}", "Liver Arterial 2.0", value=100 * k)
        hospital.series(patient, f"1.2.{k}", "Liver portal VENOUS", value=100 * k + 50, slices=5)
        hospital.series(patient, f"1.2.{k}", "scout", cosines=SAGITTAL, slices=1)
    (tmp_path / "export" / "README.txt").write_text("from the archive")
    write_dicom(
        tmp_path / "export" / "report", dataset(np.ones((2, 2), np.uint8), {"Rows": None, "Modality": "SR"})
    )
    found = made_of(tmp_path / "export", "ART=.*arterial.*", "PV=portal")
    assert (found.export.images, found.export.without_image, found.export.others) == (20, 1, 1)
    rows = rows_of(found)
    assert [row["patient_id"] for row in rows] == ["P1", "P2"] and found.views == {"ART": 2, "PV": 2}
    assert [row["case_id"] for row in rows] == ["P1_20240131", "P2_20240131"]
    for k, row in enumerate(rows):
        for view, start, depth in (("ART", 100 * k, 4), ("PV", 100 * k + 50, 5)):
            image = read_image(tmp_path / row[view])
            assert image.pixels[0, :, 0, 0].tolist() == list(range(start, start + depth))
            assert image.geometry.spacing == (3.0, 0.8, 0.5)
    assert any("no rule fits: 2" in note and "scout" in note for note in found.notes)
    columns = {
        (row["description"], row["plane"], row["slices"], row["slice_mm"], row["view"])
        for row in table_of(found)
    }
    assert ("Liver Arterial 2.0", "axial", "4", "3", "ART") in columns and (
        "scout",
        "sagittal",
        "1",
        "",
        "",
    ) in columns
    assert "DOE" not in found.table.read_text() + found.path.read_text()  # type: ignore[union-attr]


def test_a_series_with_a_folder_of_its_own_is_named_by_it(tmp_path: Path) -> None:
    hospital = Hospital(tmp_path / "export")
    hospital.series("P1", "1.2", "arterial", place="DICOM/S1/SE1")
    hospital.series("P1", "1.2", "venous", place="DICOM/S1/SE2", slices=1)
    row = rows_of(made_of(tmp_path / "export", "ART=arterial", "PV=venous"))[0]
    assert row["ART"] == "export/DICOM/S1/SE1" and row["PV"] == "export/DICOM/S1/SE2/I000005"


def test_labels_join_and_what_does_not_is_told(tmp_path: Path) -> None:
    hospital = Hospital(tmp_path / "export")
    for name in ("00017", "P2", "P3"):
        hospital.series(name, f"1.{len(name)}.{name[-1]}", "arterial", slices=2)
    labels = tmp_path / "labels.csv"
    labels.write_text("Patient ID;label;grade\n17;HCC;2\nP2;cyst;1\nP9;cyst;3\n")
    found = made_of(tmp_path / "export", "image=arterial", labels=labels)
    assert [(row["patient_id"], row["label"], row["grade"]) for row in rows_of(found)] == [
        ("00017", "", ""), ("P2", "cyst", "1"), ("P3", "", ""),
    ]  # fmt: skip
    text = "\n".join(found.notes)
    assert (
        "1 of 3 cases" in text and "'00017', which differs in zeros" in text and "row 4: patient 'P9'" in text
    )
    assert "cases without a row of labels: 2: 00017_20240131, P3_20240131" in text
    labels.write_text("AccessionNumber,PatientID,label\nA1.2.2,P2,cyst\nA1.2.2,P2,HCC\n")
    found.path.unlink()  # type: ignore[union-attr]
    with pytest.raises(ManifestRefused, match="row 3"):
        made_of(tmp_path / "export", "image=arterial", labels=labels)
    labels.write_text("AccessionNumber,PatientID,label\nA1.2.2,P2,cyst\n")
    assert "by accession" in "\n".join(made_of(tmp_path / "export", "image=arterial", labels=labels).notes)


def test_the_manifest_is_one_that_runs_take(tmp_path: Path) -> None:
    hospital = Hospital(tmp_path / "export")
    for k in range(4):
        hospital.series(f"P{k}", f"1.2.{k}", "arterial", slices=3, value=10 * k)
        hospital.series(f"P{k}", f"1.2.{k}", "venous", slices=3, place=f"deep/{k}")
    (tmp_path / "labels.csv").write_text("PatientID,label\nP0,a\nP1,b\nP2,a\nP3,b\n")
    found = made_of(tmp_path / "export", "ART=arterial", "PV=venous", labels=tmp_path / "labels.csv")
    cohort = load_manifest(found.path)  # type: ignore[arg-type]
    assert cohort.view_names == ("ART", "PV") and cohort.classes == ("a", "b") and len(cohort.cases) == 4
    assert read_image(cohort.cases[2].views["ART"]).pixels[0, 0, 0, 0] == 20


@pytest.mark.parametrize(
    ("tag", "values", "names"),
    [
        ("TemporalPositionIdentifier", [1, 2, 3], ["time=1", "time=2", "time=3"]),
        ("EchoTime", [4.6, 92.0], ["echo=4.6", "echo=92"]),
        ("DiffusionBValue", [0.0, 50.0, 800.0], ["b=0", "b=50", "b=800"]),
        ("AcquisitionNumber", [7, 9], ["acquisition=7", "acquisition=9"]),
        ("ImageType", [["ORIGINAL", "M"], ["ORIGINAL", "P"]], ["type=ORIGINAL\\M", "type=ORIGINAL\\P"]),
    ],
)
def test_a_series_of_several_volumes_is_split(
    tmp_path: Path, tag: str, values: list[Any], names: list[str]
) -> None:
    hospital = Hospital(tmp_path / "export")
    uid = generate_uid()
    for k, value in enumerate(values):
        hospital.series("P1", "1.2", "dyn", uid=uid, value=10 * k, tags={tag: value})
    found = made_of(tmp_path / "export", *(f"V{k}={re.escape(name)}$" for k, name in enumerate(names)))
    assert [row["part"] for row in table_of(found)] == names
    row = rows_of(found)[0]
    for k in range(len(values)):
        volume = read_image(tmp_path / row[f"V{k}"])
        assert volume.pixels[0, :, 0, 0].tolist() == [10 * k + s for s in range(4)]


def test_siemens_b_values_tell_volumes_apart(tmp_path: Path) -> None:
    hospital = Hospital(tmp_path / "export")
    uid = generate_uid()
    for k, b in enumerate(("0", "1000")):
        for z in range(3):
            made = dataset(
                np.full((4, 4), k, np.uint16), slice_tags((0, 0, 2.0 * z)) | {"SeriesInstanceUID": uid}
            )
            made.private_block(0x0019, "SIEMENS MR HEADER", create=True).add_new(0x0C, "IS", b)
            made.SeriesDescription, made.Modality = "ep2d_diff", "MR"
            hospital.write(made)
    row = rows_of(made_of(tmp_path / "export", "b0=b=0$", "b1000=b=1000"))[0]
    assert [read_image(tmp_path / row[view]).pixels.max() for view in ("b0", "b1000")] == [0, 1]


def test_volumes_that_nothing_tells_apart_and_gaps_are_named_and_left_out(tmp_path: Path) -> None:
    hospital = Hospital(tmp_path / "export")
    uid = generate_uid()
    for value in (0, 10):
        hospital.series("P1", "1.2", "perfusion", uid=uid, value=value)
    hospital.series("P1", "1.2", "gapped", slices=5, place="gap")
    for path in (tmp_path / "export" / "gap").iterdir():
        if dcmread(path).InstanceNumber == 2:
            path.unlink()
    found = made_of(tmp_path / "export", "A=perfusion", "B=gapped")
    assert rows_of(found) == []
    text = "\n".join(found.notes)
    assert (
        "no single volume or image: 2" in text
        and "not evenly spaced" in text
        and "4 slices lie where another" in text
    )


def test_localizers_radiographs_and_copies_are_told_apart(tmp_path: Path) -> None:
    hospital = Hospital(tmp_path / "export")
    uid = generate_uid()
    for cosines in (AXIAL, SAGITTAL):
        hospital.series("P1", "1.1", "scout", uid=uid, cosines=cosines, slices=3)
    chest = generate_uid()
    for view in ("PA", "LL"):
        tags = {"PatientID": "P2", "StudyInstanceUID": "1.2", "SeriesInstanceUID": chest, "Modality": "DX"}
        hospital.write(
            dataset(np.ones((4, 4), np.uint16), tags | {"ViewPosition": view, "SeriesDescription": "Thorax"})
        )
    made = dcmread(
        hospital.write(dataset(np.ones((4, 4), np.uint16), {"PatientID": "P3", "SeriesDescription": "hand"}))
    )
    hospital.write(made, "copy")
    found = made_of(tmp_path / "export", "image=thorax|hand", case="series")
    parts = [(row["description"], row["part"], row["plane"], row["files"]) for row in table_of(found)]
    assert sorted(parts) == [
        ("Thorax", "LL", "", "1"), ("Thorax", "PA", "", "1"), ("hand", "", "", "1"),
        ("scout", "axial", "axial", "3"), ("scout", "sagittal", "sagittal", "3"),
    ]  # fmt: skip
    assert len(rows_of(found)) == 3
    assert len({row["case_id"] for row in rows_of(found)}) == 3


def test_patients_are_known_by_id_and_issuer_and_never_by_name(tmp_path: Path) -> None:
    hospital = Hospital(tmp_path / "export")
    for k, (patient, issuer) in enumerate(
        [("7", "A"), ("7", "B"), ("8", "A"), ("8", ""), ("", ""), ("", "")]
    ):
        hospital.series(patient, f"1.2.{k}", "arterial", slices=2, tags={"IssuerOfPatientID": issuer})
    found = made_of(tmp_path / "export", "image=arterial")
    assert sorted(row["patient_id"] for row in rows_of(found)) == [
        "7@A", "7@B", "8@A", "8@A", "study-1.2.4", "study-1.2.5",
    ]  # fmt: skip
    assert any("without a Patient ID" in note and ": 2:" in note for note in found.notes)


def test_pseudonyms_tell_nothing_and_stay_the_same(tmp_path: Path) -> None:
    hospital = Hospital(tmp_path / "data" / "export")
    hospital.series("SECRET1", "1.2.3.777", "arterial", slices=2, tags={"AccessionNumber": "ACC99"})
    later = {"AccessionNumber": "ACC98", "StudyDate": "20240210"}
    hospital.series("SECRET1", "1.2.3.888", "arterial", slices=2, tags=later)
    labels = tmp_path / "labels.csv"
    labels.write_text("AccessionNumber,label\nACC99,a\nACC98,b\n")
    key = tmp_path / "safe" / "key.json"
    key.parent.mkdir()
    found = made_of(tmp_path / "data" / "export", "image=arterial", labels=labels, pseudonyms=key)
    rows = rows_of(found)
    assert len({row["patient_id"] for row in rows}) == 1 and sorted(row["study_day"] for row in rows) == [
        "0",
        "10",
    ]
    assert sorted(row["label"] for row in rows) == ["a", "b"] and found.headers.parent == key.parent
    told = "".join(path.read_text() for path in (found.path, found.table) if path) + "".join(found.notes)
    for secret in ("SECRET1", "ACC9", "202401", "202402", "1.2.3.777", "1.2.3.888", "DOE"):
        assert secret not in told
    assert key.stat().st_mode & 0o077 == 0 and "SECRET1" in key.read_text()
    found.path.unlink()  # type: ignore[union-attr]
    assert (
        rows_of(made_of(tmp_path / "data" / "export", "image=arterial", labels=labels, pseudonyms=key))
        == rows
    )
    found.path.unlink()  # type: ignore[union-attr]
    with pytest.raises(UsageError, match="must not lie where"):
        made_of(tmp_path / "data" / "export", "x=y", pseudonyms=tmp_path / "data" / "key.json")
    key.write_text("{}")
    with pytest.raises(InputRefused, match="no key file"):
        made_of(tmp_path / "data" / "export", "image=arterial", pseudonyms=key)


def test_what_fits_two_rules_or_competes_is_named(tmp_path: Path) -> None:
    hospital = Hospital(tmp_path / "export")
    hospital.series("P1", "1.2", "arterial", slices=2)
    hospital.series("P1", "1.2", "arterial late", slices=3, tags={"SeriesNumber": 5})
    hospital.series("P1", "1.2", "arterial and venous", slices=2)
    found = made_of(tmp_path / "export", "ART=arterial", "PV=venous")
    text = "\n".join(found.notes)
    assert (
        "several rules" in text
        and "ART and PV" in text
        and "compete for ART" in text
        and rows_of(found) == []
    )
    rules = tmp_path / "rules.yaml"
    rules.write_text(
        yaml.safe_dump(
            {"ART": {"description": "arterial( late)?$", "choose": "most slices", "slices": ">= 2"}}
        )
    )
    found.path.unlink()  # type: ignore[union-attr]
    chosen = manifest_from_export(
        tmp_path / "export", tmp_path / "manifest.csv", ExportChoices(rules_from_file(rules))
    )
    assert read_image(tmp_path / rows_of(chosen)[0]["ART"]).pixels.shape == (1, 3, 6, 5)
    assert any(row["note"] == "another series of the view was chosen" for row in table_of(chosen))


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ("ART: {colour: red}", "no column 'colour'"),
        ("ART: {slices: many}", "no condition"),
        ("ART: {choose: best}", "no choice"),
        ("ART: {description: '('}", "regular expression"),
        ("ART: 3", "columns and what they hold"),
        ("- ART", "mapping"),
    ],
)
def test_rules_that_say_nothing_are_refused(tmp_path: Path, content: str, word: str) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(content)
    with pytest.raises(UsageError, match=word):
        rules_from_file(path)
    for option in ("ART", "=x", "A=("):
        with pytest.raises(UsageError):
            rules_from_options([option])
    with pytest.raises(UsageError, match="twice"):
        rules_from_options(["A=x", "A=y"])


def test_lists_are_refused_where_they_lead_out_or_name_nothing(tmp_path: Path) -> None:
    inside = write_dicom(tmp_path / "a.dcm", dataset(np.ones((2, 2), np.uint8)))
    lists = tmp_path / "data" / "lists"
    lists.mkdir(parents=True)
    for content, word in [
        (f"foveate-series 1\n../../{inside.name}\n", "leads out"),
        ("foveate-series 1\n", "names no file"),
        ("foveate-series 2\nx\n", "first line"),
        ("foveate-series 1\nx.series\n", "no DICOM file"),
        ("foveate-series 1\n../b.dcm\n../b.dcm\n", "twice"),
    ]:
        (lists / "x.series").write_text(content)
        with pytest.raises(InputRefused, match=word):
            read_image(lists / "x.series")
    write_dicom(tmp_path / "data" / "b.dcm", dataset(np.ones((2, 2), np.uint8)))
    (lists / "x.series").write_text("foveate-series 1\n../b.dcm\n")
    assert len(listed_files(lists / "x.series")) == 1 and read_image(lists / "x.series").pixels.shape == (
        1,
        1,
        2,
        2,
    )


def test_damaged_headers_are_named_and_cost_nothing_else(tmp_path: Path) -> None:
    hospital = Hospital(tmp_path / "export")
    hospital.series("P1", "1.2", "arterial", slices=2)
    whole = (tmp_path / "export" / "I000001").read_bytes()
    (tmp_path / "export" / "torn").write_bytes(whole[:180])
    found = made_of(tmp_path / "export", "image=arterial")
    assert found.cases == 1 and found.export.images == 2 and found.export.files == 3


def test_multi_frame_files_are_parts_of_their_own(tmp_path: Path) -> None:
    """pydicom's own enhanced and cine files: what the reader takes alone is a row, and reads."""
    folder = tmp_path / "export"
    folder.mkdir()
    for name in ("examples_ybr_color.dcm", "CT_small.dcm", "SC_rgb_rle_2frame.dcm"):
        (folder / name).write_bytes((FILES / name).read_bytes())
    found = made_of(folder, "image=.*", case="series")
    assert found.cases == 3
    shapes = sorted(read_image(tmp_path / row["image"]).geometry.shape for row in rows_of(found))
    assert shapes == [(2, 100, 100), (30, 240, 320), (128, 128)]


def enhanced(volumes: int, places: int) -> Dataset:
    """A multi-frame object of several volumes: pixels of volume v in place z are 10 v + z."""
    frames = np.array([np.full((4, 4), 10 * v + z, np.uint16) for v in range(volumes) for z in range(places)])
    made = dataset(frames, {"Modality": "MR", "SeriesDescription": "dyn", "PatientID": "P1"})
    shared, orientation, measures = Dataset(), Dataset(), Dataset()
    orientation.ImageOrientationPatient, measures.PixelSpacing = list(AXIAL), [1, 1]
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [orientation], [measures]
    made.SharedFunctionalGroupsSequence, groups = [shared], []
    for k in range(len(frames)):
        group, place, content = Dataset(), Dataset(), Dataset()
        place.ImagePositionPatient = [0, 0, 5.0 * (k % places)]
        content.TemporalPositionIndex = k // places + 1
        group.PlanePositionSequence, group.FrameContentSequence = [place], [content]
        groups.append(group)
    made.PerFrameFunctionalGroupsSequence = groups
    return made


def test_volumes_inside_one_file_are_parts_that_are_named_by_number(tmp_path: Path) -> None:
    hospital = Hospital(tmp_path / "export")
    hospital.write(enhanced(3, 4))
    row = rows_of(made_of(tmp_path / "export", "A=volume=0", "B=volume=2"))[0]
    assert row["B"] == "export/I000001#2"
    for view, start in (("A", 0), ("B", 20)):
        image = read_image(tmp_path / row[view])
        assert image.pixels[0, :, 0, 0].tolist() == [start + z for z in range(4)]
        assert image.geometry.spacing == (5.0, 1.0, 1.0)


def test_parts_of_a_concatenation_are_named_and_refused(tmp_path: Path) -> None:
    hospital = Hospital(tmp_path / "export")
    made = enhanced(1, 4)
    made.ConcatenationUID, made.InConcatenationNumber, made.InConcatenationTotalNumber = "1.2.9", 1, 2
    path = hospital.write(made)
    with pytest.raises(InputRefused, match="one of 2 files"):
        read_image(path)
    found = made_of(tmp_path / "export", "A=dyn")
    assert rows_of(found) == [] and any("concatenation" in note for note in found.notes)


def test_results_of_a_study_are_no_series_of_images(tmp_path: Path) -> None:
    """A segmentation and an overlay in colour lie beside their images in every archive."""
    hospital = Hospital(tmp_path / "export")
    hospital.series("P1", "1.2", "arterial", slices=3)
    (tmp_path / "export" / "seg").write_bytes((FILES / "liver_1frame.dcm").read_bytes())
    overlay = dataset(np.zeros((4, 4, 3), np.uint8), {"PatientID": "P1", "SeriesDescription": "arterial"})
    overlay.SOPClassUID = overlay.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    source = Dataset()
    source.ReferencedSOPClassUID, source.ReferencedSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", "1.2"
    overlay.SourceImageSequence = [source]
    hospital.write(overlay)
    found = made_of(tmp_path / "export", "A=arterial")
    assert (found.export.images, found.export.without_image, found.cases) == (3, 2, 1)


def test_a_real_file_set_is_listed_as_its_directory_lists_it(tmp_path: Path) -> None:
    """pydicom's tree of CR, CT and MR: as many files of each series as its DICOMDIR has records."""
    for part in ("77654033", "98892001", "98892003"):
        shutil.copytree(FILES / "dicomdirtests" / part, tmp_path / "export" / part)
    shutil.copy(FILES / "dicomdirtests" / "DICOMDIR", tmp_path / "export")
    listed: Counter[tuple[str, str]] = Counter()
    patient = series = ""
    for record in dcmread(tmp_path / "export" / "DICOMDIR").DirectoryRecordSequence:
        patient, series = record.get("PatientID", patient), record.get("SeriesInstanceUID", series)
        listed[patient, series] += record.DirectoryRecordType == "IMAGE"
    listed = +listed  # without those that a record of a patient or study made
    found = made_of(tmp_path / "export", "image=.*", case="series")
    counted: Counter[tuple[str, str]] = Counter()
    for row in table_of(found):
        counted[row["patient_id"], row["series_uid"]] += int(row["files"])
    assert counted == listed and found.export.images == listed.total() == 31
    assert found.export.without_image == 1
    for row in rows_of(found):
        read_image(tmp_path / row["image"])


def test_places_that_do_not_work_are_refused(tmp_path: Path) -> None:
    Hospital(tmp_path / "export").series("P", "1.2", "x", slices=1)
    with pytest.raises(UsageError, match="above it"):
        manifest_from_export(tmp_path / "export", tmp_path / "elsewhere" / "m.csv", ExportChoices())
    (tmp_path / "m.csv").write_text("")
    with pytest.raises(UsageError, match="exists"):
        manifest_from_export(tmp_path / "export", tmp_path / "m.csv", ExportChoices())
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputRefused, match="none of 0 files"):
        manifest_from_export(tmp_path / "empty", tmp_path / "n.csv", ExportChoices())
    (tmp_path / "bad.sqlite").write_text("no data base, but long enough to be looked at" * 9)
    with pytest.raises(InputRefused, match="delete this file"):
        manifest_from_export(
            tmp_path / "export", tmp_path / "n.csv", ExportChoices(headers=tmp_path / "bad.sqlite")
        )


def test_changed_new_and_lost_files_are_noticed(tmp_path: Path) -> None:
    hospital = Hospital(tmp_path / "export")
    hospital.series("P1", "1.2", "arterial", slices=3)
    with HeaderStore(tmp_path / "h.sqlite", tmp_path / "export") as store:
        assert store.read().images == 3
        (tmp_path / "export" / "I000001").unlink()
        hospital.series("P2", "1.3", "venous", slices=2)
        changed = tmp_path / "export" / "I000002"
        made = dcmread(changed)
        made.SeriesDescription = "another one, longer"
        made.save_as(changed)
        assert store.read().images == 4
        texts = {part.text for files in store.series() for part in parts_of(files)}
    assert "another one, longer" in texts and "venous" in texts


def test_the_command_lists_writes_and_goes_on_after_a_kill(tmp_path: Path) -> None:
    """The real command: killed while it reads 900 headers, the next one reads only the rest."""
    hospital = Hospital(tmp_path / "export")
    for k in range(45):
        hospital.series(f"P{k % 15 % 9}", f"1.2.{k % 15}", f"phase {k // 15}", slices=20, uid=f"1.2.3.{k}")
    out, kept = tmp_path / "manifest.csv", tmp_path / "manifest.headers.sqlite"
    start = [sys.executable, "-c", "from foveate.cli.app import main; main()", "manifest", "--dicom"]
    command = [*start, str(tmp_path / "export"), "-o", str(out)]
    environment = os.environ | {"COLUMNS": "200"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    deadline = time.monotonic() + 60
    while not read_already(kept) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    known = read_already(kept)
    assert 0 < len(known) < 900, "the kill came too early or too late"
    disguised = tmp_path / "export" / known[0]  # of the same size and time: read anew, it would be seen
    times = disguised.stat()
    disguised.write_bytes(disguised.read_bytes().replace(b"phase ", b"PHASE_"))
    os.utime(disguised, ns=(times.st_atime_ns, times.st_mtime_ns))
    rules = ["--series", "A=phase 0", "--series", "B=phase 1"]
    done = subprocess.run([*command, *rules], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "900 DICOM images" in done.stdout and "phase 2" in done.stdout and "15 cases" in done.stdout
    assert "PHASE_" not in done.stdout + out.with_name("manifest.series.csv").read_text()
    with out.open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 15 and read_image(tmp_path / rows[3]["B"]).pixels.shape == (1, 20, 6, 5)


def read_already(store: Path) -> list[str]:
    """Files whose header is kept."""
    try:
        with closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True, timeout=1)) as base:
            return [row[0] for row in base.execute("SELECT path FROM files WHERE state IS NOT NULL")]
    except sqlite3.OperationalError:
        return []


def test_options_of_exports_need_dicom(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["manifest", str(tmp_path), "--series", "A=x"])
    assert isinstance(done.exception, UsageError) and "--dicom" in str(done.exception)
