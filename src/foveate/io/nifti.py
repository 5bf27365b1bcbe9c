"""NIfTI-1 and NIfTI-2 files, plain or gzipped, become volumes in our array order, and back.

NIfTI numbers voxels (i, j, k) with i fastest; our arrays are ``(D, H, W)`` = (k, j, i), and the affine's
columns are exchanged with them.

| in the file | becomes |
|---|---|
| three axes, or more whose further ones have length 1 | ``(1, D, H, W)`` |
| two axes | ``(1, H, W)`` |
| four or more axes longer than 1 | the volume that the path chooses (``chosen``), else refused |
| ``scl_slope``, ``scl_inter`` other than 1 and 0 (a slope of 0 means none) | float32 |
| integers and floats without scaling | as stored, in native byte order |
| RGB24 | C = 3, 8-bit |
| complex, RGBA and 128-bit numbers | refused |
| sform, else qform | the affine, RAS+, millimetres (metres and micrometres are converted) |
| an sform at odds with the qform, or with ``pixdim`` | the sform is taken, code ``nifti-sform-taken`` |
| neither | spacing from ``pixdim``, no affine, code ``nifti-without-affine`` |
| NaN or infinite voxels | refused with their number |
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from foveate.errors import InputRefused
from foveate.files import write_atomic
from foveate.io.chosen import SIGN, chosen
from foveate.io.masks import RESCALED
from foveate.io.source import MAX_BYTES, ImageSource, check_finite, check_pixels, decoding, kind_of
from foveate.io.stack import geometry_of
from foveate.types import Array, Geometry, Image

_TO_MM = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 1e-3}  # xyzt_units: unknown, metre, millimetre, micrometre
_FLIP = [2, 1, 0, 3]  # (i, j, k, 1) ↔ (k, j, i, 1)
_PLACE = (
    *("sform_code", "srow_x", "srow_y", "srow_z", "qform_code", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z"),
)
_ODDS = 0.1  # voxels by which transforms may differ at a corner of the image: rounding stays far below
_SQUARE = 1e-4  # cosine between two axes; ITK refuses transforms that are off by more
_MOST_INFLATION = 1032  # bytes that one byte of DEFLATE can become


@dataclass(frozen=True, slots=True)
class VolumeLayout:
    """What a NIfTI header declares.

    Attributes:
        shape: spatial, in our order.
        dtype: of a stored voxel; a triple of bytes for RGB24.
        offset: bytes before the first voxel of the volume,
        end: and before what follows the last one of all volumes.
        slope, intercept: of the stored values; 1 and 0 if there is no scaling.
        geometry: as in ``types.Image``.
        disputed: whether the sform says something else than the qform or ``pixdim``.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int
    end: int
    slope: float
    intercept: float
    geometry: Geometry
    disputed: bool

    @property
    def channels(self) -> int:
        """3 for RGB24, else 1."""
        return 3 if self.dtype.fields else 1


