"""NIfTI files against nibabel's own reading and numbers worked by hand."""

from __future__ import annotations

import gzip
import hashlib
import tracemalloc
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

from dicom_files import dataset, slice_tags, write_dicom
from foveate.errors import InputRefused
from foveate.io.nifti import write_nifti
from foveate.io.reading import probe, read_image, read_mask
from foveate.io.source import MAX_PIXELS
from foveate.types import Geometry, Image

DRAW = np.random.default_rng(5)
OBLIQUE = np.array(  # (i, j, k) → RAS mm; turned, with steps of 0.7, 0.9 and 2.5 mm
    [[0.56, -0.54, 0.0, -90.0], [0.42, 0.72, 0.0, 40.5], [0.0, 0.0, 2.5, -12.0], [0, 0, 0, 1]]
)


def read(path: Path) -> Image:
    image = read_image(path)
    seen = probe(path)
    assert seen.kind == "nifti" and (seen.shape, seen.channels) == (image.geometry.shape, image.channels)
    assert image.geometry.shape == image.pixels.shape[1:] and image.unit == "stored"
    assert image.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    return image


def refusal(path: Path) -> InputRefused:
    with pytest.raises(InputRefused) as caught:
        read_image(path)
    assert str(path) in caught.value.where and caught.value.fix
    return caught.value


def write(path: Path, voxels: NDArray[Any], affine: NDArray[Any] | None = OBLIQUE, version: int = 1) -> Path:
    kind = nibabel.Nifti1Image if version == 1 else nibabel.Nifti2Image
    nibabel.save(kind(voxels, affine, dtype=voxels.dtype), path)
    return path


@pytest.mark.parametrize("name", ["volume.nii", "volume.nii.gz"])
@pytest.mark.parametrize("version", [1, 2])
def test_a_marked_voxel_lies_where_nibabel_puts_it(tmp_path: Path, name: str, version: int) -> None:
    voxels = DRAW.integers(-1000, 1000, (5, 6, 7), dtype=np.int16)
    voxels[4, 1, 3] = 30_000
    path = write(tmp_path / name, voxels, version=version)
    reference = nibabel.load(path)
    image = read(path)
    assert image.pixels.shape == (1, 7, 6, 5) and image.pixels.dtype == np.int16
    np.testing.assert_array_equal(image.pixels[0], np.transpose(reference.get_fdata(), (2, 1, 0)))
    ours = np.argwhere(image.pixels[0] == 30_000)[0]
    theirs = np.argwhere(reference.get_fdata() == 30_000)[0]
    assert image.geometry.affine is not None
    np.testing.assert_allclose(image.geometry.affine @ [*ours, 1], reference.affine @ [*theirs, 1], rtol=1e-6)
    np.testing.assert_allclose(image.geometry.spacing, (2.5, 0.9, 0.7), rtol=1e-6)
    assert image.geometry.orientation == ("S", "A", "R")
    assert image.warnings == () and image.value_range is None


def test_axes_are_named_in_our_order(tmp_path: Path) -> None:
    las = np.diag([-2.0, 3.0, 4.0, 1.0])  # i to the left, j to the front, k up
    image = read(write(tmp_path / "las.nii", np.zeros((2, 3, 4), np.uint8), las))
    assert image.geometry.orientation == ("S", "A", "L") and image.geometry.spacing == (4, 3, 2)


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "i8", "f4", "f8"])
def test_numbers_keep_their_type_in_native_order(tmp_path: Path, dtype: str, byteorder: str) -> None:
    voxels = DRAW.integers(0, 100, (3, 4, 5)).astype(dtype)
    header = nibabel.Nifti1Header(endianness=byteorder)
    header.set_data_dtype(dtype)
    path = tmp_path / "volume.nii"
    nibabel.save(nibabel.Nifti1Image(voxels, OBLIQUE, header, dtype=np.dtype(dtype)), path)
    assert path.read_bytes()[:4] == (348).to_bytes(4, "little" if byteorder == "<" else "big")
    image = read(path)
    np.testing.assert_array_equal(image.pixels[0], voxels.T)
    assert image.pixels.dtype == np.dtype(dtype) and image.pixels.dtype.isnative
    assert image.value_range == ((0, 255) if dtype == "u1" else None)


