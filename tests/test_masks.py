"""Masks meet images by where both lie in the patient; what they mark are their stored values."""

from __future__ import annotations

from itertools import permutations, product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import inv_ornt_aff
from nibabel.processing import resample_from_to
from pydicom.dataset import Dataset

from dicom_files import dataset, slice_tags, write_dicom
from foveate.errors import InputRefused
from foveate.io.laying import TOLERANCE, ArrayMask, same_grid, slice_of
from foveate.io.reading import read_image, read_mask
from foveate.prepare.preprocess import Preprocess
from foveate.study.settings import PreprocessConfig
from foveate.types import Geometry

DRAW = np.random.default_rng(0)
MARKS = DRAW.random((5, 7, 4)) < 0.3  # in NIfTI's order (i, j, k)
AFFINE = np.array([[-0.8, 0.1, 0, 12], [0.1, 0.8, 0, -30], [0, 0, 2.5, 40], [0, 0, 0, 1]])  # turned by 7°
ORIENTATIONS = [
    np.array(list(zip(order, signs, strict=True)))
    for order in permutations(range(3))
    for signs in product((1, -1), repeat=3)
]


def nifti(path: Path, values: np.ndarray, affine: np.ndarray | None = AFFINE, **header: Any) -> Path:
    image = nib.Nifti1Image(values, affine)
    for name, value in header.items():
        image.header[name] = value
    nib.save(image, path)
    return path


def geometry(shape: tuple[int, ...] = (4, 7, 5), affine: np.ndarray | None = AFFINE) -> Geometry:
    """Of an image in our order (k, j, i)."""
    return Geometry(shape, affine=None if affine is None else affine[:, [2, 1, 0, 3]])


@pytest.mark.parametrize("turn", ORIENTATIONS, ids=lambda turn: "".join(f"{a}{s:+d}" for a, s in turn))
def test_a_mask_in_any_of_48_orientations_is_laid_exactly(tmp_path: Path, turn: np.ndarray) -> None:
    """nibabel writes the marks with other axes; every voxel must come back, of the volume and of slices."""
    nib.save(nib.Nifti1Image(MARKS.astype(np.uint8), AFFINE).as_reoriented(turn), tmp_path / "m.nii")
    mask = read_mask(tmp_path / "m.nii")
    laid = mask.over(geometry())
    np.testing.assert_array_equal(laid.inside, MARKS.T)
    assert laid.how == ("as-stored" if turn.tolist() == [[0, 1], [1, 1], [2, 1]] else "turned")
    for index in range(4):
        np.testing.assert_array_equal(mask.over(geometry(), index).inside, MARKS[..., index].T)


def test_a_volume_of_marks_lies_over_a_picture_of_one_of_its_slices(tmp_path: Path) -> None:
    mask = read_mask(nifti(tmp_path / "m.nii", MARKS.astype(np.uint8)))
    laid = mask.over(slice_of(geometry(), 2))
    np.testing.assert_array_equal(laid.inside, MARKS[..., 2].T)
    assert laid.how == "part"


def test_rounded_affines_are_one_and_others_are_not(tmp_path: Path) -> None:
    mask = read_mask(nifti(tmp_path / "m.nii", MARKS.astype(np.uint8)))
    for shift, fits in ((0.9 * TOLERANCE, True), (1.2 * TOLERANCE, False), (1.0, False), (-2.0, False)):
        moved = AFFINE.copy()
        moved[:3, 3] += AFFINE[:3, 0] * shift  # along the first axis, in voxels
        if fits:
            np.testing.assert_array_equal(mask.over(geometry(affine=moved)).inside, MARKS.T)
        else:
            with pytest.raises(InputRefused, match="its image's shape but lies in another place") as error:
                mask.over(geometry(affine=moved))
            assert error.value.code == "mask-elsewhere" and str(error.value).count("first at (") == 2


