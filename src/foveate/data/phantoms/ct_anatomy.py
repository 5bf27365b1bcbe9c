"""The upper abdomen of an imaginary patient in a CT scanner: the stage on which the phantom's lesions appear.

Lengths are millimetres from the middle of the body: z up, y to the back, x to the patient's left (the
right side of the picture). Shapes are signed distances, negative inside; every shape is painted over
what was there before with one voxel of partial volume at its border.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Field = NDArray[np.float32]  # (D, H, W), or broadcastable to it
Point = tuple[float, float, float]  # (z, y, x) in mm

AIR, FAT, LUNG, BILE, MUSCLE, BOWEL, MARROW, BONE = -1000.0, -100.0, -850.0, 8.0, 60.0, 35.0, 230.0, 750.0
ROUND = 2.3  # exponent of the torso's outline; 2 would be an ellipse
HILUM: Point = (0.0, 6.0, -28.0)


@dataclass(frozen=True, slots=True)
class Grid:
    """Where the voxels lie.

    Attributes:
        shape: ``(D, H, W)``.
        spacing: mm per step along z, y, x.
        z, y, x: coordinates of the voxel centres, shapes ``(D, 1, 1)``, ``(1, H, 1)``, ``(1, 1, W)``.
    """

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    z: Field
    y: Field
    x: Field

    @classmethod
    def centred(cls, shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> Grid:
        """Grid whose middle is the origin."""
        axes = [
            ((np.arange(n) - (n - 1) / 2) * step).astype(np.float32)
            for n, step in zip(shape, spacing, strict=True)
        ]
        return cls(shape, spacing, axes[0][:, None, None], axes[1][None, :, None], axes[2][None, None, :])

    def around(self, points: Sequence[Point], reach: float) -> tuple[Grid, tuple[slice, slice, slice]]:
        """The part of the grid within ``reach`` mm of the box that holds ``points``, and where it is.

        Shapes much smaller than the volume are drawn on such a part, which is many times faster.
        """
        window = []
        for axis, values in enumerate((self.z, self.y, self.x)):
            low, high = min(p[axis] for p in points) - reach, max(p[axis] for p in points) + reach
            window.append(slice(*np.searchsorted(values.ravel(), (low, high))))
        iz, iy, ix = window
        shape = tuple(s.stop - s.start for s in window)
        part = Grid(shape, self.spacing, self.z[iz], self.y[:, iy], self.x[:, :, ix])
        return part, (iz, iy, ix)

    def paint(self, volume: Field, distance: Field, value: float | Field) -> None:
        """Blend ``value`` into ``volume`` where ``distance`` (mm) is negative, one pixel soft."""
        weight = np.clip(0.5 - distance / self.spacing[1], 0, 1)
        volume += weight * (value - volume)

    def ellipsoid(self, centre: Point, radii: Point, turn: float = 0.0) -> Field:
        """Signed distance (mm, approximate) to an ellipsoid turned by ``turn`` radians in the slice plane."""
        z, y, x = self.z - centre[0], self.y - centre[1], self.x - centre[2]
        along, across = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
        rho = np.sqrt((z / radii[0]) ** 2 + (across / radii[1]) ** 2 + (along / radii[2]) ** 2)
        return np.asarray((rho - 1) * min(radii[1:]), dtype=np.float32)

    def column(self, centre: tuple[float, float], radii: tuple[float, float], turn: float = 0.0) -> Field:
        """Like ``ellipsoid``, but the same in every slice; ``(1, H, W)``."""
        y, x = self.y - centre[0], self.x - centre[1]
        along, across = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
        rho = np.sqrt((across / radii[0]) ** 2 + (along / radii[1]) ** 2)
        return np.asarray((rho - 1) * min(radii), dtype=np.float32)

    def tube(self, start: Point, stop: Point, radii: tuple[float, float]) -> Field:
        """Signed distance (mm) to a straight tube whose radius changes evenly from start to stop."""
        a, b = np.array(start), np.array(stop)
        way = b - a
        offsets = self.z - a[0], self.y - a[1], self.x - a[2]
        share = sum(o * w for o, w in zip(offsets, way, strict=True)) / max(float(way @ way), 1e-6)
        share = np.clip(share, 0, 1)
        squares = sum((o - share * w) ** 2 for o, w in zip(offsets, way, strict=True))
        return np.asarray(np.sqrt(squares) - (radii[0] + share * (radii[1] - radii[0])), dtype=np.float32)

    def noise(self, rng: np.random.Generator, grain: float) -> Field:
        """Correlated noise with zero mean and unit deviation; ``grain`` is its scale in mm."""
        sigma = [grain / step for step in self.spacing]
        smooth = ndimage.gaussian_filter(
            rng.standard_normal(self.shape, dtype=np.float32), sigma, mode="wrap"
        )
        return np.asarray((smooth - smooth.mean()) / smooth.std(), dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Anatomy:
    """A patient without lesion and without scanner noise.

    Attributes:
        hu: ``(D, H, W)`` Hounsfield units.
        liver: ``(D, H, W)`` signed distance to the liver's surface in mm.
        parenchyma: mean HU of the liver tissue.
        blood: HU of the enhanced vessels in the liver.
    """

    hu: Field
    liver: Field
    parenchyma: float
    blood: float


def draw_anatomy(grid: Grid, rng: np.random.Generator) -> Anatomy:
    """Draw one patient in the late arterial phase.

    Args:
        grid: the voxels to fill.
        rng: source of everything that differs between patients.
    """
    build = rng.uniform(0.94, 1.04)  # small and large people
    depth, width, fat = 118 * build, 162 * build, rng.uniform(9, 22)
    skin = _torso(grid, depth, width)
    cavity = skin + fat + 12
    hu = np.full(grid.shape, AIR, dtype=np.float32)
    _draw_couch(grid, hu, depth)
    for surface, value in ((skin, 30), (skin + 2, FAT), (skin + fat, MUSCLE), (cavity, FAT)):
        grid.paint(hu, surface, value)
    _draw_back(grid, hu, rng, depth - fat)
    _draw_ribs(grid, hu, rng, (depth - fat - 6, width - fat - 6))
    _draw_left_side(grid, hu, rng, cavity)
    parenchyma, blood = rng.uniform(98, 114), rng.uniform(175, 200)
    liver = _liver(grid, rng, cavity)
    grid.paint(hu, liver, parenchyma + 6 * grid.noise(rng, 2.5) + 4 * grid.noise(rng, 12))
    _draw_veins(grid, hu, rng, liver, parenchyma - 26)
    _draw_portal_tree(grid, hu, rng, liver, blood)
    _draw_gallbladder(grid, hu, rng, liver)
    return Anatomy(hu, liver, parenchyma, blood)


def _torso(grid: Grid, depth: float, width: float) -> Field:
    """Signed distance along the radius to a rounded trunk, flatter than an ellipse at front and back."""
    rho = (np.abs(grid.y / depth) ** ROUND + np.abs(grid.x / width) ** ROUND) ** (1 / ROUND)
    return np.asarray(np.hypot(grid.y, grid.x) * (1 - 1 / np.maximum(rho, 1e-3)), dtype=np.float32)


def _draw_couch(grid: Grid, hu: Field, back: float) -> None:
    top = back + 7 - (grid.x / 260) ** 2 * 30
    board = np.maximum(np.abs(grid.y - top - 4) - 4, np.abs(grid.x) - 180)
    grid.paint(hu, board, -880)
    grid.paint(hu, np.abs(board) - 1.0, -350)


def _draw_back(grid: Grid, hu: Field, rng: np.random.Generator, depth: float) -> None:
    """Spine, the muscles beside it, aorta and the crura of the diaphragm."""
    middle = depth - 66
    for side in (-1, 1):
        grid.paint(hu, grid.column((depth - 24, side * 34), (20, 30), side * 0.25), MUSCLE)
        grid.paint(hu, grid.column((middle - 14, side * 17), (24, 12), side * 0.5), MUSCLE)  # crus, psoas
    bones = [grid.column((middle, 0), (16, 22)), grid.column((middle + 42, 0), (16, 4))]
    bones += [grid.column((middle + 25, side * 20), (5, 20), side * -0.35) for side in (-1, 1)]
    bone = np.minimum.reduce(bones)
    grid.paint(hu, bone, BONE)
    grid.paint(hu, bone + 3.5, MARROW + 40 * grid.noise(rng, 3))
    grid.paint(hu, grid.column((middle + 23, 0), (9, 11)), BONE)
    grid.paint(hu, grid.column((middle + 23, 0), (7, 9)), 30)  # spinal canal
    grid.paint(hu, grid.column((middle - 24, rng.uniform(6, 12)), (10, 10)), rng.uniform(260, 310))  # aorta


def _draw_ribs(grid: Grid, hu: Field, rng: np.random.Generator, ring: tuple[float, float]) -> None:
    """Ribs cut obliquely: from slice to slice they move along the wall, much the same on both sides."""
    slope = rng.uniform(0.012, 0.018)  # radians per mm
    for degrees in (24, 52, 80, 106, 132, 152):
        angle = np.deg2rad(degrees) + rng.uniform(-0.07, 0.07)
        for side in (-1, 1):
            turn = angle + rng.uniform(-0.03, 0.03) + slope * grid.z  # (D, 1, 1), counted from the front
            rib = _rib(grid, ring, turn, side)
            grid.paint(hu, rib, BONE)
            grid.paint(hu, rib + 2.5, MARROW)


def _rib(grid: Grid, ring: tuple[float, float], turn: Field, side: int) -> Field:
    """Signed distance to a flat oval on the torso's wall, lengthwise along it."""
    down, out = -np.cos(turn), side * np.sin(turn)
    reach = (np.abs(down) ** ROUND + np.abs(out) ** ROUND) ** (-1 / ROUND)
    normal_y = np.sign(down) * np.abs(down) ** (ROUND - 1) / ring[0]
    normal_x = np.sign(out) * np.abs(out) ** (ROUND - 1) / ring[1]
    length = np.hypot(normal_y, normal_x)
    y, x = grid.y - ring[0] * down * reach, grid.x - ring[1] * out * reach
    across, along = (x * normal_x + y * normal_y) / length, (y * normal_x - x * normal_y) / length
    return np.asarray((np.sqrt((along / 13) ** 2 + (across / 4.5) ** 2) - 1) * 4.5, dtype=np.float32)


