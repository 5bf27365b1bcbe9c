"""Focal liver lesions of the phantom, each drawn with the signs by which a radiologist tells it apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from foveate.data.phantoms.ct_anatomy import Anatomy, Field, Grid, Point

VISIBLE = (
    14.0  # least half-height in mm, so that the labelled slices, 20 mm apart at most, all cut the lesion
)
MOSAIC = (75, 20, -55, 45, -30, 60)  # HU above the parenchyma: enhancing nodules, and necrosis between them


@dataclass(frozen=True, slots=True)
class Site:
    """Where a lesion lies and what surrounds it.

    Attributes:
        grid: the voxels.
        centre: of the lesion, mm.
        radii: half-axes z, y, x in mm, before the surface is made uneven.
        surface: ``(D, H, W)`` signed distance in mm to the lesion's surface, negative inside.
        parenchyma, blood: HU of the liver tissue and of its enhanced vessels.
        contrast: factor on every difference from the parenchyma.
    """

    grid: Grid
    centre: Point
    radii: Point
    surface: Field
    parenchyma: float
    blood: float
    contrast: float

    def hu(self, difference: float) -> float:
        """HU of tissue that differs from the parenchyma by so much at contrast 1."""
        return self.parenchyma + self.contrast * difference


def draw_lesion(
    kind: str, grid: Grid, rng: np.random.Generator, anatomy: Anatomy, *, difficulty: float
) -> NDArray[np.bool_]:
    """Paint one lesion into ``anatomy.hu`` and return its exact mask ``(D, H, W)``.

    Args:
        kind: name in ``LESIONS``.
        grid: the voxels of the anatomy.
        rng: source of place, size and pattern.
        anatomy: the patient.
        difficulty: 0 large and plain, 1 small and faint.
    """
    radius = rng.uniform(25, 34) * (1.3 - 0.6 * difficulty)
    radii = (max(VISIBLE, radius * rng.uniform(0.85, 1.1)), radius, radius * rng.uniform(0.85, 1.15))
    centre = _place(grid, rng, anatomy.liver, radius)
    surface = grid.ellipsoid(centre, radii, rng.uniform(0, np.pi))
    surface += UNEVENNESS[kind] * radius * grid.noise(rng, 0.45 * radius)
    surface = np.maximum(surface, anatomy.liver)
    contrast = 1.2 - 0.4 * difficulty
    site = Site(grid, centre, radii, surface, anatomy.parenchyma, anatomy.blood, contrast)
    LESIONS[kind](anatomy.hu, site, rng)
    return np.asarray(surface < 0)


def _place(grid: Grid, rng: np.random.Generator, liver: Field, radius: float) -> Point:
    """A point drawn evenly from the liver's middle slice, where most of the lesion fits in."""
    inside = liver[grid.shape[0] // 2] < 0
    room = ndimage.distance_transform_edt(inside) * grid.spacing[1]
    rows, columns = np.nonzero(room >= min(0.75 * radius, room.max()))
    pick = rng.integers(len(rows))
    return (
        float(rng.uniform(-3, 3)),
        float(grid.y[0, rows[pick], 0]),
        float(grid.x[0, 0, columns[pick]]),
    )


def _cyst(hu: Field, site: Site, rng: np.random.Generator) -> None:
    """Water: near 0 HU, without structure, sharply bordered."""
    site.grid.paint(hu, site.surface, site.hu(rng.uniform(2, 14) - site.parenchyma))


def _fnh(hu: Field, site: Site, rng: np.random.Generator) -> None:
    """Focal nodular hyperplasia: bright and even, with a dark central scar and the spokes of its septa."""
    grid = site.grid
    grid.paint(hu, site.surface, site.hu(rng.uniform(62, 78)))
    scar = grid.column(site.centre[1:], (0.2 * site.radii[1], 0.25 * site.radii[2]), rng.uniform(0, np.pi))
    spokes = rng.integers(4, 7)
    turns = np.linspace(0, 2 * np.pi, spokes, endpoint=False) + rng.uniform(-0.25, 0.25, spokes)
    lean = rng.uniform(-0.3, 0.3, (spokes, 2))
    for turn, (lean_y, lean_x) in zip(turns + rng.uniform(0, np.pi), lean, strict=True):
        way = rng.uniform(0.6, 0.8) * np.array([np.sin(turn), np.cos(turn)])
        scar = np.minimum(scar, _septum(site, way, (lean_y, lean_x)))
    grid.paint(hu, np.maximum(scar, site.surface + 2), site.hu(-40))


def _septum(site: Site, way: NDArray[np.float64], lean: tuple[float, float]) -> Field:
    """Signed distance to an upright sheet from the centre outwards that leans with height."""
    grid, (cz, cy, cx) = site.grid, site.centre
    y, x = grid.y - cy - lean[0] * (grid.z - cz), grid.x - cx - lean[1] * (grid.z - cz)
    end_y, end_x = way[0] * site.radii[1], way[1] * site.radii[2]
    share = np.clip((y * end_y + x * end_x) / (end_y**2 + end_x**2), 0, 1)
    away = np.sqrt((y - share * end_y) ** 2 + (x - share * end_x) ** 2)
    return np.asarray(away - (3.0 - 1.4 * share), dtype=np.float32)


def _hcc(hu: Field, site: Site, rng: np.random.Generator) -> None:
    """Hepatocellular carcinoma: a mosaic of enhancing nodules and necrosis within a bright rim."""
    grid = site.grid
    seeds = np.array(site.centre) + rng.uniform(-1, 1, (36, 3)) * np.array(site.radii)
    squares = [(grid.z - z) ** 2 + (grid.y - y) ** 2 + (grid.x - x) ** 2 for z, y, x in seeds]
    nearest = np.argmin([np.broadcast_to(square, grid.shape) for square in squares], axis=0)
    tissue = np.resize(MOSAIC, len(seeds)) + rng.uniform(-8, 8, len(seeds))
    values = site.parenchyma + site.contrast * rng.permutation(tissue)[nearest]
    grid.paint(hu, site.surface, values.astype(np.float32))
    grid.paint(hu, np.abs(site.surface + 5.5) - 1.8, site.hu(-35))  # the capsule's dark inner side
    grid.paint(hu, np.abs(site.surface + 1.8) - 1.8, site.hu(rng.uniform(80, 95)))


def _hemangioma(hu: Field, site: Site, rng: np.random.Generator) -> None:
    """Hemangioma: dark, with separate nodules along its border that are as bright as the vessels."""
    grid = site.grid
    grid.paint(hu, site.surface, site.hu(rng.uniform(-58, -44)) + 3 * grid.noise(rng, 4))
    count = rng.integers(4, 7)
    turns = np.cumsum(rng.uniform(0.6, 1.4, count))
    turns *= 2 * np.pi / (turns[-1] + rng.uniform(0.3, 1.0))  # uneven gaps, never a closed ring
    for turn in turns + rng.uniform(0, 2 * np.pi):
        reach = rng.uniform(0.78, 0.9)
        place = (
            site.centre[0] + rng.uniform(-0.3, 0.3) * site.radii[0],
            site.centre[1] + reach * site.radii[1] * np.sin(turn),
            site.centre[2] + reach * site.radii[2] * np.cos(turn),
        )
        size = site.radii[1] * rng.uniform(0.17, 0.27)
        nodule = grid.ellipsoid(place, (site.radii[0], size, size * rng.uniform(1.0, 1.5)), turn + np.pi / 2)
        grid.paint(hu, np.maximum(nodule, site.surface + 0.5), site.hu(site.blood - site.parenchyma))


LESIONS: dict[str, Callable[[Field, Site, np.random.Generator], None]] = {
    "cyst": _cyst,
    "FNH": _fnh,
    "HCC": _hcc,
    "hemangioma": _hemangioma,
}
UNEVENNESS = {"cyst": 0.02, "FNH": 0.05, "HCC": 0.07, "hemangioma": 0.08}  # of the surface, per radius
