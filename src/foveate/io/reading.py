"""A file becomes an Image. What it is, is told by its content, never by its suffix.

``raster`` reads PNG, JPEG, TIFF and BMP, ``dicom`` and ``series`` read DICOM files and folders, ``nifti``
reads NIfTI; each has its rules in a table at its top. Every input ends as an image, an image with warning
codes (``codes.WARNINGS`` says what each means), or ``InputRefused`` with a code and a way out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from foveate.io.chosen import SIGN, chosen, refuse_choice
from foveate.io.laying import StoredMask
from foveate.io.masks import mask_geometry, stored_mask
from foveate.io.source import MAX_PIXELS, Kind, kind_of, read_source
from foveate.types import Geometry, Image


@dataclass(frozen=True, slots=True)
class Probe:
    """What a header says, without decoding.

    Attributes:
        kind: ``png``, ``jpeg``, ``tiff``, ``bmp``, ``dicom``, ``dicom-series`` or ``nifti``.
        channels: 1 or 3.
        geometry: as ``read_image`` will give it; of PNG, JPEG, TIFF and BMP the shape alone.
    """

    kind: Kind
    channels: int
    geometry: Geometry

    @property
    def shape(self) -> tuple[int, ...]:
        """Spatial, ``(H, W)`` or ``(D, H, W)``."""
        return self.geometry.shape


def read_image(path: Path | str, *, max_pixels: int = MAX_PIXELS) -> Image:
    """Read an image or volume.

    Args:
        path: a file, a folder that holds the slices of one DICOM series, or a list of them (``listed``);
            where these hold several volumes, ``#`` and which (``chosen``).
        max_pixels: most pixels that a header may declare before anything is allocated.

    Returns:
        ``(C, H, W)`` or ``(C, D, H, W)`` pixels with geometry, hash and warning codes.

    Raises:
        InputRefused: the input cannot be used; says why, where and what to do.
    """
    path, volume = chosen(Path(path))
    image = _read(path, kind_of(path), max_pixels, volume=volume)
    return replace(image, source=f"{path}{SIGN}{volume}") if volume else image


def read_mask(path: Path | str, segment: str = "", *, max_pixels: int = MAX_PIXELS) -> StoredMask:
    """Read a mask, for its ``over`` to lay it over an image: marked where the stored value is not zero.

    In a JPEG, whose compression smears edges, inside is above 127. EXIF orientation is applied as in images;
    what is transparent is outside. SEG, label maps and RTSTRUCT are read as well.

    Args:
        path: as for ``read_image``.
        segment: which of several things that are marked: the name or number of a segment (SEG, RTSTRUCT), the
            value of a label map (all other files), or ``*`` for all of them together.
        max_pixels: as for ``read_image``.

    Raises:
        InputRefused: as ``read_image``; or there is no such segment, or several and none is named.
    """

    whole, volume = chosen(Path(path))

    def read(file: Path, kind: Kind, stored: bool) -> Image:
        return _read(file, kind, max_pixels, stored=stored, volume=volume)

    return stored_mask(whole, segment, max_pixels, read)


def probe_mask(path: Path | str, *, whole: bool = True) -> Geometry | None:
    """Where a mask lies, from headers alone; None for SEG and RTSTRUCT, which are placed over an image.

    Args:
        path: as for ``read_mask``.
        whole: as for ``probe``.

    Raises:
        InputRefused: for whatever the header already shows that ``read_mask`` would refuse.
    """
    return mask_geometry(chosen(Path(path))[0], lambda _: probe(path, whole=whole).geometry)


def probe(path: Path | str, *, whole: bool = True) -> Probe:
    """Tell what a path holds from headers alone.

    Args:
        path: as for ``read_image``.
        whole: false takes a DICOM file whose end is missing for what its header says. A manifest does: one
            damaged file among many is for whoever reads it to refuse, and leaves the others whole.

    Raises:
        InputRefused: for whatever the header already shows that ``read_image`` would refuse.
    """
    path, volume = chosen(Path(path))
    kind = kind_of(path)
    geometry, channels = _probe(path, kind, volume, whole)
    return Probe(kind, channels, geometry)


# The libraries of a kind are imported with its first file: pydicom and nibabel take longer than a picture.


def _probe(path: Path, kind: Kind, volume: str, whole: bool) -> tuple[Geometry, int]:
    """Geometry and channels."""
    if kind == "dicom-series":
        from foveate.io.series import probe_series

        return probe_series(path, MAX_PIXELS, volume, whole=whole)
    if kind == "dicom":
        from foveate.io.dicom import probe_dicom

        return probe_dicom(path, MAX_PIXELS, volume, whole=whole)
    if kind == "nifti":
        from foveate.io.nifti import probe_nifti

        return probe_nifti(path, MAX_PIXELS, volume)
    from foveate.io.raster import probe_raster

    refuse_choice(volume, str(path))
    shape, channels = probe_raster(path, kind, MAX_PIXELS)
    return Geometry(shape), channels


def _read(path: Path, kind: Kind, max_pixels: int, *, stored: bool = False, volume: str = "") -> Image:
    if kind == "dicom-series":
        from foveate.io.series import read_series

        return read_series(path, max_pixels, stored=stored, volume=volume)
    source = read_source(path, kind)
    if kind == "dicom":
        from foveate.io.dicom import read_dicom

        return read_dicom(source, max_pixels, stored=stored, volume=volume)
    if kind == "nifti":
        from foveate.io.nifti import read_nifti

        return read_nifti(source, max_pixels, stored=stored, volume=volume)
    from foveate.io.raster import read_raster

    refuse_choice(volume, str(path))
    return read_raster(source, max_pixels)
