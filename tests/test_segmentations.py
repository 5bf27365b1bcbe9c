"""SEG, label maps and RTSTRUCT are masks and no images; highdicom writes and reads beside us."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pytest
from matplotlib.path import Path as Outline
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import (
    ExplicitVRLittleEndian,
    ParametricMapStorage,
    RTStructureSetStorage,
    SecondaryCaptureImageStorage,
    generate_uid,
)

from dicom_files import dataset, refusal, write_dicom
from foveate.data.manifest.manifest import load_manifest
from foveate.errors import InputRefused
from foveate.io.contours import filled
from foveate.io.reading import probe_mask, read_image, read_mask
from foveate.io.stack import geometry_of
from foveate.types import Image

SHAPE = (6, 9, 8)
DRAW = np.random.default_rng(3)
LIVER, LESION = DRAW.random(SHAPE) < 0.4, np.zeros(SHAPE, bool)
LESION[2, 3:5, 2:6] = LESION[4, 1, 1] = True  # two slices of six, not next to each other
LIVER[0] = False


def series(folder: Path, cosines: tuple[float, ...] = (1, 0, 0, 0, 1, 0)) -> list[Dataset]:
    """A CT of six slices, 2.5 mm apart; the files are named from the head to the feet."""
    made, study, place, frame = [], generate_uid(), generate_uid(), generate_uid()
    normal = np.cross(cosines[:3], cosines[3:])
    folder.mkdir()
    for index in range(SHAPE[0]):
        tags: dict[str, Any] = dict.fromkeys(("PatientBirthDate", "AccessionNumber", "StudyID"), "")
        tags |= {"Modality": "CT", "StudyInstanceUID": study, "SeriesInstanceUID": place}
        tags |= {"FrameOfReferenceUID": frame, "PatientID": "7", "PatientName": "A^B", "PatientSex": "O"}
        tags |= {"StudyDate": "20260101", "StudyTime": "120000", "ReferringPhysicianName": ""}
        tags |= {"PositionReferenceIndicator": "", "Manufacturer": "x", "SeriesNumber": 1}
        tags |= {"InstanceNumber": index + 1, "SliceThickness": 2.5, "PixelSpacing": [0.8, 0.7]}
        tags |= {"ImageOrientationPatient": list(cosines), "RescaleIntercept": -1024, "RescaleSlope": 1}
        tags["ImagePositionPatient"] = [float(v) for v in np.array([10.0, 20, 30]) + normal * 2.5 * index]
        made.append(dataset(np.full(SHAPE[1:], index, np.uint16), tags))
        write_dicom(folder / f"{SHAPE[0] - index}.dcm", made[-1])
    return made


def segment(number: int, label: str) -> Any:
    return hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=label,
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=codes.SCT.Lesion if label == "lesion" else codes.SCT.Liver,
        algorithm_type="MANUAL",
    )


def write_seg(
    path: Path, source: list[Dataset], values: NDArray[Any], kind: str, names: tuple[str, ...], **options: Any
) -> Path:
    made = hd.seg.Segmentation(
        source_images=source,
        pixel_array=values,
        segmentation_type=kind,
        segment_descriptions=[segment(number, name) for number, name in enumerate(names, start=1)],
        series_instance_uid=generate_uid(),
        series_number=2,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="m",
        manufacturer_model_name="n",
        software_versions="1",
        device_serial_number="1",
        **options,
    )
    made.save_as(path)
    return path


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Dataset]]:
    folder = tmp_path_factory.mktemp("ct") / "series"
    return folder, series(folder)


@pytest.fixture(scope="module")
def image(source: tuple[Path, list[Dataset]]) -> Image:
    return read_image(source[0])


KINDS = {
    "BINARY": np.stack([LIVER, LESION], axis=-1),
    "FRACTIONAL": np.stack([LIVER, LESION], axis=-1).astype(float) * 0.9 + 0.05,
    "LABELMAP": np.where(LESION, 2, LIVER).astype(np.uint8),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("left_out", [True, False])
def test_segments_are_placed_by_their_positions(
    tmp_path: Path, source: tuple[Path, list[Dataset]], image: Image, kind: str, left_out: bool
) -> None:
    """Frames of nothing are left out or not, and their order is shuffled: each must come to its own slice."""
    path = write_seg(
        tmp_path / "s.dcm", source[1], KINDS[kind], kind, ("liver", "lesion"), omit_empty_frames=left_out
    )
    liver = LIVER & ~LESION if kind == "LABELMAP" else LIVER
    for name, expected in {"liver": liver, "Lesion": LESION, "2": LESION, "*": LIVER | LESION}.items():
        mask = read_mask(path, name)
        np.testing.assert_array_equal(mask.over(image.geometry).inside, expected)
        for index in range(SHAPE[0]):
            np.testing.assert_array_equal(mask.over(image.geometry, index).inside, expected[index])
        one = read_image(source[0] / "4.dcm")  # the third from below, as a picture of its own
        np.testing.assert_array_equal(mask.over(one.geometry).inside, expected[2])
    assert probe_mask(path) is None


def test_several_segments_need_a_name(tmp_path: Path, source: tuple[Path, list[Dataset]]) -> None:
    path = write_seg(tmp_path / "s.dcm", source[1], KINDS["BINARY"], "BINARY", ("liver", "lesion"))
    for name in ("", "kidney"):
        with pytest.raises(InputRefused, match=r"1 \(liver, Liver\), 2 \(lesion, Lesion\)") as error:
            read_mask(path, name)
        assert error.value.code == "mask-segment"


def test_the_frames_are_those_that_highdicom_reads(
    tmp_path: Path, source: tuple[Path, list[Dataset]], image: Image
) -> None:
    path = write_seg(tmp_path / "s.dcm", source[1], KINDS["BINARY"], "BINARY", ("liver", "lesion"))
    volume = hd.seg.segread(path).get_volume(segment_numbers=[2], combine_segments=True)
    place = np.linalg.inv(np.diag([-1.0, -1, 1, 1]) @ image.geometry.affine) @ volume.affine
    theirs = np.argwhere(volume.array > 0) @ place[:3, :3].T + place[:3, 3]
    mine = np.argwhere(read_mask(path, "lesion").over(image.geometry).inside)
    np.testing.assert_allclose(theirs[np.lexsort(theirs.round().T[::-1])], mine, atol=1e-3)


def test_an_image_in_another_orientation_gets_the_same_places(
    tmp_path: Path, source: tuple[Path, list[Dataset]], image: Image
) -> None:
    path = write_seg(tmp_path / "s.dcm", source[1], LESION, "BINARY", ("lesion",))
    affine = image.geometry.affine @ np.array([[0, 0, 1, 0], [-1, 0, 0, 8], [0, 1, 0, 0], [0, 0, 0, 1.0]])
    turned = geometry_of(affine, (9, 8, 6))
    np.testing.assert_array_equal(read_mask(path).over(turned).inside, LESION.transpose(1, 2, 0)[::-1])


def test_a_finer_image_is_refused_or_gets_the_nearest_frames(
    tmp_path: Path, source: tuple[Path, list[Dataset]], image: Image
) -> None:
    """Twice as many slices: each old one, and one half way to the next, whose nearest voxel is the same."""
    path = write_seg(tmp_path / "s.dcm", source[1], LESION, "BINARY", ("lesion",))
    affine = image.geometry.affine @ np.diag([0.5, 1, 1, 1])
    affine[:3, 3] -= image.geometry.affine[:3, 0] * 0.2
    fine = geometry_of(affine, (12, 9, 8))
    with pytest.raises(InputRefused, match="another grid"):
        read_mask(path).over(fine)
    found = read_mask(path).over(fine, grid="resample").inside
    np.testing.assert_array_equal(found, np.repeat(LESION, 2, axis=0))


def test_a_segmentation_of_another_patient_is_refused(
    tmp_path: Path, source: tuple[Path, list[Dataset]], image: Image
) -> None:
    path = write_seg(tmp_path / "s.dcm", source[1], LESION, "BINARY", ("lesion",))
    affine = image.geometry.affine.copy()
    affine[:3, 3] += image.geometry.affine[:3, 0] * 40
    with pytest.raises(InputRefused, match="nowhere near"):
        read_mask(path).over(geometry_of(affine, SHAPE))


def test_a_manifest_names_masks_and_their_segments(tmp_path: Path) -> None:
    made, _ = series(tmp_path / "ct"), series(tmp_path / "other")
    write_seg(tmp_path / "s.dcm", made, KINDS["BINARY"], "BINARY", ("liver", "lesion"))
    (tmp_path / "m.csv").write_text(
        "case_id,patient_id,label,image,mask,mask_segment,organ_mask,organ_mask_segment\n"
        "a,p,x,ct,s.dcm,lesion,s.dcm,1\nb,q,y,other,,,,\n"
    )
    first, other = load_manifest(tmp_path / "m.csv").cases
    assert (first.mask_segment, first.organ_mask_segment, other.mask) == ("lesion", "1", None)
    assert first.mask is not None and first.metadata == {}
    np.testing.assert_array_equal(
        read_mask(first.mask, first.mask_segment).over(read_image(first.views["image"]).geometry).inside,
        LESION,
    )


# ---- as images -------------------------------------------------------------------------------------


def test_results_are_no_images_and_are_left_out_of_a_series(
    tmp_path: Path, source: tuple[Path, list[Dataset]]
) -> None:
    for kind, values in KINDS.items():
        path = write_seg(tmp_path / f"{kind}.dcm", source[1], values, kind, ("liver", "lesion"))
        found = refusal(path)
        assert found.code == "dicom-not-an-image" and "column mask" in found.fix
    made = series(tmp_path / "beside")
    write_seg(tmp_path / "beside" / "0.dcm", made, LESION, "BINARY", ("lesion",))
    beside = read_image(tmp_path / "beside")
    assert beside.pixels.shape == (1, *SHAPE) and beside.warnings == ("other-files-ignored",)


@pytest.mark.parametrize(
    ("tags", "what"),
    [
        ({"SOPClassUID": ParametricMapStorage}, "a parametric map"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.11.1"}, "a presentation state"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.33"}, "a structured report"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.481.2"}, "a dose"),
        ({"SOPClassUID": None, "Modality": "SEG"}, "a segmentation"),
    ],
)
def test_each_kind_of_result_is_refused_by_name(tmp_path: Path, tags: dict[str, Any], what: str) -> None:
    path = write_dicom(tmp_path / "x.dcm", dataset(np.zeros((4, 5), np.uint8), tags))
    found = refusal(path)
    assert what in found.what and found.code == "dicom-not-an-image"


def _purpose(value: str) -> Dataset:
    purpose, equipment = Dataset(), Dataset()
    purpose.CodeValue, purpose.CodingSchemeDesignator = value, "DCM"
    equipment.PurposeOfReferenceCodeSequence = [purpose]
    return equipment


def _reference(uid: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = uid, generate_uid()
    return item


@pytest.mark.parametrize(
    ("colour", "tags", "refused"),
    [
        (True, {}, False),  # a photograph
        (True, {"ImageType": ["DERIVED", "SECONDARY"], "Modality": "OT"}, False),  # compressed, perhaps
        (True, {"SourceImageSequence": [_reference(SecondaryCaptureImageStorage)]}, False),  # converted
        (True, {"ContributingEquipmentSequence": [_purpose("109102")]}, False),  # sent through something
        (True, {"ContributingEquipmentSequence": [_purpose("109101")]}, True),
        (True, {"SourceImageSequence": [_reference("1.2.840.10008.5.1.4.1.1.2")]}, True),
        (False, {"SourceImageSequence": [_reference("1.2.840.10008.5.1.4.1.1.1")]}, False),  # a grey copy
    ],
)
def test_a_secondary_capture_is_an_image_unless_it_is_a_coloured_one_of_an_image(
    tmp_path: Path, colour: bool, tags: dict[str, Any], refused: bool
) -> None:
    pixels = DRAW.integers(0, 256, (6, 8, 3) if colour else (6, 8), dtype=np.uint8)
    made = dataset(pixels, {"SOPClassUID": SecondaryCaptureImageStorage, **tags})
    path = write_dicom(tmp_path / "x.dcm", made)
    if refused:
        assert "overlay" in refusal(path).what
    else:
        assert read_image(path).channels == (3 if colour else 1)


def test_an_overlay_of_highdicom_is_refused(tmp_path: Path, source: tuple[Path, list[Dataset]]) -> None:
    made = hd.sc.SCImage.from_ref_dataset(
        source[1][0], pixel_array=np.zeros((*SHAPE[1:], 3), np.uint8), photometric_interpretation="RGB",
        bits_allocated=8, coordinate_system="PATIENT", series_instance_uid=generate_uid(), series_number=9,
        sop_instance_uid=generate_uid(), instance_number=1, manufacturer="m", patient_orientation=("L", "P"),
    )  # fmt: skip
    made.save_as(tmp_path / "x.dcm")
    assert "overlay" in refusal(tmp_path / "x.dcm").what


# ---- contours --------------------------------------------------------------------------------------


def write_structures(path: Path, regions: dict[str, list[NDArray[Any]]], kind: str = "CLOSED_PLANAR") -> Path:
    """An RTSTRUCT with contours ``(N, 3)`` in mm, LPS."""
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID = RTStructureSetStorage
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID = generate_uid()
    made.Modality, made.PatientID = "RTSTRUCT", "7"
    made.StructureSetROISequence, made.ROIContourSequence = [], []
    for number, (name, contours) in enumerate(regions.items(), start=1):
        region, own = Dataset(), Dataset()
        region.ROINumber, region.ROIName = number, name
        own.ReferencedROINumber, own.ContourSequence = number, []
        for points in contours:
            contour = Dataset()
            contour.ContourGeometricType, contour.NumberOfContourPoints = kind, len(points)
            contour.ContourData = [round(float(value), 6) for value in points.ravel()]
            own.ContourSequence.append(contour)
        made.StructureSetROISequence.append(region)
        made.ROIContourSequence.append(own)
    made.save_as(path, enforce_file_format=True)
    return path


def _polygon(corners: int, seed: int) -> NDArray[np.float64]:
    """Corners of a star-shaped outline ``(N, 2)``, concave in places, partly outside of 30 × 24 pixels."""
    draws = np.random.default_rng(seed)
    angles = np.sort(draws.random(corners)) * 2 * np.pi
    return np.stack([np.sin(angles), np.cos(angles)], axis=1) * draws.uniform(4, 17, (corners, 1)) + (
        14.2,
        11.7,
    )


@pytest.mark.parametrize("seed", range(12))
def test_polygons_are_filled_as_matplotlib_does(seed: int) -> None:
    points = _polygon(5 + 4 * seed, seed)
    centres = np.stack(np.meshgrid(np.arange(30), np.arange(24), indexing="ij"), axis=-1).reshape(-1, 2)
    expected = Outline(points, closed=False).contains_points(centres).reshape(30, 24)
    np.testing.assert_array_equal(filled(points, (30, 24)), expected)
    np.testing.assert_array_equal(filled(points[::-1], (30, 24)), expected)  # the other way round


def test_a_square_of_whole_pixels_has_its_area() -> None:
    corners = np.array([[1.5, 2.5], [1.5, 6.5], [4.5, 6.5], [4.5, 2.5]])
    expected = np.zeros((8, 9), bool)
    expected[2:5, 3:7] = True
    np.testing.assert_array_equal(filled(corners, (8, 9)), expected)


def test_contours_come_to_their_slices_with_holes(
    tmp_path: Path, source: tuple[Path, list[Dataset]], image: Image
) -> None:
    """A square with a hole on the third slice, a square on the fifth; in whole pixels of a CT in LPS."""

    def outline(z: int, top: float, left: float, bottom: float, right: float) -> NDArray[Any]:
        corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
        return np.array([(10 + 0.7 * x, 20 + 0.8 * y, 30 + 2.5 * z) for x, y in corners])

    outer, hole = outline(2, 0.5, 0.5, 7.5, 6.5), outline(2, 2.5, 2.5, 4.5, 5.5)
    path = write_structures(
        tmp_path / "r.dcm", {"tumour": [outer, hole, outline(4, 0.5, 0.5, 1.5, 1.5)], "skin": [outer]}
    )
    expected = np.zeros(SHAPE, bool)
    expected[2, 1:8, 1:7] = expected[4, 1, 1] = True
    expected[2, 3:5, 3:6] = False
    mask = read_mask(path, "tumour")
    np.testing.assert_array_equal(mask.over(image.geometry).inside, expected)
    for index in range(SHAPE[0]):
        np.testing.assert_array_equal(mask.over(image.geometry, index).inside, expected[index])
    one = read_image(source[0] / "4.dcm")
    np.testing.assert_array_equal(mask.over(one.geometry).inside, expected[2])
    assert "RTSTRUCT" in refusal(path).what and probe_mask(path) is None
    with pytest.raises(InputRefused, match="holds 2 segments"):
        read_mask(path)


def test_contours_between_slices_are_refused_or_go_to_the_nearest(tmp_path: Path, image: Image) -> None:
    corners = np.array([(10.2, 20.2, 36.0), (14, 20.2, 36.0), (14, 24, 36.0)])  # 0.4 slices above the third
    path = write_structures(tmp_path / "r.dcm", {"a": [corners]})
    with pytest.raises(InputRefused, match=r"0\.4 voxels away"):
        read_mask(path).over(image.geometry)
    found = read_mask(path).over(image.geometry, grid="resample").inside
    assert found[2].any() and not found[[0, 1, 3, 4, 5]].any()


def test_a_region_without_closed_contours_is_refused(tmp_path: Path) -> None:
    path = write_structures(tmp_path / "r.dcm", {"a": [np.zeros((1, 3))]}, "POINT")
    with pytest.raises(InputRefused, match="no closed contours"):
        read_mask(path)
