"""Volumes, settings per view, z-scores: exact values, MONAI and slow twins, and the way back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.transforms import NormalizeIntensity, Resize
from pydantic import ValidationError

from foveate.contract import InputSpec
from foveate.errors import InputRefused, UndoImpossible, UsageError
from foveate.io.reading import read_image
from foveate.prepare.preprocess import Preprocess
from foveate.prepare.resample import resize
from foveate.study.settings import PreprocessConfig
from foveate.types import Array, Geometry, Image
from tiny_volumes import write_volume


def image(pixels: Array, value_range: tuple[float, float] | None = None) -> Image:
    if pixels.dtype == np.uint8:
        value_range = (0, 255)
    return Image(pixels, Geometry(pixels.shape[1:]), "made.nii", "0" * 64, value_range=value_range)


def volume(*shape: int, seed: int = 0) -> Array:
    """``(1, D, H, W)`` of 8-bit noise."""
    return np.random.default_rng(seed).integers(0, 256, (1, *shape), dtype=np.uint8)


def triangle(side: int, wanted: int) -> Array:
    """``(wanted, side)`` weights of linear interpolation, widened on the way down (slow twin)."""
    scale = side / wanted
    width = max(scale, 1.0)
    weights = np.zeros((wanted, side))
    for row in range(wanted):
        centre = (row + 0.5) * scale
        for column in range(side):
            weights[row, column] = max(0.0, 1 - abs((column + 0.5 - centre) / width))
    return weights / weights.sum(axis=1, keepdims=True)


# ---- resizing -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shape", "size"), [((9, 20, 14), (4, 8, 7)), ((3, 10, 12), (5, 13, 6))])
def test_linear_is_a_product_of_widened_triangles(shape: tuple[int, ...], size: tuple[int, ...]) -> None:
    values = np.random.default_rng(1).random((2, *shape))
    by_axis = [triangle(side, wanted) for side, wanted in zip(shape, size, strict=True)]
    expected = np.einsum("zd,yh,xw,cdhw->czyx", *by_axis, values)
    found = resize(torch.from_numpy(values).float(), size)
    np.testing.assert_allclose(found, expected, atol=2e-6)


@pytest.mark.parametrize(("shape", "size"), [((9, 20, 14), (4, 8, 7)), ((3, 10, 12), (5, 13, 6))])
def test_area_is_monai_s_default_resize(shape: tuple[int, ...], size: tuple[int, ...]) -> None:
    values = torch.rand(1, *shape, generator=torch.Generator().manual_seed(0))
    expected = Resize(size)(values)  # mode "area"
    torch.testing.assert_close(resize(values, size, "area"), expected.as_tensor(), atol=1e-6, rtol=0)


def test_area_is_the_mean_of_blocks_and_repeats_them_on_the_way_up() -> None:
    pixels = volume(4, 6, 8)
    config = PreprocessConfig(size=(2, 3, 16), resize="area", keep_aspect=False)
    found = Preprocess(config).prepare(image(pixels)).tensor
    blocks = pixels[0].reshape(2, 2, 3, 2, 8).mean(axis=(1, 3)).repeat(2, axis=-1) / 255
    np.testing.assert_allclose(found[0], blocks, atol=5e-4)


# ---- preparing ----------------------------------------------------------------------------------------


def test_a_volume_keeps_array_order_and_one_channel() -> None:
    pixels = volume(3, 4, 5)
    preprocess = Preprocess(PreprocessConfig(size=(3, 4, 5)))
    prepared = preprocess.prepare(image(pixels))
    np.testing.assert_allclose(prepared.tensor, pixels / 255, atol=5e-4)
    assert prepared.field.shape == (3, 4, 5)
    assert preprocess.input_spec(("ct",)) == InputSpec(("ct",), "3", (3, 4, 5), channels=1)
    colour = np.concatenate([pixels, np.zeros_like(pixels), np.zeros_like(pixels)])
    np.testing.assert_allclose(
        preprocess.prepare(image(colour)).tensor, 0.299 * pixels / 255, atol=5e-4
    )  # volumes are grey


def test_a_file_of_three_axes_is_read_slices_first(tmp_path: Path) -> None:
    values = np.arange(2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4)
    read = read_image(write_volume(tmp_path / "a.nii.gz", values))
    config = PreprocessConfig(size=(2, 3, 4), percentiles=(0, 100), orientation="none")
    found = Preprocess(config).prepare(read).tensor
    np.testing.assert_allclose(found[0], values / 23, atol=5e-4)


def test_the_aspect_is_kept_within_slices_only() -> None:
    pixels = np.full((1, 2, 10, 20), 255, np.uint8)
    found = Preprocess(PreprocessConfig(size=(6, 20, 20))).prepare(image(pixels)).tensor[0]
    assert (found[:, 5:15] == 1).all() and (found[:, :5] == 0).all() and (found[:, 15:] == 0).all()
    stretched = Preprocess(PreprocessConfig(size=(6, 20, 20), keep_aspect=False)).prepare(image(pixels))
    assert (stretched.tensor == 1).all()


def test_an_organ_is_cut_out_along_three_axes() -> None:
    organ = np.zeros((8, 30, 40), bool)
    organ[3:5, 10:20, 15:30] = True
    config = PreprocessConfig(size=(4, 12, 17), organ_crop=True, organ_margin=1, keep_aspect=False)
    preprocess = Preprocess(config)
    prepared = preprocess.prepare(image(np.full((1, 8, 30, 40), 255, np.uint8)), organ_mask=organ)
    expected = np.zeros((4, 12, 17))
    expected[1:3, 1:11, 1:16] = 1  # the box with a margin of one voxel is exactly the model's size
    np.testing.assert_array_equal(prepared.tensor[0], expected)
    back = prepared.field.back(np.ones((4, 12, 17), np.float32))
    seen = np.zeros((8, 30, 40))
    seen[2:6, 9:21, 14:31] = 1
    np.testing.assert_array_equal(back, seen)
    with pytest.raises(InputRefused, match="shape") as caught:
        preprocess.prepare(image(volume(8, 30, 40)), organ_mask=organ[0])
    assert caught.value.code == "mask-shape"


@settings(max_examples=25, deadline=None)
@given(
    st.tuples(st.integers(6, 14), st.integers(20, 60), st.integers(20, 60)),
    st.booleans(),
    st.sampled_from(["linear", "area"]),
    st.integers(0, 10**6),
)
def test_a_bright_spot_comes_back_to_its_place(
    shape: tuple[int, ...], keep_aspect: bool, how: str, seed: int
) -> None:
    draws = np.random.default_rng(seed)
    place = [int(draws.integers(2, side - 2)) for side in shape]
    pixels = np.zeros((1, *shape), np.uint8)
    pixels[(0, *(slice(at - 1, at + 2) for at in place))] = 255
    config = PreprocessConfig(size=(12, 48, 48), keep_aspect=keep_aspect, resize=how)
    preprocess = Preprocess(config)
    prepared = preprocess.prepare(image(pixels))
    back = prepared.field.back(prepared.tensor[0].float().numpy())
    assert back.shape == shape
    grid = np.meshgrid(*(np.arange(side) for side in shape), indexing="ij")
    found = [float((back * axis).sum() / back.sum()) for axis in grid]
    # area shifts by up to half a block of the coarser grid; linear is even
    assert np.abs(np.subtract(found, place)).max() < (0.8 if how == "linear" else 1.0)


def test_a_coarse_map_covers_the_field_that_the_model_saw() -> None:
    preprocess = Preprocess(PreprocessConfig(size=(4, 8, 8), keep_aspect=False))
    field = preprocess.prepare(image(volume(8, 24, 40))).field
    coarse = np.zeros((2, 2, 2), np.float32)
    coarse[1, 0, 1] = 1
    back = field.back(coarse)
    steps = [(2, 4, 8), (2, 8, 24), (2, 8, 40)]  # the map, the model's input, the file
    there = [triangle(model, file) @ triangle(small, model) for small, model, file in steps]
    np.testing.assert_allclose(back, np.einsum("zd,yh,xw,dhw->zyx", *there, coarse), atol=1e-6)
    assert back[7, 0, 39] == back.max()
    for wrong in (np.zeros((8, 8)), np.zeros((1, 4, 8, 8))):
        with pytest.raises(UndoImpossible, match="over a volume"):
            field.back(wrong.astype(np.float32))


def test_what_does_not_fit_is_said_with_both_sides() -> None:
    slab = Preprocess(PreprocessConfig(size=(4, 8, 8)))
    with pytest.raises(UsageError, match=r"size is \[4, 8, 8\].*single image"):
        slab.prepare(image(np.zeros((1, 8, 8), np.uint8)))
    with pytest.raises(UsageError, match="names slice 2"):
        slab.prepare(image(volume(4, 8, 8)), slice_index=2)
    with pytest.raises(UsageError, match="three numbers"):
        Preprocess(PreprocessConfig(size=(8, 8))).prepare(image(volume(4, 8, 8)))
    for wrong in ({"size": (8,)}, {"size": (2, 4, 8, 8)}, {"size": (4, 0, 8)}):
        with pytest.raises(ValidationError, match="size"):
            PreprocessConfig.model_validate(wrong)
    with pytest.raises(ValidationError, match="whole volume"):
        PreprocessConfig(size=(4, 8, 8), neighbours=1)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
def test_what_is_not_finite_is_refused(bad: float) -> None:
    pixels = np.ones((1, 4, 8, 8))
    pixels[0, 1, 2, 3] = bad
    pixels[0, 0, 0, 0] = -bad
    with pytest.raises(InputRefused, match="not finite") as caught:
        Preprocess(PreprocessConfig(size=(4, 8, 8), percentiles=(0, 100))).prepare(image(pixels))
    assert (caught.value.code, caught.value.where) == ("not-finite", "made.nii")


# ---- normalizing --------------------------------------------------------------------------------------


def test_z_scores_are_monai_s_and_survive_scaling() -> None:
    pixels = np.random.default_rng(0).normal(300, 80, (1, 6, 10, 10)).astype(np.float32)
    config = PreprocessConfig(size=(6, 10, 10), percentiles=(0, 100), intensity="zscore")
    preprocess = Preprocess(config)
    batch = torch.stack([preprocess.prepare(image(pixels)).tensor, torch.full((1, 6, 10, 10), 0.5).half()])
    found = preprocess.normalize(batch)
    expected = NormalizeIntensity()(pixels)  # of the values in the file: scale and offset fall out
    np.testing.assert_allclose(found[0], expected, atol=5e-3)  # half precision on the way
    assert found.dtype == torch.float32 and (found[1] == 0).all()  # a constant image
    exact = NormalizeIntensity()(batch[0].float())
    torch.testing.assert_close(found[0], torch.as_tensor(np.asarray(exact)), atol=1e-5, rtol=0)


def test_fixed_takes_the_first_mean_for_volumes_and_nan_stays_nan() -> None:
    preprocess = Preprocess(PreprocessConfig(size=(2, 3, 3), mean=(0.25, 9, 9), std=(0.5, 9, 9)))
    batch = torch.full((2, 1, 2, 3, 3), 0.75)
    batch[1] = torch.nan
    found = preprocess.normalize(batch)
    assert found.shape == (2, 1, 2, 3, 3)
    assert (found[0] == 1).all() and found[1].isnan().all()
    z = Preprocess(PreprocessConfig(size=(2, 3, 3), intensity="zscore")).normalize(batch)
    assert (z[0] == 0).all() and z[1].isnan().all()
    picture = Preprocess(PreprocessConfig(size=(3, 3), intensity="zscore")).normalize(torch.rand(2, 1, 3, 3))
    assert picture.shape == (2, 3, 3, 3)
    torch.testing.assert_close(picture[:, 0].mean(dim=(1, 2)), torch.zeros(2), atol=1e-6, rtol=0)
    torch.testing.assert_close(picture[:, 2].std(dim=(1, 2), correction=0), torch.ones(2))


# ---- settings per view --------------------------------------------------------------------------------


def test_views_have_settings_of_their_own() -> None:
    config = PreprocessConfig.model_validate(
        {
            "size": [2, 2],
            "keep_aspect": False,
            "views": {"ct": {"window": [-100, 100], "intensity": "zscore"}, "photo": {"colour": "grey"}},
        }
    )
    preprocess = Preprocess(config)
    hounsfield = image(np.array([[[-200, 0], [50, 100]]], np.int16))
    np.testing.assert_allclose(preprocess.prepare(hounsfield, view="ct").tensor[0], [[0, 0.5], [0.75, 1]])
    other = preprocess.prepare(hounsfield, view="other").tensor[0]
    low, high = np.percentile(hounsfield.pixels, (0.5, 99.5))
    np.testing.assert_allclose(other, np.clip((hounsfield.pixels[0] - low) / (high - low), 0, 1), atol=1e-3)
    red = np.zeros((3, 2, 2), np.uint8)
    red[0] = 255
    assert preprocess.prepare(image(red), view="ct").tensor.shape == (3, 2, 2)
    photo = preprocess.prepare(image(red), view="photo").tensor
    assert photo.shape == (1, 2, 2) and photo.float().mean() == pytest.approx(0.299, abs=5e-4)
    batch = torch.tensor([[[[0.1, 0.4], [0.9, 0.2]]]])
    torch.testing.assert_close(preprocess.normalize(batch, "ct").mean(), torch.tensor(0.0), atol=1e-5, rtol=0)
    assert torch.equal(preprocess.normalize(batch, "photo"), preprocess.normalize(batch))
    assert preprocess.limits(hounsfield, "ct") == (-100, 100)
    keys = {preprocess.key(view) for view in ("ct", "photo", "other")}
    assert len(keys) == 3 and preprocess.key("other") == preprocess.key()


def test_settings_of_views_are_checked_and_come_back_from_json() -> None:
    config = PreprocessConfig.model_validate({"views": {"ct": {"window": [0, 1], "organ_crop": True}}})
    assert PreprocessConfig.model_validate(config.model_dump(mode="json")) == config
    assert config.for_view("ct").organ_crop and not config.for_view("t2").organ_crop
    with pytest.raises(ValidationError, match=r"view 'ct'.*window must rise"):
        PreprocessConfig.model_validate({"views": {"ct": {"window": [1, 0]}}})
    with pytest.raises(ValidationError, match=r"view 'ct'.*not for volumes"):
        PreprocessConfig.model_validate({"size": [4, 8, 8], "views": {"ct": {"mask": "otsu_dark"}}})
    with pytest.raises(ValidationError, match="Extra inputs"):
        PreprocessConfig.model_validate({"views": {"ct": {"size": [1, 1]}}})
    with pytest.raises(UsageError, match="no view 'ct'") as caught:
        Preprocess(config).input_spec(("t2", "dwi"))
    assert "t2, dwi" in caught.value.fix


# ---- Otsu ---------------------------------------------------------------------------------------------


def test_otsu_keeps_what_is_dark() -> None:
    """Against every threshold tried in turn, on a picture with two modes."""
    draws = np.random.default_rng(0)
    grey = np.where(draws.random((1, 24, 24)) < 0.3, draws.normal(60, 15, (1, 24, 24)), 190)
    grey = np.clip(grey, 0, 255).astype(np.uint8)
    config = PreprocessConfig(size=(24, 24), mask="otsu_dark")
    found = Preprocess(config).prepare(image(grey)).tensor[0].numpy()

    def between(threshold: int) -> float:
        low, high = grey[grey <= threshold], grey[grey > threshold]
        if not (low.size and high.size):
            return -1.0
        return float(low.size * high.size * (low.mean() - high.mean()) ** 2)

    best = max(range(256), key=between)
    np.testing.assert_allclose(found, np.where(grey[0] <= best, grey[0] / 255, 0), atol=5e-4)
    assert 0.2 < (found > 0).mean() < 0.4
    flat = Preprocess(config).prepare(image(np.full((1, 24, 24), 200, np.uint8))).tensor
    np.testing.assert_allclose(flat, 200 / 255, atol=5e-4)  # one grey level: nothing to tell apart
