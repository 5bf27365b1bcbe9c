"""One phantom in eight orientations, three spacings and three kinds of file is one input; maps find back."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform

from foveate.errors import InputRefused
from foveate.io.reading import probe, read_image
from foveate.prepare.orientation import Turn
from foveate.prepare.preprocess import _VERSION, Prepared, Preprocess
from foveate.study.settings import PreprocessConfig
from foveate.types import Box, Geometry, Image
from oriented_phantoms import (
    EIGHT,
    EXTENT,
    SPACINGS,
    affine_of,
    density,
    write_enhanced,
    write_nifti_phantom,
    write_series,
)

LESION = np.array([9.0, -8.0, 14.0])
WRITERS: dict[str, Callable[..., Path]] = {
    "nifti": write_nifti_phantom,
    "series": write_series,
    "enhanced": write_enhanced,
}
NAMES = {"nifti": "a.nii", "series": "a", "enhanced": "a.dcm"}
WINDOW = (0.0, 1600.0)
CURVATURE = 900 / 6**2 / WINDOW[1]  # per mm², of the lesion at its centre, the sharpest thing in the phantom
_PAIR = {letter: pair for pair in ("RL", "AP", "SI") for letter in pair}


def prepared(path: Path, **chosen: object) -> tuple[Image, Prepared]:
    image = read_image(path)
    config = PreprocessConfig.model_validate({"window": WINDOW, "keep_aspect": False, **chosen})
    return image, Preprocess(config).prepare(image)


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("spacing", SPACINGS, ids=str)
def test_eight_orientations_are_one_tensor_and_maps_come_back(
    tmp_path: Path, kind: str, spacing: tuple[float, float, float]
) -> None:
    """Without resampling the tensors are the same bytes; the true map lies over the lesion in each file."""
    tensors, wrong = [], 0
    size = tuple(round(side / step) for side, step in zip(EXTENT[::-1], spacing[::-1], strict=True))
    for letters in EIGHT:
        (folder := tmp_path / letters).mkdir()
        image, found = prepared(
            WRITERS[kind](folder / NAMES[kind], letters, spacing), size=size, keep_aspect=False
        )
        tensors.append(found.tensor)
        affine = image.geometry.affine
        assert affine is not None and found.field.shape == image.geometry.shape
        back = found.field.back(found.tensor[0].float().numpy())
        np.testing.assert_allclose(back, np.clip(image.pixels[0] / WINDOW[1], 0, 1), atol=1e-3)
        lesion = np.zeros(size, np.float32)  # in LPS: slices up, rows to the back, columns to the left
        centre = (np.array(size) - 1) / 2
        place = np.rint(centre + LESION[::-1] * [1, -1, -1] / spacing[::-1]).astype(int)
        lesion[tuple(place)] = 1
        voxel = np.unravel_index(int(found.field.back(lesion).argmax()), back.shape)
        at = (affine @ [*voxel, 1])[:3]
        wrong += bool((np.abs(at - LESION) > np.array(spacing) / 2 + 1e-6).any())
    assert all(torch.equal(tensor, tensors[0]) for tensor in tensors)
    assert wrong == 0


@pytest.mark.parametrize("kind", WRITERS)
def test_all_spacings_and_orientations_are_one_tensor_but_for_interpolation(
    tmp_path: Path, kind: str
) -> None:
    """At 2.5 mm, against the phantom's own formula at the centres of the model's voxels."""
    size, step = (20, 16, 12), 2.5
    axes = [(np.arange(side) - (side - 1) / 2) * step for side in size]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1) * [1, -1, -1]  # z, y, x of LPS in RAS+
    truth = np.clip(density(grid[..., ::-1]) / WINDOW[1], 0, 1)
    wrong = 0
    for letters, spacing in itertools.product(EIGHT, SPACINGS):
        (folder := tmp_path / f"{letters}{spacing}").mkdir()
        path = WRITERS[kind](folder / NAMES[kind], letters, spacing)
        image, found = prepared(path, size=size, spacing=[step] * 3)
        assert found.tensor.shape == (1, *size)
        bound = CURVATURE * sum(max(step, each) ** 2 for each in spacing) / 8  # of linear interpolation
        assert np.abs(found.tensor[0].numpy() - truth).max() < bound
        back = found.field.back(truth.astype(np.float32))
        affine = image.geometry.affine
        assert affine is not None
        voxels = np.stack(np.meshgrid(*map(np.arange, back.shape), indexing="ij"), axis=-1)
        places = voxels @ affine[:3, :3].T + affine[:3, 3]
        inside = (np.abs(places) < np.array(size)[::-1] * step / 2 - step).all(axis=-1)
        np.testing.assert_allclose(back[inside], (density(places) / WINDOW[1])[inside], atol=0.04)
        near = np.abs(places - LESION).max(axis=-1) < 3 * step
        hottest = places[np.unravel_index(int(np.where(near, back, 0).argmax()), back.shape)]
        wrong += bool((np.abs(hottest - LESION) > max(step, *spacing)).any())
    assert wrong == 0


def test_the_turn_is_nibabels() -> None:
    """All 48 orientations to all 48, against nibabel's own transform of the array."""
    codes = [
        "".join(p) for axes in itertools.permutations(("RL", "AP", "SI")) for p in itertools.product(*axes)
    ]
    values = np.arange(24).reshape(2, 3, 4)
    for have, want in itertools.product(codes, codes):
        turn = Turn.to(want[::-1], tuple(have), 3)  # our codes are in array order
        expected = apply_orientation(values, ornt_transform(axcodes2ornt(have), axcodes2ornt(want)))
        np.testing.assert_array_equal(turn.there(values), expected)
        np.testing.assert_array_equal(turn.back(turn.there(values)), values)
        box = Box((0.0, 1.0, 1.5), (1.0, 3.0, 4.0))
        marked = np.zeros(values.shape, bool)
        marked[0:1, 1:3, 2:4] = True
        start, stop = (np.argwhere(turn.there(marked)).min(0), np.argwhere(turn.there(marked)).max(0) + 1)
        turned = turn.box_back(Box(tuple(map(float, start)), tuple(map(float, stop))), values.shape)
        assert (turned.start, turned.stop) == ((0.0, 1.0, 2.0), (1.0, 3.0, 4.0)) and box.label == ""