def scaled(path: Path, stored: NDArray[Any], slope: float, intercept: float) -> Path:
    image = nibabel.Nifti1Image(stored, np.eye(4), dtype=stored.dtype)
    data = bytearray(image.to_bytes())
    data[112:120] = np.array([slope, intercept], dtype="<f4").tobytes()  # scl_slope, scl_inter
    path.write_bytes(bytes(data))
    return path


def test_the_stored_scaling_is_applied(tmp_path: Path) -> None:
    stored = DRAW.integers(0, 4096, (3, 4, 5), dtype=np.int16)
    path = scaled(tmp_path / "ct.nii", stored, 0.5, -1024)
    image = read(path)
    np.testing.assert_array_equal(image.pixels[0], stored.T * 0.5 - 1024)
    np.testing.assert_array_equal(image.pixels[0], nibabel.load(path).get_fdata().T)
    assert image.pixels.dtype == np.float32
    for slope in (0, np.nan):  # both mean: not scaled
        plain = read(scaled(tmp_path / "plain.nii", stored, slope, 7))
        np.testing.assert_array_equal(plain.pixels[0], stored.T)
        assert plain.pixels.dtype == np.int16


@pytest.mark.parametrize("shape", [(4, 5, 6), (4, 5, 6, 1), (4, 5, 6, 1, 1), (4, 5), (4, 5, 1)])
def test_axes_of_length_one_are_no_axes(tmp_path: Path, shape: tuple[int, ...]) -> None:
    voxels = DRAW.integers(0, 9, shape, dtype=np.uint8)
    image = read(write(tmp_path / "volume.nii", voxels))
    expected = voxels.reshape(shape[:3]).T
    np.testing.assert_array_equal(image.pixels[0], expected)
    place = (image.geometry.affine @ [*(0,) * (3 - expected.ndim), *(2,) * expected.ndim, 1])[:3]  # type: ignore[operator]
    beyond = [2, 2, 2] if expected.ndim == 3 else [2, 2, 0]
    np.testing.assert_allclose(place, (OBLIQUE @ [*beyond, 1])[:3], rtol=1e-6)


@pytest.mark.parametrize("shape", [(4, 5, 6, 2), (4, 5, 6, 1, 3), (7,)])
def test_more_than_one_volume_is_refused_with_the_axes(tmp_path: Path, shape: tuple[int, ...]) -> None:
    found = refusal(write(tmp_path / "volume.nii", np.zeros(shape, np.uint8)))
    assert found.code == "nifti-axes" and " × ".join(map(str, shape)) in found.what


def test_rgb_is_colour_and_other_records_are_refused(tmp_path: Path) -> None:
    rgb = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
    parts = DRAW.integers(0, 256, (3, 4, 5, 3), dtype=np.uint8)
    voxels = np.ascontiguousarray(parts).view(rgb)[..., 0]
    image = read(write(tmp_path / "rgb.nii", voxels))
    np.testing.assert_array_equal(image.pixels, np.transpose(parts, (3, 2, 1, 0)))
    assert image.value_range == (0, 255)
    for dtype in (np.complex64, np.complex128):
        assert refusal(write(tmp_path / "other.nii", np.zeros((2, 2, 2), dtype))).code == "nifti-datatype"


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_voxels_that_are_no_numbers_are_counted_and_refused(tmp_path: Path, bad: float) -> None:
    voxels = np.zeros((3, 4, 5), np.float32)
    voxels[1, 2, :2] = bad
    found = refusal(write(tmp_path / "volume.nii", voxels))
    assert found.code == "not-finite" and "2 of 60" in found.what


