"""Pixels that the scanner marked as outside its field of view get the darkest value of the image.

Pixel Padding Value, with Pixel Padding Range Limit where there is one, names stored values that are no
measurement (DICOM PS3.3 C.7.5.1.1.2). In Hounsfield units they may be -3024 or -32768; in MONOCHROME1 they
would turn into the brightest value. So they are set to the lowest value of all other pixels of the image or
volume, and their share goes with the image, which keeps them out of its percentiles.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from foveate.io.dicom_frames import PixelHeader
from foveate.types import Array


def padding_of(stored: Array, dataset: Dataset, header: PixelHeader) -> NDArray[np.bool_] | None:
    """Where grey pixels are padding ``(F, H, W)``, or None if none is.

    Args:
        stored: ``(F, H, W)``, as in the file.
        dataset: which may name padding.
        header: of ``dataset``.
    """
    name = {"float32": "FloatPixelPadding", "float64": "DoubleFloatPixelPadding"}.get(
        stored.dtype.name, "PixelPadding"
    )
    value = dataset.get(f"{name}Value")
    if value in (None, "") or stored.ndim > 3 or header.photometric == "PALETTE COLOR":
        return None
    limit = dataset.get(f"{name}RangeLimit")
    ends = sorted(
        _as_stored(float(end), stored, header) for end in (value, value if limit in (None, "") else limit)
    )
    if ends[0] < header.limits[0] or ends[1] > header.limits[1]:
        stored = _all_bits(stored, dataset, header)
    padding: NDArray[np.bool_] = (stored >= ends[0]) & (stored <= ends[1])
    return padding if padding.any() else None


def darkened(pixels: Array, padding: NDArray[np.bool_] | None, codes: list[str]) -> tuple[Array, float]:
    """The pixels with their padding at the darkest value, and the share of pixels that this is.

    An image of nothing but padding is left as it is.

    Args:
        pixels: ``(1, …)`` after rescaling and inversion.
        padding: ``(…)``, as ``padding_of`` told.
        codes: ``padding-darkened`` is added where it applies.
    """
    if padding is None or padding.all():
        return pixels, 0.0
    codes.append("padding-darkened")
    grey = pixels[0]
    return np.where(padding, grey[~padding].min(), grey)[None], float(padding.mean())


def _all_bits(stored: Array, dataset: Dataset, header: PixelHeader) -> Array:
    """Uncompressed values with the bits above those that count, which pydicom clears."""
    if not header.uncompressed or "PixelData" not in dataset or header.allocated < 8:
        return stored
    kind = f"{header.word[0]}{'i' if header.signed else 'u'}{header.allocated // 8}"
    whole: Array = np.frombuffer(dataset.PixelData, kind, count=stored.size).reshape(stored.shape)
    return whole


def _as_stored(end: float, stored: Array, header: PixelHeader) -> float:
    """A padding value that was written as of the other sign, such as 63536 for -2000."""
    low, high = header.limits_allocated
    if stored.dtype.kind != "f" and not low <= end <= high:
        end += 2.0**header.allocated * (1 if end < low else -1)
    return end
