"""Augmentation: MONAI image by image is the second way to the same pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from monai.transforms import Affine, ScaleIntensity, ScaleIntensityFixedMean

from foveate.data.augment import Variation, augment_views, draw_variation
from foveate.study.settings import AugmentConfig

STRONG = AugmentConfig(
    rotate_degrees=70,
    translate=0.2,
    scale=(0.5, 1.7),
    flip=("horizontal", "vertical"),
    brightness=0.4,
    contrast=0.5,
)


def augment_batch(batch: torch.Tensor, drawn: Sequence[Variation], padding: Any = "zero") -> torch.Tensor:
    return augment_views({"image": batch}, {"image": drawn}, padding)["image"]


def test_a_batch_is_what_monai_makes_image_by_image() -> None:
    height, width = 40, 57  # unequal sides, or swapped axes would not show
    batch = torch.rand(12, 3, height, width, generator=torch.Generator().manual_seed(0))
    drawn = [draw_variation(STRONG, 0, 3, position) for position in range(12)]
    assert {item.mirrored for item in drawn} == {(a, b) for a in (False, True) for b in (False, True)}
    together = augment_batch(batch, drawn)
    for image, item, found in zip(batch, drawn, together, strict=True):
        contrasted = ScaleIntensityFixedMean(factor=item.contrast - 1)(image)
        bright = ScaleIntensity(minv=None, maxv=None, factor=item.brightness - 1)(contrasted).clamp(0, 1)
        signs = [-1 if flipped else 1 for flipped in item.mirrored]
        expected = Affine(
            rotate_params=item.rotation,
            translate_params=[item.shift[0] * height, item.shift[1] * width],
            scale_params=[sign / item.magnification for sign in signs],
            mode="bilinear",
            padding_mode="zeros",
            image_only=True,
        )(bright)
        torch.testing.assert_close(found, expected.as_tensor(), atol=1e-4, rtol=0)


def test_nothing_drawn_changes_nothing() -> None:
    batch = torch.rand(2, 1, 9, 14)
    torch.testing.assert_close(augment_batch(batch, [Variation(), Variation()]), batch, atol=1e-5, rtol=0)


def test_mirrors_shifts_quarter_turns_and_magnification_move_pixels_where_they_should() -> None:
    picture = torch.arange(16.0).reshape(1, 1, 4, 4) / 16
    columns, rows = Variation(mirrored=(False, True)), Variation(mirrored=(True, False))
    down, turned = Variation(shift=(-0.25, 0.0)), Variation(rotation=np.pi / 2)
    batch = augment_batch(picture.repeat(4, 1, 1, 1), [columns, rows, down, turned])
    torch.testing.assert_close(batch[0], picture[0].flip(-1), atol=1e-5, rtol=0)
    torch.testing.assert_close(batch[1], picture[0].flip(-2), atol=1e-5, rtol=0)
    torch.testing.assert_close(batch[2, 0, 1:], picture[0, 0, :-1], atol=1e-5, rtol=0)
    assert float(batch[2, 0, 0].abs().max()) < 1e-5  # zeros come in from outside
    quarter = picture[0].rot90(1, (-2, -1)), picture[0].rot90(-1, (-2, -1))
    assert any(torch.allclose(batch[3], turn, atol=1e-4) for turn in quarter)
    square = torch.zeros(1, 1, 32, 32)
    square[..., 12:20, 12:20] = 1
    larger = augment_batch(square, [Variation(magnification=1.5)])
    assert float(larger.sum() / square.sum()) == pytest.approx(1.5**2, rel=0.05)


def test_intensities_stay_in_range_and_zero_stays_zero_under_brightness() -> None:
    batch = torch.rand(8, 3, 16, 16)
    drawn = [draw_variation(AugmentConfig(brightness=0.9, contrast=0.9), 1, 0, place) for place in range(8)]
    varied = augment_batch(batch, drawn)
    assert float(varied.min()) >= 0 and float(varied.max()) <= 1
    dark = augment_batch(torch.zeros(1, 1, 8, 8), [Variation(brightness=1.5, contrast=1.5)])
    assert float(dark.abs().max()) == 0


def test_a_draw_depends_on_seed_epoch_and_position_alone() -> None:
    first = draw_variation(STRONG, 1, 2, 3)
    np.random.seed(9)
    torch.manual_seed(9)
    assert draw_variation(STRONG, 1, 2, 3) == first
    others = {
        draw_variation(STRONG, *where) for where in [(0, 2, 3), (1, 0, 3), (1, 2, 0), (3, 2, 1), (2, 1, 3)]
    }
    assert first not in others and len(others) == 5


def test_draws_fill_their_ranges_and_never_leave_them() -> None:
    drawn = [draw_variation(STRONG, 0, 0, position) for position in range(2000)]
    turns = np.rad2deg([item.rotation for item in drawn])
    sizes = np.array([item.magnification for item in drawn])
    shifts = np.array([item.shift for item in drawn])
    for values, low, high in [(turns, -70, 70), (sizes, 0.5, 1.7), (shifts, -0.2, 0.2)]:
        margin = 0.02 * (high - low)
        assert low <= values.min() < low + margin and high - margin < values.max() <= high
        assert abs(values.mean() - (low + high) / 2) < margin
    assert np.mean([item.mirrored[0] for item in drawn]) == pytest.approx(0.5, abs=0.04)


def test_no_mirror_unless_asked_for() -> None:
    drawn = [draw_variation(AugmentConfig(flip=("horizontal",)), 0, 0, place) for place in range(50)]
    assert not any(item.mirrored[0] for item in drawn)
    assert any(item.mirrored[1] for item in drawn)