def test_scaling_beyond_float32_is_refused(tmp_path: Path) -> None:
    stored = np.full((2, 2, 2), 30_000, np.int16)
    assert refusal(scaled(tmp_path / "volume.nii", stored, 1e38, 0)).code == "not-finite"


def test_without_an_affine_only_the_spacing_is_known(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.zeros((3, 4, 5), np.uint8), None)
    image.header.set_zooms((0.5, 0.6, 3.0))
    nibabel.save(image, tmp_path / "volume.nii")
    found = read(tmp_path / "volume.nii")
    assert found.geometry.affine is None and found.geometry.orientation is None
    assert found.geometry.spacing == pytest.approx((3.0, 0.6, 0.5))
    assert found.warnings == ("nifti-without-affine",)


@pytest.mark.parametrize(("unit", "factor"), [("meter", 1000), ("mm", 1), ("micron", 1e-3), ("unknown", 1)])
def test_lengths_become_millimetres(tmp_path: Path, unit: str, factor: float) -> None:
    image = nibabel.Nifti1Image(np.zeros((3, 4, 5), np.uint8), np.diag([2.0, 3.0, 4.0, 1.0]))
    image.header.set_xyzt_units(unit)
    nibabel.save(image, tmp_path / "volume.nii")
    assert read(tmp_path / "volume.nii").geometry.spacing == pytest.approx(
        (4 * factor, 3 * factor, 2 * factor)
    )


def test_the_quaternion_serves_where_there_is_no_sform(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.zeros((3, 4, 5), np.uint8), OBLIQUE)
    image.set_sform(None, code=0)
    image.set_qform(OBLIQUE, code=1)
    nibabel.save(image, tmp_path / "volume.nii")
    found = read(tmp_path / "volume.nii").geometry.affine
    assert found is not None
    np.testing.assert_allclose(found @ [4, 3, 2, 1], OBLIQUE @ [2, 3, 4, 1], rtol=1e-5)


@pytest.mark.parametrize("affine", [np.diag([1.0, 0, 1, 1]), np.diag([1.0, np.nan, 1, 1])])
def test_an_affine_that_leads_nowhere_is_refused(tmp_path: Path, affine: NDArray[Any]) -> None:
    image = nibabel.Nifti1Image(np.zeros((3, 4, 5), np.uint8), np.eye(4))
    data = bytearray(image.to_bytes())
    data[280:328] = affine[:3].astype("<f4").tobytes()  # srow_x, srow_y, srow_z
    (tmp_path / "volume.nii").write_bytes(bytes(data))
    assert refusal(tmp_path / "volume.nii").code == "bad-affine"


@pytest.mark.parametrize("zipped", [False, True])
def test_truncated_files_are_refused(tmp_path: Path, zipped: bool) -> None:
    whole = nibabel.Nifti1Image(DRAW.integers(0, 99, (9, 9, 9), dtype=np.uint8), OBLIQUE).to_bytes()
    data = gzip.compress(whole) if zipped else whole
    path = tmp_path / "volume"
    for size in (30, 347, 360, len(data) - 9, len(data) - 1):
        path.write_bytes(data[:size])
        assert refusal(path).code in ("truncated-nifti", "damaged-nifti", "unsupported-format")


def test_gzip_is_told_by_content_and_its_checksum_is_compared(tmp_path: Path) -> None:
    voxels = DRAW.integers(0, 99, (9, 9, 9), dtype=np.uint8)
    data = bytearray(gzip.compress(nibabel.Nifti1Image(voxels, OBLIQUE).to_bytes()))
    path = tmp_path / "volume.nii"  # and not .gz
    path.write_bytes(bytes(data))
    np.testing.assert_array_equal(read(path).pixels[0], voxels.T)
    data[-5] ^= 1  # the last byte of the checksum
    path.write_bytes(bytes(data))
    assert refusal(path).code == "damaged-nifti"


def test_bytes_after_the_voxels_are_noticed(tmp_path: Path) -> None:
    path = write(tmp_path / "volume.nii", np.zeros((3, 4, 5), np.uint8))
    path.write_bytes(path.read_bytes() + b"more")
    assert read(path).warnings == ("trailing-bytes-ignored",)


