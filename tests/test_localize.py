"""From heat maps to boxes: hand-worked maps, a slow twin, and the choice of the threshold."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foveate.errors import RunFailed, UsageError
from foveate.evaluate.localization.cases import sweep_ious
from foveate.maps.localize import BoxRule, choose_threshold, localize_heatmap, sweep
from foveate.maps.regions import Region, box_iou
from foveate.types import Box

MAP = np.array(
    [
        [0.0, 0.0, 0.0, 0.0, 0.0, 4.0],
        [0.0, 2.0, 3.0, 0.0, 0.0, 0.0],
        [0.0, 2.0, 0.0, 0.0, 0.0, 0.0],
        [0.0, 0.0, 0.0, 0.0, -9.0, 0.0],
        [1.0, 0.0, 0.0, 0.0, 0.0, 0.0],
    ],
    dtype=np.float32,
)


def _edges(region: Region) -> list[tuple[tuple[float, ...], tuple[float, ...]]]:
    return [(box.start, box.stop) for box in region.boxes]


def test_largest_component_above_half_of_the_maximum() -> None:
    found = localize_heatmap(MAP, BoxRule(0.5), label="cyst")
    assert _edges(found) == [((1, 1), (3, 3))]
    assert np.argwhere(found.mask).tolist() == [[1, 1], [1, 2], [2, 1]]
    assert found.boxes[0].label == "cyst"
    assert found.boxes[0].score == pytest.approx(7 / 12)  # of 12 positive in all; -9 counts for nothing
    assert found.boxes[0].xywh == (1, 1, 2, 2)


def test_all_components_come_largest_first_and_small_ones_can_be_dropped() -> None:
    every = localize_heatmap(MAP, BoxRule(0.25, keep="all"))
    assert _edges(every) == [((1, 1), (3, 3)), ((0, 5), (1, 6)), ((4, 0), (5, 1))]  # 3 pixels; 4.0; 1.0
    assert every.mask.sum() == 5
    assert _edges(localize_heatmap(MAP, BoxRule(0.25, keep="all", min_pixels=2))) == [((1, 1), (3, 3))]
    assert not localize_heatmap(MAP, BoxRule(0.25, min_pixels=4)).boxes
    assert _edges(localize_heatmap(MAP, BoxRule(1.0))) == [((0, 5), (1, 6))]


def test_the_largest_is_so_by_pixels_and_evidence_only_decides_between_equals() -> None:
    row = np.array([[1.0, 1.0, 1.0, 0.0, 9.0, 9.0, 0.0, 1.0, 1.0, 2.0]])
    assert _edges(localize_heatmap(row, BoxRule(0.1))) == [((0, 7), (1, 10))]  # evidence 3, 18, 4


def test_the_organ_is_applied_before_the_maximum_is_taken() -> None:
    organ = np.zeros(MAP.shape, dtype=bool)
    organ[:, :5] = True  # without the 4.0, half of the maximum is 1.5; 0.9 of it only holds the 3.0
    assert _edges(localize_heatmap(MAP, BoxRule(0.9), organ=organ)) == [((1, 2), (2, 3))]
    assert not localize_heatmap(MAP, BoxRule(), organ=np.zeros(MAP.shape, dtype=bool)).boxes
    with pytest.raises(UsageError, match="organ mask has shape"):
        localize_heatmap(MAP, BoxRule(), organ=organ[:3])


@pytest.mark.parametrize("values", [np.zeros((4, 5)), -np.ones((3, 4, 5))])
def test_a_map_without_positive_evidence_finds_nothing(values: np.ndarray) -> None:
    found = localize_heatmap(values, BoxRule())
    assert found.boxes == ()
    assert found.mask.shape == values.shape
    assert not found.mask.any()


def test_maps_that_are_not_finite_and_rules_without_sense_are_refused() -> None:
    with pytest.raises(RunFailed, match="not finite"):
        localize_heatmap(np.array([[1.0, np.nan]]), BoxRule())
    for threshold in (0.0, 1.01, -1.0, float("nan")):
        with pytest.raises(UsageError, match="threshold"):
            BoxRule(threshold)
    with pytest.raises(UsageError, match="largest, all"):
        BoxRule(keep="first")  # type: ignore[arg-type]


def test_components_of_a_volume_connect_over_corners() -> None:
    values = np.zeros((4, 4, 4), dtype=np.float32)
    values[0, 0, 0] = values[1, 1, 1] = 1.0
    values[3, 3, 3] = 2.0
    assert _edges(localize_heatmap(values, BoxRule(0.5))) == [((0, 0, 0), (2, 2, 2))]


@settings(deadline=None, max_examples=60, derandomize=True)
@given(
    seed=st.integers(0, 10**6), threshold=st.sampled_from([0.05, 0.15, 0.5, 1.0]), power=st.integers(-20, 20)
)
def test_the_rule_ignores_the_scale_of_the_map_and_never_finds_more_when_stricter(
    seed: int, threshold: float, power: int
) -> None:
    values = np.random.default_rng(seed).normal(size=(7, 8))
    found = localize_heatmap(values, BoxRule(threshold, keep="all"))
    scaled = localize_heatmap(values * 2.0**power, BoxRule(threshold, keep="all"))
    assert _edges(scaled) == _edges(found)
    stricter = localize_heatmap(values, BoxRule(min(1.0, threshold * 1.5), keep="all"))
    assert not (stricter.mask & ~found.mask).any()
    assert found.mask[np.unravel_index(values.argmax(), values.shape)]
    peak = values.max()
    assert all(found.mask[i, j] == (values[i, j] >= threshold * peak) for i, j in np.ndindex(values.shape))
    assert sum(box.score for box in found.boxes) <= 1 + 1e-12


def test_the_chosen_threshold_is_the_one_with_the_best_mean_iou() -> None:
    draws = np.random.default_rng(7)
    y, x = np.mgrid[:40, :40]
    maps, truths = [], []
    for _ in range(8):
        cy, cx = draws.uniform(12, 28, 2)
        maps.append(np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * 6.0**2)))
        truths.append(Region.from_boxes([Box((cy - 7, cx - 7), (cy + 7, cx + 7))], (40, 40)))
    candidates = [0.1, 0.3, 0.5, 0.7, 0.9]
    means = [
        np.mean(
            [
                box_iou(localize_heatmap(values, BoxRule(candidate)).boxes[0], truth.boxes[0])
                for values, truth in zip(maps, truths, strict=True)
            ]
        )
        for candidate in candidates
    ]
    ious = [
        sweep_ious(sweep(values, candidates), truth)[0] for values, truth in zip(maps, truths, strict=True)
    ]
    np.testing.assert_allclose(np.mean(ious, axis=0), means, rtol=1e-12)
    chosen = choose_threshold(np.array(ious), candidates)
    assert (
        chosen == candidates[int(np.argmax(means))] == 0.5
    )  # exp(-49 / 72) = 0.506 at the edge of the truth


def test_empty_maps_count_as_zero_and_equals_go_to_the_first_candidate() -> None:
    truth = Region.from_boxes([Box((0, 0), (2, 2))], (5, 6))
    assert sweep_ious(sweep(np.zeros((5, 6)), [0.4, 0.2]), truth) == ((0.0, 0.0), (0.0, 0.0))
    assert choose_threshold(np.zeros((3, 2)), [0.4, 0.2]) == 0.4
    for ious, candidates in ((np.zeros((0, 1)), [0.5]), (np.zeros((1, 0)), [])):
        with pytest.raises(UsageError, match="validation cases"):
            choose_threshold(ious, candidates)


def test_the_sweep_tells_the_largest_box_and_the_best_of_all() -> None:
    """Of MAP the largest part is at rows 1 and 2; the truth is the single pixel with the 4.0."""
    truth = Region.from_boxes([Box((0, 5), (1, 6))], (5, 6))
    largest, every = sweep_ious(sweep(MAP, [0.5, 0.9]), truth)
    assert largest == (0.0, 1.0) and every == (1.0, 1.0)
    organ = np.ones(MAP.shape, dtype=bool)
    organ[0, 5] = False
    assert sweep_ious(sweep(MAP, [0.5], organ=organ), truth) == ((0.0,), (0.0,))


# Other rules


def test_two_thresholds_are_cut_at_60_and_180_of_255_and_every_part_of_both_is_a_region() -> None:
    values = np.array([[61.0, 0.0, 59.0, 0.0, 60.0, 181.0, 255.0, 179.0, 0.0, 200.0]])
    found = localize_heatmap(values, BoxRule(kind="two_thresholds"))
    assert _edges(found) == [
        ((0, 4), (1, 8)),  # 60 and more: four pixels
        ((0, 9), (1, 10)),
        ((0, 0), (1, 1)),
        ((0, 5), (1, 7)),  # 180 and more: two pixels; the 200 is known already
    ]
    assert found.mask.tolist() == [[True, False, False, False, True, True, True, True, False, True]]


def test_the_hottest_twentieth_is_a_share_of_the_pixels_not_of_the_maximum() -> None:
    values = np.arange(400, dtype=float).reshape(20, 20)  # the last row holds the 20 highest
    assert _edges(localize_heatmap(values, BoxRule(kind="top"))) == [((19, 0), (20, 20))]
    organ = np.zeros((20, 20), dtype=bool)
    organ[:10, :10] = True  # 100 pixels: the 5 highest are at the end of row 9
    assert _edges(localize_heatmap(values, BoxRule(kind="top"), organ=organ)) == [((9, 5), (10, 10))]
    sparse = np.zeros((20, 20))
    sparse[3, 3] = 1e-9  # pixels without evidence are never among the hottest
    assert _edges(localize_heatmap(sparse, BoxRule(kind="top"))) == [((3, 3), (4, 4))]


@pytest.mark.parametrize("shape", [(9, 11), (4, 6, 5)])
def test_the_window_is_that_with_the_largest_mean(shape: tuple[int, ...]) -> None:
    """Against a slow twin that tries every place."""
    values = np.random.default_rng(3).random(shape)
    window = (2,) * len(shape)
    places = list(np.ndindex(*(side - 1 for side in shape)))
    sums = [values[tuple(slice(at, at + 2) for at in place)].sum() for place in places]
    best = places[int(np.argmax(sums))]
    found = localize_heatmap(values, BoxRule(kind="patch", window=window), label="cyst")
    assert _edges(found) == [(best, tuple(at + 2 for at in best))]
    assert found.boxes[0].score == pytest.approx(max(sums) / values.sum())
    assert found.mask.sum() == 2 ** len(shape)
    assert localize_heatmap(values, BoxRule(kind="patch", window=(99,) * len(shape))).mask.all()


def test_an_unknown_rule_is_refused() -> None:
    with pytest.raises(UsageError, match="peak, two_thresholds, top, patch"):
        BoxRule(kind="otsu")  # type: ignore[arg-type]
