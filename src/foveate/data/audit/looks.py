"""What the audit needs to know of each image, from one pass over the files.

A few hundred bytes of each image stay in memory. The 9 kB of its spectrum do so in small cohorts only; those
of large ones lie in a temporary file (in the folder that ``TMPDIR`` names), which goes with the last array
on it.
"""

from __future__ import annotations

import functools
import hashlib
import math
import os
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from foveate.data.audit.similarity import SIDE, Spectra, spectrum
from foveate.errors import InputRefused, RunFailed
from foveate.io.laying import MaskGrid, StoredMask
from foveate.io.reading import read_image, read_mask
from foveate.parallel import core_count, read_ahead
from foveate.types import Array, Case, Geometry, Image, Track, quiet

_WORKERS = min(4, core_count())
_AHEAD = 8 * _WORKERS  # files that are read before the first of them is asked for
_IN_MEMORY = 2**28  # bytes of spectra; more of them go to a file
_SAMPLED = 65_536  # pixels that percentiles are taken of
_SHOWN = (0.2, 0.4, 0.6, 0.8)  # slices that stand for a volume, as shares of its depth
_PLANES = ("sagittal", "coronal", "axial")  # whose normal leads to the side, to the front, up
_ALONG = 0.9  # cosine of 25°
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
        unit: ``HU`` or ``stored``.
        orientation: direction in which each axis grows, see ``Geometry``; None if unknown.
        plane: that slices lie in, ``axial``, ``coronal``, ``sagittal`` or ``oblique``; empty if unknown.
        facts: what the header says of how it was taken, see ``Image``.
        warnings: codes of what the reader noticed and tolerated.
    """

    digest: str
    shape: tuple[int, ...]
    channels: int
    lowest: float
    highest: float
    percentiles: tuple[float, float]
    value_range: tuple[float, float] | None
    spacing: tuple[float, ...] | None = None
    unit: str = "stored"
    orientation: tuple[str, ...] | None = None
    plane: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def acquisition(self) -> dict[str, str]:
        """How it lies and was taken, as text by name; what is not known is left out."""
        lies = {"orientation": "".join(reversed(self.orientation or ())), "plane": self.plane}
        told = {**lies, "unit": self.unit if self.unit != "stored" else "", **self.facts}
        return {name: text for name, text in told.items() if text}


@dataclass(frozen=True, slots=True)
class MaskLook:
    """What a mask marks in its image.

    Attributes:
        share: of the image that is marked.
        how: it was laid over the image, see ``LaidMask``.
        warnings: codes of what the reader noticed and tolerated.
        refused: why it cannot be read or laid on; None if it can.
    """

    share: float = 0.0
    how: str = ""
    warnings: tuple[str, ...] = ()
    refused: InputRefused | None = None


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
        masks: by case and column (``mask``, ``organ_mask``), where they were asked for.
    """

    seen: Mapping[tuple[int, str], Look]
    refused: Mapping[tuple[int, str], InputRefused]
    files: Mapping[tuple[int, str], int]
    pictures: Mapping[str, Pictures]
    masks: Mapping[tuple[int, str], MaskLook] = field(default_factory=dict)


def look_at_all(cases: Sequence[Case], track: Track = quiet, *, masks: MaskGrid | None = None) -> Looks:
    """Decode every image once, and lay its masks over it.

    Args:
        cases: of the cohort.
        track: shows progress.
        masks: how masks meet images; None leaves them out.

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
    marks: dict[tuple[int, str], MaskLook] = {}
    look = functools.partial(_look_at_file, cases, masks)
    results = read_ahead(look, uses.items(), _WORKERS, ahead=_AHEAD)
    for users, result in zip(track(list(uses.values()), "Auditing images"), results, strict=True):
        if isinstance(result, InputRefused):
            refused |= {(index, view): result for index, view, _ in users}
            continue
        for (index, view, _), (own, values) in zip(users, result.looks, strict=True):
            seen[index, view] = own
            pictures[view].add(index, own.digest, values)
        for key, mask in result.masks:  # of several views it may lie on one only
            if key not in marks or marks[key].refused is not None:
                marks[key] = mask
    found = {view: gathered.result() for view, gathered in pictures.items()}
    return Looks(seen, refused, files, found, marks)


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
        unit=image.unit,
        orientation=_axes(image.geometry, pixels.ndim - 1),
        plane=plane_of(image.geometry),
        facts=image.facts,
        warnings=image.warnings,
    )
    return look, spectrum(_picture(pixels))


def plane_of(geometry: Geometry) -> str:
    """Plane that slices lie in: ``axial``, ``coronal``, ``sagittal``, ``oblique``, or nothing if unknown.

    Oblique are slices whose normal is more than 25° away from all three axes of the body.
    """
    if geometry.affine is None:
        return ""
    normal = np.abs(np.cross(geometry.affine[:3, 1], geometry.affine[:3, 2]))
    normal = normal / np.linalg.norm(normal)
    axis = int(normal.argmax())
    return _PLANES[axis] if normal[axis] > _ALONG else "oblique"


def _axes(geometry: Geometry, dimensions: int) -> tuple[str, ...] | None:
    return None if geometry.orientation is None else geometry.orientation[-dimensions:]


@dataclass(frozen=True, slots=True)
class _FileLook:
    """What one file showed: a look for each of its uses, and the masks that lie over it."""

    looks: Sequence[tuple[Look, Spectra | None]]
    masks: Sequence[tuple[tuple[int, str], MaskLook]]


def _look_at_file(
    cases: Sequence[Case], grid: MaskGrid | None, file: tuple[Path, Sequence[Use]]
) -> _FileLook | InputRefused:
    path, uses = file
    try:
        image = read_image(path)
    except InputRefused as error:
        return error
    looks = [look_at(image, slice_index) for _, _, slice_index in uses]
    read = functools.cache(read_mask)  # the slices of a volume share one
    found = []
    for index, _, slice_index in uses if grid is not None else ():
        case = cases[index]
        for column, mask, segment in (
            ("mask", case.mask, case.mask_segment),
            ("organ_mask", case.organ_mask, case.organ_mask_segment),
        ):
            if mask is not None:
                laid = _look_at_mask(read, mask, segment, image.geometry, slice_index, grid or "same")
                found.append(((index, column), laid))
    return _FileLook(looks, found)


def _look_at_mask(
    read: Callable[[Path, str], StoredMask],
    path: Path,
    segment: str,
    image: Geometry,
    slice_index: int | None,
    grid: MaskGrid,
) -> MaskLook:
    try:
        stored = read(path, segment)
        laid = stored.over(image, slice_index, grid=grid)
    except InputRefused as error:
        return MaskLook(refused=error)
    return MaskLook(float(laid.inside.mean()), laid.how, stored.warnings)


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
