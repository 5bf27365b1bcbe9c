"""What a cohort's images have in common is settled from headers, once, and what does not fit is named."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from foveate.errors import InputRefused, UsageError
from foveate.prepare.common import median_spacing, settle
from foveate.study.settings import PreprocessConfig
from foveate.types import Case, Geometry

VOLUMES = PreprocessConfig(size=(8, 16, 16))


def volume(
    letters: str = "SPL", spacing: Sequence[float] = (5, 1, 1), shape: Sequence[int] = (10, 64, 64)
) -> Geometry:
    """Letters in array order; empty for a volume that does not tell."""
    return Geometry(tuple(shape), tuple(spacing), orientation=tuple(letters) or None)


def cases(count: int, slice_index: int | None = None) -> list[Case]:
    return [
        Case(f"c{i}", f"p{i}", {"image": Path(f"{i}.nii")}, slice_index=slice_index) for i in range(count)
    ]


def reader(*geometries: Geometry):  # type: ignore[no-untyped-def]
    return lambda path: geometries[int(path.stem)]


def test_auto_is_lps_where_all_volumes_tell_and_says_how_many_are_turned() -> None:
    found = settle(VOLUMES, cases(3), set(), read=reader(volume(), volume("SAR"), volume("LPS")))
    assert found.config.orientation == "LPS"
    assert found.notes == ("volumes are brought to the orientation LPS: 2 of 3 are turned",)
    chosen = settle(
        PreprocessConfig(size=(8, 8, 8), orientation="RAS"), cases(1), set(), read=reader(volume("SAR"))
    )
    assert chosen.config.orientation == "RAS" and "0 of 1" in chosen.notes[0]


def test_without_any_affine_the_files_order_is_taken_and_said_once() -> None:
    found = settle(VOLUMES, cases(3), set(), read=reader(*[volume("")] * 3))
    assert found.config.orientation == "none" and len(found.notes) == 1
    assert "order of their files" in found.notes[0]
    with pytest.raises(UsageError, match="RAS"):
        settle(PreprocessConfig(size=(8, 8, 8), orientation="RAS"), cases(1), set(), read=reader(volume("")))


def test_some_with_and_some_without_an_affine_are_refused_with_one_of_each_named() -> None:
    with pytest.raises(InputRefused, match=r"1 of 3 volumes.*1\.nii.*0\.nii") as caught:
        settle(VOLUMES, cases(3), set(), read=reader(volume(), volume(""), volume()))
    assert caught.value.code == "affine-missing" and caught.value.where == "case c1"
    left = PreprocessConfig(size=(8, 16, 16), orientation="none")
    assert settle(left, cases(2), set(), read=reader(volume(), volume(""))).config == left


def test_slices_of_one_cohort_lie_in_one_plane() -> None:
    pictures = PreprocessConfig(size=(32, 32))
    one = settle(pictures, cases(2, 3), set(), read=reader(volume(), volume("IAR")))
    assert (one.config.orientation, one.config.plane) == (
        "LPS",
        "axial",
    ) and "1 of 2 are turned" in one.notes[0]
    asked = pictures.model_copy(update={"plane": "sagittal"})
    with pytest.raises(InputRefused, match="none sagittal; 2 axial, such as c0"):
        settle(asked, cases(2, 3), set(), read=reader(volume(), volume()))
    with pytest.raises(InputRefused, match="2 axial, such as c0; 1 coronal, such as c1") as caught:
        settle(pictures, cases(3, 3), set(), read=reader(volume(), volume("PSL"), volume("IAR")))
    assert caught.value.code == "mixed-planes"


def test_pictures_are_not_looked_at() -> None:
    def never(path: Path) -> Geometry:
        raise AssertionError(path)

    pictures = PreprocessConfig(size=(32, 32))
    assert settle(pictures, cases(3), set(), read=never).config is pictures


def test_spacing_is_learned_from_training_cases_along_the_turned_axes() -> None:
    """By hand: LPS takes (z, y, x); the second volume is (x, y, z); the third is not for training."""
    geometries = (volume("SPL", (2, 1, 0.5)), volume("LPS", (0.7, 1, 4)), volume("SPL", (9, 9, 9)))
    config = VOLUMES.model_copy(update={"spacing": "auto"})
    found = settle(config, cases(3), {"c0", "c1"}, read=reader(*geometries))
    assert found.config.spacing == (3.0, 1.0, 0.6)
    assert "the model sees 24 × 16 × 9.6 mm at 3 × 1 × 0.6 mm" in found.notes[1]
    assert "2 of 2 training images are larger" in found.notes[1]
    with pytest.raises(UsageError, match="no training image tells"):
        settle(config, cases(1), {"c0"}, read=reader(Geometry((4, 4, 4), orientation=("S", "P", "L"))))


def test_coarse_axes_with_few_slices_take_their_tenth_percentile() -> None:
    """nnU-Net's rule, by hand: 10 spacings of 1 to 10 mm have the 10th percentile 1.9 and the median 5.5."""
    coarse = np.array([[step, 0.8, 0.8] for step in range(1, 11)], dtype=np.float64)
    few, many = np.tile([20.0, 256.0, 256.0], (10, 1)), np.tile([100.0, 256.0, 256.0], (10, 1))
    assert median_spacing(coarse, few) == (1.9, 0.8, 0.8)
    assert median_spacing(coarse, many) == (5.5, 0.8, 0.8)  # enough slices
    coarse[:, 1] = 1.9
    assert median_spacing(coarse, few) == (5.5, 1.9, 0.8)  # 5.5 is less than three times 1.9
    fine = coarse.copy()
    fine[:, 0] = [0.1] * 4 + [9] * 6
    assert median_spacing(fine, few) == (1.9, 1.9, 0.8)  # never finer than the others
