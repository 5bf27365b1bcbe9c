"""What a file marks, from its stored values: of pictures, NIfTI, DICOM images, SEG, label maps and RTSTRUCT.

Background is the stored 0, whatever rescale or inversion a header names: a mask that was saved with the
header of its CT would else be marked everywhere. Only where no stored value is 0 and some rescaled one is,
0 is taken after the rescale (float masks are packed into integers that way); where both occur and say
different things, the mask is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from foveate.errors import InputRefused
from foveate.io.laying import ArrayMask, Bools, StoredMask
from foveate.io.source import Kind, decoding, kind_of, read_source
from foveate.types import Array, Geometry, Image

RESCALED = "rescale-left-out"
"""Warning code: labels were taken before the rescale, colours or inversion that the file names."""

_LOSSY_MIDDLE = 127  # lossy compression smears the two values of a mask around 0 and 255
_ALL = "*"
Reader = Callable[[Path, Kind, bool], Image]  # path, kind, whether values stay as they are stored


def stored_mask(path: Path, segment: str, max_pixels: int, read: Reader) -> StoredMask:
    """Read a mask.

    Args:
        path: a file, or a folder with a series of mask slices or with one SEG or RTSTRUCT file.
        segment: which label, by name or number; see ``read_mask``.
        max_pixels: most that a header may declare.
        read: reads pictures and volumes.

    Raises:
        InputRefused: it cannot be read, or does not hold the segment.
    """
    kind = kind_of(path)
    if kind in ("dicom", "dicom-series") and (found := _result_in(path, kind, segment, max_pixels)):
        return found
    image = read(path, kind, True)
    if kind == "jpeg":
        inside = np.asarray((image.pixels > _LOSSY_MIDDLE).any(axis=0))
    elif segment and segment != _ALL:
        inside = _labelled(image.pixels, segment, str(path))
    else:
        rescaled = RESCALED in image.warnings
        inside = _marked(image.pixels, read(path, kind, False).pixels if rescaled else None, str(path))
    return ArrayMask(str(path), image.warnings, inside, image.geometry)


def mask_geometry(path: Path, probe: Callable[[Path], Geometry]) -> Geometry | None:
    """Where a mask lies, from headers alone; None where that is known only over an image (SEG, RTSTRUCT).

    Args:
        path: as for ``read_mask``.
        probe: tells the geometry of pictures and volumes.

    Raises:
        InputRefused: for whatever the header already shows that ``read_mask`` would refuse.
    """
    kind = kind_of(path)
    if kind not in ("dicom", "dicom-series"):
        return probe(path)
    from foveate.io.derived import SEGMENTATIONS, STRUCTURES, class_of
    from foveate.io.dicom import parse

    file = _only_file(path, kind)
    if file is not None:
        with decoding(str(file), "dicom") as codes, file.open("rb") as stream:
            if class_of(parse(stream, str(file), codes, header_only=True)) in (*SEGMENTATIONS, STRUCTURES):
                return None
    return probe(path)


def _result_in(path: Path, kind: Kind, segment: str, max_pixels: int) -> StoredMask | None:
    """The marks of a SEG, label map or RTSTRUCT; None if the file is none of them."""
    from pydicom.config import disable_value_validation

    from foveate.io.contours import read_contours
    from foveate.io.derived import SEGMENTATIONS, STRUCTURES, class_of
    from foveate.io.dicom import parse
    from foveate.io.segmentation import read_segmentation

    file = _only_file(path, kind)
    if file is None:
        return None
    where = str(file)
    with decoding(where, "dicom") as codes, disable_value_validation():
        with file.open("rb") as stream:
            uid = class_of(parse(stream, where, [], header_only=True))
        if uid not in (*SEGMENTATIONS, STRUCTURES):
            return None
        dataset = parse(read_source(file, "dicom").stream(), where, codes)
        if uid == STRUCTURES:
            return read_contours(dataset, segment, where)
        return read_segmentation(dataset, segment, where, codes, max_pixels)


def _only_file(path: Path, kind: Kind) -> Path | None:
    """The file itself, or the one file of a folder; None where there are several."""
    if kind == "dicom":
        return path
    if not path.is_dir():  # a list of files, see ``listed``
        return None
    files = [file for file in path.iterdir() if file.is_file() and not file.name.startswith(".")]
    return files[0] if len(files) == 1 and kind_of(files[0]) == "dicom" else None


def _labelled(pixels: Array, segment: str, where: str) -> Bools:
    """Where a label map has one label."""
    try:
        number = float(segment)
    except ValueError:
        raise InputRefused(
            f"the labels of this mask are numbers, and '{segment}' is none",
            where=where,
            fix="name the number of the label; names belong to SEG and RTSTRUCT",
            code="mask-segment",
        ) from None
    return np.asarray((pixels == number).any(axis=0))


def _marked(stored: Array, real: Array | None, where: str) -> Bools:
    """Where values are not background.

    Args:
        stored: as the file stores them, ``(C, *space)``.
        real: after the rescale, where the file names one.
        where: the file, for errors.
    """
    inside = np.asarray((stored != 0).any(axis=0))
    if real is None or not np.issubdtype(real.dtype, np.floating):
        return inside
    steps = np.diff(np.unique(real))
    zero = np.abs(real) < (
        steps.min() / 2 if len(steps) else 0.5
    )  # as near as the packing into integers can come
    marked = np.asarray((~zero).any(axis=0))
    if marked.all() or (marked == inside).all():
        return inside
    if inside.all():
        return marked
    raise InputRefused(
        "0 stands for two things in this mask: some stored values are 0, and others are after the rescale",
        where=where,
        fix="save the mask as integers without slope and intercept, background 0",
        code="mask-ambiguous",
    )