def _draw_left_side(grid: Grid, hu: Field, rng: np.random.Generator, cavity: Field) -> None:
    """Pancreas, kidney, spleen, and the stomach with air above its contents."""
    shift = rng.uniform(-8, 8)
    pancreas = grid.tube((-10, -4, -12), (5, 14, 82 + shift), (11, 8)) + 2 * grid.noise(rng, 5)
    grid.paint(hu, pancreas, 100 + 10 * grid.noise(rng, 4))
    grid.paint(hu, grid.tube((0, 10, 0), (0, 22, 90), (4, 4)), 160)  # splenic vein
    kidney = grid.ellipsoid((-40, 48, 62 + shift), (50, 24, 20), 0.4)
    grid.paint(hu, kidney, 190)
    grid.paint(hu, kidney + 9, 120)
    spleen = np.maximum(grid.ellipsoid((10, 32, 112 + shift), (60, 46, 24), 0.35), cavity + 2)
    stripes = 14 * np.sin((grid.x + grid.y) / 6 + 2 * grid.noise(rng, 8))  # the spleen's arterial stripes
    grid.paint(hu, spleen, 135 + stripes)
    stomach = np.maximum(
        grid.ellipsoid((20, -38, 78 + shift), (70, rng.uniform(30, 40), rng.uniform(40, 50)), -0.3),
        cavity + 2,
    )
    grid.paint(hu, stomach, 85)
    grid.paint(hu, stomach + 4, BOWEL + 12 * grid.noise(rng, 5))
    grid.paint(hu, np.maximum(stomach + 4, grid.y + rng.uniform(45, 65)), AIR)  # gas rises to the front


