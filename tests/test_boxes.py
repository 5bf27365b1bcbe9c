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
