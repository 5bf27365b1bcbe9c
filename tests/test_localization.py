"""Localization scores: hand-worked cases, the controls against what chance must give, and the summary."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from foveate.errors import RunFailed, UsageError
from foveate.evaluate.intervals import Bootstrap, Value
from foveate.evaluate.localization import (
    BoxThresholds,
    CaseScore,
    Cells,
    ceiling_cells,
    choose_box_thresholds,
    control_maps,
    score_case,
    summarise_localization,
)
from foveate.evaluate.localization.grids import coverage, peaks_inside, seen_inside, spread, whole
from foveate.evaluate.localization.published import CHESTXRAY14
from foveate.evaluate.localization.wording import verdict
from foveate.evaluate.results.localization import BoxRuleFacts, Localization
from foveate.evaluate.scores import read_scores, write_scores
from foveate.maps.heatmaps import MapEntry
from foveate.maps.localize import BoxRule, localize_heatmap
from foveate.maps.regions import Mask, Region
from foveate.prepare.preprocess import Preprocess
from foveate.stations.truths import Marked
from foveate.study.methods import RuleKind
from foveate.study.settings import PreprocessConfig
from foveate.types import Box, Geometry, Image

SHAPE = (20, 30)
LESION = Region.from_boxes([Box((0, 0), (10, 10))], SHAPE)


def _block(start: tuple[int, ...], stop: tuple[int, ...], shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    values = np.zeros(shape)
    values[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = 1.0
    return values


def _score(
    values: np.ndarray, truth: Region = LESION, organ: Mask | None = None, tolerance: float = 0.0
) -> CaseScore:
    found = localize_heatmap(values, BoxRule(0.5), organ=organ)
    return score_case(
        values, found, truth, case_id="a", patient_id="p", label="cyst", organ=organ, tolerance=tolerance
    )


def test_a_box_shifted_by_half_has_the_published_scores() -> None:
    score = _score(_block((0, 5), (10, 15)))
    assert score.iou == pytest.approx(1 / 3)
    assert score.iobb == 0.5
    assert score.energy_inside == 0.5
    assert score.pointing_game == 0.5  # half of the equal maxima lie inside
    assert score.chance == 100 / 600
    assert np.isnan(score.mask_iou)  # the truth is a box


@pytest.mark.parametrize(
    ("start", "stop", "iou", "iobb", "hit"),
    [((2, 2), (7, 7), 0.25, 1.0, 1.0), ((12, 12), (18, 18), 0.0, 0.0, 0.0)],
)
def test_boxes_inside_and_apart(
    start: tuple[int, int], stop: tuple[int, int], iou: float, iobb: float, hit: float
) -> None:
    score = _score(_block(start, stop))
    assert (score.iou, score.iobb, score.pointing_game, score.energy_inside) == (iou, iobb, hit, hit)


def test_an_empty_map_is_a_miss_in_every_measure() -> None:
    score = _score(-np.ones(SHAPE), Region.from_mask(LESION.mask))
    assert (score.pointing_game, score.iou, score.iobb, score.mask_iou, score.energy_inside) == (
        0,
        0,
        0,
        0,
        0,
    )
    assert score.empty
    assert score.chance == 100 / 600


def test_negative_evidence_does_not_count() -> None:
    values = _block((0, 0), (5, 5)) - 100 * _block((10, 10), (20, 30))
    assert _score(values).energy_inside == 1.0
    assert _score(values).pointing_game == 1.0


def test_a_flat_map_scores_what_a_random_point_would() -> None:
    score = _score(np.full(SHAPE, 3.0))
    assert score.pointing_game == score.energy_inside == score.chance == 100 / 600


def test_the_lesion_nearest_is_the_one_overlapped_most() -> None:
    mask = _block((0, 0), (4, 4)) + _block((10, 10), (20, 30)) > 0
    score = _score(_block((0, 2), (4, 6)), Region.from_mask(mask))
    assert score.iou == pytest.approx(8 / 24)
    assert score.iobb == 0.5
    assert score.mask_iou == pytest.approx(8 / (16 + 16 + 200 - 8))  # against everything marked


def test_the_organ_mask_bounds_evidence_and_chance() -> None:
    values = _block((0, 0), (5, 5)) + 9 * _block((15, 25), (20, 30))
    organ = _block((0, 0), (20, 15)) > 0
    assert _score(values).pointing_game == 0.0
    score = _score(values, organ=organ)
    assert (score.pointing_game, score.energy_inside, score.iobb) == (1.0, 1.0, 1.0)
    assert score.chance == 100 / 300


def test_a_tolerance_grows_the_truth_in_every_direction() -> None:
    for (row, column), distance in (((0, 12), 3.0), ((12, 13), 5.0)):  # (3, 4) off the corner at (9, 9)
        values = _block((row, column), (row + 1, column + 1))
        assert _score(values, tolerance=distance - 0.01).pointing_game == 0.0
        assert _score(values, tolerance=distance).pointing_game == 1.0
        assert _score(values, tolerance=distance).energy_inside == 0.0  # which stays exact


def test_volumes_are_scored_alike() -> None:
    truth = Region.from_mask(_block((0, 0, 0), (2, 4, 4), (4, 8, 8)) > 0)
    score = _score(_block((1, 0, 0), (3, 4, 4), (4, 8, 8)), truth)
    assert (score.iou, score.iobb, score.mask_iou, score.energy_inside) == (1 / 3, 0.5, 1 / 3, 0.5)


def test_what_cannot_be_scored_is_refused() -> None:
    found = localize_heatmap(np.ones(SHAPE), BoxRule())
    key = {"case_id": "case 7", "patient_id": "p", "label": "cyst"}
    with pytest.raises(UsageError, match="case 7: nothing is marked"):
        score_case(np.ones(SHAPE), found, Region.from_mask(np.zeros(SHAPE, dtype=bool)), **key)
    with pytest.raises(UsageError, match="shapes differ"):
        score_case(np.ones((3, 3)), found, LESION, **key)
    with pytest.raises(RunFailed, match="not finite"):
        score_case(np.full(SHAPE, np.inf), found, LESION, **key)


# Controls


def test_controls_repeat_by_seed_and_differ_by_case() -> None:
    first, again = (control_maps(SHAPE, seed=1, case_id="a") for _ in range(2))
    for name in ("random", "centre"):
        np.testing.assert_array_equal(first[name], again[name])
        assert first[name].dtype == np.float32
        assert first[name].shape == SHAPE
        assert first[name].min() > 0
    for other in (control_maps(SHAPE, seed=2, case_id="a"), control_maps(SHAPE, seed=1, case_id="b")):
        assert (other["random"] != first["random"]).any()
        assert (other["centre"] == first["centre"]).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (5, 3), (4, 60, 60)])
def test_controls_exist_for_every_shape(shape: tuple[int, ...]) -> None:
    for values in control_maps(shape).values():
        assert values.shape == shape
        assert np.isfinite(values).all()
        assert localize_heatmap(values, BoxRule()).boxes


def test_the_random_map_hits_as_often_as_a_random_point() -> None:
    truth = Region.from_mask(_block((8, 16), (32, 40), (64, 64)) > 0)
    organ = _block((0, 0), (48, 64), (64, 64)) > 0
    for mask in (None, organ):
        scores = [
            _score(control_maps((64, 64), organ=mask, case_id=str(n))["random"].astype(float), truth, mask)
            for n in range(400)
        ]
        hits = np.mean([score.pointing_game for score in scores])
        chance = scores[0].chance
        assert chance == 24 * 24 / (64 * 64 if mask is None else 64 * 48)
        assert abs(hits - chance) < 4 * np.sqrt(chance * (1 - chance) / 400)


def test_the_maximum_of_the_random_map_is_as_likely_at_the_edge_as_anywhere() -> None:
    peaks = [control_maps((14, 14), case_id=str(n))["random"].argmax() for n in range(1500)]
    rows, columns = np.unravel_index(peaks, (14, 14))
    edge = (rows % 13 == 0) | (columns % 13 == 0)
    assert edge.mean() == pytest.approx(52 / 196, abs=0.045)


def test_the_random_map_is_as_coarse_as_a_feature_map() -> None:
    """Correlation over half a cell is high and over four cells is gone."""
    maps = np.stack([control_maps((140, 140), case_id=str(n))["random"] for n in range(20)]) - 0.5
    near = (maps[:, :, 5:] * maps[:, :, :-5]).mean() / (maps**2).mean()
    far = (maps[:, :, 60:] * maps[:, :, :-60]).mean() / (maps**2).mean()
    assert near > 0.9
    assert abs(far) < 0.2


def test_the_centre_is_the_middle_of_the_organ() -> None:
    centre = control_maps((21, 31))["centre"]
    assert np.unravel_index(centre.argmax(), centre.shape) == (10, 15)
    assert centre[10, 15] == 1.0
    organ = _block((4, 10), (13, 21), (21, 31)) > 0
    inside = control_maps((21, 31), organ=organ)["centre"]
    assert np.unravel_index(inside.argmax(), inside.shape) == (8, 15)
    assert inside[8, 10] == pytest.approx(np.exp(-((5 / (11 / 4)) ** 2) / 2))
    for values in control_maps((21, 31), organ=organ).values():
        assert not values[~organ].any()
        assert (values[organ] > 0).all()


# Summary


def _row(case: str, patient: str, label: str, iou: float, **more: float) -> CaseScore:
    row = CaseScore(
        case_id=case,
        patient_id=patient,
        label=label,
        method="heatmap",
        pointing_game=float(iou > 0),
        iou=iou,
        iobb=iou,
        mask_iou=float("nan"),
        energy_inside=iou / 2,
        chance=0.1,
        empty=iou == 0,
    )
    return replace(row, **more)  # type: ignore[arg-type]


ROWS = [
    _row("a", "p", "cyst", 0.0),
    _row("b", "p", "cyst", 0.5),
    _row("c", "q", "cyst", 0.7, mask_iou=0.25),
    _row("d", "r", "HCC", 0.3),
    _row("d", "r", "HCC", 0.1, method="random"),
]


def summarised(rows: Sequence[CaseScore], **options: Any) -> dict[str, Any]:
    """The summary as ``localization.json`` holds it."""
    rule = BoxRuleFacts(**options.pop("rule"))
    return summarise_localization(rows, rule=rule, **options).to_json()


def test_the_summary_averages_rows_by_class_and_method() -> None:
    found = summarised(
        ROWS, split="test", explainer="gradcam", rule={"threshold": {"heatmap": 0.3}, "keep": "largest"}
    )
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert (found["split"], found["explainer"], found["threshold_chosen_on"]) == ("test", "gradcam", "val")
    assert found["rule"] == {"threshold": {"heatmap": 0.3}, "keep": "largest"}
    assert found["iou_thresholds"] == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
    assert (found["overall"]["n"], found["overall"]["patients"]) == (4, 3)
    heatmap = found["overall"]["methods"]["heatmap"]
    assert heatmap["iou"]["value"] == pytest.approx(1.5 / 4)
    assert heatmap["pointing_game"]["value"] == 0.75  # the miss stays in the denominator
    assert heatmap["energy_inside"]["value"] == pytest.approx(0.75 / 4)
    assert heatmap["empty_maps"] == 1
    accuracy = {t: value["value"] for t, value in heatmap["localization_accuracy"].items()}
    assert accuracy == {
        "0.1": 0.75,
        "0.2": 0.75,
        "0.3": 0.75,
        "0.4": 0.5,
        "0.5": 0.5,
        "0.6": 0.25,
        "0.7": 0.25,
    }
    assert list(heatmap["iobb_accuracy"]) == ["0.1", "0.25", "0.5", "0.75", "0.9"]
    assert heatmap["mask_iou"]["value"] == 0.25
    assert heatmap["mask_iou"]["n"] == 1
    assert "boxes only" in heatmap["mask_iou"]["reason"]
    assert heatmap["iou"]["low"] <= 1.5 / 4 <= heatmap["iou"]["high"]
    assert list(found["by_class"]) == ["cyst", "HCC"]
    cyst, hcc = found["by_class"]["cyst"], found["by_class"]["HCC"]
    assert cyst["methods"]["heatmap"]["iou"]["value"] == pytest.approx(0.4)
    assert (cyst["methods"]["heatmap"]["iou"]["n"], cyst["methods"]["heatmap"]["iou"]["patients"]) == (3, 2)
    assert set(hcc["methods"]) == {"heatmap", "random"}
    assert hcc["methods"]["random"]["iou"]["value"] == 0.1
    assert hcc["methods"]["heatmap"]["iou"]["reason"] == "no interval: all cases are of one patient"


def test_the_summary_draws_patients() -> None:
    rows = [
        _row(f"{p}{c}", f"p{p}", "cyst", iou) for p in range(12) for c, iou in enumerate([0.1 + 0.06 * p] * 5)
    ]
    alone = [replace(row, patient_id=row.case_id) for row in rows]
    options = {"split": "test", "explainer": "gradcam", "rule": {}, "bootstrap": Bootstrap(400, seed=2)}
    wide, narrow = (summarised(r, **options)["overall"]["methods"]["heatmap"]["iou"] for r in (rows, alone))
    assert wide["value"] == pytest.approx(narrow["value"])
    assert wide["high"] - wide["low"] > 1.8 * (narrow["high"] - narrow["low"])


def test_a_summary_of_nothing_says_so() -> None:
    found = summarised([], split="test", explainer="gradcam", rule={})
    assert found["overall"] == {"n": 0, "patients": 0, "methods": {}}
    assert found["by_class"] == {}


# The bench


def _map_score(values: np.ndarray, truth: Region, rule: BoxRule | None = None, **more: object) -> CaseScore:
    found = localize_heatmap(values, rule or BoxRule(0.5))
    return score_case(values, found, truth, case_id="a", patient_id="p", label="cyst", **more)  # type: ignore[arg-type]


def test_several_boxes_are_scored_by_the_best_and_the_others_are_false_positives() -> None:
    """Boxes of 5 × 10 pixels: the first half inside the lesion, the second inside it, the third apart."""
    values = _block((0, 5), (11, 15)) + _block((12, 20), (17, 25))
    values[0:4, 0:3] = 1.0
    score = _map_score(values, LESION, BoxRule(0.5, keep="all"))
    ious = [50 / (110 + 100 - 50), 0.0, 12 / 100]
    assert score.iou == pytest.approx(ious[0]) and score.best_iou == pytest.approx(max(ious))
    assert (score.iobb, score.best_iobb) == (pytest.approx(50 / 110), 1.0)
    assert score.false_iou == tuple(
        sum(iou < at for iou in ious) for at in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
    )
    assert score.false_iou[:3] == (1, 2, 2)
    assert score.false_iobb == (1, 1, 2, 2, 2)


def test_dice_half_inside_and_centre_inside() -> None:
    truth = Region.from_mask(LESION.mask)
    shifted = _map_score(_block((0, 5), (10, 15)), truth)
    assert shifted.dice == pytest.approx(2 * 50 / 200) and shifted.half_inside == 1.0
    assert shifted.centre_inside == 1.0, "the centre (5, 5) lies on the box's first column"
    past = _map_score(_block((0, 6), (10, 16)), truth)
    assert (past.half_inside, past.centre_inside) == (0.0, 0.0)
    assert past.dice == pytest.approx(2 * 40 / 200)
    assert np.isnan(_map_score(_block((0, 5), (10, 15)), LESION).dice), "the truth is a box"


@pytest.mark.parametrize("shape", [(12, 17), (4, 9, 8)])
def test_pixel_ap_is_that_of_scikit_learn(shape: tuple[int, ...]) -> None:
    draws = np.random.default_rng(1)
    values = np.ceil(draws.random(shape) * 1000)  # whole levels from 1 to 1000, with ties
    values.flat[0] = 1000
    mask = draws.random(shape) < 0.3
    score = _map_score(values, Region.from_mask(mask))
    assert score.pixel_ap == pytest.approx(average_precision_score(mask.ravel(), values.ravel()), abs=1e-12)
    assert _map_score(values * 3.7, Region.from_mask(mask)).pixel_ap == pytest.approx(
        score.pixel_ap, abs=0.01
    )


def test_recall_of_the_pixels_ends_where_evidence_ends() -> None:
    truth = Region.from_mask(LESION.mask)  # 100 pixels
    assert _map_score(_block((0, 0), (5, 5)), truth).pixel_ap == 0.25, "25 found, all true"
    assert _map_score(_block((0, 0), (5, 20)), truth).pixel_ap == 0.25, "50 of 100 found, half of them true"
    assert _map_score(-np.ones(SHAPE), truth).pixel_ap == 0.0


def test_half_precision_of_the_patch_rule_is_the_share_of_the_window() -> None:
    values = _block((2, 7), (6, 13))
    found = _map_score(values, LESION, BoxRule(kind="patch", window=(4, 6)))
    assert (found.half_inside, found.iobb) == (1.0, 0.5)  # columns 7 to 12, of which 7, 8, 9 lie inside


# Controls of the image and of the training cases


def test_edges_are_where_the_displayed_image_changes() -> None:
    picture = np.zeros((10, 15), np.uint8)
    picture[:, 8:] = 200
    edge = control_maps(SHAPE, picture=picture)["edge"]
    assert edge.shape == SHAPE and edge.min() == 0
    assert set(edge.argmax(axis=1)) <= {15, 16}, "columns 7 and 8 of the picture, at twice the size"
    assert not edge[:, :12].any() and not edge[:, 20:].any()
    colour = control_maps(SHAPE, picture=np.repeat(picture[..., None], 3, axis=-1))["edge"]
    np.testing.assert_allclose(colour, edge)
    np.testing.assert_allclose(control_maps((10, 15), picture=picture)["edge"][5, 7], 800)  # 4 × 200


def test_the_average_mask_lies_where_it_lay_in_the_training_images() -> None:
    average = np.zeros((2, 3))
    average[0, 2] = 1.0
    values = control_maps(SHAPE, average=average)["average"]
    assert values[0, 29] == 1.0 and values[4, 25] == 1.0 and values[19, 0] == 0.0
    assert "average" not in control_maps(SHAPE) and "edge" not in control_maps(SHAPE)


# Grids


def test_shares_of_cells_that_cut_pixels_are_exact() -> None:
    mask = np.ones((3, 3), dtype=bool)
    np.testing.assert_allclose(coverage(mask, (2, 2), whole((3, 3))), np.ones((2, 2)))
    mask[:, 1] = False  # columns 0 and 2: each cell of 1.5 pixels is covered in two thirds
    np.testing.assert_allclose(coverage(mask, (1, 2), whole((3, 3))), [[2 / 3, 2 / 3]])
    padded = Box((0.0, -3.0), (3.0, 3.0))  # three columns of padding on the left
    np.testing.assert_allclose(coverage(mask, (1, 2), padded), [[0.0, 2 / 3]])


@pytest.mark.parametrize(
    ("grid", "shape"), [((4, 7), (31, 50)), ((2, 3, 5), (9, 14, 20)), ((40, 40), (20, 30))]
)
def test_spreading_is_the_linear_interpolation_of_torch(
    grid: tuple[int, ...], shape: tuple[int, ...]
) -> None:
    cells = np.random.default_rng(0).normal(size=grid)
    mode = "bilinear" if len(grid) == 2 else "trilinear"
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(cells)[None, None], shape, mode=mode, align_corners=False
    )
    np.testing.assert_allclose(spread(cells, shape, whole(shape)), expected[0, 0].numpy(), atol=1e-12)


@pytest.mark.parametrize("settings", [{"keep_aspect": True}, {"organ_crop": True, "organ_margin": 3}])
def test_maps_are_spread_over_the_field_that_the_model_saw(settings: dict[str, object]) -> None:
    """Against the product's own way back, in two steps; the difference is a fraction of the map's steps."""
    organ = np.zeros((60, 90), dtype=bool)
    organ[10:50, 20:70] = True
    image = Image(np.zeros((1, 60, 90), np.uint8), Geometry((60, 90)), "x", "0", value_range=(0.0, 255.0))
    preprocess = Preprocess(PreprocessConfig(size=(64, 64), **settings))  # type: ignore[arg-type]
    seen = preprocess.prepare(image, organ_mask=organ if "organ_crop" in settings else None).field
    field = seen.box
    expected = (
        Box((-15.0, 0.0), (75.0, 90.0))
        if "keep_aspect" in settings
        else Box((2.0, 17.0), (58.0, 73.0))  # and padded to a square
    )
    assert (field.start, field.stop) == (expected.start, expected.stop)
    cells = np.random.default_rng(0).random((7, 7)).astype(np.float32)
    undone = seen.back(cells)
    looked = organ if "organ_crop" in settings else np.ones((60, 90), dtype=bool)
    difference = np.abs(spread(cells, (60, 90), field) - undone)[looked]
    assert difference.max() < 0.12 and difference.mean() < 0.02
    assert undone[looked].std() > 0.1, "while the map itself varies"


def test_the_best_cell_has_the_highest_energy_inside_of_all_maps_without_negative_cells() -> None:
    truth = Region.from_mask(_block((3, 4), (9, 12)) > 0)
    best = seen_inside(truth.mask, (4, 5), whole(SHAPE), np.ones(SHAPE, dtype=bool))
    draws = np.random.default_rng(0)
    for cells in [*np.eye(20).reshape(20, 4, 5), *(draws.random((200, 4, 5)) ** 6)]:
        reached = _map_score(spread(cells, SHAPE, whole(SHAPE)), truth).energy_inside
        assert reached <= best.max() + 1e-12
    for place in np.ndindex(4, 5):
        cell = np.zeros((4, 5))
        cell[place] = 1.0
        values = spread(cell, SHAPE, whole(SHAPE))
        assert _map_score(values, truth).energy_inside == pytest.approx(best[place])
        inside = peaks_inside(truth.mask, (4, 5), whole(SHAPE))[place]
        found = _map_score(values, truth, cells=Cells(cell, whole(SHAPE)))
        assert found.pointing_game == pytest.approx(inside)


def _ceiling(truth: Region, grid: tuple[int, ...], organ: Mask | None = None) -> CaseScore:
    shape = truth.mask.shape
    entry = MapEntry("a", "p", "test", "image", "gradcam", ("x",), "x", "x", 0.9, "a.npz")
    values = np.ones(shape, np.float32)
    item = Marked(entry, "x", values, truth, organ, grid=grid, field=whole(shape))
    like = item.score("heatmap", values, BoxRule(0.5), (0.15, 0.3, 0.5, 0.7))
    found = item.ceiling(BoxRule(0.5), (0.15, 0.3, 0.5, 0.7), like)
    assert found is not None
    return found


def test_a_fine_grid_reaches_everything_and_a_coarse_one_cannot_outline_a_small_lesion() -> None:
    lesion = Region.from_mask(_block((30, 40), (36, 46), (64, 64)) > 0)
    fine, coarse = _ceiling(lesion, (64, 64)), _ceiling(lesion, (4, 4))
    assert (fine.iou, fine.dice, fine.energy_inside, fine.pointing_game) == (1.0, 1.0, 1.0, 1.0)
    assert fine.pixel_ap == 1.0 and fine.false_iou == (0,) * 7
    assert coarse.method == "ceiling" and coarse.iou < 0.5 and coarse.energy_inside < 0.25
    assert fine.chance == coarse.chance == lesion.mask.mean(), "what is no map's doing is that of the image"


@settings(deadline=None, max_examples=40, derandomize=True)
@given(seed=st.integers(0, 10**6), organ=st.booleans())
def test_no_random_map_of_the_grid_points_or_concentrates_better_than_the_ceiling(
    seed: int, organ: bool
) -> None:
    draws = np.random.default_rng(seed)
    top, left = draws.integers(0, 20), draws.integers(0, 30)
    mask = _block((top, left), (top + 8, left + 10), (32, 48)) > 0
    inside = _block((2, 2), (30, 46), (32, 48)) > 0 if organ else None
    truth = Region.from_mask(mask)
    ceiling = _ceiling(truth, (4, 6), inside)
    for _ in range(5):
        values = spread(draws.random((4, 6)) ** 4, (32, 48), whole((32, 48)))
        found = localize_heatmap(values, BoxRule(0.5), organ=inside)
        score = score_case(values, found, truth, case_id="a", patient_id="p", label="x", organ=inside)
        assert score.energy_inside <= ceiling.energy_inside + 1e-12
        assert score.iou <= ceiling.iou + 0.05 and score.pointing_game <= max(ceiling.pointing_game, 0.5)


def test_a_ceiling_needs_a_grid_and_ends_at_the_field() -> None:
    truth = Region.from_mask(_block((0, 0), (4, 4), (20, 20)) > 0)
    entry = MapEntry("a", "p", "test", "image", "gradcam", ("x",), "x", "x", 0.9, "a.npz")
    values = np.ones((20, 20), np.float32)
    item = Marked(entry, "x", values, truth, None)
    like = item.score("heatmap", values, BoxRule())
    assert item.ceiling(BoxRule(), (0.5,), like) is None
    beside = replace(item, grid=(3, 3), field=Box((8.0, 8.0), (20.0, 20.0)))
    found = beside.ceiling(BoxRule(), (0.5,), like)
    assert found is not None and found.empty and (found.iou, found.pointing_game) == (0.0, 0.0)


@pytest.mark.parametrize("kind", ["peak", "two_thresholds", "top", "patch"])
def test_every_rule_has_a_ceiling_and_part_of_the_image_gives_the_same_as_the_whole(kind: RuleKind) -> None:
    truth = Region.from_mask(_block((5, 6), (14, 20), (40, 56)) > 0)
    entry = MapEntry("a", "p", "test", "image", "gradcam", ("x",), "x", "x", 0.9, "a.npz")
    values = np.ones((40, 56), np.float32)
    item = Marked(entry, "x", values, truth, None, grid=(5, 7), field=whole((40, 56)))
    like = item.score("heatmap", values, BoxRule(kind=kind))
    found = item.ceiling(BoxRule(kind=kind), (0.3, 0.5), like)
    rules = [BoxRule(at, kind=kind) for at in (0.3, 0.5)]
    known = ceiling_cells(truth.mask, (5, 7), whole((40, 56)))
    scores = []
    for cells in known:
        map_ = spread(cells.values, (40, 56), cells.field).astype(np.float32)
        own = replace(item, cells={"heatmap": cells.values})
        scores += [own.score("heatmap", map_, rule) for rule in rules]
    assert found is not None
    for name in ("iou", "dice", "energy_inside", "pixel_ap", "pointing_game", "half_inside"):
        assert getattr(found, name) == pytest.approx(max(getattr(s, name) for s in scores), abs=1e-6), name


# Box accuracies, sizes, answers


def test_box_accuracies_take_their_thresholds_from_validation_and_say_what_the_best_would_have_been() -> None:
    """Four cases at two thresholds; validation prefers the first threshold, the test cases the second."""
    largest = [(0.6, 0.4), (0.1, 0.8), (0.2, 0.9), (0.1, 0.1)]
    every = [(0.6, 0.4), (0.35, 0.8), (0.2, 0.9), (0.1, 0.75)]
    rows = [
        _row(str(n), f"p{n}", "cyst", 0.5, largest_ious=own, any_ious=best)
        for n, (own, best) in enumerate(zip(largest, every, strict=True))
    ]
    val = np.array([[0.7, 0.2], [0.6, 0.6]])
    chosen = choose_box_thresholds(val, val)
    assert chosen == BoxThresholds(0, (0, 0, 0))
    options = {"split": "test", "explainer": "cam", "rule": {}, "bootstrap": Bootstrap(50)}
    found = summarised(rows, box_thresholds={"heatmap": chosen}, **options)
    heatmap = found["overall"]["methods"]["heatmap"]
    values = {name: heatmap[name]["value"] for name in heatmap if name.startswith("max_box")}
    assert values == {
        "max_box_acc": 0.25,
        "max_box_acc_v2": pytest.approx((2 / 4 + 1 / 4 + 0) / 3),
        "max_box_acc_at_best": 0.5,
        "max_box_acc_v2_at_best": pytest.approx((4 / 4 + 3 / 4 + 3 / 4) / 3),
    }
    alone = summarised(rows, **options)["overall"]["methods"]["heatmap"]
    assert alone["max_box_acc"]["value"] is None and "no validation case" in alone["max_box_acc"]["reason"]
    assert alone["max_box_acc_at_best"]["value"] == 0.5
    old = summarised(ROWS, **options)["overall"]["methods"]["heatmap"]
    assert old["max_box_acc_at_best"]["reason"] == "not recorded for these maps"
    assert old["false_positives_iou"]["0.5"]["value"] is None


def test_false_positives_are_averaged_per_map() -> None:
    rows = [_row(str(n), f"p{n}", "cyst", 0.5, false_iou=(n,) * 7, false_iobb=(2 * n,) * 5) for n in range(3)]
    found = summarised(rows, split="test", explainer="cam", rule={}, bootstrap=Bootstrap(50))
    heatmap = found["overall"]["methods"]["heatmap"]
    assert heatmap["false_positives_iou"]["0.3"]["value"] == 1.0
    assert heatmap["false_positives_iobb"]["0.9"]["value"] == 2.0


def test_sizes_are_fixed_bands_where_several_are_filled_and_tertiles_where_not() -> None:
    def rows(areas: list[float]) -> list[CaseScore]:
        return [_row(str(n), f"p{n}", "cyst", 0.5, area=area) for n, area in enumerate(areas)]

    options = {"split": "test", "explainer": "cam", "rule": {}, "bootstrap": Bootstrap(0)}
    bands = summarised(rows([0.005] * 5 + [0.01] + [0.2] * 5 + [1.0]), **options)["by_size"]
    assert {name: part["n"] for name, part in bands["strata"].items()} == {
        "small": 5,
        "medium": 1,
        "large": 6,
    }
    assert bands["rule"].startswith("bands")
    areas = np.linspace(0.001, 0.009, 9)
    thirds = summarised(rows(areas.tolist()), **options)["by_size"]
    assert {name: part["n"] for name, part in thirds["strata"].items()} == {
        "small": 3,
        "medium": 3,
        "large": 3,
    }
    assert thirds["rule"].startswith("tertiles")
    assert summarised(ROWS, **options)["by_size"] == {}, "areas unknown"


def test_right_and_wrong_answers_are_told_apart() -> None:
    rows = [
        _row(str(n), f"p{n}", "cyst", iou, answer=answer)
        for n, (iou, answer) in enumerate([(0.8, "right"), (0.6, "right"), (0.1, "wrong")])
    ]
    found = summarised(rows, split="test", explainer="cam", rule={}, bootstrap=Bootstrap(0))
    parts = {
        name: (part["n"], part["methods"]["heatmap"]["iou"]["value"])
        for name, part in found["by_answer"].items()
    }
    assert parts == {"right": (2, pytest.approx(0.7)), "wrong": (1, pytest.approx(0.1))}


def _paired(heatmap: float, control: float, spread_: float) -> list[CaseScore]:
    """Twelve patients whose heat map and random map differ by about the same."""
    draws = np.random.default_rng(0).normal(0, spread_, 12)
    rows = []
    for number, noise in enumerate(draws):
        rows.append(_row(str(number), f"p{number}", "cyst", heatmap + noise))
        rows.append(_row(str(number), f"p{number}", "cyst", control + noise / 2, method="random"))
    return rows


@pytest.mark.parametrize(
    ("heatmap", "control", "words"),
    [(0.7, 0.3, "better than"), (0.3, 0.7, "worse than"), (0.5, 0.5, "not shown to be better than")],
)
def test_differences_are_paired_and_told_in_words(heatmap: float, control: float, words: str) -> None:
    def told(found: dict[str, Any]) -> str:
        return verdict(Localization.from_json(found), "iou")

    rows = _paired(heatmap, control, 0.05)
    found = summarised(rows, split="test", explainer="cam", rule={}, bootstrap=Bootstrap(400))
    difference = found["differences"]["random"]["iou"]
    pairs = [a.iou - b.iou for a, b in zip(rows[::2], rows[1::2], strict=True)]
    assert difference["value"] == pytest.approx(np.mean(pairs))
    assert difference["low"] < np.mean(pairs) < difference["high"]
    assert (
        verdict(Localization.from_json(found), "iou")
        == f"In IoU of boxes the heat maps are {words} a random map."
    )
    assert told(found | {"differences": {}}) == ""
    few = summarised(rows[:8], split="test", explainer="cam", rule={}, bootstrap=Bootstrap(100))
    assert (
        verdict(Localization.from_json(few), "iou")
        == "In IoU of boxes nothing is compared: only 4 patients are marked."
    )
    unpaired = summarised(rows[:-1], split="test", explainer="cam", rule={}, bootstrap=Bootstrap(0))
    assert unpaired["differences"] == {}, "one case has no random map"


def test_published_rows_stand_beside_the_findings_that_have_them() -> None:
    rows = [_row("a", "p", "Nodule", 0.5), _row("b", "q", "Hernia", 0.5)]
    found = summarised(rows, split="test", explainer="cam", rule={}, bootstrap=Bootstrap(0))
    assert list(found["published"]["rows"]) == ["Nodule"]
    assert found["published"]["rows"]["Nodule"]["localization_accuracy 0.3"] == 0.04
    assert summarised(ROWS, split="test", explainer="cam", rule={})["published"] is None
    assert len(CHESTXRAY14) == 8


def test_scores_are_written_and_read_and_files_of_old_too(tmp_path: Path) -> None:
    rows = [
        _row("a", "p", "cyst", 0.5, answer="wrong", false_iou=(1.0, 2.0), largest_ious=(0.25,), area=0.125),
        _row("b", "q", "cyst", 0.25),
    ]
    write_scores(tmp_path / "scores.csv", rows)
    assert repr(read_scores(tmp_path / "scores.csv")) == repr(rows)
    old = "case_id,patient_id,label,method,pointing_game,iou,iobb,mask_iou,energy_inside,chance,empty\n"
    (tmp_path / "old.csv").write_text(old + "a,p,cyst,heatmap,1.0,0.5,0.5,nan,0.25,0.1,False\n")
    assert repr(read_scores(tmp_path / "old.csv")) == repr([_row("a", "p", "cyst", 0.5, empty=False)])


def test_the_example_of_the_docs_prints_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[1] / "docs" / "localization.md").read_text()
    (block,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(compile(block, "docs/localization.md", "exec"), {})
    said = re.findall(r"print\(.*?\)  # (.*)", block)
    assert capsys.readouterr().out.splitlines() == said


def test_a_file_of_0_1_0_opens() -> None:
    """Without controls' differences, groups by size and answer, and figures that came later."""
    value = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 4, "patients": 4, "reason": None}
    part = {"n": 4, "patients": 4, "methods": {"heatmap": {"pointing_game": value, "empty_maps": 1}}}
    old = {"split": "test", "explainer": "gradcam", "rule": {"threshold": 0.5, "keep": "largest"}}
    found = Localization.from_json(old | {"overall": part, "by_class": {"cyst": part}})
    maps = found.overall.methods["heatmap"]
    assert maps.figure("pointing_game") == Value(0.5, 0.4, 0.6, 4, 4) and maps.empty_maps == 1
    assert maps.figure("iou") is None and maps.at("iobb_accuracy", "0.5") is None
    assert found.rule.threshold == 0.5 and found.differences == {} and verdict(found, "iou") == ""