def _liver(grid: Grid, rng: np.random.Generator, cavity: Field) -> Field:
    """Signed distance to a liver that fills the patient's right side and reaches across the middle."""
    z0 = rng.uniform(-15, 15)
    right = grid.ellipsoid(
        (z0, rng.uniform(-2, 8), -78),
        (95, rng.uniform(80, 92), rng.uniform(68, 78)),
        rng.uniform(-0.15, 0.15),
    )
    left = grid.ellipsoid(
        (z0 + 10, rng.uniform(-58, -48), rng.uniform(-20, 0)),
        (75, rng.uniform(26, 36), rng.uniform(60, 85)),
        rng.uniform(-0.2, 0.1),
    )
    liver = _smooth_union(right, left, 14)
    fissure = grid.ellipsoid((0, -30, rng.uniform(-22, -8)), (60, 34, 3.5), rng.uniform(-0.25, 0.25))
    liver = np.maximum(liver, -grid.column((18, -8), (46, 22)))  # room for the great vessels
    liver = np.maximum(liver, -(fissure - 1))
    liver = np.maximum(liver + 2.5 * grid.noise(rng, 16), cavity + 0.5)
    return np.asarray(liver, dtype=np.float32)


def _smooth_union(a: Field, b: Field, blend: float) -> Field:
    share = np.clip(0.5 + (b - a) / (2 * blend), 0, 1)
    return np.asarray(b + share * (a - b) - blend * share * (1 - share), dtype=np.float32)


