"""Mosaics become volumes and tiles become one picture, or they are refused by name."""

from __future__ import annotations

import gzip
import re
import struct
import warnings
from itertools import product
from pathlib import Path
from typing import Any

import highdicom
import nibabel
import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import VLWholeSlideMicroscopyImageStorage, generate_uid

from dicom_files import dataset, read, read_made, refusal, refusal_of, write_dicom

REAL = Path(nibabel.__file__).parent / "nicom" / "tests" / "data"


def csa(tags: dict[str, list[str]]) -> bytes:
    """A CSA2 header as Siemens writes it: numbers as text, padded to 4 bytes."""
    made = b"SV10" + b"\4\3\2\1" + struct.pack("<II", len(tags), 77)
    for name, values in tags.items():
        made += struct.pack("<64si4siiI", name.encode(), len(values), b"FD\0\0", 3, len(values), 77)
        for value in values:
            text = value.encode() + b"\0"
            made += struct.pack("<4I", *[len(text)] * 2, 77, len(text)) + text + b"\0" * (-len(text) % 4)
    return made


def mosaic(slices: np.ndarray[Any, Any], across: int, normal: tuple[float, float, float]) -> Dataset:
    """Slices ``(D, H, W)`` in one picture of ``across`` times as many rows and columns."""
    depth, height, width = slices.shape
    tiled = np.zeros((across * height, across * width), slices.dtype)
    for k, (row, column) in enumerate(product(range(across), repeat=2)):
        if k < depth:
            tiled[row * height : (row + 1) * height, column * width : (column + 1) * width] = slices[k]
    made = dataset(tiled, {"Modality": "MR", "Manufacturer": "SIEMENS", "SpacingBetweenSlices": 4.0})
    made.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]
    made.PixelSpacing, made.ImageOrientationPatient = [3.0, 2.0], [1, 0, 0, 0, 1, 0]
    # Of slice 0 at (10, 20, 30): as far from its centre as a slice of the mosaic's size.
    beyond = (across - 1) / 2
    made.ImagePositionPatient = [10 - beyond * width * 2.0, 20 - beyond * height * 3.0, 30]
    block = made.private_block(0x0029, "SIEMENS CSA HEADER", create=True)
    facts = {"NumberOfImagesInMosaic": [str(depth)], "SliceNormalVector": [str(part) for part in normal]}
    block.add_new(0x10, "OB", csa(facts))
    return made


@pytest.mark.parametrize("up", [1, -1])
def test_a_mosaic_is_the_volume_that_was_tiled(tmp_path: Path, up: int) -> None:
    """Five slices in 3 x 3 tiles; slice k lies k * 4 mm along the normal, whichever way that leads."""
    slices = np.random.default_rng(3).integers(0, 900, (5, 6, 4), dtype=np.uint16)
    image = read_made(tmp_path, mosaic(slices, 3, (0.0, 0.0, float(up))))
    np.testing.assert_array_equal(image.pixels[0], slices[::up])  # slices go up
    assert image.geometry.spacing == (4.0, 3.0, 2.0) and image.geometry.affine is not None
    places = np.stack([[0, 0, 0, 1], [4, 5, 3, 1]]).T
    low, high = (30.0, 46.0) if up > 0 else (14.0, 30.0)
    ras = [[-10, -(10 + 3 * 2.0)], [-20, -(20 + 5 * 3.0)], [low, high]]
    np.testing.assert_allclose((image.geometry.affine @ places)[:3], ras)


