"""Views with other origins, spacings and orientations come onto one grid, and maps go back to each."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

from foveate.data.cache import PreparedCache
from foveate.data.dataset import PreparedCases
from foveate.errors import InputRefused, UsageError
from foveate.io.reading import read_image
from foveate.prepare.align import AlignedField, grid_matrix, sampled
from foveate.prepare.case import prepare_case
from foveate.prepare.common import settle
from foveate.prepare.preprocess import Preprocess
from foveate.study.settings import PreprocessConfig
from foveate.types import Case, Geometry, Image
from oriented_phantoms import affine_of, values_on

LESION = np.array([9.0, -8.0, 14.0])
SIZE = (30, 50, 40)  # of the reference: 2 mm slices
WINDOW = (0.0, 1600.0)
ALIGNED = PreprocessConfig(size=SIZE, window=WINDOW, align="affine")


def write(path: Path, letters: str, spacing: tuple[float, float, float], shift: Any = (0, 0, 0)) -> Path:
    """The phantom on a grid whose origin is moved by ``shift`` mm; the phantom stays where it is."""
    affine, shape = affine_of(letters, spacing)
    affine[:3, 3] += shift
    nibabel.save(nibabel.Nifti1Image(values_on(affine, shape).astype(np.float32), affine), path)
    return path


@pytest.fixture
def case(tmp_path: Path) -> Case:
    views = {
        "arterial": write(tmp_path / "a.nii", "LPS", (1.0, 1.0, 2.0)),
        "same": write(tmp_path / "s.nii", "LPS", (1.0, 1.0, 2.0)),
        "venous": write(tmp_path / "v.nii", "RAS", (1.25, 1.0, 2.5), (4, -3, 6)),
        "late": write(tmp_path / "l.nii", "ASR", (1.0, 1.25, 1.0), (-3.4, 2.2, -5.1)),
    }
    return Case("c", "p", views)


def test_views_are_one_tensor_where_both_reach_and_maps_find_back(case: Case) -> None:
    prepared = prepare_case(case, Preprocess(ALIGNED))
    reference = prepared["arterial"].tensor[0].float().numpy()
    assert np.array_equal(prepared["same"].tensor[0].float().numpy(), reference)
    assert prepared["same"].field == prepared["arterial"].field
    hot = np.zeros(SIZE, np.float32)
    place = np.argwhere(reference == reference.max())[0]
    hot[tuple(place)] = 1
    own = read_image(case.views["arterial"]).geometry.affine
    assert own is not None
    spot = (own @ [*place, 1])[:3]
    assert np.abs(spot - LESION).max() <= 1
    for view, item in prepared.items():
        seen = item.tensor[0].float().numpy()
        both = np.s_[5:-5, 6:-6, 6:-6]  # beyond the shifts
        assert np.abs(seen - reference)[both].max() < 0.03, view
        image = read_image(case.views[view])
        back = item.field.back(hot)
        assert back.shape == item.field.shape == image.geometry.shape
        assert image.geometry.affine is not None
        voxel = np.unravel_index(int(back.argmax()), back.shape)
        at = (image.geometry.affine @ [*voxel, 1])[:3]
        steps = np.abs(image.geometry.affine[:3, :3]).max(axis=1)
        assert (np.abs(at - spot) <= steps / 2 + 1e-6).all(), view  # the voxel that holds the spot


def test_the_grid_is_that_of_simpleitk(case: Case) -> None:
    """Linear resampling onto a finer grid, oblique to it; ITK counts in (x, y, z) and LPS."""
    rng = np.random.default_rng(0)
    angle = np.radians(20)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    coarse, fine = turn @ np.diag([3, 2.5, 4, 1]), np.diag([-1.0, 1, 1.5, 1])
    fine[:3, 3] = [20, 4, 3]
    values = rng.normal(size=(9, 12, 11)).astype(np.float32)
    matrix = grid_matrix(_geometry(fine, (24, 26, 28)), _geometry(coarse, values.shape))
    ours = sampled(values[None], matrix, (24, 26, 28))[0]
    like = _itk(np.zeros((24, 26, 28), np.float32), fine)
    inside = _itk(np.ones(values.shape, np.float32), coarse)
    theirs, where = (
        sitk.GetArrayFromImage(sitk.Resample(each, like, sitk.Transform(), sitk.sitkLinear, 0.0))
        for each in (_itk(values, coarse), inside)
    )
    assert 0.2 < (where > 0).mean() < 0.9
    np.testing.assert_allclose(ours[where > 0.999], theirs[where > 0.999], atol=2e-4)
    assert ((ours != 0) == (where > 0)).mean() > 0.999


def _geometry(affine: NDArray[Any], shape: tuple[int, ...]) -> Geometry:
    """In array order."""
    return Geometry(shape, affine=affine[:, [2, 1, 0, 3]].astype(np.float64))


def _itk(values: NDArray[Any], affine: NDArray[Any]) -> Any:
    """A volume of ITK from a NIfTI affine."""
    lps = np.diag([-1, -1, 1, 1]) @ affine
    steps = np.linalg.norm(lps[:3, :3], axis=0)
    image = sitk.GetImageFromArray(values)
    image.SetSpacing(steps.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / steps).ravel().tolist())
    return image


def test_a_finer_view_is_smoothed_so_that_nothing_is_skipped() -> None:
    """A plane of every fourth voxel, looked at every fourth voxel: its mean, and not all or nothing."""
    values = np.zeros((1, 40, 8, 8), np.float32)
    values[0, ::4] = 1
    for first in range(4):
        matrix = np.diag([4.0, 1, 1, 1])
        matrix[0, 3] = first
        found = sampled(values, matrix, (9, 8, 8))[0, 2:-2]
        np.testing.assert_allclose(found, 0.25, atol=0.03)


def test_the_study_names_the_reference_and_a_case_without_it_takes_its_first_view(case: Case) -> None:
    preprocess = Preprocess(ALIGNED.model_copy(update={"reference": "venous"}))
    assert preprocess.reference(case.views) == "venous" and preprocess.reference(["late"]) == "late"
    prepared = prepare_case(case, preprocess)
    assert not isinstance(prepared["venous"].field, AlignedField)
    assert isinstance(prepared["arterial"].field, AlignedField)
    with pytest.raises(UsageError, match="'venous'"):
        preprocess.input_spec(("arterial", "late"))
    assert Preprocess(PreprocessConfig()).reference(case.views) is None


def test_what_lies_nowhere_together_or_does_not_tell_is_refused_by_name(tmp_path: Path, case: Case) -> None:
    far = replace(
        case, views={**case.views, "late": write(tmp_path / "far.nii", "LPS", (1, 1, 1), (500, 0, 0))}
    )
    with pytest.raises(InputRefused, match=r"a\.nii show no place together") as apart:
        prepare_case(far, Preprocess(ALIGNED))
    assert apart.value.code == "views-apart" and "far.nii" in apart.value.where
    volume = np.zeros((1, *SIZE), np.uint8)
    blind = Image(volume, Geometry(SIZE), "blind.nii", "", value_range=(0, 255))
    config = ALIGNED.model_copy(update={"orientation": "none"})
    with pytest.raises(InputRefused, match="no affine") as silent:
        Preprocess(config).prepare(blind, reference=read_image(case.views["late"]))
    assert silent.value.code == "no-affine" and "blind.nii" in silent.value.where


def test_stacked_views_in_different_places_are_told_of(case: Case) -> None:
    stacked = ALIGNED.model_copy(update={"align": "none"})
    notes = settle(stacked, [case], set()).notes
    assert any("in 1 of 1 cases" in note and "a.nii and v.nii of case c" in note for note in notes)
    alike = replace(case, views={name: case.views[name] for name in ("arterial", "same")})
    assert not any("different places" in note for note in settle(stacked, [alike], set()).notes)
    assert not any("different places" in note for note in settle(ALIGNED, [case], set()).notes)


def test_turned_copies_of_one_grid_lie_in_one_place(tmp_path: Path) -> None:
    views = {name: write(tmp_path / f"{name}.nii", name, (1.0, 1.0, 2.0)) for name in ("LPS", "ASR", "RAI")}
    notes = settle(ALIGNED.model_copy(update={"align": "none"}), [Case("c", "p", views)], set()).notes
    assert notes == ("volumes are brought to the orientation LPS: 2 of 3 are turned",)


def test_another_reference_is_another_entry_of_the_cache(tmp_path: Path, case: Case) -> None:
    def keys(of: Case) -> dict[str, str]:
        cases = PreparedCases(
            [of], tuple(of.views), Preprocess(ALIGNED), PreparedCache(tmp_path / "c", 10**9)
        )
        cases.fill()
        return cases._keys["c"]

    first = keys(case)
    moved = {**case.views, "arterial": write(tmp_path / "m.nii", "LPS", (1.0, 1.0, 2.0), (1, 0, 0))}
    second = keys(replace(case, views=moved))
    assert all(first[view] != second[view] for view in case.views)


def test_settings_that_do_nothing_are_refused() -> None:
    for wrong in ({"size": (8, 8), "align": "affine"}, {"size": (8, 8, 8), "reference": "t2"}):
        with pytest.raises(ValueError, match="align"):
            PreprocessConfig.model_validate(wrong)
