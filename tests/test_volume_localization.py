"""Volumes: where a map on few cells is highest, and what cell, plane and depth are worth, worked by hand."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foveate.evaluate.intervals import Bootstrap
from foveate.evaluate.localization import (
    CaseScore,
    Cells,
    VolumeTruth,
    control_maps,
    score_case,
    summarise_localization,
)
from foveate.evaluate.localization.controls import random_cells
from foveate.evaluate.localization.grids import spread, whole
from foveate.evaluate.localization.peaks import find_peaks
from foveate.evaluate.localization.wording import main_measure, verdict
from foveate.evaluate.results.localization import BoxRuleFacts
from foveate.maps.heatmaps import MapEntry
from foveate.maps.localize import BoxRule, localize_heatmap
from foveate.maps.regions import Mask, Region
from foveate.stations.truths import Marked
from foveate.types import Box

SHAPE = (16, 8, 8)
FIELD = whole(SHAPE)
NAN = float("nan")


def _block(start: tuple[int, ...], stop: tuple[int, ...], shape: tuple[int, ...] = SHAPE) -> Mask:
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = True
    return mask


def _one(place: tuple[int, ...], grid: tuple[int, ...], value: float = 1.0) -> np.ndarray:
    cells = np.zeros(grid)
    cells[place] = value
    return cells


def _score(
    cells: np.ndarray, lesion: Mask, *, organ: Mask | None = None, field: Box | None = None, own: bool = True
) -> CaseScore:
    """Score a map that is given on its grid; ``own``: whether the bench knows the grid's values."""
    field = field or whole(lesion.shape)
    values = spread(cells, lesion.shape, field)
    return score_case(
        values,
        localize_heatmap(values, BoxRule(0.5), organ=organ),
        Region.from_mask(lesion),
        case_id="a",
        patient_id="p",
        label="cyst",
        organ=organ,
        cells=Cells(cells, field) if own else None,
        volume=VolumeTruth.of(lesion, cells.shape, field, organ=organ, thickness=2.5),
    )


# Where a map is highest


def test_a_map_of_two_slices_is_highest_in_the_middle_of_one_and_not_at_the_end_of_the_volume() -> None:
    """Two cells a side over (16, 8, 8): their centres lie at 4 and 12, and at 2 and 6, between voxels."""
    cells = _one((0, 1, 0), (2, 2, 2))
    values = spread(cells, SHAPE, FIELD)
    plateau = find_peaks(values, values >= 0)
    assert sorted(set(plateau.pixels[:, 0])) == [0, 1, 2, 3], "four slices at the end are equally high"
    np.testing.assert_array_equal(plateau.pixels.mean(axis=0) + 0.5, (2, 7, 1))
    peaks = find_peaks(values, values >= 0, Cells(cells, FIELD))
    assert sorted(map(tuple, peaks.pixels.tolist())) == list(product((3, 4), (5, 6), (1, 2)))
    np.testing.assert_array_equal(peaks.pixels.mean(axis=0) + 0.5, (4, 6, 2))
    around_the_centre = _block((3, 5, 1), (5, 7, 3))
    assert _score(cells, around_the_centre).pointing_game == 1.0
    assert _score(cells, around_the_centre, own=False).pointing_game == 1 / 16, "voxel (3, 6, 1) alone"


def test_planes_have_the_same_plateaus_and_are_mended_alike() -> None:
    cells = _one((0, 0), (2, 2))
    lesion = Region.from_mask(_block((1, 1), (3, 3), (8, 8)))
    values = spread(cells, (8, 8), whole((8, 8)))

    def pointing(own: Cells | None) -> float:
        found = localize_heatmap(values, BoxRule(0.5))
        score = score_case(values, found, lesion, case_id="a", patient_id="p", label="x", cells=own)
        assert np.isnan([score.cell_hit, score.plane_pointing, score.plane_iou, score.depth_error]).all()
        return score.pointing_game

    assert pointing(None) == 1 / 4, "the plateau is of the four pixels in the corner"
    assert pointing(Cells(cells, whole((8, 8)))) == 1.0


