"""The test files that pydicom, nibabel and others carry in their packages, each read or refused: one table.

Every file ends in one of four ways: read right (the values are those of another library), refused rightly
(another library finds no such image there either), refused though valid, or silently wrong. The last must not
occur. The table is printed; packages whose files are not installed are named with it. Nothing is fetched.
"""

from __future__ import annotations

import gzip
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import imagecodecs
import nibabel
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.encaps import generate_frames
from pydicom.pixels import apply_color_lut, apply_rescale, pixel_array
from pydicom.uid import JPEGLosslessSV1

from foveate.errors import InputRefused
from foveate.io.reading import probe, read_image, read_mask
from foveate.types import Image

READ, REFUSED, VALID, WRONG = "read right", "refused rightly", "refused though valid", "silently wrong"
NOT_FILES = (".py", ".pyc")
GREYS = ("MONOCHROME1", "MONOCHROME2")
ROUNDING = 1  # between two decoders of lossy JPEG
# Both hold one picture. DCMTK 3.6.7 (dcmdjpeg) gives this sum; libjpeg 2.5.0 gives these values of the second
# by (row, column), which it rounds otherwise by up to 1.
TWELVE_BITS = ("JPEG-lossy.dcm", "JPGExtended.dcm")
SUM_OF_TWELVE_BITS = 3_767_007
POINTS = {
    (425, 132): 186,
    (417, 133): 196,
    (416, 140): 202,
    (425, 136): 208,
    (423, 148): 216,
    (421, 147): 238,
}


@dataclass(frozen=True, slots=True)
class LibraryFile:
    """One file of a package, unzipped where it holds DICOM in gzip."""

    package: str
    name: str
    path: Path


def folders() -> Iterator[tuple[str, Path | None]]:
    """Where packages keep their test files; None where they are not installed."""
    yield "pydicom", Path(pydicom.__file__).parent / "data"
    sources = [each.load()() for each in entry_points(group="pydicom.data.external_sources")]
    yield "pydicom-data", Path(sources[0].data_path) if sources else None
    yield "nibabel", Path(nibabel.__file__).parent / "tests" / "data"
    yield "nibabel.nicom", Path(nibabel.__file__).parent / "nicom" / "tests" / "data"
    found = find_spec("highdicom")
    data = Path(str(found.origin)).parents[2] / "data" / "test_files" if found else None
    yield "highdicom", data if data is not None and data.is_dir() else None


def files_of(package: str, folder: Path, unzipped: Path) -> Iterator[LibraryFile]:
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.suffix in NOT_FILES:
            continue
        name = path.relative_to(folder).as_posix()
        if name.endswith(".dcm.gz"):
            inside = unzipped / name.replace("/", "_").removesuffix(".gz")
            inside.write_bytes(gzip.decompress(path.read_bytes()))
            path = inside
        yield LibraryFile(package, name, path)


def reference_of(path: Path) -> NDArray[Any]:
    """Values ``(C, …)`` by another library and the standard's formulas.

    Raises:
        Exception: the library finds no image.
    """
    if path.name.endswith((".nii", ".nii.gz")):
        held = nibabel.load(path)
        if held.ndim != 3:
            raise ValueError(f"{held.ndim} axes are no single volume")
        values = np.asarray(held.dataobj)
        if not np.isfinite(values).all():
            raise ValueError("some values are not finite")
        return values.T[None]
    dataset = dcmread(path)
    if dataset.get("Modality") == "RTDOSE":
        raise ValueError("a dose is no picture")
    if "MOSAIC" in str(dataset.get("ImageType")):
        from nibabel.nicom.dicomwrappers import wrapper_from_data

        return np.moveaxis(wrapper_from_data(dataset).get_unscaled_data(), -1, 0)[None]
    return values_of(stored_of(dataset), dataset)


def stored_of(dataset: Dataset) -> NDArray[Any]:
    if dataset.file_meta.get("TransferSyntaxUID") == JPEGLosslessSV1:  # liblj92, not libjpeg
        return np.asarray(
            imagecodecs.ljpeg_decode(next(generate_frames(dataset.PixelData, number_of_frames=1)))
        )
    stored = pixel_array(dataset)
    groups = dataset.get("PerFrameFunctionalGroupsSequence") or ()
    if groups and "PlanePositionSequence" in groups[0]:
        shared = dataset.SharedFunctionalGroupsSequence[0]
        holder = shared if "PlaneOrientationSequence" in shared else groups[0]
        cosines = np.array(holder.PlaneOrientationSequence[0].ImageOrientationPatient, dtype=float)
        normal = np.cross(cosines[:3], cosines[3:])
        places = [
            np.array(each.PlanePositionSequence[0].ImagePositionPatient, dtype=float) for each in groups
        ]
        stored = stored[np.argsort(np.array(places) @ normal, kind="stable")]
    return stored


