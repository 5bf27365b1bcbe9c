"""The audit compares how images lie, units, sides, codes and masks, and stops where nothing mends it."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image as Picture

import foveate.io
from dicom_files import dataset, slice_tags, write_dicom
from foveate.data.audit.audit import audit_cohort
from foveate.data.audit.findings import SEVERITY
from foveate.data.audit.looks import plane_of
from foveate.data.manifest.manifest import load_manifest
from foveate.evaluate.results.audit import Audit, Finding
from foveate.io.codes import WARNINGS, in_words
from foveate.study.settings import PreprocessConfig
from foveate.types import Geometry

DRAW = np.random.default_rng(5)
VOLUMES = PreprocessConfig(size=(4, 8, 8))
KEPT = PreprocessConfig(size=(4, 8, 8), orientation="none")


def audited(folder: Path, rows: list[dict[str, str]], preprocess: PreprocessConfig | None = None) -> Audit:
    """Write a manifest and audit it."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [",".join(row.get(name, "") for name in names) for row in rows]
    (folder / "m.csv").write_text("\n".join([",".join(names), *lines]) + "\n")
    return audit_cohort(load_manifest(folder / "m.csv"), preprocess=preprocess)


def row(number: int, image: str, **more: str) -> dict[str, str]:
    return {
        "case_id": f"c{number}",
        "patient_id": f"p{number}",
        "label": "ab"[number % 2],
        "image": image,
        **more,
    }


def of(audit: Audit, code: str) -> list[Finding]:
    return [found for found in audit.findings if found.code == code]


def volumes(folder: Path, spacing: tuple[float, float, float] = (2, 2, 5)) -> list[dict[str, str]]:
    """Twelve volumes, every third turned once more and with other axes; nibabel turns them."""
    rows = []
    for number in range(12):
        image = nib.Nifti1Image(
            DRAW.integers(0, 200, (9, 8, 6)).astype(np.int16), np.diag([-spacing[0], -2, 5, 1])
        )
        if number % 3 == 1:
            image = nib.as_closest_canonical(image)
        if number % 3 == 2:
            image = image.as_reoriented(np.array([[2, 1], [1, -1], [0, 1]]))
        nib.save(image, folder / f"{number}.nii.gz")
        rows.append(row(number, f"{number}.nii.gz"))
    return rows


@pytest.mark.parametrize(("preprocess", "severity"), [(VOLUMES, "note"), (KEPT, "stop"), (None, "stop")])
def test_orientations_that_differ_are_noted_or_stop(
    tmp_path: Path, preprocess: PreprocessConfig | None, severity: str
) -> None:
    """-2, -2, 5 on the diagonal is LPS as DICOM has it (nibabel says LAS for its own order: to L, P, S)."""
    audit = audited(tmp_path, volumes(tmp_path), preprocess)
    (found,) = of(audit, "mixed-orientation")
    assert found.severity == severity and len(found.case_ids) == 8
    (view,) = audit.tables.images
    expected = {
        "".join(nib.aff2axcodes(nib.load(tmp_path / f"{number}.nii.gz").affine)): 4 for number in range(3)
    }
    assert view.orientations == expected and len(expected) == 3
    assert all(f"{name} 4" in found.message for name in expected)
    assert not of(audit, "mixed-spacing"), "the voxels have the same size along the same axes of the body"


def test_one_orientation_says_nothing(tmp_path: Path) -> None:
    rows = [each for number, each in enumerate(volumes(tmp_path)) if number % 3 == 0]
    assert not of(audited(tmp_path, rows, KEPT), "mixed-orientation")


def test_spacings_that_differ_are_noted_with_their_range(tmp_path: Path) -> None:
    rows = volumes(tmp_path)[::3]
    image = nib.Nifti1Image(DRAW.integers(0, 200, (9, 8, 6)).astype(np.int16), np.diag([-2, -2, 1.5, 1.0]))
    nib.save(image, tmp_path / "thin.nii.gz")
    (found,) = of(audited(tmp_path, [*rows, row(99, "thin.nii.gz")], VOLUMES), "mixed-spacing")
    assert "z 1.5 to 5 mm" in found.message and "y" not in found.message.partition(": ")[2]
    assert found.case_ids == ("c99",)


