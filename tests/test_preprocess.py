"""Preprocessing: exact values, and the way back to original pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foveate.errors import InputRefused, UndoImpossible, UsageError
from foveate.prepare.preprocess import Preprocess
from foveate.study.settings import PreprocessConfig
from foveate.types import Array, Geometry, Image


def image(pixels: Array, value_range: tuple[float, float] | None = None) -> Image:
    if pixels.dtype == np.uint8:
        value_range = (0, 255)
    return Image(pixels, Geometry(pixels.shape[1:]), "made.png", "0" * 64, value_range=value_range)


def test_eight_bit_images_keep_their_range() -> None:
    pixels = np.array([[[0, 51], [102, 255]]], dtype=np.uint8)
    prepared = Preprocess(PreprocessConfig(size=(2, 2))).prepare(image(pixels))
    np.testing.assert_allclose(prepared.tensor[0], [[0, 0.2], [0.4, 1]], atol=5e-4)


def test_window_in_hounsfield_units() -> None:
    pixels = np.array([[[-1000, -60], [60, 900]]], dtype=np.int16)
    prepared = Preprocess(PreprocessConfig(size=(2, 2), window=(-60, 180))).prepare(image(pixels))
    np.testing.assert_allclose(prepared.tensor[0], [[0, 0], [0.5, 1]], atol=5e-4)


def test_sixteen_bit_without_window_uses_own_percentiles() -> None:
    pixels = np.linspace(1000, 3000, 64 * 64).reshape(1, 64, 64).astype(np.uint16)
    prepared = Preprocess(PreprocessConfig(size=(64, 64))).prepare(image(pixels, (0, 65535)))
    low, high = np.percentile(pixels, (0.5, 99.5))
    np.testing.assert_allclose(prepared.tensor, np.clip((pixels - low) / (high - low), 0, 1), atol=1e-3)


def test_constant_image_is_finite() -> None:
    prepared = Preprocess(PreprocessConfig(size=(4, 4))).prepare(image(np.full((1, 8, 8), 7, np.int16)))
    assert torch.equal(prepared.tensor, torch.zeros(1, 4, 4, dtype=torch.float16))


def test_normalize_is_imagenet_and_repeats_grey() -> None:
    batch = torch.full((2, 1, 3, 3), 0.5)
    result = Preprocess(PreprocessConfig(size=(3, 3))).normalize(batch)
    expected = (0.5 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose(result[1, :, 2, 2], expected, rtol=1e-5)


def test_neighbours_become_channels_and_edges_repeat() -> None:
    volume = np.broadcast_to(np.arange(4, dtype=np.uint8)[None, :, None, None] * 51, (1, 4, 5, 5)).copy()
    preprocess = Preprocess(PreprocessConfig(size=(5, 5), neighbours=1))
    middle = preprocess.prepare(image(volume), slice_index=2).tensor[:, 0, 0]
    first = preprocess.prepare(image(volume), slice_index=0).tensor[:, 0, 0]
    np.testing.assert_allclose(middle, [0.2, 0.4, 0.6], atol=1e-3)
    np.testing.assert_allclose(first, [0, 0, 0.2], atol=1e-3)


def test_what_does_not_fit_is_said() -> None:
    flat, volume = image(np.zeros((1, 5, 5), np.uint8)), image(np.zeros((1, 3, 5, 5), np.uint8))
    with pytest.raises(UsageError, match="single image"):
        Preprocess(PreprocessConfig(neighbours=1)).prepare(flat)
    with pytest.raises(UsageError, match="does not say which"):
        Preprocess(PreprocessConfig()).prepare(volume)
    with pytest.raises(InputRefused, match="slice 3 does not exist"):
        Preprocess(PreprocessConfig()).prepare(volume, slice_index=3)
    with pytest.raises(UsageError, match="no organ mask"):
        Preprocess(PreprocessConfig(organ_crop=True)).prepare(flat)
    with pytest.raises(InputRefused, match="empty"):
        Preprocess(PreprocessConfig(organ_crop=True)).prepare(flat, organ_mask=np.zeros((5, 5), bool))
    with pytest.raises(InputRefused, match="shape"):
        Preprocess(PreprocessConfig(organ_crop=True)).prepare(flat, organ_mask=np.ones((4, 5), bool))


def test_organ_crop_hides_the_rest_and_undo_returns_to_its_place() -> None:
    pixels = np.full((1, 60, 80), 200, np.uint8)
    organ = np.zeros((60, 80), bool)
    organ[20:40, 30:60] = True
    preprocess = Preprocess(PreprocessConfig(size=(40, 40), organ_crop=True, organ_margin=5))
    prepared = preprocess.prepare(image(pixels), organ_mask=organ)
    back = prepared.field.back(prepared.tensor[0].float().numpy())
    inside = back[22:38, 32:58]
    np.testing.assert_allclose(inside, 200 / 255, atol=2e-2)
    assert back[~organ].mean() < 0.01
    assert back[:14].max() == 0 and back[:, :24].max() == 0


@settings(max_examples=40, deadline=None)
@given(st.integers(20, 90), st.integers(20, 90), st.booleans(), st.integers(0, 10**6))
def test_a_bright_spot_comes_back_to_its_place(height: int, width: int, keep_aspect: bool, seed: int) -> None:
    row, column = (
        int(np.random.default_rng(seed + i).integers(3, n - 3)) for i, n in enumerate((height, width))
    )
    pixels = np.zeros((1, height, width), np.uint8)
    pixels[0, row - 2 : row + 3, column - 2 : column + 3] = 255
    preprocess = Preprocess(PreprocessConfig(size=(64, 64), keep_aspect=keep_aspect))
    prepared = preprocess.prepare(image(pixels))
    back = prepared.field.back(prepared.tensor[0].float().numpy())
    mass = back / back.sum()
    found = (mass * np.arange(height)[:, None]).sum(), (mass * np.arange(width)).sum()
    assert back.shape == (height, width)
    assert abs(found[0] - row) < 0.75 and abs(found[1] - column) < 0.75


def test_undo_refuses_what_is_not_a_plane() -> None:
    preprocess = Preprocess(PreprocessConfig(size=(8, 8)))
    field = preprocess.prepare(image(np.zeros((1, 9, 9), np.uint8))).field
    with pytest.raises(UndoImpossible):
        field.back(np.zeros((2, 3, 4), np.float32))


def test_key_follows_what_changes_the_pixels() -> None:
    base = PreprocessConfig(size=(32, 32))
    key = Preprocess(base).key()
    assert Preprocess(base.model_copy(update={"mean": (0.0, 0.0, 0.0)})).key() == key
    assert Preprocess(base.model_copy(update={"window": (0.0, 1.0)})).key() != key
