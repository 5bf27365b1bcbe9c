"""The model's field in an image, there and back, against MONAI's inverses and exact fractions."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data.meta_tensor import MetaTensor
from monai.transforms import BorderPad, Compose, Resize, SpatialCrop
from numpy.typing import NDArray

from dicom_files import dataset, slice_tags, write_dicom
from foveate.io.reading import read_image
from foveate.prepare.geometry import FieldOfView, padded_sides
from foveate.prepare.preprocess import Preprocess
from foveate.prepare.resample import resize, to_field
from foveate.study.settings import PreprocessConfig


def organ_of(shape: tuple[int, ...], seed: int) -> NDArray[np.bool_]:
    """A block of random place and size."""
    draws = np.random.default_rng(seed)
    ends = [sorted(draws.integers(0, side, 2)) for side in shape]
    organ = np.zeros(shape, dtype=bool)
    organ[tuple(slice(low, high + 1) for low, high in ends)] = True
    return organ


def monai_steps(shape: tuple[int, ...], config: PreprocessConfig, organ: NDArray[np.bool_] | None) -> Compose:
    """Crop, padding and resize of MONAI, whose parameters are worked out here in their own way."""
    start, stop = [0] * len(shape), list(shape)
    if organ is not None:
        where = np.argwhere(organ)
        start = np.maximum(where.min(axis=0) - config.organ_margin, 0).tolist()
        stop = np.minimum(where.max(axis=0) + 1 + config.organ_margin, shape).tolist()
    sides = [0] * (2 * len(shape))
    if config.keep_aspect:
        height, width = np.subtract(stop, start)[-2:].tolist()
        zoom = max(Fraction(height, config.size[-2]), Fraction(width, config.size[-1]))
        for place, have, want in ((-4, height, config.size[-2]), (-2, width, config.size[-1])):
            gap = max(round(zoom * want) - have, 0)
            sides[place], sides[place + 1] = gap // 2, gap - gap // 2
    mode = "bilinear" if len(shape) == 2 else "trilinear"
    return Compose(
        [SpatialCrop(roi_start=start, roi_end=stop), BorderPad(sides), Resize(config.size, mode=mode)]
    )


SETTINGS: list[tuple[tuple[int, ...], dict[str, Any]]] = [
    ((60, 80), {"size": (32, 32)}),
    ((41, 10), {"size": (20, 30)}),
    ((97, 31), {"size": (24, 40), "keep_aspect": False}),
    ((60, 81), {"size": (40, 40), "organ_crop": True, "organ_margin": 5}),
    ((33, 20), {"size": (24, 36), "organ_crop": True}),
    ((9, 20, 31), {"size": (6, 16, 16)}),
    ((9, 20, 31), {"size": (12, 16, 24), "organ_crop": True, "organ_margin": 2}),
]


@pytest.mark.parametrize(
    ("shape", "spacing", "size", "padded"),
    [
        ((40, 100), (2.0, 0.5), (32, 32), (40, 160)),  # 80 x 50 mm become 80 x 80
        ((100, 40), (0.5, 2.0), (32, 32), (160, 40)),
        ((40, 100), (2.0, 0.5), (32, 64), (40, 320)),  # 80 x 160 mm
        ((40, 100), (0.5, 0.5), (32, 32), (100, 100)),
        ((40, 100), (0.703125, 0.7031), (32, 32), (100, 100)),  # one spacing, rounded twice
        ((6, 40, 100), (9.0, 2.0, 0.5), (6, 32, 32), (6, 40, 160)),
        ((40, 100), None, (32, 32), (100, 100)),
    ],
)
def test_aspects_are_kept_in_millimetres(
    shape: tuple[int, ...], spacing: tuple[float, ...] | None, size: tuple[int, ...], padded: tuple[int, ...]
) -> None:
    """Worked by hand. Bundles of 0.1.0, which know no aspect, pad by pixels as they did."""
    config = PreprocessConfig(size=size, orientation="none")
    assert FieldOfView.of(shape, config, spacing=spacing).padded == padded
    former = PreprocessConfig.stored({"size": size, "keep_aspect": True})
    assert FieldOfView.of(shape, former, spacing=spacing) == FieldOfView.of(shape, former)


def test_a_disc_stays_a_disc(tmp_path: Path) -> None:
    """A disc of 30 mm in pixels of 1.5 x 0.5 mm is as high as wide in the model's grid, and comes back."""
    rows, columns = np.mgrid[:50, :90]
    disc = ((rows - 25) * 1.5) ** 2 + ((columns - 45) * 0.5) ** 2 <= 15**2
    path = tmp_path / "disc.dcm"
    write_dicom(path, dataset(disc.astype(np.uint8) * 200, slice_tags((0, 0, 0), spacing=(1.5, 0.5))))
    prepared = Preprocess(PreprocessConfig(size=(75, 75))).prepare(read_image(path))
    seen = prepared.tensor[0].numpy() > 0.4
    height, width = (int(np.ptp(np.flatnonzero(seen.any(axis=axis)))) + 1 for axis in (1, 0))
    assert abs(height - width) <= 1 and abs(height - 30) <= 1  # 75 mm in 75 pixels
    back = prepared.field.back(seen.astype(np.float32)) > 0.5
    assert (back == disc).mean() > 0.99


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("shape", "chosen"), SETTINGS, ids=str)
def test_there_and_back_are_those_of_monai(shape: tuple[int, ...], chosen: dict[str, Any], seed: int) -> None:
    config = PreprocessConfig.model_validate(chosen)
    organ = organ_of(shape, seed) if config.organ_crop else None
    field = FieldOfView.of(shape, config, organ)
    draws = np.random.default_rng(seed)
    pixels = draws.random((2, *shape)).astype(np.float32)
    steps = monai_steps(shape, config, organ)
    done = steps(MetaTensor(torch.from_numpy(pixels)))
    crop, pad, _ = steps.transforms
    expected = resize(pad(crop(torch.from_numpy(pixels))).as_tensor(), config.size)
    assert torch.equal(to_field(pixels, field), expected)

    values = draws.normal(size=config.size).astype(np.float32)
    recorded = MetaTensor(torch.from_numpy(values)[None], applied_operations=done.applied_operations)
    np.testing.assert_allclose(field.back(values), steps.inverse(recorded).as_tensor()[0], atol=2e-5)


