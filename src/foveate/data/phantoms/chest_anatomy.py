"""The chest of an imaginary patient as a frontal X-ray shows it: the stage of the chest phantom's findings.

Values are densities, 0 air and 1 opaque; lengths are shares of the picture's side (``drawing.Plane``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from foveate.data.phantoms.drawing import Field, PixelPlane, Point

AIR, TISSUE, LUNG, HEART, BELLY, SPINE = 0.03, 0.52, 0.17, 0.66, 0.68, 0.72


@dataclass(frozen=True, slots=True)
class Chest:
    """One patient.

    Attributes:
        plane: the pixels.
        body: ``(H, W)`` densities without lungs' vessels and bones.
        vessels: ``(H, W)`` additional density of the vessels, lungs only.
        bones: ``(H, W)`` additional density of ribs and collar bones.
        left, right: signed distances of the lungs in the picture's left and right half.
        heart: signed distance.
        base: height (y) where the lungs end.
        air_side: -1 or 1, the half where air would be if there were a pneumothorax.
        collapsed: signed distance of the lung that has come off the wall there.
    """

    plane: PixelPlane
    body: Field
    vessels: Field
    bones: Field
    left: Field
    right: Field
    heart: Field
    base: float
    air_side: int
    collapsed: Field

    @property
    def both(self) -> Field:
        """Signed distance of the lungs together."""
        return np.minimum(self.left, self.right)

    @property
    def crescent(self) -> Field:
        """Signed distance of the air between the wall and a lung that has come off it, without thin ends."""
        return np.asarray(np.maximum(self.lung(self.air_side), -self.collapsed) + 0.006, dtype=np.float32)

    def lung(self, side: int) -> Field:
        """Signed distance of one lung: -1 the picture's left, 1 its right."""
        return self.left if side < 0 else self.right

    def lungs(self, *, collapsed: bool) -> Field:
        """The densities of body and lungs, with or without a pneumothorax."""
        canvas, vessels = self.body.copy(), self.vessels
        if collapsed:
            gone = self.plane.cover(self.crescent)
            vessels = vessels * (1 - gone)
            canvas -= 0.09 * gone
        return np.asarray(canvas + vessels, dtype=np.float32)

    def paint_bones(self, canvas: Field) -> None:
        """Add what lies over everything."""
        canvas += self.bones

    def place(self, rng: np.random.Generator, room: float) -> Point:
        """A point in a lung with some room around it, drawn evenly."""
        free = np.maximum(self.both, -self.heart)
        best = np.unravel_index(int(free.argmin()), free.shape)
        pixel, room = self.plane.pixel, min(room, -0.8 * float(free[best]))
        for y, x in rng.uniform((-0.35, -0.35), (0.3, 0.35), (400, 2)):  # the same in images of other pose
            row, column = (y - self.plane.y[0, 0]) / pixel, (x - self.plane.x[0, 0]) / pixel
            if free[round(row), round(column)] < -room:
                return float(y), float(x)
        return float(self.plane.y[best[0], 0]), float(self.plane.x[0, best[1]])


def draw_chest(plane: PixelPlane, rng: np.random.Generator, *, large_heart: bool, shrunken: float) -> Chest:
    """Draw one patient.

    Args:
        plane: the pixels.
        rng: source of everything that differs between patients; it is asked for the same numbers
            whatever the patient has.
        large_heart: whether the heart is wider than half of the chest.
        shrunken: by what share a lung would shrink in a pneumothorax.
    """
    width, base = rng.uniform(0.94, 1.06), rng.uniform(0.25, 0.31)
    lungs = {side: _lung(plane, rng, side, width, base) for side in (-1, 1)}
    heart = _heart(plane, rng, width, large=large_heart)
    body = _trunk(plane, rng, width)
    for side, dome in ((-1, base - 0.03), (1, base)):  # the liver lifts the diaphragm on its side
        plane.paint(body, plane.ellipse((dome + 0.22, side * 0.19), (0.22, 0.24)), BELLY, soft=0.01)
    for lung in lungs.values():
        plane.paint(body, lung, LUNG + 0.02 * plane.noise(rng, 0.1), soft=0.012)
    _paint_middle(plane, rng, body)
    plane.paint(body, heart, HEART, soft=0.018)
    side = int(rng.choice((-1, 1)))
    return Chest(
        plane=plane,
        body=body,
        vessels=_vessels(plane, rng) * plane.cover(np.minimum(lungs[-1], lungs[1]) + 0.01, 0.03),
        bones=_bones(plane, rng, width),
        left=lungs[-1],
        right=lungs[1],
        heart=heart,
        base=base,
        air_side=side,
        collapsed=_collapsed(plane, lungs[side], side, shrunken),
    )


def _trunk(plane: PixelPlane, rng: np.random.Generator, width: float) -> Field:
    body = np.full((plane.size, plane.size), AIR, dtype=np.float32)
    neck = np.maximum(np.abs(plane.x) - 0.11, plane.y + 0.2)
    y, x = (plane.y - 0.28) / 0.68, plane.x / (0.46 * width)
    trunk = ((np.abs(y) ** 3.2 + np.abs(x) ** 3.2) ** (1 / 3.2) - 1) * 0.46
    plane.paint(body, np.minimum(trunk, neck), TISSUE + 0.02 * plane.noise(rng, 0.08), soft=0.04)
    return body