def test_a_maximum_that_really_lies_at_the_border_stays_there() -> None:
    """A map as fine as the volume: the cell in the corner has its centre in the corner."""
    cells = _one((0, 0, 7), SHAPE)
    values = spread(cells, SHAPE, FIELD)
    peaks = find_peaks(values, values >= 0, Cells(cells, FIELD))
    np.testing.assert_array_equal(peaks.pixels, [(0, 0, 7)])
    score = _score(cells, _block((0, 0, 6), (2, 2, 8)))
    assert (score.pointing_game, score.cell_hit, score.plane_pointing, score.depth_error) == (1, 1, 1, 0)


def test_several_hottest_cells_count_their_share_and_rounding_makes_no_difference() -> None:
    lesion = _block((3, 5, 1), (5, 7, 3))
    for other, share in ((1.0, 1 / 2), (1 - 1e-7, 1 / 2), (1 + 1e-7, 1 / 2), (0.999, 1.0), (1.001, 0.0)):
        cells = _one((0, 1, 0), (2, 2, 2)) + _one((1, 0, 1), (2, 2, 2), other)
        score = _score(cells, lesion)
        assert (score.pointing_game, score.cell_hit, score.plane_pointing) == (share,) * 3, other
        slices = {1.0: 0.0, 0.5: (0 + 7.5) / 2, 0.0: 7.5}[share]  # from slices 11 and 12 to slice 4
        assert (score.depth_error, score.depth_error_mm) == (slices, 2.5 * slices)


def test_a_constant_map_scores_what_a_random_cell_does() -> None:
    lesion = _block((3, 5, 1), (5, 7, 3))
    score = _score(np.full((2, 2, 2), 0.3), lesion)
    assert score.cell_hit == score.cell_chance == 1 / 8
    assert score.pointing_game == 1 / 8 and score.plane_pointing == 1 / 4, "of eight and of four centres"
    assert score.depth_error == (0 + 7.5) / 2
    assert score.plane_chance == 2 * 2 / 64 and score.chance == lesion.mean()


def test_a_map_without_evidence_is_a_miss_and_as_far_as_can_be() -> None:
    score = _score(-np.ones((2, 2, 2)), _block((3, 5, 1), (5, 7, 3)))
    assert score.empty
    assert (score.cell_hit, score.plane_pointing, score.plane_iou, score.pointing_game) == (0, 0, 0, 0)
    assert (score.depth_error, score.depth_error_mm) == (11.0, 27.5), "from slice 15 to slice 4"


@settings(deadline=None, max_examples=40, derandomize=True)
@given(seed=st.integers(0, 10**6), grid=st.tuples(*[st.integers(1, 4)] * 3))
def test_the_hottest_cell_is_the_maximum_of_the_interpolated_map(seed: int, grid: tuple[int, ...]) -> None:
    """Slow twin: the map enlarged five times, where voxels lie at the centres of cells."""
    cells = np.random.default_rng(seed).random(grid)
    fine = tuple(5 * size for size in grid)
    values = spread(cells, fine, whole(fine))
    (place,) = find_peaks(values, values >= 0, Cells(cells, whole(fine))).pixels
    assert values[tuple(place)] == values.max() == cells.max()
    np.testing.assert_array_equal(place, [5 * at + 2 for at in np.unravel_index(cells.argmax(), grid)])


def test_evidence_outside_the_organ_does_not_count() -> None:
    hottest, second = _one((1, 0, 1), (2, 2, 2), 9.0), _one((0, 1, 0), (2, 2, 2))
    organ = _block((0, 4, 0), (8, 8, 4))  # the second cell exactly, opposite to the hottest
    lesion = _block((3, 5, 1), (5, 7, 3))
    score = _score(hottest + second, lesion, organ=organ)
    assert (score.cell_hit, score.plane_pointing, score.depth_error) == (1.0, 1.0, 0.0)
    assert score.cell_chance == 1.0, "one cell lies over the organ"
    assert score.plane_chance == 4 / 16