@pytest.mark.parametrize("shape", [(5, 9, 6), (3, 4, 5)])
def test_another_grid_is_refused_or_resampled_as_nibabel_does(
    tmp_path: Path, shape: tuple[int, int, int]
) -> None:
    """nibabel's nearest neighbour, of scipy, is the second path; it needs a rim to reach half a voxel out."""
    path = nifti(tmp_path / "m.nii", MARKS.astype(np.uint8))
    finer = AFFINE @ np.diag([0.6, 0.7, 0.83, 1])
    finer[:3, 3] += (0.31, -0.2, 0.4)
    image = geometry(shape, finer)
    with pytest.raises(InputRefused, match="another grid") as error:
        read_mask(path).over(image)
    assert "mask_grid: resample" in str(error.value)
    rim = nib.Nifti1Image(
        np.pad(MARKS, 1).astype(np.uint8), AFFINE @ np.array([*np.eye(4)[:, :3].T, [-1, -1, -1, 1]]).T
    )
    expected = resample_from_to(rim, (shape[::-1], finer), order=0)
    laid = read_mask(path).over(image, grid="resample")
    np.testing.assert_array_equal(laid.inside, np.asarray(expected.dataobj).T > 0)
    assert laid.how == "resampled" and 0 < laid.inside.mean() < 1
    for index in range(shape[0]):
        one = read_mask(path).over(image, index, grid="resample").inside
        np.testing.assert_array_equal(one, laid.inside[index])


def test_a_mask_of_another_body_is_never_resampled(tmp_path: Path) -> None:
    far, mask = AFFINE.copy(), read_mask(nifti(tmp_path / "m.nii", MARKS.astype(np.uint8)))
    far[2, 3] += 500
    with pytest.raises(InputRefused, match="nowhere near"):
        mask.over(geometry(affine=far), grid="resample")


def test_without_an_affine_on_one_side_arrays_meet_by_index(tmp_path: Path) -> None:
    mask = read_mask(nifti(tmp_path / "m.nii", MARKS.astype(np.uint8)))
    laid = mask.over(geometry(affine=None))
    np.testing.assert_array_equal(laid.inside, MARKS.T)
    assert laid.how == "by-array"
    with pytest.raises(InputRefused, match="shape"):
        mask.over(geometry((4, 5, 7), None))
    flipped = geometry(affine=inv_ornt_aff([[0, -1], [1, 1], [2, 1]], MARKS.shape) @ AFFINE)
    np.testing.assert_array_equal(mask.over(flipped, grid="array").inside, MARKS.T)  # as was asked for


def test_views_share_boxes_only_on_the_same_grid() -> None:
    moved = AFFINE.copy()
    moved[2, 3] += 2.5
    assert same_grid(geometry(), geometry()) and same_grid(geometry(), geometry(affine=None))
    assert not same_grid(geometry(), geometry(affine=moved))
    assert not same_grid(geometry(affine=None), geometry((4, 7, 6), None))


def test_the_organ_crop_goes_by_the_place_of_the_mask(tmp_path: Path) -> None:
    """The image is bright where the mask, stored upside down, marks it; the crop is bright everywhere."""
    bright = np.zeros((12, 16, 3), np.float32)
    bright[3:6, 2:5, 1] = 300
    nifti(tmp_path / "i.nii", bright)
    nib.save(
        nib.Nifti1Image((bright > 0).astype(np.uint8), AFFINE).as_reoriented([[0, 1], [1, -1], [2, -1]]),
        tmp_path / "m.nii",
    )
    image, mask = read_image(tmp_path / "i.nii"), read_mask(tmp_path / "m.nii")
    config = PreprocessConfig(
        size=(3, 3), organ_crop=True, organ_margin=0, window=(0, 300), keep_aspect=False
    )
    found = Preprocess(config).prepare(image, slice_index=1, organ_mask=mask)
    assert found.tensor.float().min() == 1
    away = PreprocessConfig.model_validate({**config.model_dump(), "mask_grid": "array"})
    with pytest.raises(InputRefused, match="empty"):
        Preprocess(away).prepare(image, slice_index=0, organ_mask=mask)