def test_a_real_mosaic_lies_where_the_protocol_put_its_slices(tmp_path: Path) -> None:
    """Each slice's centre stands in Siemens' protocol too; nibabel's own wrapper has the same affine."""
    path = tmp_path / "mosaic.dcm"
    path.write_bytes(gzip.decompress((REAL / "siemens_dwi_0.dcm.gz").read_bytes()))
    image = read(path)
    assert image.pixels.shape == (1, 48, 128, 128) and image.geometry.affine is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nibabel calls its DICOM readers experimental
        from nibabel.nicom import csareader, dicomwrappers
    held = dcmread(path)
    protocol = csareader.get_csa_header(held, "series")["tags"]["MrPhoenixProtocol"]["items"][0]
    centres = np.zeros((48, 3))
    for k, axis, value in re.findall(r"asSlice\[(\d+)\]\.sPosition\.d(\w+)\s+= (\S+)", protocol):
        centres[int(k), ["Sag", "Cor", "Tra"].index(axis)] = float(value)
    ours = image.geometry.affine @ np.array([[k, 64, 64, 1] for k in range(48)]).T
    np.testing.assert_allclose(ours[:3].T * [-1, -1, 1], centres, atol=0.02)
    wrapper = dicomwrappers.wrapper_from_data(held)
    lps = np.diag([-1, -1, 1, 1]) @ image.geometry.affine[:, [1, 2, 0, 3]]
    np.testing.assert_allclose(wrapper.affine, lps, atol=1e-4)
    np.testing.assert_array_equal(np.moveaxis(wrapper.get_unscaled_data(), -1, 0), image.pixels[0])


@pytest.mark.parametrize(
    ("facts", "missing"),
    [
        ({}, "the number of its slices"),
        ({"SliceNormalVector": ["0", "0", "1"]}, "the number of its slices"),
        ({"NumberOfImagesInMosaic": ["4"]}, "the place of its slices"),
    ],
)
def test_a_mosaic_without_its_header_is_refused_by_name(
    tmp_path: Path, facts: dict[str, list[str]], missing: str
) -> None:
    made = mosaic(np.ones((4, 4, 4), np.uint16), 2, (0, 0, 1))
    made[0x0029, 0x1010].value = csa(facts)
    found = refusal_of(tmp_path, made)
    assert found.code == "mosaic-unsupported" and "MOSAIC" in found.what and missing in found.what


def test_more_slices_than_tiles_and_other_makers_are_refused(tmp_path: Path) -> None:
    made = mosaic(np.ones((4, 4, 4), np.uint16), 2, (0, 0, 1))
    made[0x0029, 0x1010].value = csa({"NumberOfImagesInMosaic": ["17"], "SliceNormalVector": ["0", "0", "1"]})
    assert "8 × 8 pixels cannot hold 17 slices" in refusal_of(tmp_path, made).what
    other = dataset(np.ones((8, 8), np.uint16), {"ImageType": ["ORIGINAL", "PRIMARY", "M", "VFRAME"]})
    other.private_block(0x0065, "Image Private Header", create=True).add_new(0x50, "DS", "4")
    assert "United Imaging" in refusal_of(tmp_path, other).what


def test_several_mosaics_are_several_volumes(tmp_path: Path) -> None:
    for name in ("1", "2"):
        made = mosaic(np.ones((4, 4, 4), np.uint16), 2, (0, 0, 1))
        made.SeriesInstanceUID = "1.2.3"
        write_dicom(tmp_path / name, made)
    found = refusal(tmp_path)
    assert found.code == "several-volumes" and "2 files" in found.what and "view" in found.fix
    (tmp_path / "2").unlink()
    assert read(tmp_path).pixels.shape == (1, 4, 4, 4)