def test_some_images_without_a_place_are_named(tmp_path: Path) -> None:
    rows = volumes(tmp_path)[::3]
    header = nib.Nifti1Header()
    header.set_data_shape((9, 8, 6))
    header.set_data_dtype(np.int16)
    nib.save(nib.Nifti1Image(np.ones((9, 8, 6), np.int16), None, header), tmp_path / "lost.nii.gz")
    audit = audited(tmp_path, [*rows, row(99, "lost.nii.gz")], VOLUMES)
    assert [found.case_ids for found in of(audit, "without-orientation")] == [("c99",)]
    (noticed,) = of(audit, "reader-warning")
    assert noticed.case_ids == ("c99",) and in_words("nifti-without-affine") in noticed.message


def ct(path: Path, tags: dict[str, Any]) -> None:
    pixels = DRAW.integers(900, 1200, (12, 10)).astype(np.uint16)
    write_dicom(path, dataset(pixels, {"Modality": "CT", **tags}))


@pytest.mark.parametrize(("window", "severity"), [((-160.0, 240.0), "stop"), (None, "note")])
def test_a_window_over_two_units_stops(
    tmp_path: Path, window: tuple[float, float] | None, severity: str
) -> None:
    """All of class b have lost their rescale: the audit says which, of which class, and in which code."""
    rows = []
    for number in range(12):
        ct(tmp_path / f"{number}.dcm", {} if number % 2 else {"RescaleSlope": 1, "RescaleIntercept": -1024})
        rows.append(row(number, f"{number}.dcm"))
    audit = audited(tmp_path, rows, PreprocessConfig(window=window))
    (units,), (noticed,) = of(audit, "mixed-unit"), of(audit, "reader-warning")
    assert units.severity == severity and units.case_ids == noticed.case_ids == tuple(
        f"c{n}" for n in range(1, 12, 2)
    )
    for found in (units, noticed):
        assert "0 of 6 a, 6 of 6 b" in found.message
    assert noticed.message.startswith("ct-without-hounsfield: ")
    (view,) = audit.tables.images
    assert view.units == {"HU": 6, "stored": 6} and view.warnings == {"ct-without-hounsfield": 6}


def test_slices_of_two_planes_stop_and_sides_and_positions_are_noted(tmp_path: Path) -> None:
    rows = []
    for number in range(8):
        cosines = (1, 0, 0, 0, 1, 0) if number < 6 else (1, 0, 0, 0, 0, -1)
        tags = slice_tags((0, 0, number), cosines)
        tags |= {"ImageLaterality": "LR"[number % 2], "ViewPosition": "CC" if number < 5 else "MLO"}
        ct(tmp_path / f"{number}.dcm", tags)
        rows.append(row(number, f"{number}.dcm"))
    audit = audited(tmp_path, rows)
    (planes,) = of(audit, "mixed-plane")
    assert planes.severity == "stop" and planes.case_ids == ("c6", "c7")
    (sides,), (positions,) = of(audit, "mixed-laterality"), of(audit, "mixed-view-position")
    assert "L 4, R 4" in sides.message and "CC 5, MLO 3" in positions.message
    assert positions.case_ids == ("c5", "c6", "c7")
    (view,) = audit.tables.images
    assert (view.planes, view.view_positions) == ({"axial": 6, "coronal": 2}, {"CC": 5, "MLO": 3})


@pytest.mark.parametrize(
    ("normal", "plane"),
    [
        ((0, 0, 1), "axial"), ((0.3, 0, -1), "axial"), ((0, 1, 0.2), "coronal"), ((-1, 0.1, 0), "sagittal"),
        ((1, 1, 0), "oblique"), ((0, 0.6, 1), "oblique"),
    ],
)  # fmt: skip
def test_planes_are_told_by_their_normal(normal: tuple[float, ...], plane: str) -> None:
    away = np.array(normal) / np.linalg.norm(normal)
    down = np.cross(away, [0.3, 0.5, 0.7])
    affine = np.eye(4)
    affine[:3, :3] = np.stack([away * 5, down, np.cross(away, down) * 2], axis=1)
    assert plane_of(Geometry((3, 4, 5), affine=affine)) == plane
    assert plane_of(Geometry((4, 5))) == ""


