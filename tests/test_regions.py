"""Masks, their parts, boxes and their overlap."""

from __future__ import annotations

import numpy as np
import pytest

from foveate.errors import InputRefused
from foveate.maps.regions import Region, box_iobb, box_iou, components, nearest
from foveate.types import Box

TRUE = Box((0, 0), (10, 10))


@pytest.mark.parametrize(
    ("found", "iou", "iobb"),
    [
        (Box((0, 5), (10, 15)), 50 / 150, 0.5),  # shifted by half
        (Box((2, 2), (7, 7)), 25 / 100, 1.0),  # inside
        (Box((20, 20), (30, 30)), 0.0, 0.0),  # apart
        (Box((10, 0), (20, 10)), 0.0, 0.0),  # touching
        (TRUE, 1.0, 1.0),
        (Box((3, 3), (3, 9)), 0.0, 0.0),  # without extent
    ],
)
def test_overlap_of_hand_worked_boxes(found: Box, iou: float, iobb: float) -> None:
    assert box_iou(found, TRUE) == box_iou(TRUE, found) == pytest.approx(iou, abs=1e-12)
    assert box_iobb(found, TRUE) == pytest.approx(iobb, abs=1e-12)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_box_overlap_equals_counting_pixels(dimensions: int) -> None:
    draws = np.random.default_rng(dimensions)
    for _ in range(30):
        corners = np.sort(draws.integers(0, 13, size=(2, 2, dimensions)), axis=1)
        corners[:, 1] += 1
        first, second = (Box(tuple(map(float, start)), tuple(map(float, stop))) for start, stop in corners)
        a, b = (Region.from_boxes([box], (14,) * dimensions).mask for box in (first, second))
        assert box_iou(first, second) == pytest.approx((a & b).sum() / (a | b).sum())
        assert box_iobb(first, second) == pytest.approx((a & b).sum() / a.sum())


def _flooded(mask: np.ndarray) -> list[set[tuple[int, ...]]]:
    """Slow twin: flood fill over corners."""
    left = {tuple(int(i) for i in index) for index in np.argwhere(mask)}
    parts = []
    while left:
        part, queue = set(), [left.pop()]
        while queue:
            index = queue.pop()
            part.add(index)
            close = {
                other for other in left if max(abs(a - b) for a, b in zip(index, other, strict=True)) <= 1
            }
            left -= close
            queue += close
        parts.append(part)
    return parts


@pytest.mark.parametrize("shape", [(9, 11), (4, 5, 6)])
def test_components_equal_a_flood_fill_over_corners(shape: tuple[int, ...]) -> None:
    for seed in range(15):
        mask = np.random.default_rng(seed).random(shape) < (0.25 if len(shape) == 2 else 0.06)
        labels, count = components(mask)
        found = [
            {tuple(int(i) for i in index) for index in np.argwhere(labels == n + 1)} for n in range(count)
        ]
        assert sorted(map(sorted, found)) == sorted(map(sorted, _flooded(mask)))
        boxes = {(box.start, box.stop) for box in Region.from_mask(mask).boxes}
        edges = {(tuple(np.min(list(p), 0)), tuple(np.max(list(p), 0) + 1)) for p in _flooded(mask)}
        assert boxes == edges


def test_pixels_that_touch_at_a_corner_are_one_part() -> None:
    assert len(Region.from_mask(np.eye(3, dtype=bool)).boxes) == 1
    apart = np.zeros((3, 3), dtype=bool)
    apart[0, 0] = apart[0, 2] = True
    assert len(Region.from_mask(apart, "cyst").boxes) == 2
    assert Region.from_mask(apart, "cyst").boxes[0].label == "cyst"


def test_a_box_fills_the_pixels_whose_centres_it_holds() -> None:
    region = Region.from_boxes([Box((0.4, 1.6), (2.5, 3.5))], (4, 5))
    assert np.argwhere(region.mask).tolist() == [[0, 2], [1, 2]]
    assert not region.outlined


@pytest.mark.parametrize(
    ("box", "pixel"), [(Box((2.6, 2.6), (2.9, 2.9)), (2, 2)), (Box((3.6, -3.0), (9.0, 0.2)), (3, 0))]
)
def test_a_box_without_a_pixel_centre_still_fills_one_pixel(box: Box, pixel: tuple[int, int]) -> None:
    assert np.argwhere(Region.from_boxes([box], (4, 5)).mask).tolist() == [list(pixel)]


def test_boxes_beyond_the_edge_are_clipped_and_boxes_outside_refused() -> None:
    assert Region.from_boxes([Box((-5, -5), (2, 3))], (4, 5)).mask.sum() == 6
    for box in (Box((4, 0), (6, 2)), Box((0, -3), (2, 0)), Box((1, 1), (1, 2))):
        with pytest.raises(InputRefused, match="outside the image") as refusal:
            Region.from_boxes([box], (4, 5))
        assert refusal.value.code == "box-outside-image"
    with pytest.raises(InputRefused, match="2 dimensions"):
        Region.from_boxes([TRUE], (4, 20, 20))


def test_nearest_is_the_box_with_the_largest_iou() -> None:
    small, large = Box((0, 0), (4, 4)), Box((0, 0), (100, 100))
    assert nearest(Box((0, 0), (5, 5)), [large, small]) == small
    assert nearest(Box((200, 200), (201, 201)), [large, small]) == large