def test_at_the_edge_of_an_organ_the_highest_voxel_counts_where_no_centre_is_higher() -> None:
    """Along one row: the hottest cell's centre at 12 lies outside the organ, which ends at 10."""
    cells = np.array([1.0, 5.0])[None, None]
    shape = (1, 1, 16)
    organ = _block((0, 0, 0), (1, 1, 10), shape)
    values = np.where(organ, spread(cells, shape, whole(shape)), 0.0)
    peaks = find_peaks(values, organ, Cells(cells, whole(shape)))
    np.testing.assert_array_equal(peaks.pixels, [(0, 0, 9)])
    score = _score(cells, _block((0, 0, 8), (1, 1, 10), shape), organ=organ)
    assert (score.cell_hit, score.plane_pointing) == (1.0, 1.0), "that voxel is of the second cell"


def test_a_cell_off_the_image_is_not_pointed_at() -> None:
    """Two columns of cells, of which the first covers padding only."""
    field = Box((0.0, 0.0, -8.0), (16.0, 8.0, 8.0))
    cells = _one((0, 0, 0), (2, 1, 2), 3.0) + _one((1, 0, 1), (2, 1, 2))
    lesion = _block((11, 3, 3), (13, 5, 5))
    found = VolumeTruth.of(lesion, cells.shape, field)
    np.testing.assert_array_equal(found.hits, [[[False, False]], [[False, True]]])
    assert found.cell_chance == 1 / 2, "of the two cells over the image"
    assert _score(cells, lesion, field=field).cell_hit < 1, "the slope of the padding's cell is higher"
    assert _score(np.where(cells == 3, 0.5, cells), lesion, field=field).cell_hit == 1


# Which cells are hits


@pytest.mark.parametrize(
    ("start", "stop", "hits"),
    [
        ((1, 1, 1), (3, 3, 3), [(0, 0, 0)]),  # small, inside one cell
        ((1, 1, 2), (3, 3, 6), [(0, 0, 0), (0, 0, 1)]),  # half in each of two
        ((1, 1, 1), (3, 3, 6), [(0, 0, 0), (0, 0, 1)]),  # three columns and two: 2 ≥ 3 / 2
        ((1, 1, 1), (3, 3, 5), [(0, 0, 0)]),  # three columns and one: 1 < 3 / 2
        ((6, 2, 2), (10, 6, 6), list(product((0, 1), (0, 1), (0, 1)))),  # at the corner of all eight
        ((0, 0, 0), (16, 4, 4), [(0, 0, 0), (1, 0, 0)]),  # as large as two cells
        ((0, 0, 0), (12, 4, 4), [(0, 0, 0), (1, 0, 0)]),  # half of the second cell lies inside
        ((0, 0, 0), (11, 4, 4), [(0, 0, 0)]),  # less than half of it
    ],
)
def test_a_hit_holds_at_least_half_as_much_of_the_truth_as_the_best_cell(
    start: tuple[int, ...], stop: tuple[int, ...], hits: list[tuple[int, ...]]
) -> None:
    """Cells of 8 × 4 × 4 voxels; from a whole cell on, this is the rule of Shi et al. (2020)."""
    lesion = _block(start, stop)
    found = VolumeTruth.of(lesion, (2, 2, 2), FIELD)
    assert list(map(tuple, np.argwhere(found.hits).tolist())) == hits
    assert found.cell_chance == len(hits) / 8
    for place in product((0, 1), (0, 1), (0, 1)):
        assert _score(_one(place, (2, 2, 2)), lesion).cell_hit == (place in hits)