def test_oblique_volumes_are_turned_to_the_closest_axes(tmp_path: Path) -> None:
    affine, shape = affine_of("SAL", (1.0, 1.0, 1.0))
    angle = np.radians(25)
    tilt = np.eye(4)
    tilt[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    values = np.random.default_rng(0).integers(0, 1600, shape).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(values, tilt @ affine), tmp_path / "a.nii")
    expected = apply_orientation(values, ornt_transform(io_orientation(tilt @ affine), axcodes2ornt("LPS")))
    size = tuple(reversed(expected.shape))
    _, found = prepared(tmp_path / "a.nii", size=size)
    np.testing.assert_allclose(found.tensor[0], expected.T / WINDOW[1], atol=5e-4)


@pytest.mark.parametrize(
    ("letters", "index", "expected"),
    [("LPS", 30, "PL"), ("RAI", 30, "PL"), ("PSR", 20, "IP"), ("LIP", 25, "IL"), ("RSA", 25, "IL")],
)
def test_slices_keep_their_plane_and_stand_as_people_see_them(
    tmp_path: Path, letters: str, index: int, expected: str
) -> None:
    """The patient's left on the right, head up; the slice counts along the file's own first axis."""
    image = read_image(write_nifti_phantom(tmp_path / "a.nii", letters, (1.0, 1.0, 1.0)))
    plane, codes = image.pixels[0, index] / WINDOW[1], (image.geometry.orientation or ())[1:]
    axes = [next(at for at, code in enumerate(codes) if code in _PAIR[letter]) for letter in expected]
    mirrored = [at for at, letter in enumerate(expected) if codes[axes[at]] != letter]
    upright = np.flip(plane.transpose(axes), mirrored)
    config = PreprocessConfig(size=upright.shape, window=WINDOW, keep_aspect=False)
    found = Preprocess(config).prepare(image, slice_index=index)
    np.testing.assert_allclose(found.tensor[0], upright, atol=5e-4)
    np.testing.assert_allclose(found.field.back(found.tensor[0].float().numpy()), plane, atol=5e-4)