def _draw_veins(grid: Grid, hu: Field, rng: np.random.Generator, liver: Field, value: float) -> None:
    """Vena cava and hepatic veins, which contrast has not reached yet."""
    cava: Point = (0, 34, -24)
    grid.paint(hu, grid.column((cava[1], cava[2]), (9, 12)), value + 40)
    for angle in (2.9, 3.7, 4.5):
        turn = angle + rng.uniform(-0.2, 0.2)
        reach = rng.uniform(60, 85)
        tip = (rng.uniform(-25, 5), cava[1] + reach * np.sin(turn), cava[2] + reach * np.cos(turn))
        start = (rng.uniform(5, 25), cava[1], cava[2])
        grid.paint(hu, np.maximum(grid.tube(start, tip, (5.0, 2.0)), liver), value)


def _draw_portal_tree(grid: Grid, hu: Field, rng: np.random.Generator, liver: Field, value: float) -> None:
    """Enhanced vessels that branch from the hilum into both lobes."""
    grid.paint(hu, grid.tube((-20, 20, 0), HILUM, (6.5, 6.0)), value)
    for start, stop, radii in _branches(rng):
        part, here = grid.around((start, stop), radii[0] + 3)
        part.paint(hu[here], np.maximum(part.tube(start, stop, radii), liver[here] + 3), value)


def _branches(rng: np.random.Generator) -> list[tuple[Point, Point, tuple[float, float]]]:
    """Segments (start, stop, radii) of a tree that forks until its vessels are too thin to see."""
    segments = []
    growing = [(np.array(HILUM), angle, 34.0, 5.5) for angle in (2.6, 3.5, 4.35)]
    while growing:
        start, angle, length, radius = growing.pop()
        angle += rng.uniform(-0.2, 0.2)
        rise = rng.uniform(-0.35, 0.35)
        stop = start + length * np.array([rise, np.sin(angle), np.cos(angle)])
        segments.append((tuple(start), tuple(stop), (radius, radius * 0.75)))
        if radius > 1.7:
            spread = rng.uniform(0.3, 0.6)
            growing += [(stop, angle + fork, length * 0.78, radius * 0.68) for fork in (-spread, spread)]
    return segments


def _draw_gallbladder(grid: Grid, hu: Field, rng: np.random.Generator, liver: Field) -> None:
    """Bile below the liver, in some patients only: dark, round, and no lesion."""
    if rng.random() < 0.5:
        return
    place = grid.ellipsoid((-25, -20, -30), (32, 11, 16), rng.uniform(-0.6, 0.6))
    outside = np.maximum(place, -liver)
    grid.paint(hu, outside - 2, MUSCLE)
    grid.paint(hu, outside, BILE)
