"""What the audit needs to know of each image, from one pass over the files.

A few hundred bytes of each image stay in memory. The 9 kB of its spectrum do so in small cohorts only; those
of large ones lie in a temporary file (in the folder that ``TMPDIR`` names), which goes with the last array
on it.
"""

from __future__ import annotations

import hashlib
import math
import os
import tempfile
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from foveate.data.audit.similarity import SIDE, Spectra, spectrum
from foveate.errors import InputRefused, RunFailed
from foveate.io.reading import read_image
from foveate.parallel import core_count, read_ahead
from foveate.types import Array, Case, Image, Track, quiet

_WORKERS = min(4, core_count())
_AHEAD = 8 * _WORKERS  # files that are read before the first of them is asked for
_IN_MEMORY = 2**28  # bytes of spectra; more of them go to a file
_SAMPLED = 65_536  # pixels that percentiles are taken of
_SHOWN = (0.2, 0.4, 0.6, 0.8)  # slices that stand for a volume, as shares of its depth
Use = tuple[int, str, int | None]  # case, view, slice


@dataclass(frozen=True, slots=True)
class Look:
    """One image of one case, in numbers.

    Attributes:
        digest: hash of the decoded pixels and their shape, so that the same picture in PNG and in BMP has
            the same one; grey stored as three equal channels counts as grey.
        shape: ``(H, W)`` or ``(D, H, W)``.
        channels: 1 or 3.
        lowest, highest: values, in the image's unit.
        percentiles: the 1st and the 99th of the values.
        value_range: what the file's encoding can hold, or None.
        spacing: millimetres along each axis, or None if the file does not say.
    """

    digest: str
    shape: tuple[int, ...]
    channels: int
    lowest: float
    highest: float
    percentiles: tuple[float, float]
    value_range: tuple[float, float] | None
    spacing: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class Pictures:
    """The different pictures of one view; images of a single value are none.

    Attributes:
        cases: ``(M,)``, for each picture the first case that shows it.
        spectra: ``(M, 48, 48)`` from ``similarity.spectrum``.
        copies: ``(L, 2)``, cases that show the same pixels: the first of them and another one.
    """

    cases: NDArray[np.int64]
    spectra: Spectra
    copies: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Looks:
    """All images of a cohort.

    Attributes:
        seen: by case (its position in the cohort) and view.
        refused: the same keys, with the reason, where an image cannot be read.
        files: a number for each file, by case and view; slices of one volume share it.
        pictures: by view.
    """

    seen: Mapping[tuple[int, str], Look]
    refused: Mapping[tuple[int, str], InputRefused]
    files: Mapping[tuple[int, str], int]
    pictures: Mapping[str, Pictures]


def look_at_all(cases: Sequence[Case], track: Track = quiet) -> Looks:
    """Decode every file once.

    Args:
        cases: of the cohort.
        track: shows progress.

    Raises:
        RunFailed: there is no room for a temporary file.
    """
    uses: dict[Path, list[Use]] = defaultdict(list)
    for index, case in enumerate(cases):
        for view, path in case.views.items():
            uses[path].append((index, view, case.slice_index))
    seen: dict[tuple[int, str], Look] = {}
    refused: dict[tuple[int, str], InputRefused] = {}
    files = {(index, view): number for number, users in enumerate(uses.values()) for index, view, _ in users}
    images = Counter(view for _, view in files)
    pictures = {view: _Gathered(count) for view, count in images.items()}
    results = read_ahead(_look_at_file, uses.items(), _WORKERS, ahead=_AHEAD)
    for users, result in zip(track(list(uses.values()), "Auditing images"), results, strict=True):
        if isinstance(result, InputRefused):
            refused |= {(index, view): result for index, view, _ in users}
            continue
        for (index, view, _), (look, values) in zip(users, result, strict=True):
            seen[index, view] = look
            pictures[view].add(index, look.digest, values)
    return Looks(seen, refused, files, {view: gathered.result() for view, gathered in pictures.items()})


def look_at(image: Image, slice_index: int | None = None) -> tuple[Look, Spectra | None]:
    """Reduce one image, or one slice of a volume, to what the audit compares.

    Args:
        image: as read.
        slice_index: 0-based position along the first axis of a volume.

    Returns:
        The numbers, and the spectrum; None if all pixels are equal.
    """
    pixels = image.pixels if slice_index is None else image.pixels[:, slice_index]
    if len(pixels) == 3 and (pixels[0] == pixels[1]).all() and (pixels[0] == pixels[2]).all():
        pixels = pixels[:1]
    values = pixels.ravel()[:: max(1, pixels.size // _SAMPLED)].astype(np.float64)
    low, high = np.percentile(values, (1, 99))
    look = Look(
        digest=_digest(pixels),
        shape=pixels.shape[1:],
        channels=len(pixels),
        lowest=float(pixels.min()),
        highest=float(pixels.max()),
        percentiles=(float(low), float(high)),
        value_range=image.value_range,
        spacing=image.geometry.spacing,
    )
    return look, spectrum(_picture(pixels))


_Result = list[tuple[Look, Spectra | None]] | InputRefused


def _look_at_file(file: tuple[Path, Sequence[Use]]) -> _Result:
    path, uses = file
    try:
        image = read_image(path)
    except InputRefused as error:
        return error
    return [look_at(image, slice_index) for _, _, slice_index in uses]


class _Gathered:
    """The pictures of a view while they come in."""

    def __init__(self, most: int) -> None:
        self.room = _room(most)
        self.places: dict[str, int] = {}  # of each digest, the first case that has it
        self.copies: list[tuple[int, int]] = []

    def add(self, case: int, digest: str, values: Spectra | None) -> None:
        """Keep a picture, or who shows it again."""
        if values is None:
            return
        first = self.places.setdefault(digest, case)
        if first == case:
            self.room[len(self.places) - 1] = values
        else:
            self.copies.append((first, case))

    def result(self) -> Pictures:
        """All pictures."""
        cases = np.array(list(self.places.values()), dtype=np.int64)
        copies = np.array(self.copies, dtype=np.int64).reshape(-1, 2)
        return Pictures(cases, self.room[: len(cases)], copies)


def _room(count: int) -> Spectra:
    """``(count, 48, 48)`` to be filled: in memory, or, where that is much, in a file without a name."""
    shape = (count, SIDE, SIDE)
    size = 4 * math.prod(shape)
    if size <= _IN_MEMORY:
        return np.empty(shape, np.float32)
    with tempfile.TemporaryFile() as file:
        try:
            if hasattr(os, "posix_fallocate"):  # a full disk is told here, and does not end the process later
                os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            raise RunFailed(
                f"auditing {count} images needs {size / 2**30:.1f} GB of temporary space: {error.strerror}",
                where=tempfile.gettempdir(),
                fix="make room there, or name another folder by the variable TMPDIR",
            ) from None
        return np.asarray(np.memmap(file, np.float32, "r+", shape=shape))


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
