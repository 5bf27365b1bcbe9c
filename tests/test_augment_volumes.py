"""Augmentation of volumes and of several views: MONAI, volume by volume, is the second way there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from monai.transforms import Affine, Flip, Rotate

from foveate.data.augment import Variation, augment_views, draw_kept, draw_variation
from foveate.study.settings import AugmentConfig

STRONG = AugmentConfig(
    rotate_degrees=70,
    tilt_degrees=30,
    translate=0.2,
    scale=(0.5, 1.7),
    flip=("horizontal", "vertical", "depth"),
    brightness=0,
    contrast=0,
)
SPACE = (7, 20, 29)  # unequal sides, or swapped axes would not show


def augment_batch(batch: torch.Tensor, drawn: Sequence[Variation], padding: Any = "zero") -> torch.Tensor:
    return augment_views({"image": batch}, {"image": drawn}, padding)["image"]


def noise(batch: int, *space: int) -> torch.Tensor:
    return torch.rand((batch, 1, *space), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("padding", ["zero", "edge"])
def test_a_batch_of_volumes_is_what_monai_makes_one_by_one(padding: str) -> None:
    batch = noise(16, *SPACE)
    drawn = [draw_variation(STRONG, 0, 3, position) for position in range(16)]
    assert len({(*item.mirrored, item.mirrored_depth) for item in drawn}) >= 6
    together = augment_batch(batch, drawn, padding)
    for image, item, found in zip(batch, drawn, together, strict=True):
        rows, columns = (-1 if flipped else 1 for flipped in item.mirrored)
        expected = Affine(
            rotate_params=(item.rotation, 0, item.tilt),
            translate_params=[0, item.shift[0] * SPACE[1], item.shift[1] * SPACE[2]],
            scale_params=[
                -1 if item.mirrored_depth else 1,
                rows / item.magnification,
                columns / item.magnification,
            ],
            mode="bilinear",
            padding_mode="zeros" if padding == "zero" else "border",
            image_only=True,
        )(image)
        torch.testing.assert_close(found, expected.as_tensor(), atol=2e-4, rtol=0)


def test_a_tilt_is_the_published_rotation() -> None:
    """LCA-DB turns (x, y, z) arrays about x, with border padding, by MONAI (specification 1.2, item 3)."""
    volume = noise(1, 16, 24, 24)
    for angle in (-0.17, 0.1):
        ours = augment_batch(volume, [Variation(tilt=angle)], "edge")[0]
        stored = volume[0].permute(0, 3, 2, 1)  # (z, y, x) → (x, y, z), as nibabel has it
        turned = [
            Rotate((sign * angle, 0, 0), keep_size=True, mode="bilinear", padding_mode="border")(stored)
            for sign in (-1, 1)
        ]
        off = [float((ours - theirs.permute(0, 3, 2, 1)).abs().max()) for theirs in turned]
        assert min(off) < 2e-4 < 0.1 < max(off)


def test_one_coin_mirrors_all_axes_as_the_published_flip() -> None:
    config = AugmentConfig(
        rotate_degrees=0, translate=0, scale=(1, 1), brightness=0, contrast=0,
        flip=("horizontal", "vertical", "depth"), flip_together=True, probability=0.3,
    )  # fmt: skip
    drawn = [draw_variation(config, 0, 0, position) for position in range(3000)]
    assert {(*item.mirrored, item.mirrored_depth) for item in drawn} == {(True,) * 3, (False,) * 3}
    assert np.mean([item.mirrored_depth for item in drawn]) == pytest.approx(0.3, abs=0.03)
    volume = noise(2, *SPACE)
    mirrored = next(item for item in drawn if item.mirrored_depth)
    found = augment_batch(volume, [mirrored, Variation()])
    torch.testing.assert_close(found[0], Flip(spatial_axis=None)(volume[0]).as_tensor(), atol=1e-5, rtol=0)
    assert torch.equal(found[1], volume[1])  # what stays where it is keeps its bits


def test_each_axis_is_mirrored_where_it_should_be() -> None:
    volume = noise(1, *SPACE).repeat(3, 1, 1, 1, 1)
    depth, rows, columns = (
        Variation(mirrored_depth=True),
        Variation(mirrored=(True, False)),
        Variation(mirrored=(False, True)),
    )
    found = augment_batch(volume, [depth, rows, columns])
    for axis, image in zip((-3, -2, -1), found, strict=True):
        torch.testing.assert_close(image, volume[0].flip(axis), atol=1e-5, rtol=0)


def test_views_that_share_their_draws_are_what_each_is_alone() -> None:
    views = {"grey": noise(4, 20, 29), "colour": noise(12, 20, 29).reshape(4, 3, 20, 29)}
    bright = STRONG.model_copy(update={"brightness": 0.3, "contrast": 0.4})
    drawn = [draw_variation(bright, 0, 0, place) for place in range(4)]
    other = [draw_variation(bright, 0, 0, place, 1) for place in range(4)]
    for draws in ({"grey": drawn, "colour": drawn}, {"grey": drawn, "colour": other}):
        together = augment_views(views, draws)
        assert list(together) == ["grey", "colour"]
        for name, found in together.items():
            torch.testing.assert_close(found, augment_batch(views[name], draws[name]), atol=1e-6, rtol=0)


def test_a_probability_holds_for_turning_and_for_mirroring_apart() -> None:
    config = STRONG.model_copy(update={"probability": 0.25})
    drawn = [draw_variation(config, 0, 0, position) for position in range(4000)]
    turned = np.array([item.rotation != 0 for item in drawn])
    tilted = np.array([item.tilt != 0 for item in drawn])
    flips = np.array([(*item.mirrored, item.mirrored_depth) for item in drawn])
    assert (turned == tilted).all()
    assert turned.mean() == pytest.approx(0.25, abs=0.03)
    assert flips.mean(axis=0) == pytest.approx([0.25] * 3, abs=0.03)
    together = flips.all(axis=1).mean()
    assert together == pytest.approx(0.25**3, abs=0.01)  # independent of each other …
    assert flips[turned].mean() == pytest.approx(0.25, abs=0.03)  # … and of turning
    tilts = np.rad2deg([item.tilt for item in drawn])
    assert 29 < np.abs(tilts).max() <= 30
    always = [draw_variation(STRONG, 0, 0, position) for position in range(200)]
    assert all(item.rotation and item.tilt for item in always)


def test_what_was_drawn_before_volumes_came_is_drawn_still() -> None:
    """Numbers of the first version, for a study that asks for nothing new."""
    item = draw_variation(AugmentConfig(flip=("horizontal", "vertical")), 1, 2, 3)
    chance = np.random.default_rng([1, 2, 3, 2])
    turn, down, right, brighter, steeper = chance.uniform(-1, 1, size=5)
    rows, columns = chance.random(2) < 0.5
    assert (item.rotation, item.shift) == (np.deg2rad(15) * turn, (0.05 * down, 0.05 * right))
    assert (item.brightness, item.contrast) == (1 + 0.05 * brighter, 1 + 0.05 * steeper)
    assert (item.mirrored, item.magnification) == ((rows, columns), chance.uniform(0.9, 1.1))
    assert (item.tilt, item.mirrored_depth) == (0, False)


def test_views_draw_apart_only_by_their_number() -> None:
    first = draw_variation(STRONG, 1, 2, 3)
    assert draw_variation(STRONG, 1, 2, 3, 0) == first
    others = {draw_variation(STRONG, 1, 2, 3, view) for view in range(1, 5)}
    assert len(others) == 4 and first not in others


# ---- withheld views -----------------------------------------------------------------------------------


def test_withheld_views_come_as_often_as_asked_and_one_is_always_kept() -> None:
    present = np.array([True, True, False, True])
    kept = np.array([draw_kept(0.4, present, 0, 0, place) for place in range(6000)])
    assert not kept[:, 2].any() and kept.any(axis=1).all()
    # dropped: 0.4, less the cases in which all three were and one of them, drawn evenly, came back
    expected = 1 - 0.4 + 0.4**3 / 3
    assert kept[:, [0, 1, 3]].mean(axis=0) == pytest.approx([expected] * 3, abs=0.02)
    only = np.array([False, True])
    assert all((draw_kept(0.99, only, 0, 0, place) == only).all() for place in range(50))
    assert (draw_kept(0.0, present, 0, 0, 0) == present).all()
    assert present.tolist() == [True, True, False, True]  # left as it was


def test_withheld_views_depend_on_seed_epoch_and_position_alone() -> None:
    present = np.ones(8, dtype=bool)
    first = draw_kept(0.5, present, 1, 2, 3)
    np.random.seed(0)
    assert (draw_kept(0.5, present, 1, 2, 3) == first).all()
    others = [draw_kept(0.5, present, *where) for where in [(0, 2, 3), (1, 0, 3), (1, 2, 0)]]
    assert all((other != first).any() for other in others)
