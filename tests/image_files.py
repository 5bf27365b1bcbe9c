"""PNG and JPEG files written byte by byte or by Pillow, for the tests of the readers."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage

Pixels = NDArray[Any]

# Order and steps of Adam7's seven passes: first row, first column, row step, column step (PNG 8.2).
_ADAM7 = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]


def png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_header(width: int, height: int, bits: int, colour: int, interlaced: bool = False) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, int(interlaced))
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header)


def png(samples: Pixels, bits: int, colour: int, *, extra: bytes = b"", interlaced: bool = False) -> bytes:
    """A PNG of ``(H, W)`` or ``(H, W, C)`` samples; lines go through all five filters in turn."""
    height, width = samples.shape[:2]
    if interlaced:
        passes = [samples[y::dy, x::dx] for y, x, dy, dx in _ADAM7 if y < height and x < width]
    else:
        passes = [samples]
    data = zlib.compress(b"".join(_filtered(each, bits) for each in passes))
    start = png_header(width, height, bits, colour, interlaced)
    return start + extra + png_chunk(b"IDAT", data) + png_chunk(b"IEND", b"")


def _filtered(samples: Pixels, bits: int) -> bytes:
    """Scan lines with PNG filters 0 to 4 in turn (PNG 9.2), on whole bytes."""
    step = max(1, bits // 8) * (1 if samples.ndim == 2 else samples.shape[2])
    above, out = np.zeros(0, dtype=np.int64), b""
    for row, line in enumerate(samples):
        raw = _packed(line.reshape(-1), bits)
        above = above if row else np.zeros_like(raw)
        left = np.concatenate([np.zeros(step, dtype=np.int64), raw])[: len(raw)]
        corner = np.concatenate([np.zeros(step, dtype=np.int64), above])[: len(raw)]
        predictions = [0 * raw, left, above, (left + above) // 2, _paeth(left, above, corner)]
        kind = row % 5
        out += bytes([kind]) + ((raw - predictions[kind]) % 256).astype(np.uint8).tobytes()
        above = raw
    return out


def _packed(line: Pixels, bits: int) -> NDArray[np.int64]:
    if bits == 16:
        data = line.astype(">u2").tobytes()
    elif bits == 8:
        data = line.astype(np.uint8).tobytes()
    else:
        text = "".join(f"{int(value):0{bits}b}" for value in line)
        text = text.ljust(-(-len(text) // 8) * 8, "0")
        data = bytes(int(text[at : at + 8], 2) for at in range(0, len(text), 8))
    return np.frombuffer(data, dtype=np.uint8).astype(np.int64)


def _paeth(left: Pixels, above: Pixels, corner: Pixels) -> Pixels:
    guess = left + above - corner
    away = [np.abs(guess - each) for each in (left, above, corner)]
    best = np.where(away[1] <= away[2], above, corner)
    return np.where((away[0] <= away[1]) & (away[0] <= away[2]), left, best)


def pillow(pixels: Pixels, kind: str, **options: Any) -> bytes:
    """The file that Pillow writes."""
    stream = BytesIO()
    PILImage.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


def jpeg_frame(pixels: Pixels) -> bytes:
    return pillow(pixels, "JPEG", quality=95, subsampling=0)