@pytest.mark.parametrize("grid", [(1, 1), (5, 7), (32, 32), (50, 9)])
def test_a_map_of_any_size_goes_back_by_two_linear_interpolations(grid: tuple[int, int]) -> None:
    """Against torch in double precision."""
    field = FieldOfView.of((60, 90), PreprocessConfig(size=(32, 32)))
    values = np.random.default_rng(0).normal(size=grid)
    seen = torch.from_numpy(values.astype(np.float32)).double()[None, None]
    for size in ((32, 32), (90, 90)):
        seen = torch.nn.functional.interpolate(seen, size, mode="bilinear", align_corners=False)
    np.testing.assert_allclose(field.back(values.astype(np.float32)), seen[0, 0, 15:75], atol=1e-6)


def test_padding_hides_what_the_crop_left_out() -> None:
    """Of an organ of 2 × 6 pixels, padded to a square: a map of ones is one over the organ alone."""
    organ = np.zeros((10, 12), dtype=bool)
    organ[4:6, 3:9] = True
    config = PreprocessConfig(size=(6, 6), organ_crop=True, organ_margin=0)
    field = FieldOfView.of((10, 12), config, organ)
    assert (field.box.start, field.box.stop) == ((2.0, 3.0), (8.0, 9.0))
    image = np.arange(120, dtype=np.float32).reshape(1, 10, 12)
    expected = np.zeros((1, 6, 6))
    expected[0, 2:4] = image[0, 4:6, 3:9]
    np.testing.assert_array_equal(to_field(image, field), expected)
    np.testing.assert_array_equal(field.back(np.ones((6, 6), np.float32)), organ)


@settings(max_examples=300, deadline=None)
@given(*(st.integers(1, 3000) for _ in range(2)), *(st.integers(1, 600) for _ in range(2)))
def test_padding_is_exact_in_whole_numbers(height: int, width: int, tall: int, wide: int) -> None:
    zoom = max(Fraction(height, tall), Fraction(width, wide))
    expected = max(round(zoom * tall), height), max(round(zoom * wide), width)
    assert padded_sides(height, width, tall, wide) == expected
    symbolic = padded_sides(height, width, tall, wide, larger=torch.sym_max)
    assert symbolic == expected


def test_padding_rounds_halves_to_even() -> None:
    assert padded_sides(41, 10, 20, 30) == (41, 62)  # 61.5; 41 / 20 * 30 is a little less in floating point
    assert padded_sides(43, 10, 20, 30) == (43, 64)  # 64.5


