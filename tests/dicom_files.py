"""DICOM files made for the tests, and those that pydicom's wheel carries; nothing is fetched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, CTImageStorage, ExplicitVRBigEndian, ExplicitVRLittleEndian, generate_uid

from foveate.errors import InputRefused
from foveate.io.reading import probe, read_image
from foveate.types import Image

Pixels = NDArray[Any]

FILES = Path(pydicom.__file__).parent / "data" / "test_files"

DRAW = np.random.default_rng(11)
GREY = DRAW.integers(0, 4096, (6, 5), dtype=np.uint16)
RGB = DRAW.integers(0, 256, (6, 8, 3), dtype=np.uint8)


def read(path: Path) -> Image:
    image = read_image(path)
    seen = probe(path)
    assert (seen.shape, seen.channels) == (image.geometry.shape, image.channels)
    assert image.geometry.shape == image.pixels.shape[1:]
    np.testing.assert_equal(asdict(seen.geometry), asdict(image.geometry))
    return image


def read_made(folder: Path, made: Dataset) -> Image:
    return read(write_dicom(folder / "image.dcm", made))


def refusal(path: Path) -> InputRefused:
    with pytest.raises(InputRefused) as caught:
        read_image(path)
    assert str(path) in caught.value.where and caught.value.fix
    return caught.value


def refusal_of(folder: Path, made: Dataset) -> InputRefused:
    return refusal(write_dicom(folder / "image.dcm", made))


def dataset(
    pixels: Pixels, tags: Mapping[str, Any] = {}, *, syntax: UID = ExplicitVRLittleEndian, frame: bytes = b""
) -> Dataset:
    """A DICOM data set.

    Args:
        pixels: ``(H, W)``, ``(H, W, 3)`` or ``(F, H, W)`` integers.
        tags: attributes to set or, where None, to leave out.
        syntax: transfer syntax.
        frame: the compressed frame, for encapsulated syntaxes.
    """
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = syntax
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID = CTImageStorage
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID = generate_uid()
    made.Modality = "OT"
    colour = pixels.ndim == 3 and pixels.shape[-1] == 3
    made.Rows, made.Columns = pixels.shape[:2] if colour else pixels.shape[-2:]
    made.SamplesPerPixel = 3 if colour else 1
    made.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    if colour:
        made.PlanarConfiguration = 0
    if pixels.ndim == 3 and not colour:
        made.NumberOfFrames = len(pixels)
    made.BitsAllocated = made.BitsStored = 8 * pixels.dtype.itemsize
    made.HighBit = made.BitsStored - 1
    made.PixelRepresentation = int(pixels.dtype.kind == "i")
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    raw = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    made.PixelData = encapsulate([frame]) if frame else raw + b"\0" * (len(raw) % 2)
    made["PixelData"].VR = "OB" if frame or made.BitsAllocated == 8 else "OW"
    for name, value in tags.items():
        if value is None:
            made.pop(name, None)
        else:
            setattr(made, name, value)
    return made


def write_dicom(path: Path, made: Dataset) -> Path:
    made.save_as(path, enforce_file_format=True)
    return path


def slice_tags(
    position: Sequence[float],
    cosines: Sequence[float] = (1, 0, 0, 0, 1, 0),
    spacing: Sequence[float] = (0.8, 0.5),
) -> dict[str, Any]:
    """Attributes that place a slice in the patient."""
    return {
        "ImagePositionPatient": [round(float(value), 6) for value in position],
        "ImageOrientationPatient": [round(float(value), 9) for value in cosines],
        "PixelSpacing": list(spacing),
        "SliceThickness": 1.0,
        "SeriesInstanceUID": "1.2.3",
        "FrameOfReferenceUID": "1.2.3.4",
    }