@pytest.mark.parametrize(
    ("what", "header"),
    [
        ("the header of its CT", {"RescaleIntercept": -1024, "RescaleSlope": 1, "Modality": "CT"}),
        ("MONOCHROME1", {"PhotometricInterpretation": "MONOCHROME1"}),
        ("both", {"PhotometricInterpretation": "MONOCHROME1", "RescaleIntercept": -5, "RescaleSlope": 2}),
        ("a padding value", {"PixelPaddingValue": 1}),
        ("nothing", {}),
    ],
)
def test_dicom_masks_are_read_from_stored_values(tmp_path: Path, what: str, header: dict[str, Any]) -> None:
    marks = MARKS[..., 0].astype(np.uint16)
    write_dicom(tmp_path / "m.dcm", dataset(marks, header))
    mask = read_mask(tmp_path / "m.dcm")
    np.testing.assert_array_equal(mask.inside, marks > 0)
    assert ("rescale-left-out" in mask.warnings) == (what not in ("nothing", "a padding value"))


def test_nifti_masks_are_read_from_stored_values(tmp_path: Path) -> None:
    path = nifti(tmp_path / "m.nii", MARKS.astype(np.int16), scl_slope=1, scl_inter=-1024)
    mask = read_mask(path)
    np.testing.assert_array_equal(mask.inside, MARKS.T)
    assert mask.warnings == ("rescale-left-out",)


def test_frames_of_an_enhanced_mask_are_read_from_stored_values(tmp_path: Path) -> None:
    """The rescale stands in a functional group of each frame."""
    groups = []
    for _ in range(4):
        values, group = Dataset(), Dataset()
        values.RescaleSlope, values.RescaleIntercept, values.RescaleType = 1, -1024, "HU"
        group.PixelValueTransformationSequence = [values]
        groups.append(group)
    marks = MARKS.T.astype(np.uint16)
    write_dicom(tmp_path / "m.dcm", dataset(marks, {"PerFrameFunctionalGroupsSequence": groups}))
    np.testing.assert_array_equal(read_mask(tmp_path / "m.dcm").inside, MARKS.T)


def test_a_series_of_mask_slices_is_read_from_stored_values(tmp_path: Path) -> None:
    for index in range(4):
        tags = slice_tags((0, 0, 2.5 * index)) | {"RescaleSlope": 1, "RescaleIntercept": -1024}
        write_dicom(tmp_path / f"{index}.dcm", dataset(MARKS[..., index].T.astype(np.uint16), tags))
    np.testing.assert_array_equal(read_mask(tmp_path).inside, MARKS.T)


def test_packed_floats_are_marked_after_their_rescale(tmp_path: Path) -> None:
    """nibabel packs 0 and 1 into int16 with slope and intercept, so that no stored value is 0."""
    image = nib.Nifti1Image(MARKS.astype(np.float32), AFFINE)
    image.set_data_dtype(np.int16)
    nib.save(image, tmp_path / "m.nii")
    stored = nib.load(tmp_path / "m.nii").dataobj.get_unscaled()
    assert (stored != 0).all(), "or this test would show nothing"
    np.testing.assert_array_equal(read_mask(tmp_path / "m.nii").inside, MARKS.T)


def test_a_zero_that_means_two_things_is_refused(tmp_path: Path) -> None:
    """-0.5, 0 and 0.5 + 0.5: what is stored as 0 is 0.5, and what is 0 is stored as -1."""
    values = np.array([-1, 0, 1], np.int16).reshape(3, 1, 1)
    nifti(tmp_path / "m.nii", values, scl_slope=0.5, scl_inter=0.5)
    with pytest.raises(InputRefused, match="two things"):
        read_mask(tmp_path / "m.nii")


def test_a_label_of_a_label_map_is_chosen_by_its_number(tmp_path: Path) -> None:
    labels = DRAW.integers(0, 4, (5, 7, 4)).astype(np.uint8)
    path = nifti(tmp_path / "m.nii", labels)
    np.testing.assert_array_equal(read_mask(path, "2").inside, (labels == 2).T)
    np.testing.assert_array_equal(read_mask(path, "*").inside, (labels > 0).T)
    np.testing.assert_array_equal(read_mask(path).inside, (labels > 0).T)
    with pytest.raises(InputRefused, match="'liver' is none"):
        read_mask(path, "liver")


def test_a_picture_of_a_mask_is_laid_by_array() -> None:
    inside = MARKS[..., 0].T
    laid = ArrayMask("m.png", (), inside, Geometry(inside.shape)).over(slice_of(geometry(), 1))
    assert laid.how == "by-array" and laid.inside is inside