def read_nifti(source: ImageSource, max_pixels: int, *, stored: bool = False, volume: str = "") -> Image:
    """Read a NIfTI file: ``(C, D, H, W)``, or ``(C, H, W)`` if it has two axes.

    Args:
        source: the file.
        max_pixels: most that it may declare.
        stored: leave values as they are stored, as masks are read.
        volume: number of one of several volumes, from 0 on; the first of the further axes runs fastest.

    Raises:
        InputRefused: it is damaged or truncated, or has axes or numbers without a rule.
    """
    with decoding(source.name, "nifti") as codes:
        stream: Any = source.stream()
        room = len(source.data)
        if source.data[:2] == b"\x1f\x8b":
            stream, room = gzip.GzipFile(fileobj=stream), room * _MOST_INFLATION
        layout = _layout(stream, source.name, max_pixels, volume)
        if stored and (layout.slope, layout.intercept) != (1.0, 0.0):
            codes.append(RESCALED)
            layout = replace(layout, slope=1.0, intercept=0.0)
        size = prod(layout.shape) * layout.dtype.itemsize
        if layout.offset + size > room:
            raise _truncated(layout.offset + size, source.name)
        stream.seek(layout.offset)
        data = stream.read(size)
        if len(data) < size:
            raise _truncated(layout.offset + size, source.name)
        stream.seek(layout.end)
        if stream.read(1):  # also makes gzip compare its checksum
            codes.append("trailing-bytes-ignored")
        pixels = _values(np.frombuffer(data, layout.dtype).reshape(layout.shape), layout, source.name)
        if layout.geometry.affine is None:
            codes.append("nifti-without-affine")
        if layout.disputed:
            codes.append("nifti-sform-taken")
    eight_bit = pixels.dtype == np.uint8
    return Image(
        pixels=pixels,
        geometry=layout.geometry,
        source=source.name,
        sha256=source.sha256,
        value_range=(0.0, 255.0) if eight_bit else None,
        warnings=tuple(codes),
    )


def probe_nifti(path: Path, max_pixels: int, volume: str = "") -> tuple[Geometry, int]:
    """Geometry and channels, from the header only."""
    with decoding(str(path), "nifti"), path.open("rb") as stream:
        zipped = stream.read(2) == b"\x1f\x8b"
        stream.seek(0)
        whole = gzip.GzipFile(fileobj=stream) if zipped else stream
        layout = _layout(whole, str(path), max_pixels, volume)
    return layout.geometry, layout.channels


def write_nifti(path: Path, values: Array, geometry: Geometry, *, like: Path | None = None) -> None:
    """Write a mask or heat map in the geometry of its image; gzipped if the name ends in ``.gz``.

    Readers differ in which of NIfTI's two transforms they take, and ITK takes the voxel size from ``pixdim``
    whatever they say. So that every reader lays a map over its image, it gets all of them from the image's
    own header. Where there is none and slices lean (gantry tilt), the sform leans with them, which ITK
    refuses to read; the qform beside it stands upright as ITK itself makes it of such a DICOM series: the
    first slice in its place, the others perpendicularly above it.

    Args:
        path: written under a temporary name first; the same input gives the same bytes.
        values: ``(D, H, W)`` or ``(H, W)``; bool is stored as uint8.
        geometry: of the image that ``values`` belong to.
        like: the image's own file; another kind than NIfTI adds nothing.

    Raises:
        ValueError: the shapes differ.
    """
    if values.shape != geometry.shape:
        raise ValueError(f"values of shape {values.shape} for an image of shape {geometry.shape}")
    numbers = values.astype(np.uint8) if values.dtype == np.bool_ else values
    affine = None if geometry.affine is None else geometry.affine[:, _FLIP]
    image = nibabel.Nifti1Image(numbers.T, affine, dtype=numbers.dtype)
    image.header.set_xyzt_units("mm")
    if (own := _header_of(like)) is not None and _placed_like(image.header, own, numbers.ndim):
        pass
    elif affine is not None:
        image.set_sform(affine, code="scanner")
        upright = _upright(affine)
        image.set_qform(upright, code="unknown" if upright is None else "aligned")
    elif geometry.spacing is not None:
        image.header.set_zooms(geometry.spacing[::-1])
    data = image.to_bytes()
    write_atomic(path, gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)


def _header_of(path: Path | None) -> Any:
    """The NIfTI header of a file; None where it is of another kind."""
    path = None if path is None else chosen(path)[0]
    if path is None or not path.is_file() or kind_of(path) != "nifti":
        return None
    with path.open("rb") as stream:
        zipped = stream.read(2) == b"\x1f\x8b"
        stream.seek(0)
        return _header(gzip.GzipFile(fileobj=stream) if zipped else stream, str(path))