def _lung(plane: PixelPlane, rng: np.random.Generator, side: int, width: float, base: float) -> Field:
    """Signed distance: narrow at the top, cut by the diaphragm's dome below and the mediastinum inside."""
    y = plane.y - (base - 0.28)
    half = 0.148 * width * (1 + 0.3 * np.clip(y / 0.4, -1, 1)) * rng.uniform(0.96, 1.04)
    middle = side * (0.185 * width + 0.03 * np.clip(y / 0.4, -1, 1))
    rho = np.sqrt((y / 0.37) ** 2 * 1.0 + ((plane.x - middle) / half) ** 2)
    dome = plane.ellipse((base + 0.22 - (0.03 if side < 0 else 0), side * 0.19), (0.22, 0.24))
    inner = 0.045 - side * plane.x
    return np.asarray(np.maximum.reduce([(rho - 1) * 0.14, -dome, inner + 0 * rho]), dtype=np.float32)


def _heart(plane: PixelPlane, rng: np.random.Generator, width: float, *, large: bool) -> Field:
    """Signed distance; its width is 42 to 47 % of the chest's, or 58 to 66 %."""
    ratio = (rng.uniform(0.58, 0.66), rng.uniform(0.42, 0.47))[0 if large else 1]
    half = ratio * 0.335 * width
    return plane.ellipse(
        (0.15, 0.045 + 0.2 * (half - 0.15)), (0.155 + 0.2 * (half - 0.15), half), rng.uniform(0.12, 0.3)
    )


def _paint_middle(plane: PixelPlane, rng: np.random.Generator, body: Field) -> None:
    """Mediastinum with the aortic knob, the spine behind it, the windpipe in it."""
    shape = np.maximum(np.abs(plane.x) - 0.055 - 0.05 * np.clip(plane.y + 0.3, 0, 0.4), -plane.y - 0.33)
    plane.paint(body, shape, 0.58, soft=0.02)
    plane.paint(body, plane.ellipse((-0.12, 0.065), (0.035, 0.035)), 0.6, soft=0.015)
    rungs = 0.03 * np.cos(2 * np.pi * plane.y / 0.07)
    plane.paint(
        body, np.abs(plane.x) - 0.035 + 0 * plane.y, SPINE + rungs + 0 * plane.x, strength=0.45, soft=0.01
    )
    top = rng.uniform(-0.01, 0.01)
    for stop, wide in (((-0.1, top), 0.032), ((-0.06, -0.05), 0.02), ((-0.06, 0.05), 0.02)):
        start = (-0.5, top) if wide > 0.03 else (-0.1, top)
        plane.paint(body, plane.line(start, stop, wide), 0.3, strength=0.7, soft=0.015)


def _collapsed(plane: PixelPlane, lung: Field, side: int, shrunken: float) -> Field:
    """Signed distance of the lung drawn together towards its hilum, most at the top and the side."""
    rows, columns = plane.size, plane.size
    hilum = (0.12, side * 0.06)
    y = hilum[0] + (plane.y - hilum[0]) / (1 - np.where(plane.y < hilum[0], shrunken, 0.0))
    x = hilum[1] + (plane.x - hilum[1]) / (1 - shrunken * np.clip((0.3 - plane.y) / 0.45, 0, 1))
    row = np.clip(np.rint((y - plane.y[0, 0]) / plane.pixel), 0, rows - 1).astype(int)
    column = np.clip(np.rint((x - plane.x[0, 0]) / plane.pixel), 0, columns - 1).astype(int)
    return np.asarray(lung[np.broadcast_to(row, column.shape), column], dtype=np.float32)


def _vessels(plane: PixelPlane, rng: np.random.Generator) -> Field:
    """Density of vessels that fork outwards from both hila."""
    total = np.zeros((plane.size, plane.size), dtype=np.float32)
    for side in (-1, 1):
        hilum = np.array([-0.02, side * 0.075])
        total += 0.16 * plane.cover(plane.ellipse((hilum[0], hilum[1]), (0.05, 0.028)), 0.04)
        growing = [(hilum, angle, 0.11, 0.014) for angle in (-1.1, -0.45, 0.2, 0.8, 1.3)]
        while growing:
            start, angle, length, wide = growing.pop()
            angle += rng.uniform(-0.2, 0.2)
            stop = start + length * np.array([np.sin(angle), side * np.cos(angle)])
            stroke = plane.line((start[0], start[1]), (stop[0], stop[1]), wide)
            total = np.maximum(total, (0.05 + 6 * wide) * plane.cover(stroke, 0.012))
            if wide > 0.006:
                fork = rng.uniform(0.25, 0.45)
                growing += [(stop, angle + turn, length * 0.75, wide * 0.66) for turn in (-fork, fork)]
    return total


def _bones(plane: PixelPlane, rng: np.random.Generator, width: float) -> Field:
    """Density of the ribs' back and front parts and of the collar bones."""
    bones = np.zeros((plane.size, plane.size), dtype=np.float32)
    start, gap = rng.uniform(-0.42, -0.39), rng.uniform(0.07, 0.08)
    out = np.linspace(0.03, 0.345, 12) * width
    for side in (-1, 1):
        for number in range(9):
            reach = np.sqrt(np.clip(1 - (out / (0.36 * width)) ** 2, 0, 1))
            back = start + gap * number + 0.06 * np.sin(np.pi * out / 0.5) + 0.09 * (1 - reach)
            front = start + gap * number + 0.2 - 0.1 * (1 - reach) + 0.05 * np.cos(np.pi * out / 0.4)
            for height, density, first in ((back, 0.085, 0), (front, 0.04, 4)):
                points = list(zip(height[first:], side * out[first:], strict=True))
                stroke = plane.curve(points, 0.024)
                edge = plane.cover(stroke, 0.008) * (0.7 + 0.5 * plane.cover(-stroke - 0.006, 0.004))
                bones = np.maximum(bones, density * edge)
        ends: tuple[Point, Point] = ((-0.33, side * 0.04), (-0.385, side * 0.33))
        bones = np.maximum(bones, 0.14 * plane.cover(plane.line(*ends, 0.03), 0.01))
    return bones
