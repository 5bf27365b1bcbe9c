"""True boxes beside a manifest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import nibabel
import numpy as np
import pytest

from cohort_files import Row, good, image_folder, rows, write_csv
from foveate.data.manifest.manifest import load_manifest
from foveate.errors import ManifestRefused
from foveate.types import Box, Cohort


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return image_folder(tmp_path)


class TestBoxes:
    def load(self, folder: Path, boxes: Sequence[Row], content: Sequence[Row] | None = None) -> Cohort:
        path = write_csv(folder / "m.csv", content or good())
        return load_manifest(path, boxes=write_csv(folder / "boxes.csv", boxes))

    def test_boxes_reach_their_cases(self, folder: Path) -> None:
        boxes: list[Row] = [
            {"case_id": "ca", "label": "x", "x": 3, "y": 5, "w": 10, "h": 20.5},
            {"case_id": "ca", "label": "", "x": 0, "y": 0, "w": 64, "h": 48.9},
        ]
        cases = self.load(folder, boxes).cases
        assert [(box.start, box.stop, box.label) for box in cases[0].boxes] == [
            ((5, 3), (25.5, 13), "x"),
            ((0, 0), (48.9, 64), ""),
        ]
        assert isinstance(cases[0].boxes[0], Box) and cases[0].boxes[0].xywh == (3, 5, 10, 20.5)
        assert cases[1].boxes == ()

    @pytest.mark.parametrize(
        "change, message",
        [
            ({"case_id": "nobody"}, "no case 'nobody'"),
            ({"label": "z"}, "unknown label 'z'"),
            ({"w": 0}, "w is 0"),
            ({"h": -3}, "h is -3"),
            ({"x": "left"}, "x is 'left'"),
            ({"y": "nan"}, "y is 'nan'"),
            ({"w": "inf"}, "w is 'inf'"),
            ({"x": -2}, "outside the image (64 × 48 pixels)"),
            ({"h": 44.1}, "outside the image (64 × 48 pixels)"),
            ({"view": "t2"}, "no view 't2'"),
            ({"z": 1, "d": 2}, "2 dimensions"),
        ],
    )
    def test_bad_boxes(self, folder: Path, change: Row, message: str) -> None:
        fine: Row = {
            "case_id": "ca",
            "label": "x",
            "x": 3,
            "y": 5,
            "w": 10,
            "h": 20,
            "view": "image",
            "z": "",
            "d": "",
        }
        with pytest.raises(ManifestRefused) as caught:
            self.load(folder, [fine, fine | change])
        (found,) = caught.value.problems
        assert found.startswith("boxes.csv row 3: ") and message in found

    def test_problems_of_both_tables_together(self, folder: Path) -> None:
        with pytest.raises(ManifestRefused) as caught:
            self.load(
                folder,
                [{"case_id": "q", "label": "x", "x": 0, "y": 0, "w": 1, "h": 1}],
                [*good(), *rows(("1", "", "x", "f.png"))],
            )
        assert [text.split(":")[0] for text in caught.value.problems] == ["row 6", "boxes.csv row 2"]

    def test_other_columns_are_refused(self, folder: Path) -> None:
        with pytest.raises(ManifestRefused, match="no column label, w"):
            self.load(folder, [{"case_id": "ca", "x": 1, "y": 1, "width": 3, "h": 4}])

    def test_boxes_in_volumes(self, folder: Path) -> None:
        nibabel.save(nibabel.Nifti1Image(np.zeros((20, 16, 5), np.int16), np.eye(4)), folder / "v.nii")
        content = [row | {"image": "v.nii"} for row in good(2)]
        content[1]["slice"], content[0]["slice"] = 3, ""
        content[1]["label"] = "x"
        content += rows(("o", "o", "y", "a.png"))
        content[2]["slice"] = ""
        boxes: list[Row] = [
            {"case_id": "ca", "label": "x", "x": 1, "y": 2, "w": 3, "h": 4, "z": 1, "d": 2},
            {"case_id": "cb", "label": "x", "x": 1, "y": 2, "w": 19, "h": 14, "z": "", "d": ""},
        ]
        cases = self.load(folder, boxes, content).cases
        assert (cases[0].boxes[0].start, cases[0].boxes[0].stop) == ((1, 2, 1), (3, 6, 4))
        assert (cases[1].boxes[0].start, cases[1].boxes[0].stop) == ((2, 1), (16, 20))


class TestMillimetres:
    """One box in the patient, written in both frames, over images in several orientations."""

    AFFINE = np.diag([-0.8, -0.7, 2.5, 1.0]) + np.array(
        [[0, 0, 0, 40], [0, 0, 0, 30], [0, 0, 0, -10], [0] * 4]
    )

    def load(
        self, folder: Path, box: Row, turn: Sequence[Sequence[int]] | None = None, **case: object
    ) -> Cohort:
        marked = np.zeros((20, 16, 6), np.int16)  # NIfTI's order: i, j, k
        marked[4:9, 2:11, 1:3] = 1
        image = nibabel.Nifti1Image(marked, self.AFFINE)
        image = image if turn is None else image.as_reoriented(np.array(turn))
        nibabel.save(image, folder / "v.nii")
        nibabel.save(nibabel.Nifti1Image(marked + 1, self.AFFINE), folder / "w.nii")
        rows = [
            {"case_id": "a", "patient_id": "p", "label": "x", "image": "v.nii", **case},
            {"case_id": "b", "patient_id": "q", "label": "y", "image": "w.nii", **case},
        ]
        boxes = write_csv(folder / "boxes.csv", [{"case_id": "a", "label": "x", **box}])
        return load_manifest(write_csv(folder / "m.csv", rows), boxes=boxes)

    def millimetres(self, unit: str) -> Row:
        """The edges of the marked voxels: i from 3.5 to 8.5, j from 1.5 to 10.5, k from 0.5 to 2.5."""
        ends = np.array([[3.5, 1.5, 0.5, 1], [8.5, 10.5, 2.5, 1]]) @ self.AFFINE.T
        ends = ends[:, :3] * ((1, 1, 1) if unit == "mm-ras" else (-1, -1, 1))
        low, size = ends.min(axis=0), np.ptp(ends, axis=0)
        return {"unit": unit, **dict(zip("xyzwhd", [*low, *size], strict=True))}

    @pytest.mark.parametrize("unit", ["mm-ras", "mm-lps"])
    @pytest.mark.parametrize("turn", [None, [[2, 1], [0, -1], [1, 1]], [[0, -1], [1, -1], [2, -1]]])
    def test_a_box_in_the_patient_lies_over_its_voxels(
        self, tmp_path: Path, unit: str, turn: Sequence[Sequence[int]] | None
    ) -> None:
        case = self.load(tmp_path, self.millimetres(unit), turn).cases[0]
        values = np.asarray(nibabel.load(tmp_path / "v.nii").dataobj).T
        where = np.argwhere(values == 1)
        (box,) = case.boxes
        np.testing.assert_allclose(box.start, where.min(axis=0), atol=1e-6)
        np.testing.assert_allclose(box.stop, where.max(axis=0) + 1, atol=1e-6)

    def test_of_a_slice_the_part_within_is_taken(self, tmp_path: Path) -> None:
        (box,) = self.load(tmp_path, self.millimetres("mm-lps"), slice=2).cases[0].boxes
        np.testing.assert_allclose([*box.start, *box.stop], [2, 4, 11, 9], atol=1e-6)
        with pytest.raises(ManifestRefused, match="does not reach the slice"):
            self.load(tmp_path, self.millimetres("mm-lps"), slice=4)

    def test_what_is_not_said_is_refused(self, tmp_path: Path, folder: Path) -> None:
        with pytest.raises(ManifestRefused, match="write mm-lps"):
            self.load(tmp_path, self.millimetres("mm-ras") | {"unit": "mm"})
        with pytest.raises(ManifestRefused, match="needs x, y, z, w, h, d"):
            self.load(tmp_path, self.millimetres("mm-ras") | {"z": "", "d": ""})
        with pytest.raises(ManifestRefused, match="does not say where it lies"):
            TestBoxes().load(folder, [{"case_id": "ca", "label": "x", **self.millimetres("mm-ras")}])
        with pytest.raises(ManifestRefused, match="outside the image"):
            self.load(tmp_path, self.millimetres("mm-ras") | {"w": 500})
