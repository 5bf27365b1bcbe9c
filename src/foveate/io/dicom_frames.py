"""Compressed and uncompressed DICOM frames become stored values, their sizes checked first.

| transfer syntax | decoded by |
|---|---|
| uncompressed (little, big endian, deflated), RLE | pydicom, exactly |
| JPEG-LS; JPEG 2000 and HTJ2K | pyjpegls; pylibjpeg-openjpeg |
| JPEG baseline, 8-bit JPEG extended | Pillow; see ``_decode_jpeg`` for its colour |
| JPEG lossless (processes 14 and 14 SV1), 12-bit JPEG extended | imagecodecs, of the extra ``jpeg`` |
| MPEG and others | refused with the name of the transfer syntax |

pyjpegls, openjpeg and imagecodecs run in a process of their own (``isolated``): a frame on which one crashes
costs that file alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from io import BytesIO
from typing import Any, BinaryIO

import numpy as np
from PIL.JpegImagePlugin import JpegImageFile
from pydicom import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels import get_decoder
from pydicom.pixels.utils import as_pixel_options
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
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from foveate.errors import InputRefused
from foveate.io.codestream import jpeg2000_header, jpeg_header, rle_segment_lengths
from foveate.io.isolated import isolated
from foveate.types import Array

_NATIVE = (
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
)
_JPEG = (JPEGBaseline8Bit, JPEGExtended12Bit)
_JPEG_LOSSLESS = (JPEGLossless, JPEGLosslessSV1)
_JPEG_LS = (JPEGLSLossless, JPEGLSNearLossless)
JPEG_2000 = (JPEG2000Lossless, JPEG2000, HTJ2KLossless, HTJ2KLosslessRPCL, HTJ2K)
# The decoder is named, so that whatever else is installed beside pydicom changes nothing.
_PLUGINS = dict.fromkeys(_JPEG_LS, "pyjpegls") | dict.fromkeys(JPEG_2000, "pylibjpeg")
_KNOWN = (*_NATIVE, RLELossless, *_JPEG, *_JPEG_LOSSLESS, *_PLUGINS)
_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_PIXEL_TAGS = (b"\xe0\x7f", b"\x7f\xe0")  # group 7FE0 in little and big endian
_PIXEL_VRS = (b"OB", b"OW", b"OF", b"OD", b"UN")
_HEAD = 2**20  # bytes of the first frame within which its header is sought
_FROM_RGB, _FROM_YBR = "RGB", "YBR_FULL"


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
        return limits_of(self.stored, self.signed)

    @property
    def limits_allocated(self) -> tuple[int, int]:
        """Lowest and highest value that the allocated bits can hold."""
        return limits_of(self.allocated, self.signed)

    @property
    def uncompressed(self) -> bool:
        """Whether the samples lie in the file as they are."""
        return self.syntax in _NATIVE

    @property
    def word(self) -> str:
        """NumPy's name for 16-bit numbers in the byte order of the file."""
        return ">u2" if self.syntax == ExplicitVRBigEndian else "<u2"

    @property
    def bytes_needed(self) -> int:
        """Bytes of uncompressed pixels of this shape."""
        bits = self.frames * self.rows * self.columns * self.samples * self.allocated
        return -(-bits // 8) if self.photometric != "YBR_FULL_422" else bits // 8 // 3 * 2


def limits_of(bits: int, signed: bool) -> tuple[int, int]:
    """Lowest and highest number of so many bits."""
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)


def check_syntax(header: PixelHeader, where: str) -> None:
    """Refuse transfer syntaxes without a decoder."""
    if header.syntax not in _KNOWN:
        raise _syntax_refused(header.syntax.name, where)
    if header.syntax in _JPEG_LOSSLESS:
        _need_imagecodecs(header.syntax.name, where)


def require_pixels(dataset: Dataset, where: str) -> None:
    """Refuse a header whose pixels are missing."""
    if not any(keyword in dataset and dataset[keyword].value for keyword in _PIXELS):
        raise _without_pixels(where)


