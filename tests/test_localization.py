"""Localization scores: hand-worked cases, the controls against what chance must give, and the summary."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from foveate.errors import RunFailed, UsageError
from foveate.evaluate.intervals import Bootstrap
from foveate.evaluate.localization import CaseScore, control_maps, score_case, summarise_localization
from foveate.localize import BoxRule, localize_heatmap
from foveate.regions import Mask, Region
from foveate.types import Box

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


def test_the_summary_averages_rows_by_class_and_method() -> None:
    found = summarise_localization(
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
    wide, narrow = (
        summarise_localization(r, **options)["overall"]["methods"]["heatmap"]["iou"] for r in (rows, alone)
    )
    assert wide["value"] == pytest.approx(narrow["value"])
    assert wide["high"] - wide["low"] > 1.8 * (narrow["high"] - narrow["low"])


def test_a_summary_of_nothing_says_so() -> None:
    found = summarise_localization([], split="test", explainer="gradcam", rule={})
    assert found["overall"] == {"n": 0, "patients": 0, "methods": {}}
    assert found["by_class"] == {}
