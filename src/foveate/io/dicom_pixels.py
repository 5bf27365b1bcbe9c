"""Stored DICOM pixels become values: decoded, sizes checked, colour as RGB, rescaled, never windowed.

One rule for each encoding:

| encoding | becomes |
|---|---|
| transfer syntaxes | see ``dicom_frames`` |
| RGB, YBR_FULL, YBR_FULL_422, YBR_ICT, YBR_RCT, either planar configuration | C = 3, RGB |
| PALETTE COLOR | looked up: C = 3, or C = 1 if the table is grey; 8 or 16 bits as in the table |
| MONOCHROME2 | as stored |
| MONOCHROME1 | inverted once, v → low + high − v over the range that the stored bits can hold |
| MONOCHROME1 in Hounsfield units | not inverted, for a unit has no direction; ``monochrome1-kept`` |
| Modality LUT Sequence | looked up |
| Pixel Padding | set to the darkest value of the image, see ``padding`` |
| Rescale Slope and Intercept other than 1 and 0 | float32, slope · v + intercept, for each frame its own |

CT with a rescale is in Hounsfield units. VOI LUTs, windows, presentation LUTs, overlays and ICC profiles
belong to the display and are never applied.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from foveate.errors import InputRefused
from foveate.io.dicom_frames import JPEG_2000, PixelHeader, check_syntax, decode_frames, limits_of
from foveate.io.lookup import lookup_index, modality_lut, palette
from foveate.io.padding import padding_of
from foveate.io.source import check_finite
from foveate.types import Array

_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_GREY = ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR")


@dataclass(frozen=True, slots=True)
class Values:
    """Decoded frames.

    Attributes:
        pixels: ``(C, F, H, W)``, C = 1 or 3.
        unit: as in ``types.Image``.
        value_range: as in ``types.Image``.
        padding: ``(F, H, W)`` where the scanner marked pixels as outside its field of view, or None.
    """

    pixels: Array
    unit: Literal["HU", "stored"]
    value_range: tuple[float, float] | None
    padding: NDArray[np.bool_] | None = None


def check_readable(header: PixelHeader, where: str) -> None:
    """Refuse transfer syntaxes, colour spaces and bit layouts that have no rule."""
    check_syntax(header, where)
    known = _COLOUR if header.samples == 3 else _GREY if header.samples == 1 else ()
    of_jpeg_2000 = header.photometric in ("YBR_ICT", "YBR_RCT")
    if header.photometric not in known or (of_jpeg_2000 and header.syntax not in JPEG_2000):
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
    stored = decode_frames(dataset, header, where, codes)
    if header.photometric == "PALETTE COLOR":
        table = palette(dataset, header.word, where)
        pixels = table.take(lookup_index(stored, dataset.RedPaletteColorLookupTableDescriptor), axis=0)
        return Values(_channels_first(pixels), "stored", (0.0, float(np.iinfo(table.dtype).max)))
    if header.samples == 3:
        low, high = header.limits
        return Values(_channels_first(stored), "stored", (float(low), float(high)))
    return _modality_values(stored, dataset, header, where, codes)


def channels(dataset: Dataset, header: PixelHeader, where: str) -> int:
    """Channels that ``read_values`` will give, told from the header."""
    if header.photometric == "PALETTE COLOR":
        return int(palette(dataset, header.word, where).shape[1])
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


def _modality_values(
    stored: Array, dataset: Dataset, header: PixelHeader, where: str, codes: list[str]
) -> Values:
    """Grey values after the modality LUT or rescale, MONOCHROME1 turned to MONOCHROME2."""
    limits: tuple[int, int] | None = None
    padding = padding_of(stored, dataset, header)
    if np.issubdtype(stored.dtype, np.integer):
        limits = header.limits
        real = stored if padding is None or padding.all() else stored[~padding]
        if real.min() < limits[0] or real.max() > limits[1]:
            codes.append("beyond-bits-stored")
            limits = header.limits_allocated
    rescale = _rescale(dataset, header.frames, where)
    hounsfield = _is_hounsfield(dataset, header, rescale is not None)
    if header.modality == "CT" and not hounsfield:
        codes.append("ct-without-hounsfield")
    if dataset.get("ModalityLUTSequence"):
        table, bits = modality_lut(dataset, header.word)
        stored = table.take(lookup_index(stored, dataset.ModalityLUTSequence[0].LUTDescriptor))
        limits = limits_of(bits, signed=False)
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
    return Values(stored[None], "HU" if hounsfield else "stored", value_range, padding)


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


def _channels_first(pixels: Array) -> Array:
    return np.ascontiguousarray(np.moveaxis(pixels, -1, 0))
