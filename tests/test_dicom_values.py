"""DICOM colour and grey values against numbers worked by hand from the standard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pydicom.config
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.pixels import apply_color_lut
from pydicom.sequence import Sequence as Items
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
)

from dicom_files import (
    DRAW,
    FILES,
    GREY,
    RGB,
    Pixels,
    dataset,
    read,
    read_made,
    refusal_of,
    slice_tags,
    write_dicom,
)
from foveate.prepare.pixels import limits
from foveate.study.settings import PreprocessConfig
from image_files import jpeg_frame


def test_planar_configuration_is_no_part_of_the_image(tmp_path: Path) -> None:
    planes = np.moveaxis(RGB, -1, 0)
    made = dataset(RGB, {"PlanarConfiguration": 1, "PixelData": planes.tobytes()})
    np.testing.assert_array_equal(read_made(tmp_path, made).pixels, planes)
    np.testing.assert_array_equal(read_made(tmp_path, dataset(RGB)).pixels, planes)


def test_ybr_full_becomes_rgb_by_the_standards_formula(tmp_path: Path) -> None:
    y, blue, red = np.moveaxis(RGB.astype(float), -1, 0) - np.array([0, 128, 128])[:, None, None]
    # PS3.3 C.7.6.3.1.2, solved for R, G, B
    expected = [y + 1.402 * red, y - 0.344136 * blue - 0.714136 * red, y + 1.772 * blue]
    image = read_made(tmp_path, dataset(RGB, {"PhotometricInterpretation": "YBR_FULL"}))
    np.testing.assert_allclose(image.pixels, np.clip(expected, 0, 255), atol=0.51)


def test_ybr_full_422_becomes_rgb() -> None:
    data = np.frombuffer(dcmread(FILES / "SC_ybr_full_422_uncompressed.dcm").PixelData, np.uint8)
    quads = data.reshape(100, 50, 4).astype(float)  # Y Y B R for every two pixels
    y = quads[..., :2].reshape(100, 100)
    blue, red = (np.repeat(quads[..., at], 2, axis=1) - 128 for at in (2, 3))
    expected = [y + 1.402 * red, y - 0.344136 * blue - 0.714136 * red, y + 1.772 * blue]
    image = read(FILES / "SC_ybr_full_422_uncompressed.dcm")
    np.testing.assert_allclose(image.pixels, np.clip(expected, 0, 255), atol=0.51)


def marked_jpegs(pixels: Pixels) -> dict[str, bytes]:
    """One YCbCr picture three times: marked by JFIF, by Adobe, and not marked."""
    jfif = jpeg_frame(pixels)
    bare = jfif[:2] + jfif[4 + int.from_bytes(jfif[4:6]) :]
    adobe = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x01"  # transform 1: YCbCr
    return {"jfif": jfif, "adobe": bare[:2] + adobe + bare[2:], "bare": bare}


@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL_422", "YBR_FULL"])
@pytest.mark.parametrize("mark", ["jfif", "adobe", "bare"])
def test_colour_jpeg_is_converted_exactly_once(tmp_path: Path, mark: str, photometric: str) -> None:
    y, x = np.mgrid[:32, :48]
    smooth = np.stack([x * 5, y * 7, (x + y) * 3], axis=-1).astype(np.uint8)
    frame = marked_jpegs(smooth)[mark]
    made = dataset(smooth, {"PhotometricInterpretation": photometric}, syntax=JPEGBaseline8Bit, frame=frame)
    image = read_made(tmp_path, made)
    off = np.abs(image.pixels.astype(int) - np.moveaxis(smooth, -1, 0)).max()
    if (mark, photometric) == ("bare", "RGB"):
        assert off > 50  # unmarked, the data set is believed: it says that nothing was transformed
    else:
        assert off <= 4


def test_an_rgb_jpeg_without_marks_is_not_transformed() -> None:
    plain, marked = (read(FILES / f"SC_jpeg_no_color_transform{end}.dcm") for end in ("", "_2"))
    assert plain.pixels.mean() > 240 and marked.pixels.mean() > 240  # tissue on white, not on pink


def palette_tags(table: Pixels, first: int = 0, word: str = "<u2") -> dict[str, Any]:
    bits = 8 * table.dtype.itemsize
    tags: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for column, name in enumerate(("Red", "Green", "Blue")):
        tags[f"{name}PaletteColorLookupTableDescriptor"] = [len(table) % 65536, first, bits]
        values = table[:, column].astype(word if bits == 16 else np.uint8)
        tags[f"{name}PaletteColorLookupTableData"] = values.tobytes()
    return tags


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian])
@pytest.mark.parametrize("bits", [8, 16])
def test_palette_colour_is_looked_up(tmp_path: Path, bits: int, syntax: pydicom.uid.UID) -> None:
    word = ">u2" if syntax == ExplicitVRBigEndian else "<u2"
    table = DRAW.integers(0, 2**bits, (300, 3), dtype=f"u{bits // 8}")
    index = np.array([[0, 99, 100, 101], [254, 355, 399, 4000]], dtype=np.uint16)
    made = dataset(index, palette_tags(table, first=100, word=word), syntax=syntax)
    expected = table[[[0, 0, 0, 1], [154, 255, 299, 299]]]  # outside: the first or the last entry
    image = read_made(tmp_path, made)
    np.testing.assert_array_equal(image.pixels, np.moveaxis(expected, -1, 0))
    assert image.value_range == (0, 2**bits - 1)


def segmented_tags(segments: list[list[int]], entries: int, bits: int) -> dict[str, Any]:
    tags: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for colour, numbers in zip(("Red", "Green", "Blue"), segments, strict=True):
        data = np.array(numbers, "<u2" if bits > 8 else "u1").tobytes()
        tags[f"{colour}PaletteColorLookupTableDescriptor"] = [entries, 0, bits]
        tags[f"Segmented{colour}PaletteColorLookupTableData"] = data + b"\0" * (len(data) % 2)
    return tags


@pytest.mark.parametrize(
    ("segments", "entries", "bits", "red"),
    [
        (
            [[0, 1, 0, 1, 255, 65535], [0, 1, 9, 1, 255, 300], [0, 2, 7, 7, 1, 254, 7]],
            256,
            16,
            {0: 0, 128: 32896},
        ),
        (
            [[0, 2, 10, 20, 1, 4, 60], [0, 3, 1, 2, 3, 1, 3, 0], [0, 6, 9, 8, 7, 6, 5, 4]],
            6,
            8,
            {1: 20, 2: 30, 5: 60},
        ),
        # Discrete 4, 8; linear to 16 in two; then both once more: 4, 8, 12, 16.
        (
            [[0, 2, 4, 8, 1, 2, 16, 2, 2, 0, 0, 0, 0], [0, 8, *range(8)], [0, 8, *range(8)]],
            8,
            8,
            {3: 16, 4: 4, 6: 12},
        ),
    ],
    ids=["linear", "bytes", "indirect"],
)
def test_segmented_palettes_are_expanded_as_worked_by_hand_and_as_pydicom_does(
    tmp_path: Path, segments: list[list[int]], entries: int, bits: int, red: dict[int, int]
) -> None:
    index = np.arange(entries, dtype=np.uint8)[None]
    path = write_dicom(tmp_path / "image.dcm", dataset(index, segmented_tags(segments, entries, bits)))
    image = read(path)
    held = dcmread(path)
    np.testing.assert_array_equal(np.moveaxis(image.pixels, 0, -1), apply_color_lut(held.pixel_array, held))
    assert {k: int(image.pixels[0, 0, k]) for k in red} == red


@pytest.mark.parametrize(
    ("red", "why"),
    [
        ([1, 255, 65535], "segment of kind 1"),
        ([0, 9, 1, 2], "segment of kind 0"),
        ([7, 1, 1], "segment of kind 7"),
        ([0, 3, 1, 2, 3], "3 entries of red and not 256"),
        ([0, 3, 1, 2, 3, 2, 1, 0, 0], "segment of kind 2"),
    ],
)
def test_segments_that_cannot_be_followed_are_refused_by_name(
    tmp_path: Path, red: list[int], why: str
) -> None:
    made = dataset(
        np.zeros((2, 2), np.uint8), segmented_tags([red, [0, 1, 0, 1, 255, 9], [0, 1, 0, 1, 255, 9]], 256, 16)
    )
    found = refusal_of(tmp_path, made)
    assert found.code == "palette-incomplete" and why in found.what


def test_a_palette_that_is_missing_is_not_called_damage(tmp_path: Path) -> None:
    made = dataset(np.zeros((2, 2), np.uint8), {"PhotometricInterpretation": "PALETTE COLOR"})
    assert refusal_of(tmp_path, made).code == "palette-incomplete"
    made.RedPaletteColorLookupTableDescriptor = [4, 0, 8]
    found = refusal_of(tmp_path, made)
    assert found.code == "palette-incomplete" and "no table of red" in found.what


def test_a_palette_of_greys_is_grey(tmp_path: Path) -> None:
    table = np.repeat(np.array([[7], [200]], dtype=np.uint8), 3, axis=1)
    index = np.array([[0, 1]], dtype=np.uint8)
    assert read_made(tmp_path, dataset(index, palette_tags(table))).pixels.tolist() == [[[7, 200]]]


@pytest.mark.parametrize("photometric", ["HSV", "YBR_PARTIAL_420", "MONOCHROME2", "YBR_RCT"])
def test_colour_spaces_without_a_rule_are_refused(tmp_path: Path, photometric: str) -> None:
    found = refusal_of(tmp_path, dataset(RGB, {"PhotometricInterpretation": photometric}))
    assert found.code == "colour-space-unsupported" and "(0028,0004)" in found.where


def test_ct_is_in_hounsfield_units() -> None:
    source = dcmread(FILES / "CT_small.dcm")
    stored = np.frombuffer(source.PixelData, "<i2").reshape(128, 128)
    image = read(FILES / "CT_small.dcm")
    np.testing.assert_array_equal(image.pixels[0], stored * 1.0 - 1024)
    assert image.unit == "HU" and image.value_range is None and image.pixels.dtype == np.float32


def test_hounsfield_units_without_offset_stay_integers(tmp_path: Path) -> None:
    stored = np.array([[-1000, 40]], dtype=np.int16)
    image = read_made(tmp_path, dataset(stored, {"Modality": "CT", "RescaleSlope": 1, "RescaleIntercept": 0}))
    assert image.unit == "HU" and image.pixels.dtype == np.int16
    plain = read_made(tmp_path, dataset(stored, {"Modality": "CT"}))
    assert plain.unit == "stored" and plain.warnings == ("ct-without-hounsfield",)


def test_the_display_window_changes_nothing(tmp_path: Path) -> None:
    plain = read_made(tmp_path, dataset(GREY)).pixels
    lut = Dataset()
    lut.LUTDescriptor, lut.LUTData = [4096, 0, 16], bytes([7, 0]) * 4096
    shown = {
        "WindowCenter": 40,
        "WindowWidth": 10,
        "VOILUTFunction": "SIGMOID",
        "VOILUTSequence": Items([lut]),
    }
    shown["PresentationLUTShape"] = "INVERSE"
    np.testing.assert_array_equal(read_made(tmp_path, dataset(GREY, shown)).pixels, plain)


def test_monochrome1_is_inverted_exactly_once(tmp_path: Path) -> None:
    tags = {"PhotometricInterpretation": "MONOCHROME1", "BitsStored": 12, "HighBit": 11}
    for shape in ({}, {"PresentationLUTShape": "INVERSE"}):
        image = read_made(tmp_path, dataset(GREY, tags | shape))
        np.testing.assert_array_equal(image.pixels[0], 4095 - GREY)
        assert image.value_range == (0, 4095)
    signed = np.array([[-128, 0, 127]], dtype=np.int8)
    image = read_made(tmp_path, dataset(signed, {"PhotometricInterpretation": "MONOCHROME1"}))
    assert image.pixels.tolist() == [[[127, -1, -128]]]


def test_monochrome1_and_rescale_meet_in_one_range(tmp_path: Path) -> None:
    tags = {"PhotometricInterpretation": "MONOCHROME1", "RescaleSlope": 2, "RescaleIntercept": 10}
    pixels = np.array([[0, 100, 255]], dtype=np.uint8)  # modality values 10, 210, 520 lie in 10 to 520
    assert read_made(tmp_path, dataset(pixels, tags)).pixels.tolist() == [[[520, 320, 10]]]


def test_monochrome1_does_not_turn_hounsfield_units(tmp_path: Path) -> None:
    tags = {"Modality": "CT", "PhotometricInterpretation": "MONOCHROME1"}
    tags |= {"RescaleSlope": 1, "RescaleIntercept": -1024}
    image = read_made(tmp_path, dataset(np.array([[24, 1024]], dtype=np.uint16), tags))
    assert image.pixels.tolist() == [[[-1000, 0]]] and image.warnings == ("monochrome1-kept",)


@pytest.mark.parametrize("photometric", ["MONOCHROME2", "MONOCHROME1"])
def test_the_modality_lut_is_looked_up(tmp_path: Path, photometric: str) -> None:
    lut = Dataset()
    lut.LUTDescriptor, lut.ModalityLUTType = [4, 10, 16], "US"
    lut.LUTData = np.array([5, 50, 500, 5000], dtype="<u2").tobytes()
    pixels = np.array([[0, 10, 11, 12, 13, 99]], dtype=np.uint16)
    tags = {"ModalityLUTSequence": Items([lut]), "PhotometricInterpretation": photometric}
    expected = np.array([5, 5, 50, 500, 5000, 5000])
    image = read_made(tmp_path, dataset(pixels, tags))
    np.testing.assert_array_equal(
        image.pixels[0, 0], 65535 - expected if photometric[-1] == "1" else expected
    )


@pytest.mark.parametrize("slope", [0, "nan", "inf"])
def test_a_rescale_that_is_none_is_refused(tmp_path: Path, slope: Any) -> None:
    made = dataset(GREY, {"RescaleIntercept": 0})
    with pydicom.config.disable_value_validation():
        made.RescaleSlope = slope
    assert refusal_of(tmp_path, made).code == "bad-rescale"


PADDED = np.array([[-2000, -1990, 5, 40]], dtype=np.int16)


@pytest.mark.parametrize(
    ("tags", "dark"),
    [
        ({"PixelPaddingValue": -2000}, [-1990, -1990, 5, 40]),
        ({"PixelPaddingValue": -2000, "PixelPaddingRangeLimit": -1990}, [5, 5, 5, 40]),
        ({"PixelPaddingValue": -1990, "PixelPaddingRangeLimit": -3000}, [5, 5, 5, 40]),
        ({"PixelPaddingValue": 40}, [-2000, -1990, 5, -2000]),
    ],
)
def test_padding_gets_the_darkest_value(tmp_path: Path, tags: dict[str, int], dark: list[int]) -> None:
    image = read_made(tmp_path, dataset(PADDED, tags))
    assert image.pixels.tolist() == [[dark]] and image.warnings == ("padding-darkened",)
    assert image.padding_share == sum(a != b for a, b in zip(dark, PADDED[0], strict=True)) / 4


def test_padding_of_the_other_sign_is_understood(tmp_path: Path) -> None:
    """63536 for -2000: a value representation that does not fit the pixels."""
    made = dataset(PADDED)
    made.add_new("PixelPaddingValue", "US", 63536)
    assert read_made(tmp_path, made).pixels.tolist() == [[[-1990, -1990, 5, 40]]]


def test_padding_that_is_not_there_or_everywhere_changes_nothing(tmp_path: Path) -> None:
    for value, pixels in [(-3000, PADDED), (7, np.full((2, 2), 7, np.int16))]:
        image = read_made(tmp_path, dataset(pixels, {"PixelPaddingValue": value}))
        assert (
            image.pixels.tolist() == [pixels.tolist()] and image.warnings == () and image.padding_share == 0
        )


def test_padding_outside_the_stored_bits_does_not_widen_them(tmp_path: Path) -> None:
    """MONOCHROME1 of 12 bits with padding 65535: real pixels are inverted within 12 bits."""
    tags = {
        "PhotometricInterpretation": "MONOCHROME1",
        "BitsStored": 12,
        "HighBit": 11,
        "PixelPaddingValue": 65535,
    }
    made = dataset(np.array([[65535, 4000, 100]], np.uint16), tags)
    image = read_made(tmp_path, made)
    assert image.pixels.tolist() == [[[95, 95, 3995]]] and image.warnings == ("padding-darkened",)


def test_padding_of_a_series_is_darkest_in_the_whole_volume(tmp_path: Path) -> None:
    stack = np.array([[[-2000, 7]], [[3, 9]], [[-2000, -5]]], np.int16)
    for k, pixels in enumerate(stack):
        tags = slice_tags((0, 0, k)) | {"PixelPaddingValue": -2000, "RescaleSlope": 2, "RescaleIntercept": 1}
        write_dicom(tmp_path / str(k), dataset(pixels, tags))
    image = read(tmp_path)
    assert image.pixels.ravel().tolist() == [-9, 15, 7, 19, -9, -9] and image.padding_share == 2 / 6
    none = dataset(stack[1], slice_tags((0, 0, 3)))
    write_dicom(tmp_path / "3", none)
    assert read(tmp_path).padding_share == 2 / 8


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_percentiles_are_those_of_the_pixels_without_padding(tmp_path: Path, photometric: str) -> None:
    draw = np.random.default_rng(8)
    pixels = draw.integers(300, 3000, (40, 30), dtype=np.uint16)
    outside = draw.random(pixels.shape) < 0.3
    pixels[outside] = 4095
    tags = {
        "PixelPaddingValue": 4095,
        "BitsStored": 12,
        "HighBit": 11,
        "PhotometricInterpretation": photometric,
    }
    image = read_made(tmp_path, dataset(pixels, tags))
    real = pixels[~outside].astype(np.int64)
    inside = real if photometric == "MONOCHROME2" else 4095 - real
    config = PreprocessConfig(size=(8, 8), percentiles=(1.5, 98.0))
    np.testing.assert_allclose(limits(image, config), np.percentile(inside, (1.5, 98.0)), rtol=1e-9)
    assert (image.pixels[0][outside] == inside.min()).all()


def test_floating_point_pixels_must_be_finite(tmp_path: Path) -> None:
    values = np.array([[1.5, -2.25]], dtype=np.float32)
    made = dataset(values.view(np.uint32), {"PixelData": None, "BitsStored": None, "HighBit": None})
    made.FloatPixelData = values.tobytes()
    np.testing.assert_array_equal(read_made(tmp_path, made).pixels[0], values)
    made.FloatPixelData = np.array([1, np.nan], dtype=np.float32).tobytes()
    found = refusal_of(tmp_path, made)
    assert found.code == "not-finite" and "1 of 2" in found.what