def test_how_images_lie_can_tell_the_label(tmp_path: Path) -> None:
    """Class a comes from a scanner with other axes: the label is told without looking, with its figure."""
    rows = []
    for number in range(80):
        image = nib.Nifti1Image(DRAW.integers(0, 200, (5, 4, 3)).astype(np.int16), np.diag([-2.0, -2, 5, 1]))
        image = image if number % 2 else nib.as_closest_canonical(image)
        nib.save(image, tmp_path / f"{number:03d}.nii.gz")
        rows.append(row(number, f"{number:03d}.nii.gz"))
    (found,) = of(audited(tmp_path, rows, VOLUMES), "acquisition-tells-label")
    assert "AUROC of 1.00" in found.message and "orientation" in found.message


def test_masks_that_mark_all_nothing_or_lie_elsewhere_are_told(tmp_path: Path) -> None:
    marks = {"full": np.full((9, 8), 255), "none": np.zeros((9, 8)), "some": np.eye(9, 8) * 255}
    for name, values in marks.items():
        Picture.fromarray(values.astype(np.uint8)).save(tmp_path / f"{name}.png")
    rows = []
    for number in range(9):
        Picture.fromarray(DRAW.integers(0, 255, (9, 8)).astype(np.uint8)).save(tmp_path / f"{number}.png")
        rows.append(row(number, f"{number}.png", mask=f"{list(marks)[number % 3]}.png"))
    audit = audited(tmp_path, rows)
    assert [found.case_ids for found in of(audit, "full-mask")] == [("c0", "c3", "c6")]
    assert [found.case_ids for found in of(audit, "empty-mask")] == [("c1", "c4", "c7")]
    assert not of(audit, "mask-by-array"), "pictures have no other way"


def test_masks_of_volumes_are_told_by_how_they_were_laid_on(tmp_path: Path) -> None:
    rows = []
    for number, each in enumerate(volumes(tmp_path)[::3]):
        image = nib.load(tmp_path / each["image"])
        mask = nib.Nifti1Image((np.asarray(image.dataobj) > 100).astype(np.uint8), image.affine)
        if number == 1:
            mask = mask.as_reoriented(np.array([[0, 1], [1, -1], [2, 1]]))
        if number == 2:
            mask = nib.Nifti1Image(np.asarray(mask.dataobj), image.affine + np.diag([0, 0, 0, 0])[:, :])
            mask.affine[2, 3] += 5
            mask = nib.Nifti1Image(np.asarray(mask.dataobj), mask.affine)
        nib.save(mask, tmp_path / f"m{number}.nii.gz")
        rows.append(each | {"organ_mask": f"m{number}.nii.gz"})
    audit = audited(tmp_path, rows, VOLUMES)
    (turned,), (refused,) = of(audit, "mask-turned"), of(audit, "refused-mask")
    assert turned.case_ids == (rows[1]["case_id"],)
    assert refused.case_ids == (rows[2]["case_id"],) and refused.severity == "stop"
    assert "another place" in refused.message
    allowed = audited(tmp_path, rows, PreprocessConfig(size=(4, 8, 8), mask_grid="resample"))
    assert of(allowed, "mask-resampled")[0].case_ids == (rows[2]["case_id"],) and not of(
        allowed, "refused-mask"
    )


# ---- codes -----------------------------------------------------------------------------------------


def test_every_code_that_a_reader_gives_has_its_sentence() -> None:
    """The sources of ``io`` are searched for what they append to their codes."""
    folder = Path(inspect.getfile(foveate.io)).parent
    text = "\n".join(path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.py")))
    given = set(re.findall(r'codes\.append\(\s*"([a-z0-9-]+)"', text))
    given |= set(re.findall(r'codes = \["([a-z0-9-]+)"\]', text)) | set(
        re.findall(r'\["([a-z-]+-unknown)"\]', text)
    )
    given.add("rescale-left-out")
    assert {"alpha-dropped", "tilted-stack", "slice-step-unknown", "ct-without-hounsfield"} <= given
    assert given == set(WARNINGS)
    assert (
        in_words("png-irregular") != "png-irregular"
        and in_words("of-another-version") == "of-another-version"
    )


def test_the_docs_name_every_code_and_every_finding() -> None:
    docs = (Path(__file__).parents[1] / "docs" / "data.md").read_text(encoding="utf-8")
    assert [code for code in (*WARNINGS, *SEVERITY) if f"`{code}`" not in docs] == []