def test_depth_is_counted_to_the_nearest_slice_and_a_map_of_one_slice_has_none() -> None:
    lesion = _block((1, 5, 1), (2, 7, 3)) | _block((14, 5, 1), (15, 7, 3))
    score = _score(_one((0, 1, 0), (2, 2, 2)), lesion)
    assert score.depth_error == (2 + 3) / 2, "slices 3 and 4 to slice 1"
    assert score.depth_error_mm == 2.5 * 2.5
    assert score.plane_pointing == 1.0 and score.pointing_game == 0.0, "right in the plane, wrong in depth"
    flat = _score(_one((0, 1, 0), (1, 2, 2)), lesion)
    assert np.isnan([flat.depth_error, flat.depth_error_mm]).all()
    assert (flat.cell_hit, flat.plane_pointing) == (1.0, 1.0)
    assert np.isnan(VolumeTruth.of(lesion, (2, 2, 2), FIELD).ceiling()["depth_error_mm"]), "not known"


def test_boxes_are_compared_without_their_slices() -> None:
    """One slice of cells: the box found has all 16 slices, which the lesion has not."""
    lesion = _block((6, 0, 0), (10, 4, 4))
    score = _score(_one((0, 0, 0), (1, 2, 2)), lesion)
    found = localize_heatmap(spread(_one((0, 0, 0), (1, 2, 2)), SHAPE, FIELD), BoxRule(0.5))
    (box,) = found.boxes
    assert (box.start, box.stop) == ((0, 0, 0), (16, 4, 4))
    assert (score.plane_iou, score.iou) == (1.0, 4 / 16)


# Ceiling and controls


def _marked(lesion: Mask, grid: tuple[int, ...], cells: np.ndarray, organ: Mask | None = None) -> Marked:
    entry = MapEntry("a", "p", "test", "ct", "gradcam", ("x",), "x", "x", 0.9, "a.npz")
    field = whole(lesion.shape)
    return Marked(
        entry,
        "x",
        spread(cells, lesion.shape, field).astype(np.float32),
        Region.from_mask(lesion),
        organ,
        grid=grid,
        field=field,
        cells={"heatmap": cells},
        volume=VolumeTruth.of(lesion, grid, field, organ=organ, thickness=2.0),
    )


@settings(deadline=None, max_examples=30, derandomize=True)
@given(seed=st.integers(0, 10**6), grid=st.tuples(*[st.integers(1, 3)] * 3))
def test_the_ceiling_is_the_best_of_all_cells(seed: int, grid: tuple[int, ...]) -> None:
    """Slow twin: a map of each cell alone is scored."""
    draws = np.random.default_rng(seed)
    start = [int(draws.integers(0, side - 3)) for side in SHAPE]
    lesion = _block(tuple(start), tuple(at + int(draws.integers(1, 4)) for at in start))
    ceiling = VolumeTruth.of(lesion, grid, FIELD, thickness=2.5).ceiling()
    scores = [_score(_one(place, grid), lesion) for place in np.ndindex(grid)]
    for name, best in (("cell_hit", max), ("plane_pointing", max), ("depth_error", min)):
        expected = best(getattr(score, name) for score in scores)
        np.testing.assert_allclose(ceiling[name], expected, err_msg=name)
    assert ceiling["cell_chance"] == np.mean([score.cell_hit for score in scores])


def test_the_ceiling_of_two_slices_is_told_apart_from_what_the_map_does() -> None:
    """A lesion of two slices at the end: no map of two slices points at it, but one finds its cell."""
    lesion = _block((0, 1, 1), (2, 3, 3))
    item = _marked(lesion, (2, 2, 2), _one((0, 0, 0), (2, 2, 2)))
    rule = BoxRule(0.5)
    own = item.score("heatmap", item.values, rule, (0.3, 0.5))
    ceiling = item.ceiling(rule, (0.3, 0.5), own)
    assert ceiling is not None
    assert (own.pointing_game, ceiling.pointing_game) == (0, 0)
    assert own.cell_hit == ceiling.cell_hit == own.plane_pointing == ceiling.plane_pointing == 1
    assert own.depth_error == ceiling.depth_error == (2 + 3) / 2
    assert own.plane_iou <= ceiling.plane_iou


