"""JPEG in DICOM: whose word counts for colour, lossless and 12-bit frames, and decoders that die."""

from __future__ import annotations

import warnings
from io import BytesIO
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image as PILImage
from pydicom import dcmread
from pydicom.uid import JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1

import foveate.io.isolated
from decoder_that_dies import doubled, killed, sleeps
from dicom_files import FILES, dataset, read, read_made, refusal, refusal_of
from foveate.errors import InputRefused
from foveate.io.isolated import DecoderFailed, isolated

DRAW = np.random.default_rng(23)
RED, GREY = (200, 40, 40), (244, 244, 244)


def two_colours(marks: bytes, names: bytes = b"\1\2\3") -> bytes:
    """A JPEG whose components are R, G, B as they are, with these marks and component names."""
    picture = np.zeros((16, 32, 3), np.uint8)
    picture[:, :16], picture[:, 16:] = RED, GREY
    stream = BytesIO()
    PILImage.fromarray(picture).save(stream, "JPEG", quality=95, subsampling=0, keep_rgb=True)
    made = bytearray(stream.getvalue())
    for start, step, offset in ((made.find(b"\xff\xc0"), 3, 10), (made.find(b"\xff\xda"), 2, 5)):
        for k in range(3):
            made[start + offset + step * k] = names[k]
    at = made.find(b"\xff\xee")
    made[at : at + 2 + int.from_bytes(made[at + 2 : at + 4])] = marks
    return bytes(made)


def segment(marker: int, held: bytes) -> bytes:
    return bytes([0xFF, marker]) + (len(held) + 2).to_bytes(2) + held


ADOBE_RGB = b"Adobe\0\x64\0\0\0\0\0"
JFIF = b"JFIF\0\1\1\0\0\1\0\1\0\0"


@pytest.mark.parametrize(
    ("marks", "names"),
    [
        (segment(0xEE, ADOBE_RGB), b"\1\2\3"),
        (segment(0xEE, ADOBE_RGB[:10]), b"\1\2\3"),
        (segment(0xE0, JFIF[:9]), b"\1\2\3"),
        (segment(0xE0, b"JFIFish, but none"), b"\1\2\3"),
        (b"", b"\1\2\3"),
        (b"", b"RGB"),
        (segment(0xEE, ADOBE_RGB[:10]), b"RGB"),
    ],
    ids=["adobe", "short", "short-jfif", "no-jfif", "unmarked", "named", "short-named"],
)
def test_rgb_stays_rgb_where_no_mark_that_libjpeg_heeds_says_otherwise(
    tmp_path: Path, marks: bytes, names: bytes
) -> None:
    made = dataset(np.zeros((16, 32, 3), np.uint8), syntax=JPEGBaseline8Bit, frame=two_colours(marks, names))
    image = read_made(tmp_path, made)
    np.testing.assert_allclose(image.pixels[:, 8, [4, 28]].T.astype(int), [RED, GREY], atol=3)


def test_a_short_adobe_mark_in_a_real_file_is_read_as_pydicom_reads_it() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom on the file's value representations
        theirs = dcmread(FILES / "SC_rgb_jpeg.dcm").pixel_array
    image = read(FILES / "SC_rgb_jpeg.dcm")
    np.testing.assert_array_equal(np.moveaxis(image.pixels, 0, -1), theirs)
    assert image.pixels[:, 0, 0].tolist() == [244, 244, 244]


@pytest.mark.parametrize(
    "name", ["SC_jpeg_no_color_transform.dcm", "SC_rgb_jpeg_dcmtk.dcm", "SC_rgb_jpeg_dcmd.dcm"]
)
def test_whole_marks_are_heeded_as_pydicom_heeds_them(name: str) -> None:
    held = dcmread(FILES / name)
    np.testing.assert_allclose(np.moveaxis(read(FILES / name).pixels, 0, -1), held.pixel_array, atol=1)


def sampled(bits: int) -> NDArray[Any]:
    return DRAW.integers(0, 2**bits, (33, 21)).astype(np.uint8 if bits == 8 else np.uint16)


@pytest.mark.parametrize("syntax", [JPEGLossless, JPEGLosslessSV1])
@pytest.mark.parametrize("bits", [8, 10, 12, 16])
@pytest.mark.parametrize("signed", [False, True])
def test_lossless_jpeg_of_another_encoder_is_exact(
    tmp_path: Path, syntax: Any, bits: int, signed: bool
) -> None:
    """liblj92 wrote what libjpeg-turbo reads; signed values are two's complement of so many bits."""
    pixels = sampled(bits)
    frame = imagecodecs.ljpeg_encode(pixels, bitspersample=bits)
    tags = {"BitsStored": bits, "HighBit": bits - 1, "PixelRepresentation": int(signed)}
    image = read_made(tmp_path, dataset(pixels, tags, syntax=syntax, frame=frame))
    truth = pixels.astype(np.int64)
    if signed:
        truth = np.where(truth >= 2 ** (bits - 1), truth - 2**bits, truth)
    np.testing.assert_array_equal(image.pixels[0], truth)


