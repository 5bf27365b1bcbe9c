"""Cases that are slices of volumes."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest

from cohort_files import Row, good, image_folder, picture, problems, write_csv, write_image
from foveate.data.manifest import load_manifest


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
