"""What every reader promises: an image, an image with codes, or a refusal with a way out."""

from __future__ import annotations

import gzip
import os
import threading
import warnings
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PILImage

from dicom_files import Pixels, dataset, slice_tags, write_dicom
from foveate.errors import InputRefused
from foveate.io.reading import probe, read_image, read_mask
from foveate.types import Image
from image_files import pillow

DRAW = np.random.default_rng(2)
GREY = DRAW.integers(0, 256, (24, 20), dtype=np.uint8)
RGB = DRAW.integers(0, 256, (24, 20, 3), dtype=np.uint8)
VOLUME = DRAW.integers(0, 4096, (3, 24, 20), dtype=np.uint16)


def write_file(data: bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        path = folder / "image"
        path.write_bytes(data)
        return path

    return write


def write_dicom_file(folder: Path) -> Path:
    return write_dicom(folder / "image", dataset(GREY, slice_tags((0, 0, 0))))


def write_series(folder: Path) -> Path:
    series = folder / "series"
    series.mkdir()
    for z, pixels in enumerate(VOLUME):
        write_dicom(series / f"{z}.dcm", dataset(pixels, slice_tags((0, 0, z))))
    return series


def colour_first(pixels: Pixels) -> Pixels:
    return np.moveaxis(pixels, -1, 0)


def as_jpeg_holds(pixels: Pixels) -> tuple[bytes, Pixels]:
    data = pillow(pixels, "JPEG")
    with PILImage.open(BytesIO(data)) as picture:
        return data, colour_first(np.asarray(picture))


JPEG, JPEG_PIXELS = as_jpeg_holds(RGB)
NIFTI = nibabel.Nifti1Image(VOLUME.T, np.diag([1.0, 2, 3, 1])).to_bytes()

# name → how to write a sample, what it holds, what it is
READERS: dict[str, tuple[Callable[[Path], Path], Pixels, str]] = {
    "png": (write_file(pillow(RGB, "PNG")), colour_first(RGB), "png"),
    "jpeg": (write_file(JPEG), JPEG_PIXELS, "jpeg"),
    "tiff": (write_file(pillow(GREY, "TIFF")), GREY[None], "tiff"),
    "tiff-lzw": (write_file(pillow(RGB, "TIFF", compression="tiff_lzw")), colour_first(RGB), "tiff"),
    "bmp": (write_file(pillow(RGB, "BMP")), colour_first(RGB), "bmp"),
    "dicom": (write_dicom_file, GREY[None], "dicom"),
    "dicom-series": (write_series, VOLUME[None], "dicom-series"),
    "nifti": (write_file(NIFTI), VOLUME[None], "nifti"),
    "nifti-gz": (write_file(gzip.compress(NIFTI, mtime=0)), VOLUME[None], "nifti"),
}
every_reader = pytest.mark.parametrize("name", READERS)


def refusal(path: Path | str) -> InputRefused:
    codes = set()
    for call in (read_image, read_mask, probe):
        with pytest.raises(InputRefused) as caught:
            call(path)
        codes.add(caught.value.code)
        assert caught.value.what and caught.value.fix and str(path) in caught.value.where
        assert caught.value.exit_code == 3
    assert len(codes) == 1
    return caught.value


@every_reader
def test_pixels_geometry_and_probe_agree(tmp_path: Path, name: str) -> None:
    write, expected, kind = READERS[name]
    path = write(tmp_path)
    image = read_image(path)
    assert isinstance(image, Image)
    np.testing.assert_array_equal(image.pixels, expected)
    assert image.pixels.flags.c_contiguous and image.pixels.dtype.isnative
    assert image.geometry.shape == image.pixels.shape[1:] and image.channels in (1, 3)
    assert image.dimensions == (3 if kind in ("dicom-series", "nifti") else 2)
    assert image.source == str(path) and len(image.sha256) == 64 and image.warnings == ()
    seen = probe(path)
    assert (seen.kind, seen.shape, seen.channels) == (kind, image.geometry.shape, image.channels)
    np.testing.assert_array_equal(
        read_mask(path).inside, (expected > (127 if kind == "jpeg" else 0)).any(axis=0)
    )


@every_reader
def test_the_content_decides_and_not_the_name(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, expected, _ = READERS[name]
    path = write(tmp_path)
    first = read_image(path)
    monkeypatch.chdir(tmp_path)
    for other in ("scan.txt", "größe 图像.png", "a.nii.gz"):
        path = path.rename(tmp_path / other)
        (tmp_path / "link").symlink_to(path)
        for way in (path, str(path), Path("link"), f"../{tmp_path.name}/{other}"):
            image = read_image(way)
            np.testing.assert_array_equal(image.pixels, expected)
            assert image.sha256 == first.sha256 and image.source == str(Path(way))
        (tmp_path / "link").unlink()


@every_reader
def test_one_pixel_over_the_limit_is_refused(tmp_path: Path, name: str) -> None:
    write, expected, _ = READERS[name]
    path = write(tmp_path)
    count = expected[0].size
    assert read_image(path, max_pixels=count).pixels[0].size == count
    for call in (read_image, read_mask):
        with pytest.raises(InputRefused) as caught:
            call(path, max_pixels=count - 1)
        assert caught.value.code == "too-many-pixels"


@every_reader
def test_probing_decodes_nothing(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(*_: object) -> None:
        raise AssertionError("probe decoded pixels")

    path = READERS[name][0](tmp_path)
    for decoder in ("raster._pixels", "dicom.read_values", "series.read_values", "nifti._values"):
        monkeypatch.setattr(f"foveate.io.{decoder}", decode)
    probe(path)
    with pytest.raises(InputRefused, match="probe decoded pixels"):
        read_image(path)


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """Cut off the end, or set a few bytes, more often near the beginning, to something else."""
    if rng.random() < 0.3:
        return data[: rng.integers(len(data))]
    changed = bytearray(data)
    reach = len(data) if rng.random() < 0.4 else min(len(data), 1000)
    for at in rng.integers(reach, size=rng.choice([1, 2, 8])):
        changed[at] = rng.choice([0, 1, 127, 128, 255, rng.integers(256)])
    return bytes(changed)


@every_reader
def test_damage_ends_as_an_image_or_a_refusal(tmp_path: Path, name: str) -> None:
    path = READERS[name][0](tmp_path)
    target = min(path.iterdir()) if path.is_dir() else path
    whole, rng, refused = target.read_bytes(), np.random.default_rng(8), 0
    for _ in range(60):
        target.write_bytes(damaged(whole, rng))
        try:
            image = read_image(path, max_pixels=10**6)
            assert probe(path).shape == image.pixels.shape[1:]
        except InputRefused as refusal:
            refused += 1
            assert refusal.code and refusal.fix and str(path) in refusal.where
    assert refused > 5


MAGIC = [
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff\xe0",
    b"II*\0\x08\0\0\0",
    b"MM\0*",
    b"BM" + bytes(12) + b"\x28\0\0\0",
    bytes(128) + b"DICM",
    b"\x08\0\x05\0CS\x0a\0",
    b"\x5c\x01\0\0",
    b"\x1f\x8b\x08\0",
    b"",
]


@settings(max_examples=150, deadline=2000, derandomize=True)
@given(magic=st.sampled_from(MAGIC), rest=st.binary(max_size=600))
def test_any_bytes_end_as_an_image_or_a_refusal(
    tmp_path_factory: pytest.TempPathFactory, magic: bytes, rest: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "bytes"
    path.write_bytes(magic + rest)
    try:
        read_image(path)
    except InputRefused as refusal:
        assert refusal.code and refusal.fix


@every_reader
def test_threads_share_the_readers_and_warning_filters_stay(tmp_path: Path, name: str) -> None:
    write, expected, _ = READERS[name]
    path, before, wrong = write(tmp_path), list(warnings.filters), []

    def work() -> None:
        for _ in range(5):
            if not np.array_equal(read_image(path).pixels, expected):
                wrong.append(path)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and list(warnings.filters) == before


def test_what_is_not_there(tmp_path: Path) -> None:
    assert refusal(tmp_path / "missing.png").code == "not-found"
    (tmp_path / "dangling").symlink_to(tmp_path / "missing.png")
    assert refusal(tmp_path / "dangling").code == "not-found"
    assert refusal("a\0b").code == "unreadable"
    assert refusal(tmp_path / ("x" * 300)).code == "unreadable"


def test_links_that_lead_in_a_circle(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert refusal(tmp_path / "a").code == "symlink-loop"
    series = write_series(tmp_path)
    (series / "loop").symlink_to(series / "loop")
    assert read_image(series).warnings == ("other-files-ignored",)


@pytest.mark.timeout(20)
def test_pipes_and_devices_are_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert refusal(tmp_path / "pipe").code == "not-a-regular-file"
    assert refusal("/dev/zero").code == "not-a-regular-file"
    series = write_series(tmp_path)
    os.mkfifo(series / "pipe")
    assert read_image(series).warnings == ("other-files-ignored",)


@pytest.mark.parametrize(
    ("name", "data", "code", "says"),
    [
        ("empty.png", b"", "empty-file", "empty"),
        ("text.png", b"case_id,label\n1,cyst\n", "not-an-image", "whatever the name says"),
        ("page.jpg", b"<!DOCTYPE html><html>404", "not-an-image", "whatever the name says"),
        ("animation.gif", b"GIF89a" + bytes(20), "unsupported-format", "GIF"),
        ("array.npz", b"PK\x03\x04" + bytes(40), "unsupported-format", "npz"),
        ("scan.nii.gz", gzip.compress(b"not a volume", mtime=0), "unsupported-format", "gzip"),
        ("scan.hdr", (348).to_bytes(4, "little") + bytes(344), "unsupported-format", ".img"),
    ],
)
def test_other_content_is_named(tmp_path: Path, name: str, data: bytes, code: str, says: str) -> None:
    (tmp_path / name).write_bytes(data)
    found = refusal(tmp_path / name)
    assert found.code == code and says in found.what


def test_a_file_larger_than_any_image_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "huge.nii"
    with path.open("wb") as stream:
        stream.write(NIFTI)
        stream.truncate(2**33)  # sparse: takes no room
    assert refusal(path).code == "too-large"
