"""A folder-per-class tree becomes a manifest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from cohort_files import picture, write_image
from foveate.data.manifest.folders import manifest_from_folder
from foveate.data.manifest.manifest import load_manifest
from foveate.errors import InputRefused, UsageError
from foveate.types import Cohort


def make(folder: Path, out: Path) -> Cohort:
    return load_manifest(manifest_from_folder(folder, out).path)


def write_all(folder: Path, *names: str) -> None:
    for number, name in enumerate(names):
        write_image(folder / name, picture(number))


def masks_of(folder: Path) -> dict[str, str | None]:
    """Where the mask of each case lies, from the tree on."""
    cases = make(folder, folder / "manifest.csv").cases
    return {case.case_id: case.mask.relative_to(folder).as_posix() if case.mask else None for case in cases}


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


class TestMasks:
    """Each layout in which segmentation sets are commonly handed out, with the pairs named by hand."""

    def test_images_and_masks_beside_each_other(self, tmp_path: Path) -> None:
        pairs = ("benign/1.png", "benign/2.png", "malignant/1.png")
        write_all(tmp_path, *(f"images/{name}" for name in pairs), *(f"masks/{name}" for name in pairs[:2]))
        assert masks_of(tmp_path) == {
            "images/benign/1": "masks/benign/1.png",
            "images/benign/2": "masks/benign/2.png",
            "images/malignant/1": None,
        }

    def test_masks_within_each_class(self, tmp_path: Path) -> None:
        write_all(tmp_path, "x/images/1.png", "x/Mask/1.png", "y/1.png", "y/segmentation/1_seg.png")
        assert masks_of(tmp_path) == {"x/images/1": "x/Mask/1.png", "y/1": "y/segmentation/1_seg.png"}

    def test_parts_within_images_and_images_within_parts(self, tmp_path: Path) -> None:
        names = ("train/x/1.png", "train/y/1.png", "test/x/1.png")
        write_all(tmp_path / "a", *(f"images/{name}" for name in names), *(f"masks/{name}" for name in names))
        assert set(masks_of(tmp_path / "a").values()) == {f"masks/{name}" for name in names}
        inner = [name.replace("/", "/{}/", 1) for name in names]
        write_all(tmp_path / "b", *(n.format(kind) for n in inner for kind in ("images", "masks")))
        assert masks_of(tmp_path / "b") == {
            name.format("images").removesuffix(".png"): name.format("masks") for name in inner
        }
        cohort = load_manifest(tmp_path / "b" / "manifest.csv")
        assert [case.split for case in cohort.cases] == ["test", "train", "train"]

    def test_masks_of_all_classes_in_one_folder(self, tmp_path: Path) -> None:
        write_all(tmp_path, "x/1.png", "y/2.png", "x/3.png", "y/3.png")
        write_all(tmp_path, "ground_truth/1_mask.png", "ground_truth/2.png", "ground_truth/3.png")
        paired = masks_of(tmp_path)
        assert paired == {
            "x/1": "ground_truth/1_mask.png",
            "y/2": "ground_truth/2.png",
            "x/3": None,
            "y/3": None,
        }

    def test_what_was_found_is_told(self, tmp_path: Path) -> None:
        write_all(tmp_path, "images/x/1.png", "images/x/2.png", "images/y/1.png", "annotations/1.png")
        write_all(
            tmp_path, "masks/x/1_mask.png", "masks/x/2_mask_1.png", "masks/x/2_mask_2.png", "masks/x/9.png"
        )
        (tmp_path / "annotations" / "1.xml").write_text("<a/>")
        found = manifest_from_folder(tmp_path, tmp_path / "manifest.csv")
        assert (found.masked, found.several, found.unpaired) == (1, ("images/x/2",), 1)
        told = "\n".join(found.sentences())
        for words in (
            "3 cases of 2 classes: x 2, y 1",
            "masks: 1 of 3 cases (folders: masks)",
            "cases with several masks: 1 (images/x/2)",
            "belong to no image by their place and name: 1",
            "the folder annotations (files: 2) is no class",
            "same patient is unknown",
        ):
            assert words in told

    @pytest.mark.parametrize(
        "name", ["masks", "Labels", "annotation", "Ground Truth", "2. All Segmentation Groundtruths"]
    )
    def test_a_folder_beside_one_class_is_no_second_class(self, tmp_path: Path, name: str) -> None:
        write_all(tmp_path, "benign/1.png", f"{name}/1.png")
        with pytest.raises(
            InputRefused, match=rf"only one class folder.*no classes by their names: '{name}'"
        ):
            manifest_from_folder(tmp_path, tmp_path / "manifest.csv")

    def test_the_official_layout_of_idrid_in_class_folders(self, tmp_path: Path) -> None:
        inside = ("a. Training Set/x/1.png", "b. Testing Set/y/2.png")
        write_all(tmp_path, *(f"1. Original Images/{name}" for name in inside))
        write_all(tmp_path, *(f"2. All Segmentation Groundtruths/{name}" for name in inside))
        found = manifest_from_folder(tmp_path, tmp_path / "manifest.csv")
        assert (found.classes, found.parts) == ({"x": 1, "y": 1}, {"train": 1, "test": 1})
        assert (found.masked, found.unpaired) == (2, 0)

    @pytest.mark.parametrize("name", ["with_mask", "masked face", "1 segment", "original"])
    def test_a_class_may_be_called_almost_like_masks(self, tmp_path: Path, name: str) -> None:
        write_all(tmp_path, f"{name}/1.png", "other/1.png")
        assert make(tmp_path, tmp_path / "manifest.csv").classes == tuple(sorted((name, "other")))

    def test_masks_beside_the_folder_of_images_that_was_named(self, tmp_path: Path) -> None:
        write_all(tmp_path, "images/x/1.png", "images/y/1.png", "masks/x/1.png", "masks/y/2.png")
        found = manifest_from_folder(tmp_path / "images", tmp_path / "manifest.csv")
        assert (found.masked, found.unpaired, found.mask_folders) == (1, 1, ("masks",))
        cases = load_manifest(found.path).cases
        assert {case.case_id: case.mask for case in cases} == {
            "x/1": tmp_path / "masks" / "x" / "1.png",
            "y/1": None,
        }

    def test_masks_that_the_manifest_cannot_name_are_told(self, tmp_path: Path) -> None:
        write_all(tmp_path, "images/x/1.png", "images/y/1.png", "masks/x/1.png")
        found = manifest_from_folder(tmp_path / "images", tmp_path / "images" / "manifest.csv")
        assert found.masked == 0
        assert f"write it with -o {tmp_path / 'manifest.csv'}" in "\n".join(found.sentences())
