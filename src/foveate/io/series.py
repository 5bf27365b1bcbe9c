"""A folder of DICOM slices becomes one volume, whatever its files are called.

Slices are ordered by Image Position along the common normal, never by name or Instance Number. Anything that
makes the order or the geometry doubtful is refused with the files named: several series, mixed orientation,
spacing, size or encoding, two slices in one place, a gap.

Files that are no DICOM images (``DICOMDIR``, hidden files, a README, reports, presentation states) are left
out with the code ``other-files-ignored``, subfolders with ``subfolders-ignored``.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.config import disable_value_validation

from foveate.errors import InputRefused
from foveate.io.dicom import (
    facts_in,
    holds_image,
    parse,
    pixel_header,
    plane_of,
    probe_dicom,
    read_dicom,
    tiling_of,
)
from foveate.io.dicom_frames import PixelHeader, check_pixel_element, require_pixels
from foveate.io.dicom_pixels import Values, channels, check_readable, read_values
from foveate.io.dicom_volumes import naming_choices, picked
from foveate.io.listed import listed_files
from foveate.io.padding import darkened
from foveate.io.source import Kind, check_bytes, check_pixels, decoding, kind_of, read_source
from foveate.io.stack import listing, stack_planes
from foveate.io.stored import as_stored
from foveate.types import Array, Geometry, Image

_NOT_SLICES = ("not-an-image", "unsupported-format", "not-a-regular-file", "symlink-loop", "not-found")


@dataclass(frozen=True, slots=True)
class Slice:
    """One file of a series.

    Attributes:
        path: the file.
        dataset: parsed, with or without pixels.
        header: what it says of its pixels.
        digest: SHA-256 of the file; empty where only the header was read.
    """

    path: Path
    dataset: Dataset
    header: PixelHeader
    digest: bytes


def read_series(folder: Path, max_pixels: int, *, stored: bool = False, volume: str = "") -> Image:
    """Read a folder that holds one series, or the files of a list (see ``listed``): ``(C, D, H, W)``.

    With ``stored`` values stay as they are stored, as masks are read; ``volume`` chooses one of several (see
    ``chosen``). The hash is the SHA-256 over the
    SHA-256 digests of the slice files in slice order.

    Raises:
        InputRefused: the folder holds no DICOM image, or its slices do not make one volume.
    """
    where = str(folder)
    with decoding(where, "dicom-series") as codes, disable_value_validation():
        slices, volume = _of_volume(list(_read_slices(folder, codes, stored=stored)), volume, where)
        if _is_one_volume_file(slices, where):
            image = read_dicom(read_source(slices[0].path, "dicom"), max_pixels, stored=stored, volume=volume)
            return replace(image, source=where, warnings=(*codes, *image.warnings))
        order, geometry = _check(slices, where, max_pixels, codes)
        slices = [slices[index] for index in order]
        values = [_read_values(each, codes) for each in slices]
        _refuse_mixed([each.path.name for each in slices], [each.unit for each in values], "unit", where)
        pixels, share = darkened(*_together(values), codes)
    ranges = {each.value_range for each in values}
    return Image(
        pixels=pixels,
        geometry=geometry,
        source=where,
        sha256=hashlib.sha256(b"".join(each.digest for each in slices)).hexdigest(),
        unit=values[0].unit,
        value_range=ranges.pop() if len(ranges) == 1 else None,
        warnings=tuple(dict.fromkeys(codes)),
        padding_share=share,
        facts=facts_in(slices[0].dataset),
    )


def probe_series(
    folder: Path, max_pixels: int, volume: str = "", *, whole: bool = True
) -> tuple[Geometry, int]:
    """Geometry ``(D, H, W)`` and channels of a series, from headers only, with every check on them."""
    where = str(folder)
    with decoding(where, "dicom-series") as codes, disable_value_validation():
        slices, volume = _of_volume(
            list(_read_slices(folder, codes, header_only=True, whole=whole)), volume, where
        )
        if _is_one_volume_file(slices, where):
            return probe_dicom(slices[0].path, max_pixels, volume, whole=whole)
        order, geometry = _check(slices, where, max_pixels, codes)
        return geometry, channels(slices[order[0]].dataset, slices[order[0]].header, where)


def _read_slices(
    folder: Path, codes: list[str], *, header_only: bool = False, stored: bool = False, whole: bool = True
) -> Iterator[Slice]:
    """Read every DICOM image that lies directly in a folder, by name (only so that errors repeat)."""
    total = 0
    for path in _dicom_files(folder, codes):
        total += path.stat().st_size
        check_bytes(total, str(folder))
        with decoding(str(path), "dicom") as found:
            source = None if header_only else read_source(path, "dicom")
            with path.open("rb") if source is None else source.stream() as stream:
                dataset = parse(stream, str(path), found, header_only=header_only)
                if not holds_image(dataset):
                    codes.append("other-files-ignored")
                    continue
                if stored:
                    as_stored(dataset, found)
                header = pixel_header(dataset, str(path))
                check_readable(header, str(path))
                if source is None:
                    check_pixel_element(stream, header, str(path), whole=whole)
            if source is not None:
                require_pixels(dataset, str(path))
        digest = b"" if source is None else bytes.fromhex(source.sha256)
        codes.extend(found)
        yield Slice(path, dataset, header, digest)


def _dicom_files(folder: Path, codes: list[str]) -> Iterator[Path]:
    """DICOM files directly in a folder, or of a list; notes what else lies there."""
    if not folder.is_dir():
        yield from listed_files(folder)
        return
    for path in sorted(folder.iterdir()):
        kind = _kind_or_none(path, codes)
        if kind == "dicom":
            yield path
        elif kind == "dicom-series":
            codes.append("subfolders-ignored")
        else:
            codes.append("other-files-ignored")


def _kind_or_none(path: Path, codes: list[str]) -> Kind | None:
    try:
        return kind_of(path)
    except InputRefused as refusal:
        if refusal.code == "empty-file":
            codes.append("empty-files-ignored")
        elif refusal.code not in _NOT_SLICES:
            raise
    return None


def _of_volume(slices: list[Slice], volume: str, where: str) -> tuple[list[Slice], str]:
    """The slices of the volume that was chosen, and what is left to choose inside the file if it is one."""
    if not volume or len(slices) == 1:
        return slices, volume
    datasets = [(each.dataset, 0) for each in slices]
    planes = [plane_of(each.dataset, 0, each.path.name) for each in slices]
    return [slices[place] for place in picked(volume, datasets, planes, where)], ""


def _is_one_volume_file(slices: Sequence[Slice], where: str) -> bool:
    """Whether the only image is a volume, or a slide of tiles; several are refused."""
    whole = [each for each in slices if _is_whole(each)]
    if not whole:
        return False
    if len(slices) == 1:
        return True
    frames = sorted({each.header.frames for each in whole})
    kinds = f"{' or '.join(map(str, frames))} frames" if frames[-1] > 1 else "tiled into one picture"
    rest = len(slices) - len(whole)
    others = f", beside {rest} single slices" if rest else ""
    raise InputRefused(
        f"the folder holds {len(whole)} files that each hold a whole volume ({kinds}){others}: "
        + listing([each.path.name for each in whole]),
        where=where,
        fix="name one of these files in the manifest, or give each a view of its own",
        code="several-volumes",
    )


def _is_whole(one: Slice) -> bool:
    return one.header.frames > 1 or tiling_of(one.dataset, one.header, str(one.path)) is not None


def _check(
    slices: Sequence[Slice], where: str, max_pixels: int, codes: list[str]
) -> tuple[list[int], Geometry]:
    """Refuse slices that do not make one volume; else their order and geometry."""
    if not slices:
        inside = " directly in it, only subfolders" if "subfolders-ignored" in codes else ""
        raise InputRefused(
            f"the folder holds no DICOM image{inside}",
            where=where,
            fix="give the folder that holds the slices of one series; or, of other images, each file",
            code="no-dicom-in-folder",
        )
    names = [each.path.name for each in slices]
    headers = [each.header for each in slices]
    _refuse_mixed(names, [str(each.dataset.get("SeriesInstanceUID")) for each in slices], "series", where)
    _refuse_mixed(names, [(each.rows, each.columns) for each in headers], "size", where)
    encodings = [(each.samples, each.photometric, each.modality, each.frames) for each in headers]
    _refuse_mixed(names, encodings, "encoding", where)
    first = headers[0]
    check_pixels((len(slices) * first.frames, first.rows, first.columns), max_pixels, where)
    shape = (first.rows, first.columns)
    planes = [plane_of(each.dataset, 0, each.path.name) for each in slices]
    placed = [plane for plane in planes if plane is not None]
    if not placed and len(slices) == 1:  # one radiograph in a folder of its own
        codes.append("slice-step-unknown")
        return [0], Geometry((1, *shape))
    if len(placed) < len(slices):
        known = {plane.name for plane in placed}
        raise _unplaced([name for name in names if name not in known], where)
    try:
        order, geometry, found = stack_planes(placed, shape, where)
    except InputRefused as error:
        raise naming_choices(error, [(each.dataset, 0) for each in slices], placed) from None
    codes.extend(found)
    return order, geometry


def _unplaced(names: Sequence[str], where: str) -> InputRefused:
    return InputRefused(
        f"{len(names)} files do not say where their slice lies: {listing(names)}",
        where=where,
        fix="export them with Image Position, Image Orientation and Pixel Spacing, or name one of the files",
        code="slice-without-position",
    )


def _read_values(one: Slice, codes: list[str]) -> Values:
    with decoding(str(one.path), "dicom") as found:
        values = read_values(one.dataset, one.header, str(one.path), found)
    codes.extend(found)
    return values


def _together(values: Sequence[Values]) -> tuple[Array, NDArray[np.bool_] | None]:
    """Pixels ``(C, D, H, W)`` and padding ``(D, H, W)`` of slices in order."""
    pixels = np.concatenate([each.pixels for each in values], axis=1)
    if all(each.padding is None for each in values):
        return pixels, None
    none = np.zeros((1, *pixels.shape[2:]), dtype=np.bool_)
    return pixels, np.concatenate([none if each.padding is None else each.padding for each in values])


def _refuse_mixed(names: Sequence[str], traits: Sequence[Hashable], what: str, where: str) -> None:
    """Refuse files that are not alike, naming for each kind how many there are and which."""
    kinds = Counter(traits)
    if len(kinds) == 1:
        return
    parties = [
        f"{count} as {kind}: {listing([n for n, t in zip(names, traits, strict=True) if t == kind])}"
        for kind, count in kinds.most_common()
    ]
    raise InputRefused(
        f"the files differ in {what}\n  - " + "\n  - ".join(parties),
        where=where,
        fix="keep one series to a folder, and take localizers and secondary captures out",
        code=f"mixed-{what}",
    )
