"""One of several volumes is chosen behind ``#`` in a path; without a choice the refusal names them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import EnhancedMRImageStorage

from cohort_files import write_csv
from dicom_files import dataset, slice_tags, write_dicom
from foveate.data.cache import FileHashes
from foveate.data.manifest.manifest import load_manifest
from foveate.errors import InputRefused
from foveate.io.nifti import write_nifti
from foveate.io.reading import probe, read_image
from foveate.types import Image

ECHOES = (2.3, 4.6, 80.0)


def read(path: Path | str) -> Image:
    image = read_image(path)
    assert probe(path).shape == image.geometry.shape == image.pixels.shape[1:]
    assert image.source == str(path)
    return image


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("further", [(3,), (1, 3), (3, 2)], ids=str)
def test_a_volume_of_a_nifti_is_nibabels(tmp_path: Path, name: str, further: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).integers(0, 999, (4, 5, 6, *further)).astype(np.int16)
    image = nibabel.Nifti1Image(values, np.diag([-2.0, 2, 3, 1]))
    nibabel.save(image, tmp_path / name)
    flat = nibabel.load(tmp_path / name).get_fdata().reshape(4, 5, 6, -1, order="F")
    for number in range(flat.shape[-1]):
        found = read(f"{tmp_path / name}#{number}")
        np.testing.assert_array_equal(found.pixels[0], flat[..., number].T)
        assert found.geometry.spacing == (3, 2, 2) and "trailing-bytes-ignored" not in found.warnings
    with pytest.raises(InputRefused, match=r"4 × 5 × 6") as several:
        read_image(tmp_path / name)
    assert several.value.code == "nifti-axes" and f"#0 to #{flat.shape[-1] - 1}" in several.value.fix
    for wrong in (f"#{flat.shape[-1]}", "#-1", "#EchoTime=3"):
        with pytest.raises(InputRefused) as none:
            read_image(f"{tmp_path / name}{wrong}")
        assert none.value.code == "no-such-volume" and "#0 to" in none.value.fix


def test_a_map_of_a_chosen_volume_lies_over_it(tmp_path: Path) -> None:
    nibabel.save(
        nibabel.Nifti1Image(np.zeros((4, 5, 6, 2), np.int16), np.diag([-2.0, 2, 3, 1])), tmp_path / "a.nii"
    )
    found = read(f"{tmp_path / 'a.nii'}#1")
    write_nifti(tmp_path / "h.nii", np.ones((6, 5, 4), np.float32), found.geometry, like=Path(found.source))
    drawn = nibabel.load(tmp_path / "h.nii")
    assert drawn.shape == (4, 5, 6)
    np.testing.assert_array_equal(drawn.affine, nibabel.load(tmp_path / "a.nii").affine)


def write_echoes(folder: Path) -> Path:
    """Three echoes of four slices in one series; each pixel holds its echo and its slice."""
    folder.mkdir()
    number = 0
    for place in range(4):
        for echo, time in enumerate(ECHOES):
            number += 1
            tags: dict[str, Any] = {
                **slice_tags([0, 0, 2.0 * place]),
                "InstanceNumber": number,
                "EchoTime": time,
            }
            tags["ImageType"] = ["ORIGINAL", "PRIMARY", "M"]
            pixels = np.full((5, 4), 10 * echo + place, np.uint16)
            write_dicom(folder / f"{number * 5 % 13:02d}.dcm", dataset(pixels, tags))
    return folder


def test_echoes_of_a_series_are_chosen_by_number_or_tag(tmp_path: Path) -> None:
    folder = write_echoes(tmp_path / "series")
    for echo, time in enumerate(ECHOES):
        for choice in (str(echo), f"EchoTime={time}", f"0018,0081={time:.3f}", f"EchoTime={time}&Rows=5"):
            found = read(f"{folder}#{choice}")
            np.testing.assert_array_equal(found.pixels[0, :, 0, 0], 10 * echo + np.arange(4))
            assert found.geometry.spacing is not None and found.geometry.spacing[0] == 2.0


def test_a_series_of_several_volumes_names_its_choices(tmp_path: Path) -> None:
    folder = write_echoes(tmp_path / "series")
    with pytest.raises(InputRefused) as several:
        read_image(folder)
    assert several.value.code == "duplicate-positions"
    assert "#0 to #2; #EchoTime=2.3, #EchoTime=4.6, #EchoTime=80.0" in several.value.fix
    for wrong, told in (
        ("EchoTime=5", "#EchoTime=2.3"),
        ("Rubbish=5", "a keyword"),
        ("3", "#0 to #2"),
        ("x", "TAG"),
    ):
        with pytest.raises(InputRefused) as none:
            read_image(f"{folder}#{wrong}")
        assert none.value.code == "no-such-volume" and told in none.value.fix, wrong


def test_frames_of_an_enhanced_object_are_chosen_by_their_functional_groups(tmp_path: Path) -> None:
    """Two b-values of three slices, one after the other."""
    made = dataset(
        np.arange(6, dtype=np.uint16)[:, None, None] * np.ones((1, 5, 4), np.uint16), {"Modality": "MR"}
    )
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = EnhancedMRImageStorage
    frames = []
    for number in range(6):
        frame, place, lies, measures, diffusion = (Dataset() for _ in range(5))
        place.ImagePositionPatient = [0, 0, 5.0 * (number % 3)]
        lies.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        measures.PixelSpacing, measures.SliceThickness = [1, 1], 5
        diffusion.DiffusionBValue = 800.0 * (number // 3)
        frame.PlanePositionSequence, frame.PlaneOrientationSequence = Items([place]), Items([lies])
        frame.PixelMeasuresSequence, frame.MRDiffusionSequence = Items([measures]), Items([diffusion])
        frames.append(frame)
    made.PerFrameFunctionalGroupsSequence = Items(frames)
    path = write_dicom(tmp_path / "a.dcm", made)
    for choice, first in (("0", 0), ("1", 3), ("DiffusionBValue=0", 0), ("DiffusionBValue=800", 3)):
        found = read(f"{path}#{choice}")
        np.testing.assert_array_equal(found.pixels[0, :, 0, 0], first + np.arange(3))
    with pytest.raises(InputRefused) as several:
        read_image(path)
    assert "#0 to #1; #DiffusionBValue=0.0, #DiffusionBValue=800.0" in several.value.fix
    (folder := tmp_path / "folder").mkdir()
    write_dicom(folder / "a.dcm", made)
    np.testing.assert_array_equal(read(f"{folder}#1").pixels[0, :, 0, 0], 3 + np.arange(3))


def test_one_image_takes_no_choice_and_a_real_name_comes_first(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 5, 6), np.int16), np.eye(4)), tmp_path / "a#1.nii")
    assert read(tmp_path / "a#1.nii").pixels.shape == (1, 6, 5, 4)
    write_dicom(tmp_path / "a.dcm", dataset(np.zeros((5, 4), np.uint16)))
    with pytest.raises(InputRefused) as none:
        read_image(tmp_path / "a.dcm#0")
    assert none.value.code == "no-such-volume"
    with pytest.raises(InputRefused) as lost:
        read_image(tmp_path / "b.nii#0")
    assert lost.value.code == "not-found"


def test_a_manifest_names_volumes_of_one_file_as_cases_and_views(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 999, (4, 5, 6, 3)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / "a.nii.gz")
    nibabel.save(nibabel.Nifti1Image(values + 1, np.eye(4)), tmp_path / "b.nii.gz")
    rows = [
        {
            "case_id": name,
            "patient_id": name,
            "label": name,
            "b0": f"{name}.nii.gz#0",
            "b800": f"{name}.nii.gz#2",
        }
        for name in "ab"
    ]
    cohort = load_manifest(write_csv(tmp_path / "m.csv", rows))
    assert cohort.view_names == ("b0", "b800")
    found = read_image(cohort.cases[1].views["b800"])
    np.testing.assert_array_equal(found.pixels[0], (values + 1)[..., 2].T)
    hashes = FileHashes(tmp_path / "hashes.json")
    assert len({hashes.of(path) for case in cohort.cases for path in case.views.values()}) == 4
    rows[0]["b0"] = "a.nii.gz#3"
    with pytest.raises(InputRefused, match="#3' chooses none of 3 volumes"):
        load_manifest(write_csv(tmp_path / "m.csv", rows))
