"""Cases that are slices of volumes."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest

from cohort_files import Row, good, image_folder, picture, problems, write_csv, write_image
from dicom_files import dataset, slice_tags, write_dicom
from foveate.data.audit.audit import audit_cohort
from foveate.data.manifest.manifest import load_manifest
from tiny_volumes import write_volume


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return image_folder(tmp_path)


class TestVolumes:
    @pytest.fixture
    def volumes(self, folder: Path) -> Path:
        for name in ("v", "w"):
            array = np.random.default_rng(3).integers(0, 1000, (20, 16, 5)).astype(np.int16)  # x, y, z
            nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), folder / f"{name}.nii.gz")
        return folder

    def sliced(self, *cells: tuple[str, str, object]) -> list[Row]:
        return [{"case_id": number, "patient_id": number, "label": label, "image": image, "slice": index}
                for number, (label, image, index) in enumerate(cells)]  # fmt: skip

    def test_slices_and_whole_volumes(self, volumes: Path) -> None:
        content = self.sliced(("x", "v.nii.gz", 0), ("y", "v.nii.gz", "4.0"), ("x", "w.nii.gz", ""))
        cohort = load_manifest(write_csv(volumes / "m.csv", content))
        assert [case.slice_index for case in cohort.cases] == [0, 4, None]

    def test_names_of_slices(self, volumes: Path) -> None:
        content = [
            {key: value for key, value in row.items() if key != "case_id"}
            for row in self.sliced(("x", "v.nii.gz", 0), ("y", "v.nii.gz", 3))
        ]
        assert [case.case_id for case in load_manifest(write_csv(volumes / "m.csv", content)).cases] == [
            "v#0",
            "v#3",
        ]

    def test_bad_slices(self, volumes: Path) -> None:
        cells = [("x", "v.nii.gz", index) for index in (5, -1, "1.5")]
        cells += [("y", "a.png", 0), ("x", "v.nii.gz", 2), ("y", "v.nii.gz", 2)]
        content = self.sliced(*cells)
        found = problems(volumes, content)
        assert [text.split(":")[0] for text in found] == ["row 2", "row 3", "row 4", "row 5", "row 7"]
        assert (
            "has the slices 0 to 4" in found[0] and "whole number" in found[1] and "plane image" in found[3]
        )
        assert "same image as row 6" in found[4]

    def test_in_plane_cohorts_slice_is_metadata(self, folder: Path) -> None:
        cohort = load_manifest(write_csv(folder / "m.csv", [row | {"slice": 102} for row in good()]))
        assert cohort.cases[0].slice_index is None
        assert cohort.cases[0].metadata["slice"] == "102"

    def test_masks_of_volumes(self, volumes: Path) -> None:
        write_image(volumes / "plane.png", picture(1, (16, 20)))
        content = self.sliced(("x", "v.nii.gz", 0), ("y", "v.nii.gz", 1), ("x", "v.nii.gz", ""))
        for row, mask in zip(content, ("w.nii.gz", "plane.png", "plane.png"), strict=True):
            row["mask"] = mask
        (found,) = problems(volumes, content)
        assert found == "row 4: mask is 20 × 16 pixels, but its image is 20 × 16 × 5"


class TestSeveralViews:
    """Each view may be of another kind, shape and format, and may be missing."""

    @pytest.fixture
    def manifest(self, folder: Path) -> Path:
        write_volume(folder / "v.nii.gz", np.random.default_rng(0).random((5, 16, 20)).astype(np.float32))
        (folder / "series").mkdir()
        for number in range(3):
            pixels = np.random.default_rng(number).integers(0, 4096, (6, 5), dtype=np.uint16)
            tags = slice_tags((0, 0, 4 * number), (1, 0, 0, 0, 1, 0))
            write_dicom(folder / "series" / f"{number}.dcm", dataset(pixels, tags))
        content = [
            {
                "case_id": "a",
                "patient_id": "a",
                "label": "x",
                "mr": "v.nii.gz",
                "ct": "series",
                "photo": "a.png",
            },
            {"case_id": "b", "patient_id": "b", "label": "y", "mr": "", "ct": "series", "photo": ""},
            {"case_id": "c", "patient_id": "c", "label": "x", "mr": "", "ct": "", "photo": "b.png"},
        ]
        return write_csv(folder / "m.csv", content)

    def test_empty_cells_are_missing_views(self, manifest: Path) -> None:
        cohort = load_manifest(manifest)
        assert cohort.view_names == ("mr", "ct", "photo")
        assert [tuple(case.views) for case in cohort.cases] == [("mr", "ct", "photo"), ("ct",), ("photo",)]
        assert cohort.cases[1].views["ct"] == manifest.parent / "series"
        chosen = load_manifest(manifest, views=["mr", "photo", "ct"])
        assert chosen.view_names == ("mr", "photo", "ct")  # in the order of the study

    def test_a_case_without_any_view_is_told(self, manifest: Path) -> None:
        said = problems(manifest.parent, manifest.read_text() + "d,d,y,,,\n")
        assert said == ("row 5: no image: mr, ct, photo is empty",)

    def test_a_mask_lies_over_one_of_the_views(self, manifest: Path) -> None:
        folder = manifest.parent
        mask = np.zeros((5, 16, 20), np.uint8)
        write_volume(folder / "mask.nii.gz", mask)
        lines = manifest.read_text().splitlines()
        ends = ["mask", "mask.nii.gz", "", ""]
        text = "\n".join(f"{line},{end}" for line, end in zip(lines, ends, strict=True))
        (folder / "masks.csv").write_text(text)
        case = load_manifest(folder / "masks.csv").cases[0]
        assert case.mask == folder / "mask.nii.gz"
        write_volume(folder / "mask.nii.gz", mask[:, :7])
        codes = {item.code: item for item in audit_cohort(load_manifest(folder / "masks.csv")).findings}
        assert codes["refused-mask"].severity == "stop" and codes["refused-mask"].case_ids == ("a",)
