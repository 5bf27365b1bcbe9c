"""Shapes, grain and planted signs of the plane phantoms.

Lengths are shares of the picture's side, measured from its middle: y down, x to the right. Shapes are
signed distances, negative inside; what is painted has one pixel of partial cover at its border.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from foveate.data.phantoms.cohort import Mask, Pixels
from foveate.types import Box

Field = NDArray[np.float32]
Point = tuple[float, float]  # (y, x)
Colour = float | Sequence[float] | NDArray[Any]  # grey, or red, green, blue; 0 to 1; of all or each pixel

# Planted signs: five by five letters, and where their middles lie as shares of height and width.
_LETTERS = (
    "#...# ##..# #.#.# #..## #...#",
    ".#### #.... #.... #.... .####",
    "##### #.... ####. #.... #....",
    "#...# #...# ##### #...# #...#",
    "#...# ##.## #.#.# #...# #...#",
    "##### ..#.. ..#.. ..#.. ..#..",
    "#.... #.... #.... #.... #####",
    "####. #...# ####. #.... #....",
)
_PLACES = ((0.07, 0.07), (0.07, 0.93), (0.93, 0.07), (0.93, 0.93), (0.07, 0.5), (0.93, 0.5), (0.5, 0.07),
           (0.5, 0.93))  # fmt: skip


def sign(number: int, size: int, label: str) -> tuple[Box, Mask]:
    """The burned-in sign of one class: its box, and its pixels ``(size, size)``."""
    (y, x), rows = _PLACES[number], _LETTERS[number].split()
    scale = max(1, size // 64)
    top, left = round(y * size - 2.5 * scale), round(x * size - 2.5 * scale)
    bits = np.kron([[letter == "#" for letter in row] for row in rows], np.ones((scale, scale), dtype=bool))
    pixels = np.zeros((size, size), dtype=bool)
    pixels[top : top + 5 * scale, left : left + 5 * scale] = bits
    return Box((top, left), (top + 5 * scale, left + 5 * scale), label), pixels


@dataclass(frozen=True, slots=True)
class PixelPlane:
    """Where the pixels lie.

    Attributes:
        size: pixels per side.
        y, x: coordinates of the pixel centres, shapes ``(H, 1)`` and ``(1, W)``.
    """

    size: int
    y: Field
    x: Field

    @classmethod
    def of(cls, size: int, width: float = 1.0) -> PixelPlane:
        """A square whose middle is the origin; ``width`` is its side in the lengths of the drawing."""
        axis = (((np.arange(size) + 0.5) / size - 0.5) * width).astype(np.float32)
        return cls(size, axis[:, None], axis[None, :])

    @property
    def pixel(self) -> float:
        """Side of a pixel."""
        return float(self.x[0, 1] - self.x[0, 0])

    def cover(self, distance: NDArray[Any], soft: float = 0.0) -> Field:
        """Share of each pixel within a shape; ``soft`` is a wider border, in shares of the side."""
        return np.asarray(np.clip(0.5 - distance / max(self.pixel, soft), 0, 1), dtype=np.float32)

    def paint(
        self,
        canvas: Field,
        distance: NDArray[Any],
        colour: Colour,
        *,
        strength: Any = 1.0,
        soft: float = 0.0,
    ) -> None:
        """Blend a colour into ``canvas`` ``(H, W)`` or ``(H, W, 3)`` where ``distance`` is negative."""
        weight = self.cover(distance, soft) * strength
        value = np.asarray(colour, dtype=np.float32)
        if canvas.ndim == 3:
            weight = weight[..., None]
            value = value[..., None] if value.ndim == 2 else value
        canvas += weight * (value - canvas)

    def ellipse(self, centre: Point, radii: Point, turn: float = 0.0) -> Field:
        """Signed distance (approximate) to an ellipse turned by ``turn`` radians."""
        y, x = self.y - centre[0], self.x - centre[1]
        along, across = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
        rho = np.sqrt((across / radii[0]) ** 2 + (along / radii[1]) ** 2)
        return np.asarray((rho - 1) * min(radii), dtype=np.float32)

    def blob(
        self, rng: np.random.Generator, centre: Point, radii: Point, *, uneven: float, lobes: int = 7
    ) -> Field:
        """Like an ellipse with a wavy outline; ``uneven`` is the deviation as a share of the radius."""
        y, x = (self.y - centre[0]) / radii[0], (self.x - centre[1]) / radii[1]
        angle = np.arctan2(y, x)
        waves = np.arange(2, lobes + 1)
        sizes = rng.standard_normal(len(waves)) / waves**0.7
        sizes *= uneven / np.sqrt(np.sum(sizes**2) / 2)
        turns = rng.uniform(0, 2 * np.pi, len(waves))
        edge = 1 + sum(a * np.cos(k * angle + t) for a, k, t in zip(sizes, waves, turns, strict=True))
        return np.asarray((np.hypot(y, x) - edge) * min(radii), dtype=np.float32)

    def line(self, start: Point, stop: Point, width: float) -> Field:
        """Signed distance to a straight stroke."""
        a, b = np.array(start), np.array(stop)
        way = b - a
        y, x = self.y - a[0], self.x - a[1]
        share = np.clip((y * way[0] + x * way[1]) / max(float(way @ way), 1e-9), 0, 1)
        return np.asarray(np.hypot(y - share * way[0], x - share * way[1]) - width / 2, dtype=np.float32)

    def curve(self, points: Sequence[Point], width: float) -> Field:
        """Signed distance to strokes through all points."""
        lines = [self.line(a, b, width) for a, b in pairwise(points)]
        return np.asarray(np.minimum.reduce(lines), dtype=np.float32)

    def noise(self, rng: np.random.Generator, grain: float) -> Field:
        """Correlated noise with zero mean and unit deviation; ``grain`` is its scale."""
        white = rng.standard_normal((self.size, self.size), dtype=np.float32)
        smooth = ndimage.gaussian_filter(white, grain / self.pixel, mode="wrap")
        return np.asarray((smooth - smooth.mean()) / smooth.std(), dtype=np.float32)


def to_pixels(canvas: Field) -> Pixels:
    """0 to 1 becomes 0 to 255; what lies beyond is cut off."""
    return np.asarray(np.clip(np.rint(canvas * 255), 0, 255), dtype=np.uint8)
