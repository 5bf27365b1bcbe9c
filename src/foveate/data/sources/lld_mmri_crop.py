"""The region of interest around a lesion, cut as the LLD-MMRI2023 challenge does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from foveate.errors import InputRefused
from foveate.io.nifti import write_nifti
from foveate.io.reading import read_image
from foveate.types import Geometry


@dataclass(frozen=True, slots=True)
class Lesion:
    """One lesion in one phase.

    Attributes:
        case: name of the case that it makes.
        phase: as the annotation names it.
        volume: NIfTI file.
        category: class, by number or name.
        box: ``x_min`` … ``z_max``, array indices, both ends inside.
    """

    case: str
    phase: str
    volume: Path
    category: Any
    box: Mapping[str, float]


def crop_lesion(
    lesion: Lesion, folder: Path, margin: tuple[int, int], variant: Literal["corrected", "paper"]
) -> Path:
    """Cut a lesion out with a margin, and write it with the affine of its place.

    The box grows by ``margin[0]`` pixels in x and y and ``margin[1]`` slices in z. In the plane, what lies
    outside the image is zero; in z the region ends with the volume.

    NOTE[DIFF]: ``variant="paper"`` is the published script: it compares the limits of x with the number of
    rows and those of y with the number of columns. On non-square slices a region at the right or lower border
    then is padded although the image goes on, or is cut short. ``corrected`` compares each with its own axis.

    Args:
        lesion: what to cut.
        folder: ``<case>/<Phase>.nii.gz`` is written below it.
        margin: in pixels and in slices.
        variant: see above.

    Raises:
        InputRefused: the volume cannot be read, or the box leaves it along z.
    """
    image = read_image(lesion.volume)
    depth, rows, columns = image.geometry.shape
    (x0, x1), (y0, y1), (z0, z1) = (
        (round(lesion.box[f"{axis}_min"]), round(lesion.box[f"{axis}_max"])) for axis in "xyz"
    )
    if not 0 <= z0 <= z1 < depth:
        raise InputRefused(
            f"its box ends at slice {z1}, the volume has {depth}",
            where=str(lesion.volume),
            code="box-outside",
        )
    wide, tall = (rows, columns) if variant == "paper" else (columns, rows)
    z = slice(max(z0 - margin[1], 0), min(z1 + margin[1], depth - 1) + 1)
    x = _Reach(x0 - margin[0], x1 + margin[0] + 1, wide)
    y = _Reach(y0 - margin[0], y1 + margin[0] + 1, tall)
    region = np.pad(image.pixels[0, z, y.inside, x.inside], ((0, 0), y.padding, x.padding))
    start = (z.start, y.inside.start - y.padding[0], x.inside.start - x.padding[0])
    path = folder / lesion.case / f"{lesion.phase}.nii.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_nifti(path, region, _moved(image.geometry, start, region.shape))
    return path


@dataclass(frozen=True, slots=True)
class _Reach:
    """A range of indices, part of which may lie outside ``[0, size)``."""

    start: int
    stop: int
    size: int

    @property
    def inside(self) -> slice:
        """The indices that exist."""
        return slice(max(self.start, 0), max(min(self.stop, self.size), 0))

    @property
    def padding(self) -> tuple[int, int]:
        """How many lie before the first and after the last."""
        return max(-self.start, 0), max(self.stop - self.size, 0)


def _moved(geometry: Geometry, start: tuple[int, ...], shape: tuple[int, ...]) -> Geometry:
    """The geometry of a region that starts at an index of the whole."""
    affine = geometry.affine
    if affine is not None:
        affine = affine.copy()
        affine[:3, 3] += affine[:3, :3] @ np.array(start, dtype=float)
    return Geometry(shape, geometry.spacing, affine, geometry.orientation)
