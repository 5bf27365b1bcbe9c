"""Stored DICOM pixels become values: decoded, sizes checked, colour as RGB, rescaled, never windowed.

One rule for each encoding:

| encoding | becomes |
|---|---|
| uncompressed (little, big endian, deflated), RLE, JPEG-LS, JPEG 2000, HTJ2K | decoded exactly |
| JPEG baseline, 8-bit JPEG extended | decoded by Pillow; see ``_decode_jpeg`` for its colour |
| JPEG lossless, 12-bit JPEG extended, MPEG and others | refused with the name of the transfer syntax |
| RGB, YBR_FULL, YBR_FULL_422, YBR_ICT, YBR_RCT, either planar configuration | C = 3, RGB |
| PALETTE COLOR | looked up: C = 3, or C = 1 if the table is grey; 8 or 16 bits as in the table |
| MONOCHROME2 | as stored |
| MONOCHROME1 | inverted once, v → low + high − v over the range that the stored bits can hold |
| MONOCHROME1 in Hounsfield units | not inverted, for a unit has no direction; ``monochrome1-kept`` |
| Modality LUT Sequence | looked up |
| Rescale Slope and Intercept other than 1 and 0 | float32, slope · v + intercept, for each frame its own |

CT with a rescale is in Hounsfield units. VOI LUTs, windows, presentation LUTs, overlays and ICC profiles
belong to the display and are never applied.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Literal

import numpy as np
from PIL.JpegImagePlugin import JpegImageFile
from pydicom import Dataset
from pydicom.encaps import generate_frames
from pydicom.pixels import get_decoder
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from foveate.errors import InputRefused
from foveate.io.codestream import jpeg2000_header, jpeg_header, rle_segment_lengths
from foveate.io.source import check_finite
from foveate.types import Array

_NATIVE = (
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
)
_JPEG = (JPEGBaseline8Bit, JPEGExtended12Bit)
_JPEG_LS = (JPEGLSLossless, JPEGLSNearLossless)
_JPEG_2000 = (JPEG2000Lossless, JPEG2000, HTJ2KLossless, HTJ2KLosslessRPCL, HTJ2K)
# The decoder is named, so that whatever else is installed beside pydicom changes nothing.
_PLUGINS = (
    {RLELossless: "pydicom"} | dict.fromkeys(_JPEG_LS, "pyjpegls") | dict.fromkeys(_JPEG_2000, "pylibjpeg")
)
_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_GREY = ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR")


@dataclass(frozen=True, slots=True)
class PixelHeader:
    """What the data set says of its pixels.

    Attributes:
        rows, columns, frames, samples: the shape ``(frames, rows, columns, samples)``.
        allocated, stored: bits per sample in the file, and bits of them that count.
        signed: whether samples are two's complement.
        photometric: Photometric Interpretation.
        syntax: transfer syntax.
        modality: such as ``CT``; empty if unknown.
    """

    rows: int
    columns: int
    frames: int
    samples: int
    allocated: int
    stored: int
    signed: bool
    photometric: str
    syntax: UID
    modality: str

    @property
    def limits(self) -> tuple[int, int]:
        """Lowest and highest value that the stored bits can hold."""
        return _limits(self.stored, self.signed)


@dataclass(frozen=True, slots=True)
class Values:
    """Decoded frames.

    Attributes:
        pixels: ``(C, F, H, W)``, C = 1 or 3.
        unit: as in ``types.Image``.
        value_range: as in ``types.Image``.
    """

    pixels: Array
    unit: Literal["HU", "stored"]
    value_range: tuple[float, float] | None


def check_readable(header: PixelHeader, where: str) -> None:
    """Refuse transfer syntaxes, colour spaces and bit layouts that have no rule."""
    if header.syntax not in _NATIVE and header.syntax not in _JPEG and header.syntax not in _PLUGINS:
        raise _syntax_refused(header.syntax.name, where)
    known = _COLOUR if header.samples == 3 else _GREY if header.samples == 1 else ()
    of_jpeg_2000 = header.photometric in ("YBR_ICT", "YBR_RCT")
    if header.photometric not in known or (of_jpeg_2000 and header.syntax not in _JPEG_2000):
        raise InputRefused(
            f"{header.samples} samples per pixel as '{header.photometric}' have no rule",
            where=f"{where}, tag (0028,0004) Photometric Interpretation",
            fix="convert the image to RGB or MONOCHROME2",
            code="colour-space-unsupported",
        )
    ybr = header.photometric.startswith("YBR") and header.allocated != 8
    if header.allocated not in (1, 8, 16, 32, 64) or not 1 <= header.stored <= header.allocated or ybr:
        raise InputRefused(
            f"{header.stored} of {header.allocated} bits cannot be read as {header.photometric}",
            where=f"{where}, tag (0028,0100) Bits Allocated",
            fix="convert the image to 8 or 16 bits",
            code="bits-unsupported",
        )


def read_values(dataset: Dataset, header: PixelHeader, where: str, codes: list[str]) -> Values:
    """Decode all frames and bring them to modality values.

    Args:
        dataset: with its pixel data.
        header: of ``dataset``, already checked.
        where: the file, for errors.
        codes: warning codes are added here.

    Raises:
        InputRefused: the pixel data contradict the data set, or a value is not finite.
    """
    stored = _decode(dataset, header, where, codes)
    _note_padding(stored, dataset, codes)
    if header.photometric == "PALETTE COLOR":
        table = _palette(dataset, header)
        pixels = table.take(_lookup_index(stored, dataset.RedPaletteColorLookupTableDescriptor), axis=0)
        return Values(_channels_first(pixels), "stored", (0.0, float(np.iinfo(table.dtype).max)))
    if header.samples == 3:
        low, high = header.limits
        return Values(_channels_first(stored), "stored", (float(low), float(high)))
    return _modality_values(stored, dataset, header, where, codes)


def channels(dataset: Dataset, header: PixelHeader) -> int:
    """Channels that ``read_values`` will give, told from the header."""
    if header.photometric == "PALETTE COLOR":
        return int(_palette(dataset, header).shape[1])
    return header.samples


def attribute(dataset: Dataset, frame: int, group: str, keyword: str) -> Any:
    """Value of an attribute for one frame, or None.

    Enhanced objects keep it in a functional group, per frame or shared; others at the top.
    """
    per_frame = dataset.get("PerFrameFunctionalGroupsSequence") or ()
    shared = dataset.get("SharedFunctionalGroupsSequence") or ()
    for holder in (*per_frame[frame : frame + 1], *shared[:1]):
        for item in (holder.get(group) or ())[:1]:
            if keyword in item:
                return item[keyword].value
    return dataset.get(keyword)


def _decode(dataset: Dataset, header: PixelHeader, where: str, codes: list[str]) -> Array:
    """Stored values ``(F, H, W)`` or ``(F, H, W, 3)``, native byte order."""
    if header.syntax in _NATIVE:
        _check_length(dataset, header, where, codes)
        pixels = _decode_by_pydicom(dataset, header, "")
    else:
        frames = list(generate_frames(dataset.PixelData, number_of_frames=header.frames))
        if len(frames) != header.frames:
            raise _disagree(f"{len(frames)} frames", f"{header.frames}", where)
        for frame in frames:
            _check_frame(frame, header, where)
        if header.syntax in _JPEG:
            pixels = np.stack([_decode_jpeg(frame, header.photometric) for frame in frames])
        else:
            pixels = _decode_by_pydicom(dataset, header, _PLUGINS[header.syntax])
    shape = (header.frames, header.rows, header.columns)
    return pixels.reshape(shape if header.samples == 1 else (*shape, header.samples))


def _decode_by_pydicom(dataset: Dataset, header: PixelHeader, plugin: str) -> Array:
    decoder = get_decoder(header.syntax)
    pixels, _ = decoder.as_array(dataset, decoding_plugin=plugin, allow_excess_frames=False)
    native: Array = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    return native


def _decode_jpeg(frame: bytes, photometric: str) -> Array:
    """Decode an 8-bit JPEG frame.

    Whether three components are RGB or YCbCr is told by the codestream's own marks (Adobe, JFIF, components
    named R, G, B), and by the data set only where there are none.
    """
    picture = JpegImageFile(BytesIO(frame))
    marked = "adobe" in picture.info or "jfif" in picture.info
    letters = [layer[0] for layer in picture.layer] == list(b"RGB")
    if photometric == "RGB" and not marked and not letters:
        picture.draft("YCbCr", picture.size)  # hand out the components as they are, which is RGB
    return np.asarray(picture)


def _check_length(dataset: Dataset, header: PixelHeader, where: str, codes: list[str]) -> None:
    """Compare the bytes of uncompressed pixel data with what the data set's shape needs."""
    if "PixelData" not in dataset:  # float pixel data: pydicom compares
        return
    bits = header.frames * header.rows * header.columns * header.samples * header.allocated
    needed = -(-bits // 8) if header.photometric != "YBR_FULL_422" else bits // 8 // 3 * 2
    excess = dataset.PixelData[needed:]
    if len(dataset.PixelData) < needed or (len(excess) > 1 and any(excess)):
        raise _disagree(f"{len(dataset.PixelData):,} bytes", f"{needed:,}", where)
    if len(excess) > 1:
        dataset["PixelData"].value = dataset.PixelData[: needed + needed % 2]
        codes.append("pixel-data-padded")


def _check_frame(frame: bytes, header: PixelHeader, where: str) -> None:
    """Compare the codestream's own size with the data set's."""
    if header.syntax == RLELossless:
        size = header.rows * header.columns
        lengths = rle_segment_lengths(frame)
        if not all(size <= length <= size + size % 2 for length in lengths):
            raise _disagree(f"RLE segments of {max(lengths):,} bytes", f"{size:,}", where)
        return
    found = (jpeg2000_header if header.syntax in _JPEG_2000 else jpeg_header)(frame)
    if (found.rows, found.columns, found.components) != (header.rows, header.columns, header.samples):
        inside = f"a codestream of {found.rows} × {found.columns} × {found.components}"
        outside = f"{header.rows} × {header.columns} × {header.samples}"
        raise _disagree(inside, outside, where)
    if header.syntax in _JPEG and found.precision != 8:
        raise _syntax_refused(f"{header.syntax.name}, {found.precision} bits", where)


def _note_padding(stored: Array, dataset: Dataset, codes: list[str]) -> None:
    """Note pixels that the scanner marked as outside its field of view; they are kept as they are."""
    padding = dataset.get("PixelPaddingValue")
    if padding is None or stored.ndim > 3:
        return
    ends = sorted((int(padding), int(dataset.get("PixelPaddingRangeLimit", padding))))
    if ((stored >= ends[0]) & (stored <= ends[1])).any():
        codes.append("padding-kept")


def _modality_values(
    stored: Array, dataset: Dataset, header: PixelHeader, where: str, codes: list[str]
) -> Values:
    """Grey values after the modality LUT or rescale, MONOCHROME1 turned to MONOCHROME2."""
    limits: tuple[int, int] | None = None
    if np.issubdtype(stored.dtype, np.integer):
        limits = header.limits
        if stored.min() < limits[0] or stored.max() > limits[1]:
            codes.append("beyond-bits-stored")
            limits = _limits(header.allocated, header.signed)
    rescale = _rescale(dataset, header.frames, where)
    hounsfield = _is_hounsfield(dataset, header, rescale is not None)
    if header.modality == "CT" and not hounsfield:
        codes.append("ct-without-hounsfield")
    if dataset.get("ModalityLUTSequence"):
        stored, limits = _modality_lut(stored, dataset, header)
    if header.photometric == "MONOCHROME1":
        if hounsfield:
            codes.append("monochrome1-kept")
        else:
            stored = _inverted(stored, limits, where)
    if rescale is not None and (rescale != (1, 0)).any():
        slope, intercept = (rescale[:, column, None, None] for column in (0, 1))
        stored, limits = (stored * slope + intercept).astype(np.float32), None
    check_finite(stored, where)
    value_range = None if limits is None or hounsfield else (float(limits[0]), float(limits[1]))
    return Values(stored[None], "HU" if hounsfield else "stored", value_range)


def _rescale(dataset: Dataset, frames: int, where: str) -> Array | None:
    """Slope and intercept of each frame ``(F, 2)``, or None if the file names neither."""
    group = "PixelValueTransformationSequence"
    slopes, intercepts = (
        [attribute(dataset, frame, group, keyword) for frame in range(frames)]
        for keyword in ("RescaleSlope", "RescaleIntercept")
    )
    if all(value is None for value in (*slopes, *intercepts)):
        return None
    columns = (
        [1.0 if s is None else float(s) for s in slopes],
        [0.0 if i is None else float(i) for i in intercepts],
    )
    pairs = np.stack(columns, axis=1)
    if not np.isfinite(pairs).all() or (pairs[:, 0] == 0).any():
        raise InputRefused(
            "the rescale slope is zero, or slope or intercept are not numbers",
            where=f"{where}, tag (0028,1053) Rescale Slope",
            fix="export the series again",
            code="bad-rescale",
        )
    return pairs


def _is_hounsfield(dataset: Dataset, header: PixelHeader, rescaled: bool) -> bool:
    kind = attribute(dataset, 0, "PixelValueTransformationSequence", "RescaleType")
    return header.modality == "CT" and rescaled and str(kind or "HU").strip().upper() == "HU"


def _inverted(stored: Array, limits: tuple[int, int] | None, where: str) -> Array:
    if limits is None:
        raise InputRefused(
            "MONOCHROME1 with floating-point pixels has no range to invert in",
            where=f"{where}, tag (0028,0004) Photometric Interpretation",
            fix="convert the image to MONOCHROME2",
            code="colour-space-unsupported",
        )
    turned: Array = (sum(limits) - stored.astype(np.int64)).astype(stored.dtype)
    return turned


def _modality_lut(stored: Array, dataset: Dataset, header: PixelHeader) -> tuple[Array, tuple[int, int]]:
    item = dataset.ModalityLUTSequence[0]
    bits = int(item.LUTDescriptor[2])
    data = item.LUTData
    if isinstance(data, bytes):
        data = np.frombuffer(data, _word(header))
    table = np.atleast_1d(np.asarray(data)).astype(np.uint8 if bits <= 8 else np.uint16)
    return table.take(_lookup_index(stored, item.LUTDescriptor)), _limits(bits, signed=False)


def _palette(dataset: Dataset, header: PixelHeader) -> Array:
    """Colour table ``(N, 3)``, or ``(N, 1)`` where red, green and blue are the same."""
    entries = int(dataset.RedPaletteColorLookupTableDescriptor[0]) or 2**16
    bits = int(dataset.RedPaletteColorLookupTableDescriptor[2])
    columns = []
    for colour in ("Red", "Green", "Blue"):
        data = dataset[f"{colour}PaletteColorLookupTableData"].value
        words = len(data) >= 2 * entries
        columns.append(np.frombuffer(data, _word(header) if words else np.uint8)[:entries])
    table = np.stack(columns, axis=1).astype(np.uint8 if bits <= 8 else np.uint16)
    return table[:, :1] if (table == table[:, :1]).all() else table


def _lookup_index(stored: Array, descriptor: Sequence[int]) -> Array:
    """Position in a lookup table; what lies outside takes its first or last entry (PS3.3 C.11.1)."""
    entries = int(descriptor[0]) or 2**16
    return np.clip(stored.astype(np.int64) - int(descriptor[1]), 0, entries - 1)


def _word(header: PixelHeader) -> str:
    return ">u2" if header.syntax == ExplicitVRBigEndian else "<u2"


def _limits(bits: int, signed: bool) -> tuple[int, int]:
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)


def _channels_first(pixels: Array) -> Array:
    return np.ascontiguousarray(np.moveaxis(pixels, -1, 0))


def _disagree(found: str, said: str, where: str) -> InputRefused:
    return InputRefused(
        f"the pixel data hold {found}, the data set says {said}",
        where=f"{where}, tag (0028,0010) Rows, Columns, Number of Frames",
        fix="export the image again; header and pixels do not belong together",
        code="pixel-data-disagree",
    )


def _syntax_refused(name: str, where: str) -> InputRefused:
    return InputRefused(
        f"pixels compressed as '{name}' cannot be decoded",
        where=f"{where}, tag (0002,0010) Transfer Syntax UID",
        fix="decompress the file first, for instance with `dcmdjpeg` of DCMTK or `gdcmconv --raw`",
        code="transfer-syntax-unsupported",
    )
