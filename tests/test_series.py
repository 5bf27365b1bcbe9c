"""Where DICOM slices lie and how they become a volume, by hand and against highdicom."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items

from dicom_files import (
    DRAW,
    FILES,
    GREY,
    Pixels,
    dataset,
    read,
    read_made,
    refusal,
    refusal_of,
    slice_tags,
    write_dicom,
)
from foveate.errors import InputRefused
from foveate.io.reading import probe, read_image
from foveate.types import Image

OBLIQUE = np.array([[0.8, 0.6, 0.0], [-0.36, 0.48, 0.8]])  # right, down
STEP = np.cross(*OBLIQUE) * 2.5


def lps(position: Sequence[float], down: float, right: float, cosines: Pixels = OBLIQUE) -> Pixels:
    """PS3.3 C.7.6.2.1.1 by hand: where pixel (row, column) lies; rows are 0.8, columns 0.5 mm apart."""
    return np.asarray(position) + cosines[0] * 0.5 * right + cosines[1] * 0.8 * down


def ras(point: Pixels) -> Pixels:
    return point * [-1, -1, 1]


def at(image: Image, *index: float) -> Pixels:
    assert image.geometry.affine is not None
    return (image.geometry.affine @ [*index, 1])[:3]


def test_a_single_slice_knows_where_it_lies(tmp_path: Path) -> None:
    position = (12.5, -40.0, 7.25)
    image = read_made(tmp_path, dataset(GREY, slice_tags(position, OBLIQUE.reshape(-1))))
    assert image.geometry.spacing == (0.8, 0.5)
    np.testing.assert_allclose(at(image, 0, 4, 3), ras(lps(position, 4, 3)), atol=1e-9)
    flat = read_made(tmp_path, dataset(GREY, slice_tags(position)))
    assert flat.geometry.orientation == ("P", "L")


def test_spacing_at_the_detector_is_said_to_be_that(tmp_path: Path) -> None:
    image = read_made(tmp_path, dataset(GREY, {"ImagerPixelSpacing": [0.2, 0.1]}))
    assert image.geometry.spacing == (0.2, 0.1) and image.warnings == ("spacing-at-detector",)
    assert read_made(tmp_path, dataset(GREY, {"PixelSpacing": [0, 0]})).geometry.spacing is None


def write_series(
    folder: Path, volume: Pixels, positions: Sequence[Sequence[float]], tags: Mapping[str, Any] = {}
) -> list[Path]:
    """Slices under shuffled names, with instance numbers that count the other way."""
    names = DRAW.permutation(len(volume))
    folder.mkdir(exist_ok=True)
    paths = []
    for number, (pixels, position) in enumerate(zip(volume, positions, strict=True)):
        placed = slice_tags(position, OBLIQUE.reshape(-1)) | {"InstanceNumber": len(volume) - number, **tags}
        paths.append(write_dicom(folder / f"IM{names[number]:03d}", dataset(pixels, placed)))
    return paths


VOLUME = DRAW.integers(0, 4096, (5, 6, 7), dtype=np.uint16)
ORIGIN = np.array([-100.0, 35.5, 12.25])
EVEN = [ORIGIN + number * STEP for number in range(5)]


def test_a_series_is_ordered_by_position_and_never_by_name(tmp_path: Path) -> None:
    paths = write_series(
        tmp_path / "série 1", VOLUME, EVEN, {"Modality": "CT", "RescaleSlope": 2, "RescaleIntercept": -1024}
    )
    image = read(tmp_path / "série 1")
    np.testing.assert_array_equal(image.pixels[0], VOLUME * 2.0 - 1024)
    assert image.unit == "HU" and image.warnings == () and image.source == str(tmp_path / "série 1")
    np.testing.assert_allclose(image.geometry.spacing, (2.5, 0.8, 0.5), rtol=1e-6)
    for k, i, j in [(0, 0, 0), (4, 5, 6), (2, 1, 3)]:
        np.testing.assert_allclose(at(image, k, i, j), ras(lps(EVEN[k], i, j)), atol=1e-5)
    digests = b"".join(hashlib.sha256(path.read_bytes()).digest() for path in paths)
    assert image.sha256 == hashlib.sha256(digests).hexdigest()


def test_slices_written_from_top_to_bottom_give_the_same_volume(tmp_path: Path) -> None:
    write_series(tmp_path / "up", VOLUME, EVEN)
    write_series(tmp_path / "down", VOLUME[::-1], EVEN[::-1])
    up, down = read(tmp_path / "up"), read(tmp_path / "down")
    np.testing.assert_array_equal(up.pixels, down.pixels)
    np.testing.assert_array_equal(up.geometry.affine, down.geometry.affine)


def test_axes_are_named_for_the_patient(tmp_path: Path) -> None:
    axial = {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}
    write_series(tmp_path / "axial", VOLUME, [(0, 0, z) for z in range(5)], axial)
    assert read(tmp_path / "axial").geometry.orientation == ("S", "P", "L")
    coronal = {"ImageOrientationPatient": [1, 0, 0, 0, 0, -1]}
    write_series(tmp_path / "coronal", VOLUME, [(0, y, 0) for y in range(5)], coronal)
    assert read(tmp_path / "coronal").geometry.orientation == ("P", "I", "L")


def test_a_volume_lies_where_highdicom_puts_it(tmp_path: Path) -> None:
    highdicom = pytest.importorskip("highdicom", reason="the independent reader of series")
    folder = FILES / "dicomdirtests" / "98892001" / "CT5N"
    write_series(tmp_path / "made", VOLUME, EVEN)
    for series in (folder, tmp_path / "made"):
        ours = read(series)
        theirs = highdicom.get_volume_from_series([dcmread(path) for path in series.iterdir()])
        for index in np.ndindex(*theirs.spatial_shape):
            assert ours.geometry.affine is not None
            place = ras((theirs.affine @ [*index, 1])[:3])
            mine = tuple(np.rint(np.linalg.solve(ours.geometry.affine, [*place, 1])[:3]).astype(int))
            np.testing.assert_allclose(at(ours, *mine), place, atol=1e-4)
            assert ours.pixels[(0, *mine)] == pytest.approx(theirs.array[index])


def test_what_is_no_slice_is_left_out_with_a_code(tmp_path: Path) -> None:
    folder = tmp_path / "series"
    write_series(folder, VOLUME, EVEN)
    expected = read(folder).pixels
    (folder / "README.txt").write_text("scanned on Monday")
    (folder / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    (folder / "report.dcm").write_bytes((FILES / "reportsi.dcm").read_bytes())
    (folder / "DICOMDIR").write_bytes((FILES / "dicomdirtests" / "TINY_ALPHA" / "DICOMDIR").read_bytes())
    (folder / "more").mkdir()
    (folder / "empty.dcm").touch()
    image = read(folder)
    np.testing.assert_array_equal(image.pixels, expected)
    assert set(image.warnings) == {"other-files-ignored", "subfolders-ignored", "empty-files-ignored"}


def test_positions_may_be_rounded_but_not_leave_a_gap(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    volume = np.zeros((40, 4, 4), np.uint16)
    rounded = [ORIGIN + number * STEP + rng.uniform(-0.05, 0.05, 3) for number in range(40)]
    write_series(tmp_path / "rounded", volume, rounded)
    assert read(tmp_path / "rounded").pixels.shape == (1, 40, 4, 4)
    for missing in (1, 20, 38):
        folder = tmp_path / f"without {missing}"
        paths = write_series(folder, volume, rounded)
        paths[missing].unlink()
        found = refusal(folder)
        assert found.code == "missing-slices"
        assert f"from {paths[missing - 1].name} to {paths[missing + 1].name}" in found.what


def test_a_slice_off_the_line_is_refused(tmp_path: Path) -> None:
    positions = [*EVEN[:2], EVEN[2] + OBLIQUE[0] * 3, *EVEN[3:]]
    paths = write_series(tmp_path / "series", VOLUME, positions)
    found = refusal(tmp_path / "series")
    assert found.code == "uneven-slices" and paths[2].name in found.what


def test_a_tilted_gantry_is_kept_with_its_shear(tmp_path: Path) -> None:
    tilted = [ORIGIN + number * (STEP + OBLIQUE[1] * 0.7) for number in range(5)]
    write_series(tmp_path / "series", VOLUME, tilted)
    image = read(tmp_path / "series")
    assert image.warnings == ("tilted-stack",)
    np.testing.assert_allclose(at(image, 4, 5, 6), ras(lps(tilted[4], 5, 6)), atol=1e-5)


def altered(folder: Path, position: int, tags: dict[str, Any], pixels: Pixels | None = None) -> str:
    """Write a series one slice of which is different; the name of that slice."""
    paths = write_series(folder, VOLUME, EVEN)
    placed = slice_tags(EVEN[position], OBLIQUE.reshape(-1)) | tags
    write_dicom(paths[position], dataset(VOLUME[position] if pixels is None else pixels, placed))
    return paths[position].name


@pytest.mark.parametrize(
    ("tags", "code"),
    [
        ({"ImagePositionPatient": [round(float(x), 6) for x in EVEN[3]]}, "duplicate-positions"),
        ({"ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}, "mixed-orientation"),
        ({"PixelSpacing": [0.8, 0.6]}, "mixed-pixel-spacing"),
        ({"SeriesInstanceUID": "1.2.4"}, "mixed-series"),
        ({"PhotometricInterpretation": "MONOCHROME1"}, "mixed-encoding"),
        ({"Modality": "MR"}, "mixed-encoding"),
        ({"ImagePositionPatient": None}, "slice-without-position"),
        ({"PixelSpacing": None}, "slice-without-position"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "slice-without-position"),
    ],
)
def test_series_that_are_no_volume_are_refused_with_the_offender(
    tmp_path: Path, tags: dict[str, Any], code: str
) -> None:
    name = altered(tmp_path / "series", 1, tags)
    for call in (read_image, probe):
        with pytest.raises(InputRefused) as caught:
            call(tmp_path / "series")
        assert caught.value.code == code and name in caught.value.what and caught.value.fix


def test_slices_of_another_size_or_damaged_are_refused(tmp_path: Path) -> None:
    name = altered(tmp_path / "a", 2, {}, np.zeros((7, 6), np.uint16))
    found = refusal(tmp_path / "a")
    assert found.code == "mixed-size" and name in found.what
    paths = write_series(tmp_path / "b", VOLUME, EVEN)
    paths[1].write_bytes(paths[1].read_bytes()[:-20])
    found = refusal(tmp_path / "b")
    assert found.code == "pixel-data-disagree" and paths[1].name in found.where


def test_folders_without_slices_say_so(tmp_path: Path) -> None:
    assert refusal(tmp_path).code == "no-dicom-in-folder"
    (tmp_path / "inner").mkdir()
    assert "only subfolders" in refusal(tmp_path).what


def test_the_limit_counts_the_whole_series(tmp_path: Path) -> None:
    write_series(tmp_path / "series", VOLUME, EVEN)
    assert read_image(tmp_path / "series", max_pixels=5 * 6 * 7).pixels.size == 210
    with pytest.raises(InputRefused, match="210"):
        read_image(tmp_path / "series", max_pixels=209)


def test_one_slice_alone_is_a_volume_of_one(tmp_path: Path) -> None:
    write_series(tmp_path / "placed", VOLUME[:1], EVEN[:1])
    image = read(tmp_path / "placed")
    assert image.pixels.shape == (1, 1, 6, 7) and image.geometry.spacing == pytest.approx((1, 0.8, 0.5))
    (tmp_path / "radiograph").mkdir()
    write_dicom(tmp_path / "radiograph" / "a", dataset(GREY))
    image = read(tmp_path / "radiograph")
    assert image.geometry.spacing is None and image.warnings == ("slice-step-unknown",)


def item(**values: Any) -> Dataset:
    made = Dataset()
    for name, value in values.items():
        setattr(made, name, value)
    return made


def enhanced(volume: Pixels, positions: Sequence[Sequence[float]], slopes: Sequence[float]) -> Dataset:
    """An enhanced CT whose frames carry position and rescale of their own."""
    orientation = item(ImageOrientationPatient=[round(float(x), 9) for x in OBLIQUE.reshape(-1)])
    measures = item(PixelSpacing=[0.8, 0.5], SliceThickness=2.5)
    groups = [
        item(
            PlanePositionSequence=Items([item(ImagePositionPatient=[round(float(x), 6) for x in position])]),
            PixelValueTransformationSequence=Items(
                [item(RescaleSlope=slope, RescaleIntercept=-1000, RescaleType="HU")]
            ),
        )
        for position, slope in zip(positions, slopes, strict=True)
    ]
    shared = item(PlaneOrientationSequence=Items([orientation]), PixelMeasuresSequence=Items([measures]))
    tags = {"Modality": "CT", "PerFrameFunctionalGroupsSequence": Items(groups)}
    return dataset(volume, tags | {"SharedFunctionalGroupsSequence": Items([shared])})


def test_enhanced_frames_are_ordered_by_position_with_their_own_rescale(tmp_path: Path) -> None:
    shuffle = [3, 0, 4, 1, 2]
    slopes = np.array([1.0, 2.0, 0.5, 1.0, 3.0])
    made = enhanced(VOLUME[shuffle], [EVEN[k] for k in shuffle], slopes[shuffle].tolist())
    image = read_made(tmp_path, made)
    np.testing.assert_array_equal(image.pixels[0], VOLUME * slopes[:, None, None] - 1000)
    assert image.unit == "HU" and image.warnings == ()
    np.testing.assert_allclose(at(image, 4, 5, 6), ras(lps(EVEN[4], 5, 6)), atol=1e-5)
    again = read(tmp_path)  # the only file of a folder
    np.testing.assert_array_equal(again.pixels, image.pixels)
    assert again.source == str(tmp_path)


def test_enhanced_frames_in_one_place_are_refused(tmp_path: Path) -> None:
    found = refusal_of(tmp_path, enhanced(VOLUME[:3], [EVEN[0], EVEN[1], EVEN[0]], [1, 1, 1]))
    assert found.code == "duplicate-positions" and "frame 1 = frame 3" in found.what


def test_frames_without_positions_keep_their_order_and_say_so(tmp_path: Path) -> None:
    image = read_made(tmp_path, dataset(VOLUME))
    np.testing.assert_array_equal(image.pixels[0], VOLUME)
    assert image.geometry.spacing is None and image.warnings == ("frames-without-position",)
    cine = read(FILES / "examples_ybr_color.dcm")
    assert cine.pixels.shape == (3, 30, 240, 320)


def test_several_multi_frame_files_in_a_folder_are_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_dicom(tmp_path / name, dataset(VOLUME, {"SeriesInstanceUID": "1.2.3"}))
    found = refusal(tmp_path)
    assert found.code == "several-volumes" and "2 files" in found.what and "a, b" in found.what
    write_dicom(tmp_path / "c", dataset(VOLUME[0], {"SeriesInstanceUID": "1.2.3"}))
    assert "beside 1 single slices" in refusal(tmp_path).what
