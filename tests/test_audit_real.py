"""The audit on real sets: what their descriptions say is wrong with them, and what they do not say."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pandas
import pytest

from cohort_files import Row, write_csv
from foveate.data.audit.audit import audit_cohort
from foveate.data.manifest.manifest import load_manifest
from foveate.data.splits import split_cohort
from foveate.errors import AuditStopped
from foveate.evaluate.results.audit import Audit, Finding
from foveate.study.settings import SplitConfig


def found(audit: Audit) -> dict[str, Finding]:
    return {finding.code: finding for finding in audit.findings}


class TestRealData:
    def test_busi_near_duplicates_and_contradictions(self, real_data: Path) -> None:
        path = real_data / "busi" / "labels.csv"
        audit = audit_cohort(load_manifest(path, patient="near_dup_group"))
        table = pandas.read_csv(path)
        table.index = [name.removesuffix(".jpg") for name in table["image"]]
        known = [set(names) for names in table.groupby("near_dup_group").groups.values() if len(names) > 1]
        assert len(known) == 86
        assert all(any(group <= set(ours) for ours in audit.groups) for group in known)  # every group, whole
        ours = {name for group in audit.groups for name in group}
        assert len(ours & set.union(*known)) / len(ours) > 0.96  # the others lie just below r = 0.97 there
        torn = {frozenset(group) for group in found(audit)["conflicting-labels"].groups}
        mixed = table.groupby("near_dup_group")["label"].nunique()
        assert torn == {
            frozenset(table.index[table["near_dup_group"] == name]) for name in mixed.index[mixed > 1]
        }
        with pytest.raises(AuditStopped, match="--allow conflicting-labels"):
            audit.raise_if_stopped()

    def test_idrid_images_that_come_again(self, real_data: Path, tmp_path: Path) -> None:
        folder = real_data / "idrid"
        grading = pandas.read_csv(folder / "grading_labels.csv")
        rows: list[Row] = [
            {"image": name, "label": str(grade), "part": "grading"}
            for name, grade in zip(grading["path"], grading["dr_grade"], strict=True)
        ]
        lesions = sorted((folder / "seg_images").iterdir())
        rows += [
            {"image": f"seg_images/{path.name}", "label": "lesions", "part": "lesions"} for path in lesions
        ]
        cohort = load_manifest(write_csv(tmp_path / "m.csv", rows), root=folder, patient="case_id")
        audit = audit_cohort(cohort)
        across = [group for group in audit.groups if len({name.split("/")[0] for name in group}) > 1]
        # By eye and by r > 0.9965 there are 44 such pairs; photographs of other eyes reach r = 0.9946.
        assert len(across) >= 42 and all(len(group) == 2 for group in across)
        assert len(audit.groups) - len(across) <= 3

    def test_the_official_test_part_of_nih(self, real_data: Path) -> None:
        cohort = load_manifest(real_data / "nih_cxr14_1000" / "labels.csv")
        audit = audit_cohort(cohort, splits=split_cohort(cohort, SplitConfig(column="official_split")))
        said = [finding.message for finding in audit.findings if finding.code == "one-sided-class"]
        assert any(text.startswith("test (83 cases) has no negative case of Pneumonia") for text in said)

    def test_chest_radiographs_of_different_patients_are_no_twins(self, real_data: Path) -> None:
        cohort = load_manifest(real_data / "nih_kcr64" / "labels.csv")
        audit = audit_cohort(cohort)
        patient = {case.case_id: case.patient_id for case in cohort.cases}
        assert len(audit.groups) >= 5
        assert all(len({patient[name] for name in group}) == 1 for group in audit.groups)

    def test_shadows_on_skin_are_no_twins(self, real_data: Path) -> None:
        cohort = load_manifest(
            real_data / "milk10k_pairs" / "labels.csv",
            case="lesion_id",
            patient="lesion_id",
            views=["clinical"],
        )
        # Nine close-ups of different arms and legs that correlate above 0.965, as all get dark to one side.
        alike = {"IL_3853188", "IL_7636266", "IL_2714840", "IL_8735984", "IL_3852871", "IL_0855898"}
        alike |= {"IL_0636666", "IL_7385795", "IL_4974594"}
        few = [case for number, case in enumerate(cohort.cases) if case.case_id in alike or number % 12 == 0]
        audit = audit_cohort(replace(cohort, cases=tuple(few)))
        assert alike <= {case.case_id for case in few} and audit.groups == ()

    def test_dark_volumes_of_acdc(self, real_data: Path, tmp_path: Path) -> None:
        rows: list[Row] = []
        dark = set()
        for path in sorted((real_data / "acdc_ed_es" / "volumes").glob("*.npz")):
            values = np.load(path)["ed"]
            fewer = np.ascontiguousarray(values.T[::4, ::4])
            nibabel.save(nibabel.Nifti1Image(fewer, np.eye(4)), tmp_path / f"{path.stem}.nii")
            rows.append({"case_id": path.stem, "label": "xy"[len(rows) % 2], "image": f"{path.stem}.nii"})
            if np.percentile(values, 99) < 32:
                dark.add(path.stem)
        audit = audit_cohort(load_manifest(write_csv(tmp_path / "m.csv", rows), patient="case_id"))
        assert len(dark) == 2
        assert set(found(audit)["dark-image"].case_ids) == dark

    def test_sipakmed_split_by_cell(self, real_data: Path) -> None:
        cohort = load_manifest(real_data / "sipakmed" / "labels.csv", patient="slide_image")
        cells = replace(cohort, cases=tuple(replace(case, patient_id=case.case_id) for case in cohort.cases))
        started = time.perf_counter()
        audit = audit_cohort(cohort, splits=split_cohort(cells))
        assert time.perf_counter() - started < 60  # 3,047 images; 30 s on two cores of one's own
        assert [item.code for item in audit.stopping] == [
            "patient-in-two-splits",
            "duplicate-in-two-splits",
            "conflicting-labels",
        ]
        # One cell that was photographed twice, in two slide images, and filed under two classes.
        assert ("images/Koilocytotic/016_02", "images/Metaplastic/094_02") in audit.groups