def _placed_like(header: Any, own: Any, dimensions: int) -> bool:
    """Copy both transforms, voxel sizes and units; not for an image that has another shape."""
    if own["dim"][1 : dimensions + 1].tolist() != header["dim"][1 : dimensions + 1].tolist():
        return False
    for name in _PLACE:
        header[name] = own[name]
    header["pixdim"][: dimensions + 1] = own["pixdim"][: dimensions + 1]
    header.set_xyzt_units(own.get_xyzt_units()[0])
    return True


def _upright(affine: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """The same grid with its slices perpendicularly above the first; None where they are already."""
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    if np.abs(axes.T @ axes - np.eye(3)).max() < _SQUARE:
        return None
    normal = np.cross(axes[:, 0], axes[:, 1])
    side = np.sign(normal @ axes[:, 2]) or 1.0
    upright: NDArray[np.float64] = affine.copy()
    upright[:3, 2] = side * normal / np.linalg.norm(normal) * np.linalg.norm(affine[:3, 2])
    return upright


def _header(stream: Any, where: str) -> Any:
    """The header at the beginning of a file, as nibabel reads it."""
    block = stream.read(348)
    second = 540 in (int.from_bytes(block[:4], "little"), int.from_bytes(block[:4], "big"))
    kind = nibabel.Nifti2Header if second else nibabel.Nifti1Header
    block += stream.read(540 - 348) if second else b""
    if len(block) < (540 if second else 348):
        raise _truncated(352, where)
    return kind(block, check=False)


def _layout(stream: Any, where: str, max_pixels: int, volume: str) -> VolumeLayout:
    """Parse the header, and refuse what has no rule before anything is allocated."""
    header = _header(stream, where)
    shape, volumes = _spatial_shape(header, where)
    number = _number_of(volume, volumes, where) if volume else 0
    if volumes != 1 and not volume:
        raise _several(header, volumes, where)
    check_pixels(shape, max_pixels, where)
    offset, dtype = _offset(header, where), _dtype(header, where)
    size = prod(shape) * dtype.itemsize
    slope, intercept = header.get_slope_inter()
    return VolumeLayout(
        shape=shape,
        dtype=dtype,
        offset=offset + number * size,
        end=offset + volumes * size,
        slope=1.0 if slope is None else slope,
        intercept=0.0 if slope is None else intercept,
        geometry=_geometry(header, shape, where),
        disputed=_disputed(header, shape),
    )


def _sizes(header: Any) -> list[int]:
    count = int(header["dim"][0])
    return [int(size) for size in header["dim"][1 : count + 1]] if 1 <= count <= 7 else []


def _spatial_shape(header: Any, where: str) -> tuple[tuple[int, ...], int]:
    """Shape of a volume in our order, and how many there are."""
    sizes = _sizes(header)
    if len(sizes) < 2 or min(sizes[3:], default=1) < 1:
        raise _several(header, 0, where)
    return tuple(reversed(sizes[:3])), prod(sizes[3:])


def _several(header: Any, volumes: int, where: str) -> InputRefused:
    """That the axes are not those of one image."""
    apart = "write each volume to a file of its own, for instance with `fslsplit`"
    choice = f"choose one of {volumes} volumes behind the path, {SIGN}0 to {SIGN}{volumes - 1}; or {apart}"
    return InputRefused(
        f"the axes have lengths {' × '.join(map(str, _sizes(header))) or 'none'}; one image has two or three",
        where=where,
        fix=choice if volumes > 1 else apart,
        code="nifti-axes",
    )


def _number_of(volume: str, volumes: int, where: str) -> int:
    if not volume.isdecimal() or int(volume) >= volumes:
        raise InputRefused(
            f"'{SIGN}{volume}' chooses none of {volumes} volumes",
            where=where,
            fix=f"write {SIGN}0 to {SIGN}{volumes - 1}" if volumes > 1 else f"leave out {SIGN}{volume}",
            code="no-such-volume",
        )
    return int(volume)


def _dtype(header: Any, where: str) -> np.dtype[Any]:
    dtype: np.dtype[Any] = header.get_data_dtype()
    if (dtype.kind not in "iuf" and dtype.names != ("R", "G", "B")) or dtype.itemsize > 8:
        raise InputRefused(
            f"voxels of type {dtype.names or dtype} have no rule",
            where=where,
            fix="convert the voxels to integers, float32 or RGB24",
            code="nifti-datatype",
        )
    return dtype


def _offset(header: Any, where: str) -> int:
    offset = float(header["vox_offset"])
    least = int(header["sizeof_hdr"]) + 4
    if not least <= offset <= MAX_BYTES:
        raise InputRefused(
            f"the voxels cannot start at byte {offset:g}",
            where=f"{where}, field vox_offset",
            fix="write the file again",
            code="damaged-nifti",
        )
    return int(offset)


def _geometry(header: Any, shape: tuple[int, ...], where: str) -> Geometry:
    millimetres = _TO_MM.get(int(header["xyzt_units"]) % 8, 1.0)
    if header["sform_code"] <= 0 and header["qform_code"] <= 0:
        zooms = np.abs(header["pixdim"][1 : len(shape) + 1][::-1].astype(np.float64)) * millimetres
        known = bool(np.isfinite(zooms).all() and (zooms > 0).all())
        return Geometry(shape, tuple(zooms.tolist()) if known else None)
    stored = header.get_sform() if header["sform_code"] > 0 else header.get_qform()
    affine = np.asarray(stored, dtype=np.float64)[:, _FLIP]
    affine[:3] *= millimetres
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise InputRefused(
            "the affine is singular or not finite",
            where=f"{where}, field srow or quatern",
            fix="write the file again with a valid affine",
            code="bad-affine",
        )
    volume = geometry_of(affine, (1, *shape)[-3:])
    if len(shape) == 3 or volume.spacing is None or volume.orientation is None:
        return volume
    return Geometry(shape, volume.spacing[1:], affine, volume.orientation[1:])


def _disputed(header: Any, shape: tuple[int, ...]) -> bool:
    """Whether the qform, or the voxel size where there is none, is at odds with the sform."""
    if header["sform_code"] <= 0:
        return False
    sform = np.asarray(header.get_sform(), dtype=np.float64)
    steps = np.linalg.norm(sform[:3, :3], axis=0)
    if header["qform_code"] <= 0:
        sizes = np.abs(header["pixdim"][1 : len(shape) + 1].astype(np.float64))
        return bool((np.abs(sizes - steps[: len(shape)]) > _ODDS * steps[: len(shape)]).any())
    try:
        qform = np.asarray(header.get_qform(), dtype=np.float64)
    except (ValueError, HeaderDataError):
        return True
    sides = np.array([*reversed(shape), 1][:3]) - 1
    corners = np.array([[i, j, k, 1] for i in (0, sides[0]) for j in (0, sides[1]) for k in (0, sides[2])])
    away = np.linalg.norm((corners @ (qform - sform).T)[:, :3], axis=1)
    return not bool((away < _ODDS * steps.min()).all())  # NaN is at odds too


def _values(stored: Array, layout: VolumeLayout, where: str) -> Array:
    """``(C, *shape)`` in native byte order, scaled and finite."""
    if layout.channels == 3:
        return np.ascontiguousarray(np.stack([stored[name] for name in ("R", "G", "B")]))
    pixels = stored.astype(stored.dtype.newbyteorder("="))
    if (layout.slope, layout.intercept) != (1.0, 0.0):
        pixels = (pixels.astype(np.float64) * layout.slope + layout.intercept).astype(np.float32)
    check_finite(pixels, where)
    return pixels[None]


def _truncated(needed: int, where: str) -> InputRefused:
    return InputRefused(
        f"the file ends before byte {needed:,}, up to which its header declares voxels",
        where=where,
        fix="fetch or write the file again",
        code="truncated-nifti",
    )
