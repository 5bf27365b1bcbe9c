"""What a compressed DICOM frame says of its own size, read before it is decoded.

Decoders trust the codestream and DICOM readers trust the Rows and Columns of the data set; where the two
disagree, the pixels come out sheared or cut without a word. So both are compared first.

Sources: ITU-T T.81 B.2 (JPEG frame header), T.87 C.2 (JPEG-LS), T.800 A.5.1 (JPEG 2000 SIZ), DICOM PS3.5 G
(RLE).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from struct import unpack_from

_FRAME_HEADERS = frozenset((*range(0xC0, 0xD0), 0xF7)) - {0xC4, 0xC8, 0xCC}  # SOF0–SOF15, SOF55
_WITHOUT_LENGTH = frozenset((0x01, *range(0xD0, 0xD9)))  # TEM, RST0–RST7, SOI
_RLE_HEADER = 64


@dataclass(frozen=True, slots=True)
class FrameHeader:
    """Size of one compressed frame as its own header declares it.

    Attributes:
        rows, columns: in pixels.
        components: samples per pixel.
        precision: bits per sample.
        names: of the components of a JPEG, a byte each.
        jfif, adobe_transform: the marks of a JPEG that libjpeg heeds: whether JFIF's is there, and the colour
            transform that Adobe's names. Those cut short it ignores.
    """

    rows: int
    columns: int
    components: int
    precision: int
    names: bytes = b""
    jfif: bool = False
    adobe_transform: int | None = None


def jpeg_header(frame: bytes) -> FrameHeader:
    """Header of a JPEG or JPEG-LS codestream.

    Raises:
        ValueError: there is none.
    """
    at, jfif, adobe = 2, False, None
    while frame[:2] == b"\xff\xd8" and at + 10 <= len(frame):
        marker = frame[at + 1]
        if frame[at] != 0xFF or marker == 0xDA:
            break
        if marker == 0xFF:  # fill byte
            at += 1
        elif marker in _WITHOUT_LENGTH:
            at += 2
        elif marker in _FRAME_HEADERS:
            precision, rows, columns, components = unpack_from(">BHHB", frame, at + 4)
            names = frame[at + 10 : at + 10 + 3 * components : 3]
            return FrameHeader(rows, columns, components, precision, names, jfif, adobe)
        else:
            length = max(int.from_bytes(frame[at + 2 : at + 4]), 2)
            held = frame[at + 4 : at + 2 + length]
            if marker == 0xE0 and held.startswith(b"JFIF\0") and len(held) >= 14:
                jfif = True
            if marker == 0xEE and held.startswith(b"Adobe") and len(held) >= 12:
                adobe = held[11]
            at += 2 + length
    raise ValueError("the frame holds no JPEG frame header")


def jpeg2000_header(frame: bytes) -> FrameHeader:
    """Header of a JPEG 2000 or HTJ2K codestream, bare or in a JP2 file.

    Raises:
        ValueError: there is none.
    """
    start = frame.find(b"\xff\x4f\xff\x51")  # SOC, SIZ
    if start < 0 or len(frame) < start + 43:
        raise ValueError("the frame holds no JPEG 2000 image size")
    right, bottom, left, top = unpack_from(">4I", frame, start + 8)
    components, depth = unpack_from(">HB", frame, start + 40)
    return FrameHeader(bottom - top, right - left, components, (depth & 0x7F) + 1)


def rle_segment_lengths(frame: bytes) -> list[int]:
    """Bytes that each segment of a DICOM RLE frame decodes to.

    Raises:
        ValueError: the header is torn or names segments outside the frame.
    """
    count = int.from_bytes(frame[:4], "little")
    if len(frame) < _RLE_HEADER or not 1 <= count <= 15:
        raise ValueError("the frame holds no RLE header")
    starts = [*unpack_from(f"<{count}I", frame, 4), len(frame)]
    if starts != sorted(starts) or starts[0] < _RLE_HEADER:
        raise ValueError("the RLE header names segments outside the frame")
    return [_unpacked_length(frame, start, stop) for start, stop in pairwise(starts)]


def _unpacked_length(data: bytes, at: int, stop: int) -> int:
    """Length of a PackBits stream after decoding, by walking over its runs."""
    total = 0
    while at < stop:
        control = data[at]
        if control < 128:  # this many bytes and one more follow as they are
            total += min(control + 1, stop - at - 1)
            at += control + 2
        elif control > 128:  # the next byte is repeated
            total += (257 - control) if at + 1 < stop else 0
            at += 2
        else:
            at += 1
    return total