def test_the_random_map_is_of_the_same_cells_and_hits_as_often_as_chance() -> None:
    lesion, grid = _block((1, 1, 1), (3, 3, 3)), (2, 2, 2)
    hits = []
    for number in range(400):
        item = _marked(lesion, grid, np.ones(grid))
        item = Marked(
            MapEntry(str(number), "p", "test", "ct", "gradcam", ("x",), "x", "x", 0.9, "a.npz"),
            *(getattr(item, name) for name in ("target", "values", "truth", "organ")),
            grid=grid,
            field=item.field,
            volume=item.volume,
        )
        drawn = item.maps(3)["random"]
        np.testing.assert_array_equal(
            drawn, spread(random_cells(grid, 3, str(number)), SHAPE, FIELD).astype(np.float32)
        )
        hits.append(item.score("random", drawn, BoxRule(0.5), seed=3).cell_hit)
    assert abs(np.mean(hits) - 1 / 8) < 4 * np.sqrt(1 / 8 * 7 / 8 / 400)


def test_controls_of_other_grids_are_scored_by_the_cell_that_holds_their_maximum() -> None:
    lesion = _block((7, 3, 3), (9, 5, 5))
    item = _marked(lesion, (3, 3, 3), np.ones((3, 3, 3)))
    centre = control_maps(SHAPE)["centre"]
    score = item.score("centre", centre, BoxRule(0.5))
    assert (score.cell_hit, score.plane_pointing, score.depth_error) == (1, 1, 0)
    beside = _marked(_block((0, 0, 0), (2, 2, 2)), (3, 3, 3), np.ones((3, 3, 3)))
    score = beside.score("centre", centre, BoxRule(0.5))
    assert (score.cell_hit, score.plane_pointing, score.depth_error) == (0, 0, 6.5), "slices 7 and 8 to 1"


# Summary


def test_only_volumes_are_summarised_with_cell_plane_and_depth() -> None:
    lesion = _block((1, 1, 1), (3, 3, 3))
    rows = []
    for number, place in enumerate([(0, 0, 0), (0, 0, 0), (1, 1, 1), (1, 0, 0)] * 3):
        item = _marked(lesion, (2, 2, 2), _one(place, (2, 2, 2)))
        for method, values in {"heatmap": item.values, **control_maps(SHAPE)}.items():
            row = item.score(method, values, BoxRule(0.5))
            rows.append(CaseScore(**{**_fields(row), "case_id": str(number), "patient_id": str(number)}))
    found = summarise_localization(
        rows, split="test", explainer="cam", rule=BoxRuleFacts(), bootstrap=Bootstrap(100)
    )
    heatmap = found.to_json()["overall"]["methods"]["heatmap"]
    assert heatmap["cell_hit"]["value"] == 0.5 and heatmap["cell_chance"]["value"] == 1 / 8
    assert heatmap["plane_pointing"]["value"] == 0.75
    assert heatmap["depth_error"]["value"] == pytest.approx((1.5 * 6 + 9.5 * 6) / 12)
    assert heatmap["depth_error_mm"]["value"] == pytest.approx(2 * heatmap["depth_error"]["value"])
    assert main_measure(found.overall.methods) == "cell_hit"
    assert "cells hit the heat maps are" in verdict(found, "cell_hit")
    paired = found.differences["centre"].plane_pointing
    assert paired is not None and paired.value is not None
    flat = [CaseScore(**{**_fields(row), "plane_iou": NAN, "cell_hit": NAN}) for row in rows]
    planes = summarise_localization(
        flat, split="test", explainer="cam", rule=BoxRuleFacts(), bootstrap=Bootstrap(0)
    )
    assert not {"cell_hit", "cell_chance", "depth_error"} & set(
        planes.to_json()["overall"]["methods"]["heatmap"]
    )
    assert main_measure(planes.overall.methods) == "pointing_game"


def _fields(row: CaseScore) -> dict[str, object]:
    return {name: getattr(row, name) for name in CaseScore.__dataclass_fields__}
