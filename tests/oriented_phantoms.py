"""One phantom in the patient's frame, written in any orientation and spacing, as NIfTI and DICOM."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import EnhancedMRImageStorage, generate_uid

from dicom_files import dataset, write_dicom

Floats = NDArray[np.float64]

EIGHT = ("RAS", "LPS", "LAS", "RPI", "ASR", "SAL", "PIR", "ILP")  # directions of x, y and z
SPACINGS = ((1.0, 1.0, 1.0), (1.25, 1.0, 2.5), (2.0, 2.0, 4.0))  # mm to the right, to the front, up
EXTENT = np.array([40.0, 50.0, 60.0])  # mm, all multiples of all spacings
_LETTERS = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}
_TO_LPS = np.diag([-1.0, -1.0, 1.0])


def density(places: Floats, lesion: Sequence[float] = (9.0, -8.0, 14.0)) -> Floats:
    """What is at places in mm (RAS), ``(…, 3)``: a body without any symmetry, with one bright lesion."""

    def blob(centre: Sequence[float], width: float) -> Floats:
        return np.asarray(np.exp(-((places - np.array(centre)) ** 2).sum(axis=-1) / (2 * width**2)))

    body = 500 * blob((-4, 3, -6), 16) + 250 * blob((10, 12, 5), 8) + 150 * blob((-9, -12, 15), 7)
    return np.asarray(body + 900 * blob(lesion, 6))


def affine_of(letters: str, spacing: Sequence[float]) -> tuple[Floats, tuple[int, int, int]]:
    """NIfTI affine of (i, j, k) and the shape of a grid over the whole phantom, around the origin."""
    affine, shape = np.eye(4), [0, 0, 0]
    for axis, letter in enumerate(letters):
        along, sign = _LETTERS[letter]
        affine[:3, axis] = 0
        affine[along, axis] = sign * spacing[along]
        shape[axis] = round(EXTENT[along] / spacing[along])
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine, (shape[0], shape[1], shape[2])


def values_on(affine: Floats, shape: Sequence[int], lesion: Sequence[float] = (9.0, -8.0, 14.0)) -> Floats:
    """The phantom at the voxels (i, j, k) of a grid."""
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    return density(index @ affine[:3, :3].T + affine[:3, 3], lesion)


def write_nifti_phantom(path: Path, letters: str, spacing: Sequence[float]) -> Path:
    """Write it as float32 NIfTI."""
    affine, shape = affine_of(letters, spacing)
    nibabel.save(nibabel.Nifti1Image(values_on(affine, shape).astype(np.float32), affine), path)
    return path


def write_series(folder: Path, letters: str, spacing: Sequence[float]) -> Path:
    """Write it as a DICOM series, one file a slice along z, whose order in the folder is no order."""
    planes = _planes(letters, spacing)
    folder.mkdir()
    series = str(generate_uid())
    for number, (pixels, tags) in enumerate(planes):
        write_dicom(
            folder / f"{number * 7 % 101:03d}.dcm", dataset(pixels, {**tags, "SeriesInstanceUID": series})
        )
    return folder


def write_enhanced(path: Path, letters: str, spacing: Sequence[float]) -> Path:
    """Write it as one enhanced multi-frame object, its frames in reverse order."""
    planes = list(reversed(_planes(letters, spacing)))
    made = dataset(np.stack([pixels for pixels, _ in planes]), {"Modality": "MR"})
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = EnhancedMRImageStorage
    frames = []
    for _, tags in planes:
        frame, place, lies, measures = Dataset(), Dataset(), Dataset(), Dataset()
        place.ImagePositionPatient = tags["ImagePositionPatient"]
        lies.ImageOrientationPatient = tags["ImageOrientationPatient"]
        measures.PixelSpacing, measures.SliceThickness = tags["PixelSpacing"], tags["SliceThickness"]
        frame.PlanePositionSequence, frame.PlaneOrientationSequence = Items([place]), Items([lies])
        frame.PixelMeasuresSequence = Items([measures])
        frames.append(frame)
    made.PerFrameFunctionalGroupsSequence = Items(frames)
    return write_dicom(path, made)


def _planes(letters: str, spacing: Sequence[float]) -> list[tuple[NDArray[np.uint16], dict[str, object]]]:
    """Slices along z: rows run along y, columns along x (DICOM PS3.3 C.7.6.2)."""
    affine, shape = affine_of(letters, spacing)
    values = np.rint(values_on(affine, shape)).astype(np.uint16)
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    steps = np.linalg.norm(affine[:3, :3], axis=0)
    cosines = [*(_TO_LPS @ directions[:, 0]), *(_TO_LPS @ directions[:, 1])]
    return [
        (
            values[:, :, k].T,
            {
                "ImagePositionPatient": [float(n) for n in _TO_LPS @ (affine @ [0, 0, k, 1])[:3]],
                "ImageOrientationPatient": [float(n) for n in cosines],
                "PixelSpacing": [float(steps[1]), float(steps[0])],
                "SliceThickness": float(steps[2]),
            },
        )
        for k in range(shape[2])
    ]