def declared(shape: tuple[int, ...], offset: float = 352) -> bytes:
    """A header that declares what the file does not hold."""
    data = bytearray(nibabel.Nifti1Image(np.zeros((1, 1, 1), np.float64), np.eye(4)).to_bytes())
    data[40:56] = np.array([len(shape), *shape, *[1] * (7 - len(shape))], dtype="<i2").tobytes()
    data[108:112] = np.array([offset], dtype="<f4").tobytes()
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (declared((20_000, 20_000, 3)), "too-many-pixels"),
        (declared((600, 600, 600)), "truncated-nifti"),
        (declared((0, 5, 5)), "no-pixels"),
        (declared((-4, 5, 5)), "no-pixels"),
        (declared((2, 2, 2), offset=1e30), "damaged-nifti"),
        (declared((2, 2, 2), offset=10), "damaged-nifti"),
    ],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_what_a_header_declares_is_checked_before_it_is_allocated(
    tmp_path: Path, data: bytes, code: str, zipped: bool
) -> None:
    path = tmp_path / "volume.nii"
    path.write_bytes(gzip.compress(data) if zipped else data)
    tracemalloc.start()
    assert refusal(path).code == code
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


def test_a_gzip_bomb_is_not_inflated(tmp_path: Path) -> None:
    path = tmp_path / "bomb.nii.gz"
    path.write_bytes(gzip.compress(declared((512, 512, 1)) + bytes(50_000_000)))
    tracemalloc.start()
    assert read_image(path).warnings == ("trailing-bytes-ignored",)
    assert tracemalloc.get_traced_memory()[1] < 20_000_000  # 2 MB of voxels and some copies
    tracemalloc.stop()


def test_the_limit_is_the_callers(tmp_path: Path) -> None:
    path = write(tmp_path / "volume.nii", np.zeros((3, 4, 5), np.uint8))
    assert read_image(path, max_pixels=60).pixels.size == 60
    with pytest.raises(InputRefused, match="60"):
        read_image(path, max_pixels=59)
    assert MAX_PIXELS >= 512 * 512 * 1000


@pytest.mark.parametrize("name", ["mask.nii", "mask.nii.gz"])
def test_what_is_written_comes_back_in_its_place(tmp_path: Path, name: str) -> None:
    source = read(write(tmp_path / "image.nii", np.zeros((5, 6, 7), np.int16)))
    mask = np.zeros((7, 6, 5), dtype=bool)
    mask[2, 3, 4] = True
    write_nifti(tmp_path / name, mask, source.geometry)
    np.testing.assert_array_equal(read_mask(tmp_path / name).inside, mask)
    written = nibabel.load(tmp_path / name)
    np.testing.assert_allclose(written.affine, OBLIQUE, rtol=1e-6)
    assert written.get_fdata()[4, 3, 2] == 1 and written.get_data_dtype() == np.uint8
    before = (tmp_path / name).read_bytes()
    write_nifti(tmp_path / name, mask, source.geometry)
    assert (tmp_path / name).read_bytes() == before


def test_heat_maps_are_written_raw_with_what_is_known_of_their_geometry(tmp_path: Path) -> None:
    values = DRAW.normal(size=(4, 5)).astype(np.float32)
    write_nifti(tmp_path / "map.nii", values, Geometry((4, 5), (0.5, 0.25)))
    image = read(tmp_path / "map.nii")
    np.testing.assert_array_equal(image.pixels[0], values)
    assert image.geometry.spacing == (0.5, 0.25) and image.geometry.affine is None
    with pytest.raises(ValueError, match="shape"):
        write_nifti(tmp_path / "map.nii", values, Geometry((5, 4)))


def itk(path: Path) -> tuple[NDArray[Any], ...]:
    """Spacing, origin and direction as ITK has them."""
    found = sitk.ReadImage(str(path))
    return tuple(np.array(each) for each in (found.GetSpacing(), found.GetOrigin(), found.GetDirection()))