def test_every_predictor_of_process_14_is_exact(tmp_path: Path) -> None:
    pixels = sampled(12)
    for predictor in range(1, 8):
        frame = imagecodecs.jpeg8_encode(pixels, lossless=True, predictor=predictor, bitspersample=12)
        tags = {"BitsStored": 12, "HighBit": 11}
        image = read_made(tmp_path, dataset(pixels, tags, syntax=JPEGLossless, frame=frame))
        np.testing.assert_array_equal(image.pixels[0], pixels)


@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL"])
def test_lossless_colour_is_what_the_data_set_says(tmp_path: Path, photometric: str) -> None:
    colours = DRAW.integers(0, 256, (9, 7, 3), dtype=np.uint8)
    if photometric == "YBR_FULL":
        colours[:] = (76, 85, 255)  # pure red, ITU-R BT.601
    frame = imagecodecs.jpeg8_encode(colours, lossless=True, colorspace="RGB", outcolorspace="RGB")
    tags = {"PhotometricInterpretation": photometric}
    image = read_made(tmp_path, dataset(colours, tags, syntax=JPEGLosslessSV1, frame=frame))
    if photometric == "RGB":
        np.testing.assert_array_equal(np.moveaxis(image.pixels, 0, -1), colours)
    else:
        np.testing.assert_allclose(image.pixels[:, 0, 0].astype(int), [255, 0, 0], atol=2)


def test_jpeg_of_12_bits_is_read(tmp_path: Path) -> None:
    rows, columns = np.mgrid[:64, :48]
    pixels = (2048 + 1900 * np.sin(rows / 9) * np.cos(columns / 7)).astype(np.uint16)
    frame = imagecodecs.jpeg8_encode(pixels, bitspersample=12, level=98)
    tags = {"BitsStored": 12, "HighBit": 11}
    image = read_made(tmp_path, dataset(pixels, tags, syntax=JPEGExtended12Bit, frame=frame))
    assert np.abs(image.pixels[0].astype(int) - pixels).max() <= 3
    colours = dataset(
        np.zeros((4, 4, 3), np.uint16), syntax=JPEGExtended12Bit, frame=b"\xff\xd8" + twelve_in_colour()
    )
    assert refusal_of(tmp_path, colours).code == "transfer-syntax-unsupported"


def twelve_in_colour() -> bytes:
    return segment(0xC1, b"\x0c\0\4\0\4\3\1\x11\0\2\x11\0\3\x11\0")


@pytest.mark.parametrize(
    ("name", "syntax"),
    [
        ("SC_rgb_jpeg_gdcm.dcm", "JPEG Lossless"),
        ("JPGExtended.dcm", "JPEG Extended (Process 2 and 4), 12 bits"),
        ("JPEG-lossy.dcm", "JPEG Extended (Process 2 and 4), 12 bits"),
    ],
)
def test_without_the_extra_the_refusal_names_it(
    name: str, syntax: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read(FILES / name)
    monkeypatch.setattr("foveate.io.dicom_frames.find_spec", lambda _: None)
    found = refusal(FILES / name)
    assert found.code == "transfer-syntax-unsupported"
    assert syntax in found.what and "(0002,0010)" in found.where
    assert "pip install 'foveate[jpeg]'" in found.fix and "dcmdjpeg" in found.fix


def test_two_real_12_bit_files_of_one_picture_agree() -> None:
    """Both show the picture that JPEG2000.dcm holds too, whose decoder shares no code with this one."""
    first, second = (read(FILES / name).pixels.astype(int) for name in ("JPEG-lossy.dcm", "JPGExtended.dcm"))
    np.testing.assert_array_equal(first, second)
    other = read(FILES / "JPEG2000.dcm").pixels.astype(int)
    assert np.corrcoef(first.ravel(), other.ravel())[0, 1] > 0.95


def test_a_decoder_that_dies_costs_its_file_alone() -> None:
    assert isolated("x.dcm", doubled, 2) == 4
    with pytest.raises(InputRefused) as caught:
        isolated("x.dcm", doubled, 3)
    assert caught.value.code == "decoder-crashed" and caught.value.fix and caught.value.where == "x.dcm"
    assert isolated("x.dcm", doubled, 4) == 8


@pytest.mark.parametrize("name", ["MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm"])
def test_a_file_on_which_a_decoder_dies_is_refused_and_the_next_is_read(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr("foveate.io.dicom_frames._by_plugin", killed)
        assert refusal(FILES / name).code == "decoder-crashed"
    np.testing.assert_array_equal(read(FILES / name).pixels, read(FILES / "MR_small.dcm").pixels)


def test_a_decoder_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foveate.io.isolated, "LONGEST", 0.5)
    isolated("x.dcm", doubled, 1)
    with pytest.raises(InputRefused) as caught:
        isolated("x.dcm", sleeps, 60)
    assert caught.value.code == "decoder-crashed"


def test_what_a_decoder_raises_is_told_in_full() -> None:
    with pytest.raises(DecoderFailed, match=r"TypeError: .*NoneType"):
        isolated("x.dcm", doubled, None)


def test_the_whole_reason_of_a_decoder_reaches_the_user(tmp_path: Path) -> None:
    frame = imagecodecs.jpegls_encode(sampled(8))[:60]
    made = dataset(sampled(8), syntax="1.2.840.10008.1.2.4.80", frame=frame)  # type: ignore[arg-type]
    found = refusal_of(tmp_path, made)
    assert found.code == "damaged-dicom" and "pyjpegls" in found.what and "\n" not in found.what