def slide(picture: np.ndarray[Any, Any], tile: tuple[int, int], order: list[int] | None = None) -> Dataset:
    """A whole slide ``(H, W, 3)`` in tiles, all in rows or, with an order, each with its place."""
    high, wide = tile
    down, across = (-(-side // part) for side, part in zip(picture.shape, tile, strict=False))
    whole = np.zeros((down * high, across * wide, 3), np.uint8)
    whole[: picture.shape[0], : picture.shape[1]] = picture
    places = [(row * high, column * wide) for row in range(down) for column in range(across)]
    if order is not None:
        places = [places[k] for k in order]
    frames = np.stack([whole[top : top + high, left : left + wide] for top, left in places])
    made = dataset(frames[0], {"Modality": "SM", "NumberOfFrames": len(frames)})
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = VLWholeSlideMicroscopyImageStorage
    made.PixelData = frames.tobytes() + b"\0" * (frames.nbytes % 2)
    made.TotalPixelMatrixRows, made.TotalPixelMatrixColumns = picture.shape[:2]
    made.TotalPixelMatrixFocalPlanes = made.NumberOfOpticalPaths = 1
    made.ImageOrientationSlide, made.FrameOfReferenceUID = [0, -1, 0, -1, 0, 0], generate_uid()
    origin, shared, measures = Dataset(), Dataset(), Dataset()
    origin.XOffsetInSlideCoordinateSystem = origin.YOffsetInSlideCoordinateSystem = 1.0
    made.TotalPixelMatrixOriginSequence = [origin]
    measures.PixelSpacing, measures.SliceThickness = [0.0005, 0.00025], 0.001
    shared.PixelMeasuresSequence = [measures]
    made.SharedFunctionalGroupsSequence = [shared]
    made.DimensionOrganizationType = "TILED_FULL" if order is None else "TILED_SPARSE"
    if order is not None:
        groups = []
        for top, left in places:
            group, place = Dataset(), Dataset()
            place.RowPositionInTotalImagePixelMatrix = top + 1
            place.ColumnPositionInTotalImagePixelMatrix = left + 1
            place.XOffsetInSlideCoordinateSystem = 1.0 - 0.0005 * top
            place.YOffsetInSlideCoordinateSystem = 1.0 - 0.00025 * left
            place.ZOffsetInSlideCoordinateSystem = 0.0
            group.PlanePositionSlideSequence = [place]
            groups.append(group)
        made.PerFrameFunctionalGroupsSequence = groups
    return made


@pytest.mark.parametrize("order", [None, [5, 0, 3, 1, 4, 2]])
def test_tiles_of_a_slide_are_one_picture(tmp_path: Path, order: list[int] | None) -> None:
    picture = np.random.default_rng(5).integers(0, 256, (11, 14, 3), dtype=np.uint8)
    made = slide(picture, (6, 5), order)
    image = read_made(tmp_path, made)
    np.testing.assert_array_equal(np.moveaxis(image.pixels, 0, -1), picture)
    assert image.geometry.spacing == (0.0005, 0.00025) and image.geometry.affine is None
    if order is None:
        for name in ("StudyInstanceUID", "SeriesInstanceUID"):
            setattr(made, name, generate_uid())
        path = Dataset()
        path.OpticalPathIdentifier = "1"
        made.OpticalPathSequence = [path]
        theirs = highdicom.Image.from_dataset(made).get_total_pixel_matrix(dtype=np.uint8)
        np.testing.assert_array_equal(np.moveaxis(image.pixels, 0, -1), theirs)


@pytest.mark.parametrize(
    ("order", "tags", "why"),
    [
        ([5, 0, 3, 1, 4], {}, "5 frames"),
        ([5, 0, 3, 1, 4, 4], {}, "6 frames"),
        (None, {"NumberOfOpticalPaths": 2}, "2 optical paths"),
        (None, {"TotalPixelMatrixFocalPlanes": 3}, "3 focal planes"),
        (None, {"TotalPixelMatrixColumns": 40}, "do not tile"),
    ],
)
def test_slides_that_are_no_single_picture_are_refused(
    tmp_path: Path, order: list[int] | None, tags: dict[str, int], why: str
) -> None:
    made = slide(np.zeros((11, 14, 3), np.uint8), (6, 5), order)
    for name, value in tags.items():
        setattr(made, name, value)
    found = refusal_of(tmp_path, made)
    assert found.code == "slide-unsupported" and why in found.what
