"""TIFF of 16-bit or 64-bit floats, which Pillow does not know: what numerical programs write.

Uncompressed strips are read as they are, float16 exactly as float32; what is compressed or tiled is refused.
Source: TIFF 6.0, sections 2 and 19 (SampleFormat).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from foveate.errors import InputRefused
from foveate.types import Array

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_OFFSETS, _SAMPLES, _COUNTS, _PLANAR, _FORMAT = 273, 277, 279, 284, 339
_FLOAT, _ZERO_IS_BLACK, _RGB = 3, 1, 2
_HEAD = {b"II*\0": 8, b"MM\0*": 8, b"II+\0": 16, b"MM\0+": 16}


@dataclass(frozen=True, slots=True)
class FloatTiff:
    """Where the samples of a float TIFF lie.

    Attributes:
        shape: ``(H, W)``.
        channels: 1 or 3.
        dtype: of the samples, in the byte order of the file.
        strips: first byte and number of bytes of each strip.
    """

    shape: tuple[int, int]
    channels: int
    dtype: np.dtype[Any]
    strips: tuple[tuple[int, int], ...]

    def read(self, data: bytes) -> Array:
        """``(C, H, W)``, float32 or float64, from all bytes of the file."""
        samples = b"".join(data[start : start + count] for start, count in self.strips)
        values = np.frombuffer(samples, self.dtype).reshape(*self.shape, self.channels)
        kept = np.float32 if self.dtype.itemsize == 2 else np.float64
        return np.ascontiguousarray(np.moveaxis(values, -1, 0).astype(kept))


def float_tiff(stream: BinaryIO, where: str) -> FloatTiff | None:
    """What the header of a TIFF says, if its samples are floats that Pillow cannot read.

    Args:
        stream: of the file, at its beginning; is left there.
        where: the file, for errors.

    Raises:
        InputRefused: they are, but packed in a way without a rule.
    """
    head = stream.read(16)
    tags = ImageFileDirectory_v2(head[: _HEAD[head[:4]]])
    stream.seek(tags.next)
    tags.load(stream)
    further = tags.next
    stream.seek(0)
    bits = set(tags.get(_BITS, (1,)))
    if tags.get(_FORMAT, (1,))[0] != _FLOAT or bits not in ({16}, {64}):
        return None
    channels = tags.get(_SAMPLES, 1)
    offsets, counts = (np.atleast_1d(tags.get(tag, ())).tolist() for tag in (_OFFSETS, _COUNTS))
    width = bits.pop()
    size = tags[_HEIGHT] * tags[_WIDTH] * channels * width // 8
    photometric = _ZERO_IS_BLACK if channels == 1 else _RGB
    simple = tags.get(_COMPRESSION, 1) == 1 and tags.get(_PLANAR, 1) == 1 and not further
    known = channels in (1, 3) and tags.get(_PHOTOMETRIC) == photometric
    if not simple or not known or sum(counts) != size or len(offsets) != len(counts):
        raise InputRefused(
            f"it holds {width}-bit floats that are compressed, tiled, of several pages or in other colours",
            where=where,
            fix="save it uncompressed, or as 32-bit floats",
            code="encoding-unsupported",
        )
    order = "<" if head[:2] == b"II" else ">"
    shape = (int(tags[_HEIGHT]), int(tags[_WIDTH]))
    strips = tuple(zip(offsets, counts, strict=True))
    return FloatTiff(shape, channels, np.dtype(f"{order}f{width // 8}"), strips)