def test_a_model_of_one_plane_refuses_slices_of_another(tmp_path: Path) -> None:
    axial = Preprocess(PreprocessConfig(size=(50, 40), window=WINDOW, orientation="LPS", plane="axial"))
    stack = read_image(write_nifti_phantom(tmp_path / "a.nii", "RAI", (1.0, 1.0, 1.0)))
    assert axial.prepare(stack, slice_index=3).tensor.shape == (1, 50, 40)
    other = read_image(write_nifti_phantom(tmp_path / "b.nii", "RSA", (1.0, 1.0, 1.0)))
    with pytest.raises(InputRefused, match="coronal, and the study takes axial") as caught:
        axial.prepare(other, slice_index=3)
    assert caught.value.code == "mixed-planes" and "b.nii" in caught.value.where


def test_what_cannot_be_turned_is_refused_by_name_and_auto_takes_the_files_order(tmp_path: Path) -> None:
    volume = np.arange(24, dtype=np.uint8).reshape(1, 2, 3, 4)
    blind = Image(volume, Geometry((2, 3, 4)), "blind.nii", "", value_range=(0, 255))
    with pytest.raises(InputRefused, match=r"LPS.*no affine") as caught:
        Preprocess(PreprocessConfig(size=(2, 3, 4), orientation="LPS")).prepare(blind)
    assert caught.value.code == "no-affine" and "blind.nii" in caught.value.where
    for chosen in ("auto", "none"):
        found = Preprocess(PreprocessConfig(size=(2, 3, 4), orientation=chosen)).prepare(blind).tensor
        np.testing.assert_allclose(found[0], volume[0] / 255, atol=5e-4)
    with pytest.raises(InputRefused) as unknown:
        Preprocess(PreprocessConfig(size=(2, 3, 4), spacing=(1, 1, 1))).prepare(blind)
    assert unknown.value.code == "spacing-unknown"


def test_headers_alone_tell_the_geometry(tmp_path: Path) -> None:
    for kind, write in WRITERS.items():
        path = write(tmp_path / NAMES[kind], "ASR", SPACINGS[1])
        told, read = probe(path).geometry, read_image(path).geometry
        assert (told.shape, told.orientation, told.spacing) == (read.shape, read.orientation, read.spacing)
        assert told.affine is not None and read.affine is not None
        np.testing.assert_array_equal(told.affine, read.affine)


def test_settings_of_before_mean_the_order_of_the_file_and_keep_their_cache() -> None:
    """What 0.1.0 hashed is written down here: a cohort that it prepared is not prepared again."""
    hashed = {
        "size": [4, 8, 8],
        "window": None,
        "percentiles": [0.5, 99.5],
        "neighbours": 0,
        "organ_crop": False,
        "organ_margin": 10,
        "keep_aspect": True,
        "resize": "linear",
        "colour": "rgb",
        "mask": "none",
    }
    key = hashlib.sha256(json.dumps([_VERSION, hashed]).encode()).hexdigest()[:16]
    old = PreprocessConfig.stored({"size": [4, 8, 8]})
    assert (old.orientation, old.spacing) == ("none", None)
    assert "orientation" not in old.spelt() and PreprocessConfig(size=(4, 8, 8)).orientation == "auto"
    assert Preprocess(old).key() == key != Preprocess(PreprocessConfig(size=(4, 8, 8))).key()
    for wrong in ("LPX", "LLS", "lp", "axial"):
        with pytest.raises(ValueError, match="is no orientation"):
            PreprocessConfig(orientation=wrong)
    assert PreprocessConfig(orientation="ras").orientation == "RAS"