def values_of(stored: NDArray[Any], dataset: Dataset) -> NDArray[Any]:
    """Stored values after palette, rescale, the turning of MONOCHROME1, and padding; channels first."""
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        return np.moveaxis(apply_color_lut(stored, dataset), -1, 0)
    if dataset.PhotometricInterpretation not in GREYS:
        return np.moveaxis(stored, -1, 0)
    outside = stored == dataset.get("PixelPaddingValue", np.nan)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        lowest = -(2 ** (dataset.BitsStored - 1)) if dataset.PixelRepresentation else 0
        stored = 2 * lowest + 2**dataset.BitsStored - 1 - stored.astype(np.int64)
    values = apply_rescale(stored, dataset)
    return np.where(outside, values[~outside].min(), values)[None] if outside.any() else values[None]


def outcome_of(file: LibraryFile) -> tuple[str, str]:
    """One of the four outcomes, and why; what is told from the header must agree."""
    try:
        image = read_image(file.path)
    except InputRefused as refusal:
        if "segmentation" in refusal.what:  # which is a mask
            marked = dcmread(file.path).pixel_array != 0
            return (READ if np.array_equal(read_mask(file.path).inside, marked[None]) else WRONG), "as a mask"
        if refusal.code != "not-finite":  # which no header tells
            with pytest.raises(InputRefused):
                probe(file.path)
        return refused(file.path, refusal)
    seen = probe(file.path)
    assert (seen.shape, seen.channels) == (image.geometry.shape, image.channels), file
    if file.path.name in TWELVE_BITS:
        points = [int(image.pixels[0, row, column]) for row, column in POINTS]
        right = int(image.pixels.astype(np.int64).sum()) == SUM_OF_TWELVE_BITS
        near = np.abs(np.array(points) - list(POINTS.values())).max() <= ROUNDING
        return (READ if right and near else WRONG), "as DCMTK and libjpeg read it"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of libraries, on odd files
        return compared(image, reference_of(file.path))


def compared(image: Image, reference: NDArray[Any]) -> tuple[str, str]:
    if image.pixels.shape != reference.shape:
        return WRONG, f"{image.pixels.shape} and not {reference.shape}"
    away = float(np.abs(image.pixels.astype(np.float64) - reference).max())
    rounding = 1e-6 * float(np.abs(reference).max())  # of float32, where values are rescaled
    lossy = ROUNDING if image.pixels.dtype == np.uint8 and image.channels == 3 else 0
    right = away <= max(rounding, lossy)
    return (READ, ", ".join(image.warnings)) if right else (WRONG, f"values differ by up to {away:g}")


def refused(path: Path, refusal: InputRefused) -> tuple[str, str]:
    """A refusal is right if the other library finds no image either, or warns that it is not whole."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            reference_of(path)
    except Exception as error:
        first = (str(error).splitlines() or [""])[0]
        return REFUSED, f"{refusal.code}; the library: {type(error).__name__} {first}"[:110]
    return VALID, f"{refusal.code}: {refusal.what}"[:110]


def test_every_file_of_the_libraries_is_read_right_or_refused_rightly(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, absent = [], []
    for package, folder in folders():
        if folder is None or not folder.is_dir():
            absent.append(package)
            continue
        rows += [(package, file.name, *outcome_of(file)) for file in files_of(package, folder, tmp_path)]
    with capsys.disabled():
        print("\n", table_of(rows, absent), sep="")
    assert len(rows) > 200
    assert not [row for row in rows if row[2] == WRONG]
    assert not [row for row in rows if row[2] == VALID]


def table_of(rows: list[tuple[str, str, str, str]], absent: list[str]) -> str:
    """Counts by package and outcome; a line for each file that is not simply read, those alike together."""
    lines = [f"{'package':14}" + "".join(f"{name:>22}" for name in (READ, REFUSED, VALID, WRONG))]
    counts = Counter((package, outcome) for package, _, outcome, _ in rows)
    for package in dict.fromkeys(row[0] for row in rows):
        numbers = (counts[package, name] for name in (READ, REFUSED, VALID, WRONG))
        lines.append(f"{package:14}" + "".join(f"{number:22}" for number in numbers))
    lines += [f"{package:14}its test files are not installed" for package in absent]
    why = Counter((outcome, reason.partition(";")[0]) for _, _, outcome, reason in rows if reason)
    lines += [f"{count:5} {outcome}: {reason}" for (outcome, reason), count in why.most_common()]
    return "\n".join(lines)