@pytest.mark.parametrize(
    "chosen", [{}, {"organ_crop": True, "organ_margin": 1}, {"keep_aspect": False}], ids=str
)
def test_a_turn_comes_before_everything_and_is_undone_after_it(chosen: dict[str, Any]) -> None:
    """The field of a volume that lies otherwise is that of the turned one; box, maps and cells come back."""
    shape, codes = (9, 20, 14), ("A", "L", "I")  # (y, x, z) of LPS, the first and the last backwards
    config = PreprocessConfig.model_validate({"size": (6, 16, 12), **chosen})
    organ = organ_of(shape, 1) if config.organ_crop else None
    field = FieldOfView.of(shape, config, organ, orientation=codes)
    values = np.random.default_rng(0).random((2, *shape)).astype(np.float32)

    def turned(array: NDArray[Any]) -> NDArray[Any]:
        return np.flip(np.moveaxis(array, (-3, -2, -1), (-2, -1, -3)), (-3, -2))

    upright = FieldOfView.of(turned(values).shape[1:], config, None if organ is None else turned(organ))
    assert torch.equal(to_field(values, field), to_field(turned(values).copy(), upright))
    seen = np.random.default_rng(1).random(config.size).astype(np.float32)
    np.testing.assert_array_equal(turned(field.back(seen)), upright.back(seen))
    marked = np.ones((1, *shape), np.float32)
    inside = np.argwhere(field.back(np.ones(config.size, np.float32)) > 0)
    low, high = np.maximum(field.box.start, 0), np.minimum(field.box.stop, shape)
    if organ is None:  # else padding may reach over what the crop left out
        assert (inside.min(axis=0) == low).all() and (inside.max(axis=0) + 1 == high).all()
    else:
        assert (inside.min(axis=0) >= low).all() and (inside.max(axis=0) + 1 <= high).all()
    cells = np.zeros((1, 2, 3, 4), np.float32)
    cells[0, 0, 1, 2] = 1
    np.testing.assert_array_equal(turned(field.unturned(cells)), cells)
    assert float(to_field(marked, field).max()) == pytest.approx(1)


@pytest.mark.parametrize("how", ["linear", "area"])
def test_a_fixed_spacing_without_a_gap_is_the_interpolation_of_the_whole_image(how: Any) -> None:
    """Where the field is the image, the second way there agrees with torch's."""
    values = np.random.default_rng(0).random((1, 12, 30, 40)).astype(np.float32)
    whole = PreprocessConfig(size=(6, 45, 16), keep_aspect=False, resize=how)
    fixed = whole.model_copy(update={"spacing": (4.0, 1.0, 5.0)})
    field = FieldOfView.of((12, 30, 40), fixed, spacing=(2.0, 1.5, 2.0))
    assert field.fixed and field.box.start == (0, 0, 0) and field.box.stop == (12, 30, 40)
    expected = to_field(values, FieldOfView.of((12, 30, 40), whole))
    if how == "linear":
        torch.testing.assert_close(to_field(values, field), expected, atol=1e-5, rtol=0)
    else:  # torch's blocks take in whole pixels, ours shares of them
        assert (to_field(values, field) - expected).abs().mean() < 0.1
        mean = to_field(values, field).mean(dtype=torch.float64)
        assert float(mean) == pytest.approx(float(values.mean()), abs=1e-5)
    back = field.back(np.ones((6, 45, 16), np.float32))
    np.testing.assert_allclose(back, 1, atol=1e-6)


def test_a_fixed_field_is_cut_or_padded_around_the_middle_or_the_organ() -> None:
    """By hand: 10 pixels of 2 mm and a field of 4 times 3 mm, that is from pixel 2 to pixel 8."""
    config = PreprocessConfig(size=(4, 4), spacing=(3.0, 9.0))
    field = FieldOfView.of((10, 10), config, spacing=(2.0, 2.0))
    assert (field.box.start, field.box.stop) == ((2.0, -4.0), (8.0, 14.0))
    assert (field.back(np.ones((4, 4), np.float32)) > 0).tolist() == [
        [2 <= row < 8] * 10 for row in range(10)
    ]
    image = np.ones((1, 10, 10), np.float32)
    np.testing.assert_allclose(to_field(image, field)[0, 1], [0, 1, 1, 0], atol=1e-6)
    organ = np.zeros((10, 10), dtype=bool)
    organ[0:3, 5:6] = True
    cropped = config.model_copy(update={"organ_crop": True, "organ_margin": 0})
    around = FieldOfView.of((10, 10), cropped, organ, spacing=(2.0, 2.0)).box
    assert (around.start, around.stop) == ((-1.5, -3.5), (4.5, 14.5))