def decode_frames(dataset: Dataset, header: PixelHeader, where: str, codes: list[str]) -> Array:
    """Stored values ``(F, H, W)`` or ``(F, H, W, 3)``, colour as RGB, native byte order.

    Args:
        dataset: with its pixel data.
        header: of ``dataset``, already checked.
        where: the file, for errors.
        codes: warning codes are added here.

    Raises:
        InputRefused: the pixel data contradict the data set, or a decoder crashed.
    """
    if header.syntax in _NATIVE:
        _check_length(dataset, header, where, codes)
        pixels = _by_pydicom(dataset, header.syntax, "")
    else:
        frames = list(generate_frames(dataset.PixelData, number_of_frames=header.frames))
        if len(frames) != header.frames:
            raise _disagree(f"{len(frames)} frames", f"{header.frames}", where)
        for frame in frames:
            _check_frame(frame, header, where)
        if header.syntax == RLELossless:
            pixels = _by_pydicom(dataset, header.syntax, "pydicom")
        else:
            options = dict(as_pixel_options(dataset), number_of_frames=1)
            pixels = np.stack([_decode_frame(frame, header, options, where) for frame in frames])
    shape = (header.frames, header.rows, header.columns)
    return pixels.reshape(shape if header.samples == 1 else (*shape, header.samples))


def check_pixel_element(stream: BinaryIO, header: PixelHeader, where: str, *, whole: bool = True) -> None:
    """Compare what the head of the pixel data says with the data set, without reading them all.

    Args:
        stream: of the file, where its pixel data start (as ``dcmread`` leaves it that stops before them).
        header: of the data set.
        where: the file, for errors.
        whole: false takes a file whose end is missing for what its header says.

    Raises:
        InputRefused: there are no pixels, too few, or those of another image.
    """
    if header.syntax == DeflatedExplicitVRLittleEndian:
        return  # pydicom reads from an inflated copy
    element = stream.read(8)
    if element[:2] not in _PIXEL_TAGS:
        raise _without_pixels(where)
    if element[4:6] in _PIXEL_VRS:  # else it is implicit, whatever the transfer syntax says
        element = stream.read(4)
    declared = int.from_bytes(element[-4:], "big" if header.word == ">u2" else "little")
    if header.syntax not in _NATIVE:
        stream.seek(int.from_bytes(stream.read(8)[4:], "little"), 1)  # the table of offsets
        frame = stream.read(min(int.from_bytes(stream.read(8)[4:], "little"), _HEAD))
        if header.syntax != RLELossless:
            _check_frame(frame, header, where)
        return
    start = stream.tell()
    held = min(stream.seek(0, 2) - start, declared)
    if whole and held < header.bytes_needed:
        raise _disagree(f"{held:,} bytes", f"{header.bytes_needed:,}", where)


def _decode_frame(frame: bytes, header: PixelHeader, options: Mapping[str, Any], where: str) -> Array:
    """One compressed frame ``(H, W)`` or ``(H, W, 3)``."""
    if header.syntax in _PLUGINS:
        return isolated(where, _by_plugin, frame, str(header.syntax), _PLUGINS[header.syntax], dict(options))
    if header.syntax in _JPEG and jpeg_header(frame).precision == 8:
        return _decode_jpeg(frame, header.photometric)
    pixels = isolated(where, decode_by_imagecodecs, frame)
    if header.signed:
        pixels = _with_sign(pixels, jpeg_header(frame).precision)
    if header.photometric.startswith(_FROM_YBR):
        from pydicom.pixels import convert_color_space

        pixels = convert_color_space(pixels, _FROM_YBR, _FROM_RGB)
    return pixels


def _by_pydicom(source: Any, syntax: UID, plugin: str, options: Mapping[str, Any] = {}) -> Array:
    pixels, _ = get_decoder(syntax).as_array(
        source, decoding_plugin=plugin, **{"allow_excess_frames": False, **options}
    )
    native: Array = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    return native


def _by_plugin(frame: bytes, syntax: str, plugin: str, options: dict[str, Any]) -> Array:
    return _by_pydicom(encapsulate([frame]), UID(syntax), plugin, options)


