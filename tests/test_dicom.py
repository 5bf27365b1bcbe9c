"""DICOM encodings and contradictory headers, against pydicom's own test files."""

from __future__ import annotations

import hashlib
import warnings
from io import BytesIO
from pathlib import Path
from typing import Any

import jpeg_ls
import numpy as np
import pydicom
import pydicom.config
import pytest
from openjpeg.utils import encode_array
from pydicom import dcmread, dcmwrite
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
)

from dicom_files import (
    DRAW,
    FILES,
    GREY,
    RGB,
    dataset,
    read,
    read_made,
    refusal,
    refusal_of,
    write_dicom,
)
from foveate.errors import InputRefused
from foveate.io.reading import probe, read_image, read_mask
from image_files import jpeg_frame


def test_eight_encodings_of_one_image_give_one_array() -> None:
    truth = np.frombuffer(dcmread(FILES / "MR_small.dcm").PixelData, "<i2").reshape(1, 64, 64)
    files = sorted(path for path in FILES.glob("MR_small*.dcm"))
    assert len(files) == 8
    for path in files:
        image = read(path)
        np.testing.assert_array_equal(image.pixels, truth, err_msg=path.name)
        assert image.pixels.dtype == np.int16 and image.unit == "stored"
        assert image.geometry.spacing == (0.3125, 0.3125)
        assert image.warnings == (("pixel-data-padded",) if "padded" in path.name else ())
        assert image.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    "name",
    [
        "ExplVR_BigEnd.dcm",
        "GDCMJ2K_TextGBR.dcm",
        "JPEG2000.dcm",
        "JPEGLSNearLossless_08.dcm",
        "JPEGLSNearLossless_16.dcm",
        "SC_rgb_gdcm_KY.dcm",
        "SC_rgb_jls_lossy_line.dcm",
        "SC_rgb_jls_lossy_sample.dcm",
        "SC_rgb_rle.dcm",
        "SC_rgb_rle_16bit.dcm",
        "SC_rgb_rle_32bit.dcm",
        "SC_rgb_small_odd_big_endian.dcm",
        "examples_jpeg2k.dcm",
        "examples_overlay.dcm",
        "examples_rgb_color.dcm",
        "image_dfl.dcm",
    ],
)
def test_bundled_files_read_as_pydicom_decodes_them(name: str) -> None:
    expected = dcmread(FILES / name).pixel_array
    image = read(FILES / name)
    np.testing.assert_array_equal(
        image.pixels, np.moveaxis(expected, -1, 0) if expected.ndim == 3 else expected[None]
    )


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4"])
def test_plain_numbers_keep_their_type(tmp_path: Path, dtype: str, syntax: pydicom.uid.UID) -> None:
    held = np.iinfo(dtype)
    pixels = DRAW.integers(held.min, held.max, (5, 7), endpoint=True, dtype=dtype)
    image = read_made(tmp_path, dataset(pixels, syntax=syntax))
    np.testing.assert_array_equal(image.pixels, pixels[None])
    assert image.pixels.dtype == np.dtype(dtype) and image.value_range == (held.min, held.max)


def test_unused_high_bits_do_not_reach_the_values(tmp_path: Path) -> None:
    overlaid = GREY | np.uint16(0xA000)
    image = read_made(tmp_path, dataset(overlaid, {"BitsStored": 12, "HighBit": 11}))
    np.testing.assert_array_equal(image.pixels[0], GREY)
    assert image.value_range == (0, 4095)


def test_sixteen_bit_colour_in_jpeg_2000_and_jpeg_ls(tmp_path: Path) -> None:
    pixels = DRAW.integers(0, 65536, (64, 72, 3), dtype=np.uint16)
    j2k = encode_array(pixels, photometric_interpretation=1, use_mct=False)
    made = dataset(pixels, syntax=JPEG2000Lossless, frame=bytes(j2k))
    np.testing.assert_array_equal(read_made(tmp_path, made).pixels, np.moveaxis(pixels, -1, 0))
    grey = np.ascontiguousarray(pixels[..., 0])
    made = dataset(grey, syntax=JPEGLSLossless, frame=bytes(jpeg_ls.encode_array(grey)))
    np.testing.assert_array_equal(read_made(tmp_path, made).pixels[0], grey)


def test_files_without_preamble_are_read_with_a_code(tmp_path: Path) -> None:
    whole = (FILES / "MR_small_implicit.dcm").read_bytes()
    plain = read(FILES / "MR_small_implicit.dcm")
    path = tmp_path / "old"
    path.write_bytes(whole[132:])
    image = read(path)
    np.testing.assert_array_equal(image.pixels, plain.pixels)
    assert image.warnings == ("dicom-without-preamble",)
    start = 144 + int.from_bytes(whole[140:144], "little")
    path.write_bytes(whole[start:])  # not even file meta information
    np.testing.assert_array_equal(read(path).pixels, plain.pixels)


def test_a_preamble_that_poses_as_tiff_is_still_dicom() -> None:
    assert (FILES / "CT_small.dcm").read_bytes()[:4] == b"II*\0"
    assert probe(FILES / "CT_small.dcm").kind == "dicom"


