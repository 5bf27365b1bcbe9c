"""How a phantom patient gets onto disk: one NIfTI volume, one DICOM series, or one 16-bit PNG per slice."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

PNG_OFFSET = 1024  # added to HU, since a 16-bit PNG holds no negative values
RESCALE_INTERCEPT = -1024
Row = Mapping[str, str]  # the manifest's image, slice, mask and organ_mask of one case


@dataclass(frozen=True, slots=True)
class Scan:
    """One phantom patient as arrays.

    Attributes:
        patient_id: as in the manifest.
        hu: ``(D, H, W)`` int16, z up, y to the back, x to the patient's left.
        liver: ``(D, H, W)`` exact mask.
        lesion: ``(D, H, W)`` exact mask, or None for a patient without lesion.
        spacing: mm per step along D, H, W.
        labelled: indices of the slices that are cases.
        series: what makes this scan unlike any other; its DICOM identifiers follow from it.
    """

    patient_id: str
    hu: NDArray[np.int16]
    liver: NDArray[np.bool_]
    lesion: NDArray[np.bool_] | None
    spacing: tuple[float, float, float]
    labelled: Sequence[int]
    series: str

    @property
    def masks(self) -> dict[str, NDArray[np.bool_]]:
        """The masks there are, by manifest column."""
        lesion = {} if self.lesion is None else {"mask": self.lesion}
        return {**lesion, "organ_mask": self.liver}

    @property
    def origin(self) -> tuple[float, float, float]:
        """Millimetres (x to the left, y to the back, z up) of the centre of the first voxel."""
        (_, height, width), (_, dy, dx) = self.hu.shape, self.spacing
        return -dx * (width - 1) / 2, -dy * (height - 1) / 2, 0.0


def write_nifti_patient(scan: Scan, out: Path) -> list[Row]:
    """Write ``images/<patient>.nii.gz`` and mask volumes; one row per labelled slice."""
    path = f"images/{scan.patient_id}.nii.gz"
    _write_volume(scan, scan.hu, out / path)
    return _rows_of_volume(scan, path, _write_mask_volumes(scan, out))


def write_dicom_patient(scan: Scan, out: Path) -> list[Row]:
    """Write ``images/<patient>/`` as a CT series whose file names do not follow the slices' positions.

    Masks are NIfTI volumes with the series' geometry.
    """
    path = f"images/{scan.patient_id}"
    (out / path).mkdir(parents=True, exist_ok=True)
    slices = range(len(scan.hu))
    for number, index in enumerate([*slices[::2], *slices[1::2]]):
        slice_of(scan, index).save_as(out / path / f"IM{number:04d}.dcm", enforce_file_format=True)
    return _rows_of_volume(scan, path, _write_mask_volumes(scan, out))


def write_png_patient(scan: Scan, out: Path) -> list[Row]:
    """Write each labelled slice as a 16-bit PNG of HU + 1024 and its masks as 1-bit PNG."""
    rows: list[Row] = []
    for index in scan.labelled:
        name = f"{scan.patient_id}-s{index}.png"
        stored = (scan.hu[index].astype(np.int32) + PNG_OFFSET).astype(np.uint16)
        planes = {"image": stored} | {column: mask[index] for column, mask in scan.masks.items()}
        row = {column: f"{FOLDERS[column]}/{name}" for column in planes}
        for column, plane in planes.items():
            (out / row[column]).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(plane).save(out / row[column])
        rows.append(row)
    return rows


FOLDERS = {"image": "images", "mask": "lesions", "organ_mask": "livers"}
WRITERS: dict[str, Callable[[Scan, Path], list[Row]]] = {
    "nifti": write_nifti_patient,
    "dicom": write_dicom_patient,
    "png": write_png_patient,
}


def slice_of(scan: Scan, index: int) -> Dataset:
    """One axial slice as a CT image object, with every identifier derived from ``scan.series``."""
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.SOPClassUID = CTImageStorage
    image.SOPInstanceUID = generate_uid(entropy_srcs=[scan.series, str(index)])
    _describe_study(image, scan)
    _place_slice(image, scan, index)
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.Rows, image.Columns = scan.hu.shape[1:]
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 12, 11, 0
    image.RescaleIntercept, image.RescaleSlope, image.RescaleType = RESCALE_INTERCEPT, 1, "HU"
    image.WindowCenter, image.WindowWidth = 60, 400
    image.PixelData = (scan.hu[index].astype(np.int32) - RESCALE_INTERCEPT).astype("<u2").tobytes()
    return image


def _describe_study(image: Dataset, scan: Scan) -> None:
    image.PatientID = image.PatientName = scan.patient_id
    image.PatientBirthDate, image.PatientSex = "", "O"
    image.StudyInstanceUID = generate_uid(entropy_srcs=[scan.series, "study"])
    image.SeriesInstanceUID = generate_uid(entropy_srcs=[scan.series, "series"])
    image.FrameOfReferenceUID = generate_uid(entropy_srcs=[scan.series, "frame"])
    image.StudyDate, image.StudyTime, image.StudyID = "20200101", "120000", "1"
    image.AccessionNumber = image.ReferringPhysicianName = image.PositionReferenceIndicator = ""
    image.Modality, image.Manufacturer, image.SeriesNumber = "CT", "Foveate phantom", 1
    image.ImageType = ["DERIVED", "SECONDARY", "AXIAL"]
    image.SeriesDescription, image.KVP, image.AcquisitionNumber = "synthetic arterial phase", 120, 1


def _place_slice(image: Dataset, scan: Scan, index: int) -> None:
    dz, dy, dx = scan.spacing
    x, y, z = scan.origin
    image.PatientPosition, image.InstanceNumber = "HFS", index + 1
    image.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    image.ImagePositionPatient = [round(x, 6), round(y, 6), round(z + index * dz, 6)]
    image.PixelSpacing, image.SliceThickness = [round(dy, 6), round(dx, 6)], round(dz, 6)


def _rows_of_volume(scan: Scan, image: str, masks: Row) -> list[Row]:
    return [{"image": image, "slice": str(index), **masks} for index in scan.labelled]


def _write_mask_volumes(scan: Scan, out: Path) -> Row:
    paths = {column: f"{FOLDERS[column]}/{scan.patient_id}.nii.gz" for column in scan.masks}
    for column, mask in scan.masks.items():
        _write_volume(scan, mask.astype(np.uint8), out / paths[column])
    return paths


def _write_volume(scan: Scan, values: NDArray[np.int16] | NDArray[np.uint8], path: Path) -> None:
    """Write ``(D, H, W)`` values; NIfTI's axes are turned (x, y, z) and its x and y point the other way."""
    x, y, z = scan.origin
    dz, dy, dx = scan.spacing
    affine = np.array([[-dx, 0, 0, -x], [0, -dy, 0, -y], [0, 0, dz, z], [0, 0, 0, 1]])
    volume = nibabel.Nifti1Image(values.transpose(2, 1, 0), affine)
    volume.header.set_xyzt_units("mm")
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(volume, path)
