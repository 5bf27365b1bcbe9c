"""Imaginary cervical cells of a Pap smear in five classes, on slides that each look their own way.

| class | sign |
|---|---|
| superficial-intermediate | large, pale, many-cornered cell with folds; tiny dark nucleus |
| parabasal | small, round, dense cell; large even nucleus |
| metaplastic | middle-sized dense cell with vacuoles and a dark edge; middle-sized nucleus |
| koilocytotic | large cell; a clear halo with a hard rim around an enlarged, crooked nucleus |
| dyskeratotic | small, coarse cytoplasm; dark nucleus of coarse clumps |

Cells of a slide share stain, light and focus, and half of them its main class; a split by cell therefore
leaks, and one by slide (``patient_id``) does not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from scipy import ndimage

from foveate.data.phantoms.cohort import (
    CohortConfig,
    CohortLayout,
    Drawn,
    Limits,
    Mask,
    take_turns,
    write_cohort,
)
from foveate.data.phantoms.drawing import Field, PixelPlane, Point, sign, to_pixels
from foveate.types import Track, quiet

CLASSES = ("dyskeratotic", "koilocytotic", "metaplastic", "parabasal", "superficial-intermediate")
LAYOUT = CohortLayout(("label",), ("image",), ("mask", "organ_mask"))
MAIN = 0.5  # share of a slide's cases that have its main class for sure
FIELD = 2.2  # side of a field of cells, in sides of a picture of one cell


@dataclass(frozen=True, kw_only=True)
class CellsConfig(CohortConfig):
    """A cohort of cells.

    Attributes:
        patients: slides.
        cases: pictures per slide.
        fields: show several cells of the class instead of one.
    """

    LIMITS: ClassVar[Limits] = {**CohortConfig.LIMITS, "cases": (1, 1000)}

    patients: int = 30
    size: int = 96
    cases: int = 8
    fields: bool = False


@dataclass(frozen=True, slots=True)
class Kind:
    """What the cells of a class have in common; ranges are drawn from evenly.

    Attributes:
        cell, nucleus: radii, in sides of the picture of one cell.
        density: of the cytoplasm's stain.
        dark: of the nucleus' stain.
        uneven: of the cell's outline.
        grain, clumps: deviation of the cytoplasm's and the nucleus' stain.
    """

    cell: tuple[float, float]
    nucleus: tuple[float, float]
    density: float
    dark: float
    uneven: float
    grain: float = 0.02
    clumps: float = 0.05


KINDS = {
    "dyskeratotic": Kind((0.21, 0.26), (0.075, 0.1), 0.52, 1.0, 0.07, grain=0.16, clumps=0.2),
    "koilocytotic": Kind((0.32, 0.38), (0.06, 0.075), 0.34, 0.85, 0.05, clumps=0.12),
    "metaplastic": Kind((0.23, 0.28), (0.08, 0.095), 0.5, 0.65, 0.05),
    "parabasal": Kind((0.17, 0.21), (0.095, 0.115), 0.48, 0.62, 0.02),
    "superficial-intermediate": Kind((0.34, 0.4), (0.032, 0.042), 0.24, 0.95, 0.06),
}


@dataclass(frozen=True, slots=True)
class Slide:
    """How everything on a slide looks.

    Attributes:
        light: colour of the empty slide.
        cytoplasm, nuclei: what the stain takes from the light, per colour.
        blur: of the focus, in sides of the picture of one cell.
        slope: unevenness of the light along y and x.
    """

    light: Field
    cytoplasm: Field
    nuclei: Field
    blur: float
    slope: Point


def make_cells(out: Path, config: CellsConfig, track: Track = quiet) -> Path:
    """Write the cohort: pictures, masks of nuclei and of whole cells; returns ``manifest.csv``."""
    return write_cohort(out, "cells", config, LAYOUT, draw_slide, track=track)


def draw_slide(index: int, config: CellsConfig) -> Iterator[Drawn]:
    """All pictures of one slide, as arrays ``(H, W, 3)``."""
    rng = np.random.default_rng([config.seed, index, 9])
    slide, main = _slide(rng, config.difficulty), take_turns(index, config.seed, CLASSES)
    for number in range(config.cases):
        rng = np.random.default_rng([config.seed, index, 11, number])
        label = main if rng.random() < MAIN else str(rng.choice(CLASSES))
        plane = PixelPlane.of(config.size, FIELD if config.fields else 1.0)
        stain, nuclei, cells = _cells(plane, rng, label, config)
        picture = to_pixels(_seen(plane, rng, stain, slide, config.difficulty))
        box, pixels = sign(CLASSES.index(label), config.size, label)
        if config.shortcut:
            picture[pixels] = 0
        yield Drawn(
            case_id=f"s{index:03d}-{number:02d}",
            patient_id=f"s{index:03d}",
            truth={"label": label},
            views={"image": picture},
            masks={"mask": nuclei, "organ_mask": cells},
            signs=(box,) if config.shortcut else (),
        )


def _slide(rng: np.random.Generator, difficulty: float) -> Slide:
    """A stain between pink, orange and blue-green of any strength, a lamp, and a focus."""
    spread = 0.6 + 0.6 * difficulty
    hue = np.clip(0.5 + spread * rng.uniform(-0.6, 0.6), 0, 1)
    cytoplasm = hue * np.array([0.85, 0.45, 0.3]) + (1 - hue) * np.array([0.2, 0.7, 0.5])
    nuclei = np.array([1.15, 1.2, 0.75]) + rng.uniform(-0.15, 0.15, 3) * spread
    lamp = np.array([0.93, 0.92, 0.92]) + rng.uniform(-0.05, 0.03, 3)
    strength = 1 + rng.uniform(-0.2, 0.25) * spread
    turn, tilt = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.15)
    return Slide(
        light=np.asarray(lamp, dtype=np.float32),
        cytoplasm=np.asarray(cytoplasm * strength, dtype=np.float32),
        nuclei=np.asarray(nuclei * strength, dtype=np.float32),
        blur=rng.uniform(0.003, 0.008 + 0.008 * difficulty),
        slope=(tilt * np.sin(turn), tilt * np.cos(turn)),
    )


@dataclass(frozen=True, slots=True)
class _Stain:
    """How much stain lies where: ``(H, W)`` of the cytoplasm's and of the nuclei's dye."""

    cytoplasm: Field
    nuclei: Field

    @classmethod
    def none(cls, size: int) -> _Stain:
        """Nothing stained."""
        return cls(np.zeros((size, size), dtype=np.float32), np.zeros((size, size), dtype=np.float32))


def _cells(
    plane: PixelPlane, rng: np.random.Generator, label: str, config: CellsConfig
) -> tuple[_Stain, Mask, Mask]:
    """The cell or cells of a class among clutter, with the masks of nuclei and of whole cells."""
    stain = _Stain.none(config.size)
    _clutter(plane, rng, stain, config.difficulty)
    nuclei = np.zeros((config.size, config.size), dtype=bool)
    whole = nuclei.copy()
    for centre in _places(rng, config.fields):
        cell, nucleus = _draw_cell(plane, rng, stain, centre, label, config)
        whole |= cell < 0
        nuclei |= nucleus < 0
    _debris(plane, rng, stain, ~ndimage.binary_dilation(nuclei, iterations=2))
    return stain, nuclei, whole


def _places(rng: np.random.Generator, fields: bool) -> list[Point]:
    """Where the cells lie: one near the middle, or four to six over a field without touching nuclei."""
    if not fields:
        return [(rng.uniform(-0.09, 0.09), rng.uniform(-0.09, 0.09))]
    corners = [(y, x) for y in (-0.7, 0, 0.7) for x in (-0.7, 0, 0.7)]
    picks = rng.choice(len(corners), rng.integers(4, 7), replace=False)
    return [
        (corners[pick][0] + rng.uniform(-0.12, 0.12), corners[pick][1] + rng.uniform(-0.12, 0.12))
        for pick in picks
    ]


def _draw_cell(
    plane: PixelPlane, rng: np.random.Generator, stain: _Stain, centre: Point, label: str, config: CellsConfig
) -> tuple[Field, Field]:
    """Draw one cell; the signed distances of cell and nucleus."""
    kind, contrast = KINDS[label], config.contrast
    scale = rng.uniform(0.92, 1.08)
    radius = scale * rng.uniform(*kind.cell)
    radii = (radius * rng.uniform(0.85, 1.0), radius * rng.uniform(0.9, 1.08))
    cell = plane.blob(rng, centre, radii, uneven=kind.uneven, lobes=6)
    size = scale * rng.uniform(*kind.nucleus)
    away = rng.uniform(-0.15, 0.15, 2) * (radius - size)
    middle = (centre[0] + away[0], centre[1] + away[1])
    crooked = 0.07 if label in ("koilocytotic", "dyskeratotic") else 0.02
    nucleus = plane.blob(rng, middle, (size * rng.uniform(0.85, 1), size), uneven=crooked, lobes=5)
    density = kind.density * rng.uniform(0.85, 1.15)
    grain = (0.02 + contrast * max(0.0, kind.grain - 0.02)) * plane.noise(rng, 0.012)
    body = density * (1 + 0.08 * plane.noise(rng, 0.06)) + grain
    stain.cytoplasm[:] += plane.cover(cell, 0.012) * np.clip(body, 0.05, None)
    SIGNS[label](plane, rng, stain.cytoplasm, cell, nucleus, contrast)
    clumps = 1 + (0.05 + contrast * (kind.clumps - 0.05)) * plane.noise(rng, 0.011)
    cover = plane.cover(nucleus, 0.01)
    stain.cytoplasm[:] *= 1 - 0.5 * cover
    stain.nuclei[:] += cover * (kind.dark * np.clip(clumps, 0.3, 1.7) - stain.nuclei)
    return cell, nucleus


def _koilocytotic(
    plane: PixelPlane, rng: np.random.Generator, dye: Field, cell: Field, nucleus: Field, contrast: float
) -> None:
    """A clear halo around the nucleus that ends in a condensed rim."""
    width = rng.uniform(0.07, 0.1)
    halo = np.maximum(nucleus + 0.1 * width * plane.noise(rng, 0.05) - width, cell + 0.03)
    dye *= 1 - np.clip(0.78 * contrast, 0, 0.95) * plane.cover(halo, 0.008)
    dye += 0.2 * contrast * plane.cover(np.abs(halo - 0.012) - 0.01, 0.012)


def _metaplastic(
    plane: PixelPlane, rng: np.random.Generator, dye: Field, cell: Field, nucleus: Field, contrast: float
) -> None:
    """Small vacuoles between nucleus and edge, and a denser edge."""
    dye += 0.14 * contrast * plane.cover(np.abs(cell + 0.02) - 0.016, 0.012)
    room = np.argwhere(np.maximum(cell + 0.045, 0.02 - nucleus) < 0)
    for pick in rng.integers(0, max(1, len(room)), 9 if len(room) else 0):
        place = float(plane.y[room[pick][0], 0]), float(plane.x[0, room[pick][1]])
        hole = plane.ellipse(place, (rng.uniform(0.012, 0.022), rng.uniform(0.012, 0.022)))
        dye *= 1 - np.clip(0.6 * contrast, 0, 0.95) * plane.cover(hole, 0.008)


def _superficial(
    plane: PixelPlane, rng: np.random.Generator, dye: Field, cell: Field, nucleus: Field, contrast: float
) -> None:
    """A few folds in the thin cytoplasm."""
    for _ in range(rng.integers(1, 4)):
        start, stop = rng.uniform(-0.4, 0.4, (2, 2))
        fold = plane.line((start[0], start[1]), (stop[0], stop[1]), 0.012)
        dye += 0.09 * plane.cover(np.maximum(fold, cell + 0.03), 0.012)


def _nothing_more(
    plane: PixelPlane, rng: np.random.Generator, dye: Field, cell: Field, nucleus: Field, contrast: float
) -> None:
    """Sizes and texture say it all."""


SIGNS = {
    "dyskeratotic": _nothing_more,
    "koilocytotic": _koilocytotic,
    "metaplastic": _metaplastic,
    "parabasal": _nothing_more,
    "superficial-intermediate": _superficial,
}


def _clutter(plane: PixelPlane, rng: np.random.Generator, stain: _Stain, difficulty: float) -> None:
    """Mucus, and the edges of neighbouring cells."""
    half = float(-plane.x[0, 0])
    stain.cytoplasm[:] += np.clip(0.03 + 0.03 * plane.noise(rng, 0.1), 0, None)
    for _ in range(rng.integers(0, 2 + round(2 * difficulty))):
        turn, reach = rng.uniform(0, 2 * np.pi), rng.uniform(0.6, 0.8) * (half / 0.5)
        away = max(abs(np.sin(turn)), abs(np.cos(turn)))
        place = (reach * np.sin(turn) / away, reach * np.cos(turn) / away)
        other = plane.blob(rng, place, (rng.uniform(0.2, 0.3), rng.uniform(0.2, 0.3)), uneven=0.06)
        stain.cytoplasm[:] += rng.uniform(0.15, 0.4) * plane.cover(other, 0.015)


def _debris(plane: PixelPlane, rng: np.random.Generator, stain: _Stain, free: Mask) -> None:
    """White cells with lobed nuclei, and specks, anywhere but on the nuclei of the cells."""
    half = float(-plane.x[0, 0])
    for _ in range(rng.integers(0, 4)):
        place = rng.uniform(-half, half, 2)
        for _ in range(rng.integers(2, 4)):
            y, x = place + rng.uniform(-0.016, 0.016, 2)
            lobe = plane.ellipse((y, x), (rng.uniform(0.012, 0.018), rng.uniform(0.012, 0.018)))
            stain.nuclei[:] += 0.7 * plane.cover(lobe, 0.008) * free * (1 - np.clip(stain.nuclei, 0, 1))
    for _ in range(rng.integers(0, 25)):
        y, x = rng.uniform(-half, half, 2)
        speck = plane.ellipse((y, x), (0.004, rng.uniform(0.004, 0.01)), rng.uniform(0, np.pi))
        stain.nuclei[:] += 0.35 * plane.cover(speck, 0.006) * free


def _seen(
    plane: PixelPlane, rng: np.random.Generator, stain: _Stain, slide: Slide, difficulty: float
) -> Field:
    """Light through the stains (Beer and Lambert), the microscope's focus, and noise."""
    taken = stain.cytoplasm[..., None] * slide.cytoplasm + stain.nuclei[..., None] * slide.nuclei
    lamp = slide.light * (1 + slide.slope[0] * plane.y + slide.slope[1] * plane.x)[..., None]
    blur = slide.blur / plane.pixel
    seen = ndimage.gaussian_filter(lamp * np.exp(-taken), (blur, blur, 0))
    noise = (0.006 + 0.03 * difficulty) * rng.standard_normal(seen.shape, dtype=np.float32)
    return np.asarray(seen + noise, dtype=np.float32)
