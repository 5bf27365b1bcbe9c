"""What the audit needs to know of each image, from one pass over the files."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from foveate.data.similarity import spectrum
from foveate.errors import InputRefused
from foveate.io import read_image
from foveate.types import Array, Case, Image, Track, quiet

_WORKERS = min(4, os.cpu_count() or 1)
_SAMPLED = 65_536  # pixels that percentiles are taken of
_SHOWN = (0.2, 0.4, 0.6, 0.8)  # slices that stand for a volume, as shares of its depth
Use = tuple[int, str, int | None]  # case, view, slice


@dataclass(frozen=True, slots=True)
class Look:
    """One image of one case, in numbers.

    Attributes:
        digest: hash of the decoded pixels and their shape, so that the same picture in PNG and in BMP has
            the same one; grey stored as three equal channels counts as grey.
        spectrum: ``(48, 48)`` from ``similarity.spectrum``, None if all pixels are equal.
        shape: ``(H, W)`` or ``(D, H, W)``.
        channels: 1 or 3.
        lowest, highest: values, in the image's unit.
        percentiles: the 1st and the 99th of the values.
        value_range: what the file's encoding can hold, or None.
        spacing: millimetres along each axis, or None if the file does not say.
    """

    digest: str
    spectrum: NDArray[np.float32] | None
    shape: tuple[int, ...]
    channels: int
    lowest: float
    highest: float
    percentiles: tuple[float, float]
    value_range: tuple[float, float] | None
    spacing: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class Looks:
    """All images of a cohort.

    Attributes:
        seen: by case (its position in the cohort) and view.
        refused: the same keys, with the reason, where an image cannot be read.
        files: a number for each file, by case and view; slices of one volume share it.
    """

    seen: Mapping[tuple[int, str], Look]
    refused: Mapping[tuple[int, str], InputRefused]
    files: Mapping[tuple[int, str], int]


def look_at_all(cases: Sequence[Case], track: Track = quiet) -> Looks:
    """Decode every file once.

    Args:
        cases: of the cohort.
        track: shows progress.
    """
    uses: dict[Path, list[Use]] = defaultdict(list)
    for index, case in enumerate(cases):
        for view, path in case.views.items():
            uses[path].append((index, view, case.slice_index))
    seen: dict[tuple[int, str], Look] = {}
    refused: dict[tuple[int, str], InputRefused] = {}
    files = {(index, view): number for number, users in enumerate(uses.values()) for index, view, _ in users}
    with ThreadPoolExecutor(_WORKERS) as pool:
        results = pool.map(_look_at_file, uses, uses.values())
        for users, result in zip(track(list(uses.values()), "Auditing images"), results, strict=True):
            keys = [(index, view) for index, view, _ in users]
            if isinstance(result, InputRefused):
                refused |= dict.fromkeys(keys, result)
            else:
                seen |= dict(zip(keys, result, strict=True))
    return Looks(seen, refused, files)


def look_at(image: Image, slice_index: int | None = None) -> Look:
    """Reduce one image, or one slice of a volume, to what the audit compares.

    Args:
        image: as read.
        slice_index: 0-based position along the first axis of a volume.
    """
    pixels = image.pixels if slice_index is None else image.pixels[:, slice_index]
    if len(pixels) == 3 and (pixels[0] == pixels[1]).all() and (pixels[0] == pixels[2]).all():
        pixels = pixels[:1]
    values = pixels.ravel()[:: max(1, pixels.size // _SAMPLED)].astype(np.float64)
    low, high = np.percentile(values, (1, 99))
    return Look(
        digest=_digest(pixels),
        spectrum=spectrum(_picture(pixels)),
        shape=pixels.shape[1:],
        channels=len(pixels),
        lowest=float(pixels.min()),
        highest=float(pixels.max()),
        percentiles=(float(low), float(high)),
        value_range=image.value_range,
        spacing=image.geometry.spacing,
    )


def _look_at_file(path: Path, uses: Sequence[Use]) -> list[Look] | InputRefused:
    try:
        image = read_image(path)
    except InputRefused as error:
        return error
    return [look_at(image, slice_index) for _, _, slice_index in uses]


def _digest(pixels: Array) -> str:
    header = f"{pixels.dtype.str} {pixels.shape}".encode()
    digest = hashlib.sha256(header)
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


def _picture(pixels: Array) -> Array:
    """``(C, H, W)``: the image itself, or four slices of a volume side by side."""
    if pixels.ndim == 3:
        return pixels
    depth = pixels.shape[1]
    one, two, three, four = (pixels[:, round(share * (depth - 1))] for share in _SHOWN)
    rows = [np.concatenate(pair, axis=2) for pair in ((one, two), (three, four))]
    return np.concatenate(rows, axis=1)