@pytest.mark.parametrize("codes", [(2, 1), (1, 1), (0, 1), (1, 0), (4, 2)], ids=str)
def test_a_map_lies_over_its_image_for_readers_that_take_either_transform(
    tmp_path: Path, codes: tuple[int, int]
) -> None:
    """ITK takes another of the two than nibabel, and the voxel size from a third place."""
    image = nibabel.Nifti1Image(np.zeros((4, 5, 6), np.int16), None)
    image.set_sform(np.diag([2, -2, 2, 1]) + np.eye(4, k=3) * 7, codes[0])
    image.set_qform(np.diag([1.5, 1.5, 3, 1]), codes[1])
    nibabel.save(image, tmp_path / "a.nii.gz")
    found = read_image(tmp_path / "a.nii.gz")
    assert ("nifti-sform-taken" in found.warnings) == (codes[0] > 0)
    values = np.ones(found.geometry.shape, np.float32)
    write_nifti(tmp_path / "h.nii.gz", values, found.geometry, like=tmp_path / "a.nii.gz")
    for ours, theirs in zip(itk(tmp_path / "h.nii.gz"), itk(tmp_path / "a.nii.gz"), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    mine = nibabel.load(tmp_path / "h.nii.gz")
    np.testing.assert_array_equal(mine.affine, nibabel.load(tmp_path / "a.nii.gz").affine)
    np.testing.assert_array_equal(mine.get_fdata(), values.T)


def test_transforms_that_agree_within_rounding_are_not_told_of(tmp_path: Path) -> None:
    angle = np.radians(33)
    turned = np.diag([0.7, 0.7, 2.5, 1])
    turned[:3, :3] = turned[:3, :3] @ [
        [np.cos(angle), -np.sin(angle), 0],
        [np.sin(angle), np.cos(angle), 0],
        [0, 0, 1],
    ]
    image = nibabel.Nifti1Image(np.zeros((200, 200, 40), np.int16), turned)
    image.set_qform(turned, 1)
    nibabel.save(image, tmp_path / "a.nii")
    assert "nifti-sform-taken" not in read_image(tmp_path / "a.nii").warnings
    turned[0, 3] += 0.5  # mm, of voxels of 0.7
    image.set_sform(turned, 1)
    nibabel.save(image, tmp_path / "b.nii")
    assert "nifti-sform-taken" in read_image(tmp_path / "b.nii").warnings


def test_a_map_of_a_tilted_stack_opens_in_itk_as_itk_reads_the_series(tmp_path: Path) -> None:
    """And for nibabel it leans, as the slices do."""
    cosines, step = (1, 0, 0, 0, 1, 0), np.array([0, 0.44, 2.5])
    folder = tmp_path / "series"
    folder.mkdir()
    for number in range(6):
        tags = slice_tags([3, 4, 5] + number * step, cosines)
        write_dicom(folder / f"{number}.dcm", dataset(np.full((5, 4), number, np.uint16), tags))
    image = read_image(folder)
    assert "tilted-stack" in image.warnings
    write_nifti(tmp_path / "h.nii.gz", np.ones((6, 5, 4), np.float32), image.geometry, like=folder)
    series = sitk.ImageSeriesReader()
    series.SetFileNames([str(folder / f"{number}.dcm") for number in range(6)])
    theirs = series.Execute()
    spacing, origin, direction = itk(tmp_path / "h.nii.gz")
    np.testing.assert_allclose(spacing, theirs.GetSpacing(), atol=1e-6)
    np.testing.assert_allclose(origin, theirs.GetOrigin(), atol=1e-6)
    np.testing.assert_allclose(direction, theirs.GetDirection(), atol=1e-6)
    assert image.geometry.affine is not None
    np.testing.assert_allclose(
        nibabel.load(tmp_path / "h.nii.gz").affine, image.geometry.affine[:, [2, 1, 0, 3]], atol=1e-6
    )
