"""A folder-per-class tree becomes a manifest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from cohort_files import picture, write_image
from foveate.data.manifest import load_manifest, manifest_from_folder
from foveate.errors import InputRefused, UsageError
from foveate.types import Cohort


def make(folder: Path, out: Path) -> Cohort:
    with pytest.warns(UserWarning, match="same patient is unknown"):
        return load_manifest(manifest_from_folder(folder, out))


class TestFolders:
    def test_the_official_layout_of_busi(self, tmp_path: Path) -> None:
        benign = ("benign (1)", "benign (1)_mask", "benign (2)", "benign (2)_mask", "benign (2)_mask_1")
        normal = ("normal (1)", "normal (2)_mask")
        for name in (*(f"benign/{name}" for name in benign), *(f"normal/{name}" for name in normal)):
            write_image(tmp_path / f"{name}.png", picture(len(name)))
        (tmp_path / "benign" / ".DS_Store").write_bytes(b"\0")
        (tmp_path / "benign" / "._benign (1).png").write_bytes(b"\0")
        (tmp_path / "__MACOSX").mkdir()
        cases = {case.case_id: case for case in make(tmp_path, tmp_path / "manifest.csv").cases}
        assert sorted(cases) == [
            "benign/benign (1)",
            "benign/benign (2)",
            "normal/normal (1)",
            "normal/normal (2)_mask",
        ]
        assert cases["benign/benign (1)"].mask == tmp_path / "benign" / "benign (1)_mask.png"
        assert cases["benign/benign (2)"].mask is None  # it has two
        assert cases["normal/normal (1)"].label == "normal"
        assert cases["normal/normal (1)"].patient_id == "normal/normal (1)"

    def test_parts_above_classes(self, tmp_path: Path) -> None:
        for seed, name in enumerate(
            ("train/x/1.png", "train/y/1.jpg", "Validation/x/1.png", "test/y/deep/2.bmp")
        ):
            write_image(tmp_path / "data" / name, picture(seed))
        cohort = make(tmp_path / "data", tmp_path / "manifest.csv")
        assert {case.case_id: (case.label, case.split) for case in cohort.cases} == {
            "train/x/1": ("x", "train"),
            "train/y/1": ("y", "train"),
            "Validation/x/1": ("x", "val"),
            "test/y/deep/2": ("y", "test"),
        }

    def test_mask_folders_and_equal_stems(self, tmp_path: Path) -> None:
        for name in ("x/images/1.png", "x/masks/1.png", "y/1.png", "y/1.bmp"):
            write_image(tmp_path / name, picture(len(name)))
        cohort = make(tmp_path, tmp_path / "manifest.csv")
        assert [case.case_id for case in cohort.cases] == ["x/images/1", "y/1.bmp", "y/1.png"]

    @pytest.mark.parametrize(
        "names, code",
        [
            ((), "no-images"),
            (("1.png", "2.png"), "no-images"),
            (("data/x/1.png", "data/y/1.png"), "single-class"),
            (("x/.png", "y/a.txt"), "no-images"),
        ],
    )
    def test_what_is_no_tree(self, tmp_path: Path, names: Sequence[str], code: str) -> None:
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            write_image(path, picture(1)) if path.suffix == ".png" else path.write_text("text")
        with pytest.raises(InputRefused) as caught:
            manifest_from_folder(tmp_path, tmp_path / "manifest.csv")
        assert caught.value.code == code and "FOLDER/benign" in str(caught.value)
        assert not (tmp_path / "manifest.csv").exists()

    def test_where_the_manifest_may_lie(self, tmp_path: Path) -> None:
        for name in ("x", "y"):
            write_image(tmp_path / "data" / name / "1.png", picture(1))
        (tmp_path / "other").mkdir()
        with pytest.raises(UsageError, match=r"paths start from its own folder"):
            manifest_from_folder(tmp_path / "data", tmp_path / "other" / "m.csv")
        (tmp_path / "m.csv").write_text("mine")
        with pytest.raises(UsageError, match="exists already"):
            manifest_from_folder(tmp_path / "data", tmp_path / "m.csv")
        with pytest.raises(InputRefused, match="not a folder"):
            manifest_from_folder(tmp_path / "none", tmp_path / "n.csv")