def decode_by_imagecodecs(frame: bytes) -> Array:
    """Components of a JPEG of 8 to 16 bits, lossless or not, as they are: ``(H, W)`` or ``(H, W, 3)``."""
    import imagecodecs

    if jpeg_header(frame).components == 1:
        pixels = imagecodecs.jpeg8_decode(frame)
    else:  # without libjpeg's guess at their colour
        pixels = imagecodecs.jpeg8_decode(frame, colorspace="RGB", outcolorspace="RGB")
    return np.ascontiguousarray(pixels)


def _with_sign(pixels: Array, precision: int) -> Array:
    """Numbers of so many bits, read as two's complement."""
    signed = np.dtype(f"i{pixels.dtype.itemsize}")
    spare = 8 * signed.itemsize - precision
    return (pixels << spare).view(signed) >> spare


def _decode_jpeg(frame: bytes, photometric: str) -> Array:
    """Decode an 8-bit JPEG frame.

    Whether three components are RGB or YCbCr is told by the codestream's own marks (Adobe, JFIF, components
    named R, G, B), where libjpeg heeds them, and by the data set only where there are none.
    """
    picture = JpegImageFile(BytesIO(frame))
    found = jpeg_header(frame)
    marked = found.jfif or found.adobe_transform is not None or found.names == b"RGB"
    if photometric == "RGB" and not marked:
        picture.draft("YCbCr", picture.size)  # hand out the components as they are, which is RGB
    return np.asarray(picture)


def _check_length(dataset: Dataset, header: PixelHeader, where: str, codes: list[str]) -> None:
    """Compare the bytes of uncompressed pixel data with what the data set's shape needs."""
    if "PixelData" not in dataset:  # float pixel data: pydicom compares
        return
    needed = header.bytes_needed
    excess = dataset.PixelData[needed:]
    if len(dataset.PixelData) < needed or (len(excess) > 1 and any(excess)):
        raise _disagree(f"{len(dataset.PixelData):,} bytes", f"{needed:,}", where)
    if len(excess) > 1:
        dataset["PixelData"].value = dataset.PixelData[: needed + needed % 2]
        codes.append("pixel-data-padded")


def _check_frame(frame: bytes, header: PixelHeader, where: str) -> None:
    """Compare the codestream's own size with the data set's, and its bits with what can be decoded."""
    if header.syntax == RLELossless:
        size = header.rows * header.columns
        lengths = rle_segment_lengths(frame)
        if not all(size <= length <= size + size % 2 for length in lengths):
            raise _disagree(f"RLE segments of {max(lengths):,} bytes", f"{size:,}", where)
        return
    found = (jpeg2000_header if header.syntax in JPEG_2000 else jpeg_header)(frame)
    if (found.rows, found.columns, found.components) != (header.rows, header.columns, header.samples):
        inside = f"a codestream of {found.rows} × {found.columns} × {found.components}"
        outside = f"{header.rows} × {header.columns} × {header.samples}"
        raise _disagree(inside, outside, where)
    if header.syntax in (*_JPEG, *_JPEG_LOSSLESS) and found.precision > header.allocated:
        raise _disagree(f"samples of {found.precision} bits", f"{header.allocated}", where)
    if header.syntax in _JPEG and found.precision != 8:
        if header.samples != 1:
            raise _syntax_refused(f"{header.syntax.name}, {found.precision} bits in colour", where)
        _need_imagecodecs(f"{header.syntax.name}, {found.precision} bits", where)


def _need_imagecodecs(name: str, where: str) -> None:
    if find_spec("imagecodecs") is None:
        refused = _syntax_refused(name, where)
        raise InputRefused(
            f"{refused.what} without the extra 'jpeg'",
            where=refused.where,
            fix=f"pip install 'foveate[jpeg]', or {refused.fix}",
            code=refused.code,
        )


def _without_pixels(where: str) -> InputRefused:
    return InputRefused(
        "the file describes an image but holds no pixels",
        where=f"{where}, tag (7FE0,0010) Pixel Data",
        fix="fetch the file again, with its pixel data",
        code="dicom-without-pixels",
    )


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
