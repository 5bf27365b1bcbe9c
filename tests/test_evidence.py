"""From predictions to explained classes, and from maps to scores: hand-worked cases."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image as Picture

from foveate.evaluate.table import PredictionTable
from foveate.maps.heatmaps import MapEntry
from foveate.maps.localize import BoxRule
from foveate.maps.regions import Region
from foveate.stations.explain import CaseAnswer, _at_most, read_answers, usual_logits
from foveate.stations.localize import _numbers
from foveate.stations.truths import CaseFiles, Marked
from foveate.types import Box, Case, Task


def table(task: Task, probabilities: list[float], truth: list[float]) -> PredictionTable:
    scores = np.array([probabilities])
    return PredictionTable(
        task=task,
        classes=("cyst", "hcc", "fnh"),
        case_ids=("a",),
        patient_ids=("p",),
        splits=("test",),
        logits=np.log(scores),
        probabilities=scores,
        truth=np.array([truth]),
    )


def test_multiclass_answer_is_the_most_probable_class() -> None:
    answer = read_answers(table("multiclass", [0.2, 0.7, 0.1], [1, 0, 0]), {})["a"]
    assert answer == CaseAnswer(true=("cyst",), predicted=("hcc",), probability=0.7)
    assert answer.targets("both") == ("cyst", "hcc")
    assert answer.targets("true") == ("cyst",) and answer.targets("predicted") == ("hcc",)


def test_multilabel_answer_follows_the_thresholds() -> None:
    scores = table("multilabel", [0.2, 0.7, 0.4], [0, 1, np.nan])
    assert read_answers(scores, {"cyst": 0.1, "fnh": 0.5})["a"].predicted == ("hcc", "cyst")
    assert read_answers(scores, {"cyst": 0.9, "hcc": 0.9, "fnh": 0.9})["a"].predicted == (
        "hcc",
    )  # at least one


def test_without_truth_the_prediction_is_explained() -> None:
    answer = read_answers(table("multiclass", [0.2, 0.7, 0.1], [np.nan] * 3), {})["a"]
    assert answer.true == () and answer.targets("true") == ("hcc",)


def test_a_limit_takes_one_case_of_each_patient_before_a_second() -> None:
    cases = [Case(f"{patient}{number}", patient, {}) for patient in "abcd" for number in range(5)]
    assert _at_most(None, cases, 0) == cases
    few, more = _at_most(4, cases, 0), _at_most(6, cases, 0)
    assert [case.patient_id for case in few] == ["a", "b", "c", "d"]  # and in their old order
    assert {case.case_id for case in few} < {case.case_id for case in more} and len(more) == 6


def _volume(path: Path, shape: tuple[int, int, int], marked: tuple[int, int, int] | None = None) -> Path:
    """A NIfTI file, in its order (i, j, k)."""
    volume = np.zeros(shape, np.uint8)
    if marked:
        volume[marked] = 1
    nib.save(nib.Nifti1Image(volume, np.eye(4)), path)
    return path


def test_the_mask_of_a_slice_is_found_in_its_volume(tmp_path: Path) -> None:
    mask = _volume(tmp_path / "m.nii.gz", (4, 5, 3), (1, 2, 1))
    views = {"ct": _volume(tmp_path / "i.nii.gz", (4, 5, 3))}
    found = CaseFiles().mask(Case("a", "p", views, mask=mask, slice_index=1), "ct")
    assert found is not None and np.argwhere(found).tolist() == [[2, 1]]
    assert CaseFiles().mask(Case("a", "p", views, mask=mask, slice_index=0), "ct") is None  # nothing is there
    wider = {"ct": _volume(tmp_path / "w.nii.gz", (5, 5, 3))}
    with pytest.warns(UserWarning, match=r"case a counts as not marked: .* another grid"):
        assert CaseFiles().mask(Case("a", "p", wider, mask=mask, slice_index=1), "ct") is None


def test_every_user_of_masks_gets_them_by_their_place(tmp_path: Path) -> None:
    """The mask is stored upside down; over a second view, shifted by a voxel, it does not lie at all."""
    marked = np.zeros((4, 5, 3), np.uint8)
    marked[1, 2, 1] = 1
    nib.save(
        nib.Nifti1Image(marked, np.eye(4)).as_reoriented([[0, 1], [1, -1], [2, 1]]), tmp_path / "m.nii.gz"
    )
    views = {"art": _volume(tmp_path / "a.nii.gz", (4, 5, 3)), "ven": tmp_path / "v.nii.gz"}
    nib.save(nib.Nifti1Image(marked, np.eye(4) + np.eye(4, k=3)), views["ven"])
    box = Box((0, 0, 0), (1, 1, 1))
    case = Case("a", "p", views, label="x", mask=tmp_path / "m.nii.gz", boxes=(box,))
    files = CaseFiles()
    found = files.mask(case, "art")
    assert found is not None and np.argwhere(found).tolist() == [[1, 2, 1]]
    assert files.mask(case, "ven") is None and files.boxes(case, "ven") == ()
    ((label, mask),) = files.marked(case)
    assert label == "x" and np.argwhere(mask).tolist() == [[1, 2, 1]]
    shifted = CaseFiles("resample").mask(case, "ven")
    assert shifted is not None and np.argwhere(shifted).tolist() == [[1, 2, 0]]


def test_a_plane_mask_is_taken_as_it_is(tmp_path: Path) -> None:
    Picture.fromarray(np.array([[0, 255], [0, 0]], np.uint8)).save(tmp_path / "m.png")
    case = Case("a", "p", {"image": tmp_path / "m.png"}, mask=tmp_path / "m.png")
    found = CaseFiles().mask(case, "image")
    np.testing.assert_array_equal(found, [[False, True], [False, False]])
    assert CaseFiles().mask(case, "image", organ=True) is None


def test_a_map_and_its_controls_are_scored_alike() -> None:
    truth = np.zeros((20, 20), bool)
    truth[2:6, 2:6] = True
    values = np.where(truth, 1.0, -1.0).astype(np.float32)
    entry = MapEntry("a", "p", "test", "image", "gradcam", ("hcc",), "hcc", "hcc", 0.9, "a.npz")
    item = Marked(entry, "hcc", values, Region.from_mask(truth), None)
    maps = item.maps(seed=0)
    assert list(maps) == ["heatmap", "random", "centre"]
    perfect = item.score("heatmap", maps["heatmap"], BoxRule(0.5))
    assert (perfect.pointing_game, perfect.iou, perfect.energy_inside) == (1.0, 1.0, 1.0)
    centre = item.score("centre", maps["centre"], BoxRule(0.5))
    assert centre.pointing_game == 0 and centre.iou < 0.2


def test_what_is_usual_is_the_mean_of_the_validation_cases_or_of_all() -> None:
    found = PredictionTable(
        task="multiclass",
        classes=("a", "b"),
        case_ids=("1", "2", "3"),
        patient_ids=("1", "2", "3"),
        splits=("val", "test", "val"),
        logits=np.array([[1.0, 0], [9, 9], [3, -2]]),
        probabilities=np.full((3, 2), 0.5),
        truth=np.zeros((3, 2)),
    )
    np.testing.assert_array_equal(usual_logits(found), [2, -1])
    alone = found.part("test")
    np.testing.assert_array_equal(usual_logits(alone), [9, 9])


def test_a_box_is_written_by_the_names_of_its_axes() -> None:
    volume = Box((1, 2, 3), (2, 5, 9))
    assert _numbers(volume) == {"x": 3, "y": 2, "z": 1, "w": 6, "h": 3, "d": 1}
    assert _numbers(Box((2, 3), (5, 9))) == {"x": 3, "y": 2, "w": 6, "h": 3}


def test_in_a_case_of_several_views_a_mask_is_that_of_the_view_with_its_pixels(tmp_path: Path) -> None:
    Picture.fromarray(np.array([[0, 255], [0, 0]], np.uint8)).save(tmp_path / "m.png")
    Picture.fromarray(np.zeros((2, 3), np.uint8)).save(tmp_path / "y.png")
    views = {"x": tmp_path / "m.png", "y": tmp_path / "y.png"}
    case = Case("a", "p", views, mask=tmp_path / "m.png", boxes=(Box((0, 0), (1, 1)),))
    assert CaseFiles().mask(case, "x") is not None and CaseFiles().boxes(case, "x") == case.boxes
    assert CaseFiles().mask(case, "y") is None and CaseFiles().boxes(case, "y") == ()
