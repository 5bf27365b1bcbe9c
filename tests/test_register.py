"""How a patient moved between two phases is found, repeats, and is refused where it is not to be trusted."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest

from foveate.errors import InputRefused, MissingExtra
from foveate.io.reading import read_image
from foveate.prepare.align import Floats
from foveate.prepare.case import prepare_case
from foveate.prepare.preprocess import Preprocess
from foveate.prepare.register import Registration, agreement_of
from foveate.study.settings import PreprocessConfig
from foveate.types import Case, Image
from oriented_phantoms import affine_of, density

LESION = np.array([9.0, -8.0, 14.0])
RIGID = PreprocessConfig(size=(30, 25, 20), window=(0.0, 1600.0), align="rigid")


def motion() -> Floats:
    """6° about z and a shift of (5, -4, 3) mm: where a place of the first phase is in the second."""
    angle, found = np.radians(6), np.eye(4)
    found[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    found[:3, 3] = (5, -4, 3)
    return found


def write(path: Path, letters: str, moved: Floats, *, invert: bool) -> Path:
    """The phantom in 2 mm voxels, with another contrast if ``invert``."""
    affine, shape = affine_of(letters, (2, 2, 2))
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    places = index @ affine[:3, :3].T + affine[:3, 3]
    back = np.linalg.inv(moved)
    grey = density(places @ back[:3, :3].T + back[:3, 3])
    if invert:
        grey = 1500 * np.exp(-grey / 400)
    noise = np.random.default_rng(len(letters) + invert).normal(0, 20, shape)
    nibabel.save(nibabel.Nifti1Image((grey + noise).clip(0).astype(np.float32), affine), path)
    return path


@pytest.fixture
def case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    monkeypatch.setenv("FOVEATE_CACHE", str(tmp_path / "cache"))
    views = {
        "before": write(tmp_path / "a.nii", "LPS", np.eye(4), invert=False),
        "after": write(tmp_path / "b.nii", "SAL", motion(), invert=True),
    }
    return Case("c", "p", views)


def images(case: Case) -> tuple[Image, Image]:
    first, second = (read_image(path) for path in case.views.values())
    return first, second


def found_by(preprocess: Preprocess, case: Case) -> Registration:
    first, second = images(case)
    found = preprocess.registration(second, "after", first, "before")
    assert found is not None
    return found


def test_a_known_motion_is_found_kept_and_undone_by_maps(case: Case, tmp_path: Path) -> None:
    preprocess = Preprocess(RIGID)
    found = found_by(preprocess, case)
    places = np.array([[x, y, z, 1] for x in (-15, 15) for y in (-20, 20) for z in (-20, 20)], float)
    away = np.linalg.norm((places @ (found.moved - motion()).T)[:, :3], axis=1)
    assert away.max() < 1.0  # mm, half a voxel
    assert abs(found.degrees - 6) < 1 and found.agreement > found.before + 0.02
    (kept,) = (tmp_path / "cache" / "registered").glob("*.json")
    assert json.loads(kept.read_text())["matrix"] == [list(row) for row in found.matrix]

    prepared = prepare_case(case, preprocess)
    hot = np.zeros(RIGID.size, np.float32)
    seen_before = prepared["before"].tensor[0].numpy()
    hot[np.unravel_index(int(seen_before.argmax()), hot.shape)] = 1
    second = images(case)[1]
    back = prepared["after"].field.back(hot)
    affine = second.geometry.affine
    assert affine is not None and back.shape == second.geometry.shape
    seen = (affine @ [*np.unravel_index(int(back.argmax()), back.shape), 1])[:3]
    assert np.linalg.norm(seen - (motion() @ [*LESION, 1])[:3]) < 3  # a voxel's diagonal is 3.5 mm


def test_the_same_files_give_the_same_transform_and_the_kept_one_is_taken(case: Case, tmp_path: Path) -> None:
    preprocess = Preprocess(RIGID)
    found = found_by(preprocess, case)
    (kept,) = (tmp_path / "cache" / "registered").glob("*.json")
    kept.unlink()
    assert found_by(preprocess, case) == found
    told = json.loads(kept.read_text())
    kept.write_text(json.dumps(told | {"shift": 1.25}))
    assert found_by(preprocess, case).shift == 1.25
    kept.write_text("{")  # torn
    assert found_by(preprocess, case) == found


def test_what_agrees_too_little_is_refused_by_name_with_its_figures(case: Case) -> None:
    strict = Preprocess(RIGID.model_copy(update={"agreement": 0.9}))
    told = r"a\.nii is not to be trusted: agreement 0\.\d+ \(at least 0\.9"
    with pytest.raises(InputRefused, match=told) as caught:
        prepare_case(case, strict)
    assert caught.value.code == "registration-poor" and "b.nii" in caught.value.where


def test_leaning_slices_and_volumes_without_affine_are_refused(case: Case) -> None:
    first, second = images(case)
    assert second.geometry.affine is not None
    leaning = second.geometry.affine.copy()
    leaning[:3, 0] += 0.2 * leaning[:3, 1]
    tilted = replace(second, geometry=replace(second.geometry, affine=leaning))
    with pytest.raises(InputRefused) as lean:
        Preprocess(RIGID).registration(tilted, "after", first, "before")
    assert lean.value.code == "tilted-stack"
    blind = replace(second, geometry=replace(second.geometry, affine=None))
    with pytest.raises(InputRefused) as silent:
        Preprocess(RIGID).registration(blind, "after", first, "before")
    assert silent.value.code == "no-affine"


def test_without_simpleitk_the_extra_is_named(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    with pytest.raises(MissingExtra, match="register"):
        found_by(Preprocess(RIGID), case)


def test_agreement_is_mutual_information_as_scikit_learn_has_it() -> None:
    """Of grey levels in 32 bins, normalized by the mean entropy."""
    from sklearn.metrics import normalized_mutual_info_score

    draws = np.random.default_rng(0)
    one = draws.uniform(0, 1, 5000)
    for other in (
        one,
        1 - one**2,
        draws.uniform(0, 1, 5000),
        np.clip(one + draws.normal(0, 0.1, 5000), 0, 1),
    ):
        bins = [np.minimum((each * 32).astype(int), 31) for each in (one, other)]
        assert agreement_of(one, other) == pytest.approx(normalized_mutual_info_score(*bins), abs=1e-9)
    assert agreement_of(one, np.zeros(5000)) == 0.0