@pytest.mark.parametrize("name", ["MR_small.dcm", "MR_small_RLE.dcm", "MR_small_jp2klossless.dcm"])
@pytest.mark.parametrize(("rows", "columns"), [(32, 64), (64, 32), (128, 64)])
def test_a_size_that_disagrees_with_the_pixels_is_refused(
    tmp_path: Path, name: str, rows: int, columns: int
) -> None:
    made = dcmread(FILES / name)
    made.Rows, made.Columns = rows, columns
    found = refusal_of(tmp_path, made)
    assert found.code == "pixel-data-disagree" and "Rows" in found.where


@pytest.mark.parametrize("name", ["MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm"])
def test_a_shape_of_the_same_area_is_still_refused(tmp_path: Path, name: str) -> None:
    made = dcmread(FILES / name)
    made.Rows, made.Columns = 32, 128
    assert made.pixel_array.shape == (32, 128)  # which no decoder notices
    found = refusal_of(tmp_path, made)
    assert found.code == "pixel-data-disagree" and "64 × 64" in found.what and "32 × 128" in found.what


def test_a_jpeg_of_another_size_is_refused(tmp_path: Path) -> None:
    made = dataset(RGB, syntax=JPEGBaseline8Bit, frame=jpeg_frame(np.zeros((8, 6, 3), np.uint8)))
    assert refusal_of(tmp_path, made).code == "pixel-data-disagree"


def test_frames_that_are_missing_or_left_over_are_refused(tmp_path: Path) -> None:
    for count in (1, 3):
        made = dcmread(FILES / "SC_rgb_rle_2frame.dcm")
        made.NumberOfFrames = count
        assert refusal_of(tmp_path, made).code in ("pixel-data-disagree", "damaged-dicom")


@pytest.mark.parametrize(
    ("tags", "code"),
    [
        ({"PixelData": None}, "dicom-without-pixels"),
        ({"PixelData": b""}, "dicom-without-pixels"),
        ({"HighBit": 15}, "bits-unsupported"),
        ({"BitsAllocated": 12}, "bits-unsupported"),
        ({"BitsAllocated": None}, "dicom-bad-attribute"),
        ({"Rows": None}, "dicom-not-an-image"),
        ({"Rows": 0}, "no-pixels"),
        ({"SamplesPerPixel": 2}, "colour-space-unsupported"),
    ],
)
def test_headers_that_cannot_be_right_are_refused(tmp_path: Path, tags: dict[str, Any], code: str) -> None:
    made = dataset(GREY, {"BitsStored": 12, "HighBit": 11} | tags)
    assert refusal_of(tmp_path, made).code == code


@pytest.mark.parametrize(
    "name", ["reportsi.dcm", "rtstruct.dcm", "rtplan.dcm", "rtdose.dcm", "waveform_ecg.dcm"]
)
def test_dicom_that_is_no_image_is_refused(name: str) -> None:
    for call in (read_image, probe):
        with pytest.raises(InputRefused) as caught:
            call(FILES / name)
        assert caught.value.code == "dicom-not-an-image"


def test_a_truncated_file_is_refused() -> None:
    assert refusal(FILES / "MR_truncated.dcm").code == "pixel-data-disagree"


def test_declared_frames_are_limited_before_anything_is_allocated(tmp_path: Path) -> None:
    made = dataset(GREY, {"Rows": 60_000, "Columns": 60_000, "NumberOfFrames": 5})
    assert refusal_of(tmp_path, made).code == "too-many-pixels"
    with pytest.raises(InputRefused, match="64 × 64"):
        read_image(FILES / "MR_small.dcm", max_pixels=4095)


def test_a_deflated_bomb_is_refused_before_it_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = dataset(np.zeros((500, 500), np.uint16), syntax=DeflatedExplicitVRLittleEndian)
    path = write_dicom(tmp_path / "image.dcm", made)
    assert read(path).pixels.shape == (1, 500, 500)
    monkeypatch.setattr("foveate.io.dicom.MAX_BYTES", 400_000)
    assert path.stat().st_size < 4000
    assert refusal(path).code == "too-large"


def test_neither_warnings_nor_pydicoms_configuration_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    before = read(FILES / "CT_small.dcm")
    monkeypatch.setattr(pydicom.config, "use_DS_decimal", True)
    monkeypatch.setattr(pydicom.config.settings, "_reading_validation_mode", pydicom.config.RAISE)
    np.testing.assert_array_equal(read(FILES / "CT_small.dcm").pixels, before.pixels)
    assert pydicom.config.settings.reading_validation_mode == pydicom.config.RAISE
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read(FILES / "SC_rgb_jpeg.dcm").warnings == ("dicom-irregular",)


def test_a_segmentation_is_a_mask() -> None:
    expected = dcmread(FILES / "liver_1frame.dcm").pixel_array
    np.testing.assert_array_equal(read_mask(FILES / "liver_1frame.dcm").inside, [expected == 1])
    assert refusal(FILES / "liver_1frame.dcm").code == "dicom-not-an-image"


def test_the_writer_of_these_tests_writes_what_pydicom_reads(tmp_path: Path) -> None:
    stream = BytesIO()
    dcmwrite(stream, dataset(GREY), enforce_file_format=True)
    np.testing.assert_array_equal(dcmread(BytesIO(stream.getvalue())).pixel_array, GREY)
