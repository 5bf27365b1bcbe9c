"""One DICOM file becomes an image or, with several frames, a volume.

Frames of an enhanced object are ordered by their position along the common normal, like the files of a
series. Frames without positions (cine loops, tomosynthesis, older nuclear medicine) keep the order of the
file, have no spacing, and carry the code ``frames-without-position``.

Spacing of a single image is Pixel Spacing; where only Imager or Nominal Scanned Pixel Spacing exists, that
is used with the code ``spacing-at-detector``, since the patient lies elsewhere than the detector.

Nothing here depends on pydicom's global configuration.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.config import disable_value_validation
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from foveate.errors import InputRefused
from foveate.io.chosen import refuse_choice
from foveate.io.derived import not_an_image, result_in
from foveate.io.dicom_frames import PixelHeader, check_pixel_element, require_pixels
from foveate.io.dicom_pixels import attribute, channels, check_readable, read_values
from foveate.io.dicom_volumes import naming_choices, picked
from foveate.io.padding import darkened
from foveate.io.source import MAX_BYTES, ImageSource, check_pixels, decoding
from foveate.io.stack import SlicePlane, plane_geometry, stack_planes
from foveate.io.stored import as_stored
from foveate.io.tiles import Mosaic, SlideTiles, mosaic_of, slide_of
from foveate.types import Geometry, Image

_DEFLATED = b"1.2.840.10008.1.2.1.99"
_PIECE = 2**20
_UNIT_LENGTH = 1e-2  # how far direction cosines may be from unit length and right angle


def read_dicom(source: ImageSource, max_pixels: int, *, stored: bool = False, volume: str = "") -> Image:
    """Read one DICOM file: ``(C, H, W)``, or ``(C, D, H, W)`` where it has several frames.

    Args:
        source: the file.
        max_pixels: most that it may declare.
        stored: leave values as they are stored, as masks are read.
        volume: which of several it holds, see ``chosen``.

    Raises:
        InputRefused: it is damaged, holds no image, or has an encoding without a rule.
    """
    where = source.name
    with decoding(where, "dicom") as codes, disable_value_validation():
        dataset = parse(source.stream(), where, codes)
        if stored:
            as_stored(dataset, codes)
        header = pixel_header(dataset, where)
        check_readable(header, where)
        check_pixels((header.frames, header.rows, header.columns), max_pixels, where)
        require_pixels(dataset, where)
        if tiling := tiling_of(dataset, header, where):
            check_pixels(tiling.geometry.shape, max_pixels, where)
        values = read_values(dataset, header, where, codes)
        pixels, share = darkened(values.pixels, values.padding, codes)
        if tiling:
            pixels, geometry = tiling.arrange(pixels), tiling.geometry
        else:
            order, geometry = geometry_in(dataset, header, where, codes, volume)
            pixels = pixels[:, 0] if header.frames == 1 else pixels[:, order]
    return Image(
        pixels=np.ascontiguousarray(pixels),
        geometry=geometry,
        source=where,
        sha256=source.sha256,
        unit=values.unit,
        value_range=values.value_range,
        warnings=tuple(dict.fromkeys(codes)),
        padding_share=share,
        facts=facts_in(dataset),
    )


def probe_dicom(path: Path, max_pixels: int, volume: str = "", *, whole: bool = True) -> tuple[Geometry, int]:
    """Geometry and channels of one file, from its header only, with every check on it."""
    where = str(path)
    with decoding(where, "dicom") as codes, disable_value_validation(), path.open("rb") as stream:
        dataset = parse(stream, where, codes, header_only=True)
        header = pixel_header(dataset, where)
        check_readable(header, where)
        check_pixels((header.frames, header.rows, header.columns), max_pixels, where)
        check_pixel_element(stream, header, where, whole=whole)
        if tiling := tiling_of(dataset, header, where):
            geometry = tiling.geometry
            check_pixels(geometry.shape, max_pixels, where)
        else:
            geometry = geometry_in(dataset, header, where, codes, volume)[1]
        return geometry, channels(dataset, header, where)


def parse(stream: BinaryIO, where: str, codes: list[str], *, header_only: bool = False) -> Dataset:
    """Parse a DICOM file, with or without its 128-byte preamble.

    Args:
        stream: at its beginning.
        where: the file, for errors.
        codes: ``dicom-without-preamble`` is added where it applies.
        header_only: stop before the pixel data.
    """
    head = stream.read(1024)
    stream.seek(0)
    if _DEFLATED in head:
        _refuse_deflate_bomb(stream, where)
    bare = head[128:132] != b"DICM"
    if bare:
        codes.append("dicom-without-preamble")
    return dcmread(stream, stop_before_pixels=header_only, force=bare)


def holds_image(dataset: Dataset) -> bool:
    """Whether a data set describes an image, unlike reports, contours, segmentations and doses."""
    return "Rows" in dataset and "Columns" in dataset and result_in(dataset) is None


def pixel_header(dataset: Dataset, where: str) -> PixelHeader:
    """Gather what the data set says of its pixels.

    Raises:
        InputRefused: it describes no image, or a needed attribute is missing.
    """
    if not holds_image(dataset):
        raise not_an_image(dataset, where)
    return described_pixels(dataset, where)


def described_pixels(dataset: Dataset, where: str) -> PixelHeader:
    """The same of any data set with pixels, be it an image or what was found in one."""
    if (parts := _integer(dataset, "InConcatenationTotalNumber", where, 1) or 1) > 1:
        raise InputRefused(
            f"this is one of {parts} files that hold one object together (a concatenation)",
            where=f"{where}, tag (0020,9163) In-concatenation Total Number",
            fix="put them together first, for instance by converting their folder to NIfTI with dcm2niix",
            code="concatenation",
        )
    allocated = _integer(dataset, "BitsAllocated", where)
    stored = _integer(dataset, "BitsStored", where, allocated)
    if _integer(dataset, "HighBit", where, stored - 1) != stored - 1:
        raise InputRefused(
            "the stored bits are not the lowest ones",
            where=f"{where}, tag (0028,0102) High Bit",
            fix="convert the file with a current DICOM tool; the standard has retired this layout",
            code="bits-unsupported",
        )
    return PixelHeader(
        rows=_integer(dataset, "Rows", where),
        columns=_integer(dataset, "Columns", where),
        frames=_integer(dataset, "NumberOfFrames", where, 1) or 1,
        samples=_integer(dataset, "SamplesPerPixel", where, 1),
        allocated=allocated,
        stored=stored,
        signed=_integer(dataset, "PixelRepresentation", where, 0) == 1,
        photometric=str(dataset.get("PhotometricInterpretation", "")).strip(),
        syntax=_transfer_syntax(dataset),
        modality=str(dataset.get("Modality") or ""),
    )


def tiling_of(dataset: Dataset, header: PixelHeader, where: str) -> Mosaic | SlideTiles | None:
    """How the frames of a file lie, if they are not slices one by one; see ``tiles``."""
    spacing = _spacing(attribute(dataset, 0, "PixelMeasuresSequence", "PixelSpacing"))
    slide = slide_of(dataset, header, spacing, where)
    return slide or mosaic_of(dataset, header, plane_of(dataset, 0, ""), where)


def facts_in(dataset: Dataset) -> dict[str, str]:
    """How an image was taken, by name: side of the body, and view position; what is not known is left out."""
    frames = dataset.get("PerFrameFunctionalGroupsSequence") or dataset.get("SharedFunctionalGroupsSequence")
    anatomy = frames[0].get("FrameAnatomySequence") if frames else None
    sides = [dataset.get("ImageLaterality"), dataset.get("Laterality")]
    sides += [anatomy[0].get("FrameLaterality")] if anatomy else []
    codes = dataset.get("ViewCodeSequence") or ()
    views = [dataset.get("ViewPosition"), *(code.get("CodeMeaning") for code in codes)]
    found = {"laterality": sides, "view position": views}
    return {name: str(first) for name, values in found.items() if (first := next(filter(None, values), None))}


def plane_of(dataset: Dataset, frame: int, name: str) -> SlicePlane | None:
    """Where a frame lies in the patient, or None if the file does not say (or says nonsense)."""
    position = _floats(attribute(dataset, frame, "PlanePositionSequence", "ImagePositionPatient"), 3)
    cosines = _floats(attribute(dataset, frame, "PlaneOrientationSequence", "ImageOrientationPatient"), 6)
    spacing = _spacing(attribute(dataset, frame, "PixelMeasuresSequence", "PixelSpacing"))
    if position is None or cosines is None or spacing is None:
        return None
    right, down = cosines[:3], cosines[3:]
    lengths = np.array([right @ right - 1, down @ down - 1, right @ down])
    if (np.abs(lengths) > _UNIT_LENGTH).any():
        return None
    measured = _floats(attribute(dataset, frame, "PixelMeasuresSequence", "SliceThickness"), 1)
    thickness = float(measured[0]) if measured is not None and measured[0] > 0 else None
    return SlicePlane(name, position, right, down, spacing, thickness)


def geometry_in(
    dataset: Dataset, header: PixelHeader, where: str, codes: list[str], volume: str = ""
) -> tuple[list[int], Geometry]:
    """The order of the frames of one file, and the geometry of the image or volume that they make.

    Raises:
        InputRefused: frames say where they lie, and do not make one volume.
    """
    if header.frames == 1:
        refuse_choice(volume, where)
        return [0], _single_geometry(dataset, header, codes)
    return _frame_order(dataset, header, where, codes, volume)


def _single_geometry(dataset: Dataset, header: PixelHeader, codes: list[str]) -> Geometry:
    """Geometry ``(H, W)`` of an image of one frame."""
    shape = (header.rows, header.columns)
    if plane := plane_of(dataset, 0, ""):
        return plane_geometry(plane, shape)
    if spacing := _spacing(attribute(dataset, 0, "PixelMeasuresSequence", "PixelSpacing")):
        return Geometry(shape, spacing)
    for keyword in ("ImagerPixelSpacing", "NominalScannedPixelSpacing"):
        if spacing := _spacing(dataset.get(keyword)):
            codes.append("spacing-at-detector")
            return Geometry(shape, spacing)
    return Geometry(shape)


def _frame_order(
    dataset: Dataset, header: PixelHeader, where: str, codes: list[str], volume: str
) -> tuple[list[int], Geometry]:
    """Order and geometry of several frames, or of those of the volume that was chosen."""
    shape = (header.rows, header.columns)
    groups = dataset.get("PerFrameFunctionalGroupsSequence") or ()
    if not any("PlanePositionSequence" in group for group in groups):
        refuse_choice(volume, where)
        codes.append("frames-without-position")
        return list(range(header.frames)), Geometry((header.frames, *shape))
    planes = [plane_of(dataset, frame, f"frame {frame + 1}") for frame in range(header.frames)]
    placed = [plane for plane in planes if plane is not None]
    if len(groups) != header.frames or len(placed) != header.frames:
        raise InputRefused(
            f"of {header.frames} frames, {min(len(groups), len(placed))} say where they lie",
            where=f"{where}, tag (5200,9230) Per-frame Functional Groups Sequence",
            fix="export the file again, or convert it to NIfTI",
            code="slice-without-position",
        )
    frames = [(dataset, frame) for frame in range(header.frames)]
    own = picked(volume, frames, placed, where) if volume else list(range(header.frames))
    try:
        order, geometry, found = stack_planes([placed[frame] for frame in own], shape, where)
    except InputRefused as error:
        raise naming_choices(error, frames, placed) from None
    codes.extend(found)
    return [own[place] for place in order], geometry


def _transfer_syntax(dataset: Dataset) -> UID:
    """Transfer syntax of the file, or, without file meta information, the one pydicom found it to be in."""
    named = getattr(dataset, "file_meta", Dataset()).get("TransferSyntaxUID")
    if named:
        return UID(str(named))
    implicit, little = dataset.original_encoding
    if implicit:
        return ImplicitVRLittleEndian
    return ExplicitVRLittleEndian if little else ExplicitVRBigEndian


def _integer(dataset: Dataset, keyword: str, where: str, default: int | None = None) -> int:
    value = dataset.get(keyword)
    if value in (None, "") and default is not None:
        return default
    try:
        return int(value)
    except (TypeError, ValueError):
        raise InputRefused(
            f"'{value}' is no whole number" if value is not None else f"{keyword} is missing",
            where=f"{where}, tag {keyword}",
            fix="export the file again",
            code="dicom-bad-attribute",
        ) from None


def _floats(value: Any, count: int) -> NDArray[np.float64] | None:
    """Numbers of an attribute, or None if there are not as many, or not all finite."""
    try:
        numbers = np.atleast_1d(np.array(value, dtype=np.float64))
    except (TypeError, ValueError):
        return None
    return numbers if numbers.shape == (count,) and np.isfinite(numbers).all() else None


def _spacing(value: Any) -> tuple[float, float] | None:
    """``(between rows, between columns)`` in mm, or None if unknown or not positive."""
    numbers = _floats(value, 2)
    return (float(numbers[0]), float(numbers[1])) if numbers is not None and (numbers > 0).all() else None


def _refuse_deflate_bomb(stream: BinaryIO, where: str) -> None:
    """Refuse a deflated data set that would grow beyond ``MAX_BYTES``, without keeping what it grows to."""
    data = stream.read()
    stream.seek(0)
    start = 144 + int.from_bytes(data[140:144], "little")  # after the file meta group, whose length leads it
    inflater, rest, total = zlib.decompressobj(wbits=-zlib.MAX_WBITS), data[start:], 0
    while rest and not inflater.eof:
        total += len(inflater.decompress(rest, _PIECE))
        rest = inflater.unconsumed_tail
        if total > MAX_BYTES:
            raise InputRefused(
                f"the data set grows to more than {MAX_BYTES:,} bytes when it is inflated",
                where=where,
                fix="fetch it again from a source you trust",
                code="too-large",
            )
