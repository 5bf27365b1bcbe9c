"""Exported files and archives turn volumes as the run does, and bring maps back to each file's own voxels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from foveate.deploy.archive.maps import begin_maps, read_maps, write_maps
from foveate.deploy.engines.engine import Answer
from foveate.deploy.engines.facts import Facts
from foveate.deploy.engines.graph import GraphEngine, ReadCase, inputs_of, read_case
from foveate.deploy.export.pipeline import check_exportable, prepared
from foveate.errors import InputRefused, UsageError
from foveate.io.reading import read_image
from foveate.prepare.preprocess import Preprocess
from foveate.study.settings import PreprocessConfig
from foveate.types import Case, Prediction
from oriented_phantoms import SPACINGS, write_nifti_phantom

LETTERS = ("LPS", "RAS", "ASR", "PIR")
VOLUMES = PreprocessConfig(size=(8, 12, 10), window=(0.0, 1600.0), orientation="LPS", aspect="pixels")


def facts(config: PreprocessConfig = VOLUMES) -> Facts:
    return Facts("multiclass", ("a", "b"), ("ct",), False, "tiny", config, explainer="gradcam")


def cases(folder: Path) -> list[Case]:
    return [
        Case(name, name, {"ct": write_nifti_phantom(folder / f"{name}.nii", name, SPACINGS[1])}, label="a")
        for name in LETTERS
    ]


def answer(case: Case, maps: NDArray[np.float32]) -> Answer:
    said = Prediction(case.case_id, case.case_id, "test", *(np.array([0.3, 0.7]) for _ in range(3)))
    return Answer(said, np.array([False, True]), {"ct": maps})


class Idle(GraphEngine):
    """An engine that is only asked for maps that are there already."""

    name, facts = "idle", facts()

    def run(self, inputs: dict[str, NDArray[np.float32]]) -> Any:
        raise AssertionError


def maps_of(number: int) -> NDArray[np.float32]:
    return np.random.default_rng(number).normal(size=(2, 2, 3, 5)).astype(np.float32)


@pytest.mark.parametrize("config", [VOLUMES, VOLUMES.model_copy(update={"orientation": "none"})], ids=str)
def test_the_graph_is_given_what_the_run_sees(tmp_path: Path, config: PreprocessConfig) -> None:
    seen = []
    for case in cases(tmp_path):
        ready = read_case(facts(config), case)
        (pixels,) = (torch.from_numpy(each) for each in inputs_of(facts(config), [ready]).values())
        found = prepared(pixels, torch.tensor([VOLUMES.window]), config)[0]
        expected = Preprocess(config).prepare(read_image(case.views["ct"]))
        torch.testing.assert_close(found, expected.tensor.float(), atol=2e-3, rtol=0)
        assert ready.fields["ct"] == expected.field
        seen.append(found)
    alike = all(torch.equal(each, seen[0]) for each in seen)
    assert alike == (config.orientation == "LPS")


def test_maps_of_a_graph_and_of_an_archive_are_those_of_the_run(tmp_path: Path) -> None:
    found = cases(tmp_path)
    ready: list[ReadCase] = [read_case(facts(), case) for case in found]
    begin_maps(tmp_path / "maps", facts())
    answers = [answer(case, maps_of(number)) for number, case in enumerate(found)]
    write_maps(tmp_path / "maps" / "part-00000.npz", facts(), answers, [each.fields for each in ready])
    stored = list(read_maps(tmp_path / "maps"))
    assert len(stored) == 2 * len(found)
    for number, (case, one) in enumerate(zip(found, ready, strict=True)):
        image = read_image(case.views["ct"])
        field = Preprocess(VOLUMES).prepare(image).field
        drawn = Idle().heatmaps(one, answers[number], ("a", "b"))
        for place, name in enumerate(("a", "b")):
            expected = field.back(maps_of(number)[place])
            assert expected.shape == image.geometry.shape
            np.testing.assert_array_equal(drawn[place].values, expected)
            kept = stored[2 * number + place]
            assert (kept.case_id, kept.target) == (case.case_id, name)
            np.testing.assert_array_equal(kept.values, expected)


def test_archives_of_before_come_back_as_they_did(tmp_path: Path) -> None:
    """0.1.0 kept the shapes alone, and its facts have no orientation."""
    text = facts(VOLUMES.model_copy(update={"orientation": "none"})).to_text()
    assert '"orientation": "none", ' in text
    (tmp_path / "maps.json").write_text(text.replace('"orientation": "none", ', ""))
    content = {"case_id": np.array(["c"]), "maps:ct": maps_of(0)[None], "shape:ct": np.array([[9, 14, 11]])}
    np.savez(tmp_path / "part-00000.npz", **content)
    first, _ = read_maps(tmp_path)
    old = Preprocess(VOLUMES.model_copy(update={"orientation": "none"}))
    image = read_image(write_nifti_phantom(tmp_path / "a.nii", "RAS", SPACINGS[2]))
    pixels = np.zeros((1, 9, 14, 11), np.uint8)
    blank = type(image)(pixels, type(image.geometry)((9, 14, 11)), "", "", value_range=(0, 255))
    np.testing.assert_array_equal(first.values, old.prepare(blank).field.back(maps_of(0)[0]))


def test_what_a_graph_cannot_hold_is_refused_by_name(tmp_path: Path) -> None:
    for change, told in (({"spacing": (5, 4, 4)}, "spacing"), ({"align": "affine"}, "grid of another")):
        with pytest.raises(UsageError, match=told) as caught:
            check_exportable(VOLUMES.model_copy(update=change), "ct")
        assert caught.value.code == "not-exportable"
    blind = Case("c", "p", {"ct": tmp_path / "a.nii"}, label="a")
    image = read_image(write_nifti_phantom(tmp_path / "a.nii", "RAS", SPACINGS[2]))
    bare = type(image)(image.pixels, type(image.geometry)(image.geometry.shape), "a.nii", "")
    with pytest.raises(InputRefused) as silent:
        read_case(facts(), blind, image_reader=lambda path: bare)
    assert silent.value.code == "no-affine"
