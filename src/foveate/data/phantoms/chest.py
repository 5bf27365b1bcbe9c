"""Imaginary frontal chest X-rays with up to six findings, each with its true box.

| finding | sign | box |
|---|---|---|
| cardiomegaly | the heart is wider than half of the chest | heart |
| effusion | fluid that rises along the chest wall hides the lung's base | fluid within the lung |
| infiltration | cloudy, patchy opacity | cloud |
| mass | large lobed opacity | mass |
| nodule | small round opacity | nodule |
| pneumothorax | dark crescent without vessels outside a thin pleural line | crescent |

Findings are of unequal frequency and come together (``draw_findings``): fluid with a large heart, clouds
with fluid; about a third of the patients have none. Images of one patient share the anatomy and most of
the findings, so that a split by image leaks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from scipy import ndimage

from foveate.data.phantoms.chest_anatomy import BELLY, Chest, draw_chest
from foveate.data.phantoms.cohort import (
    CohortConfig,
    CohortLayout,
    Drawn,
    Limits,
    Mask,
    tight_box,
    write_cohort,
)
from foveate.data.phantoms.drawing import Field, PixelPlane, Point, sign, to_pixels
from foveate.types import Box, Track, quiet

STAYS = 0.85  # chance that a patient's finding is still, or already, there in one of the images


@dataclass(frozen=True, kw_only=True)
class ChestConfig(CohortConfig):
    """A cohort of chest X-rays.

    Attributes:
        cases: images per patient.
    """

    LIMITS: ClassVar[Limits] = {**CohortConfig.LIMITS, "size": (64, 512), "cases": (1, 20)}

    cases: int = 2


def make_chest(out: Path, config: ChestConfig, track: Track = quiet) -> Path:
    """Write the cohort: images, ``boxes.csv`` and, last, ``manifest.csv``, whose path is returned."""
    layout = CohortLayout(tuple(FINDINGS), ("image",))
    return write_cohort(out, "chest", config, layout, draw_patient, track=track)


def draw_findings(rng: np.random.Generator) -> tuple[str, ...]:
    """The findings of one patient, in the order of ``FINDINGS``."""
    if rng.random() < 0.25:
        return ()
    coins = dict(zip(FINDINGS, rng.random(len(FINDINGS)), strict=True))
    heart = coins["cardiomegaly"] < 0.32
    fluid = coins["effusion"] < (0.65 if heart else 0.26)
    air = coins["pneumothorax"] < (0.03 if heart or fluid else 0.34)
    present = {
        "cardiomegaly": heart,
        "effusion": fluid,
        "infiltration": coins["infiltration"] < (0.6 if fluid else 0.36),
        "mass": coins["mass"] < 0.24,
        "nodule": coins["nodule"] < 0.34,
        "pneumothorax": air,
    }
    return tuple(name for name in FINDINGS if present[name])


def draw_patient(index: int, config: ChestConfig) -> Iterator[Drawn]:
    """The images of one patient, as arrays ``(H, W)``; the picture's left is the patient's right."""
    findings = draw_findings(np.random.default_rng([config.seed, index, 6]))
    for number in range(config.cases):
        rng = np.random.default_rng([config.seed, index, 10, number])
        here = tuple(name for name in findings if rng.random() < STAYS)
        yield draw_image(index, number, here, rng, config)


def draw_image(
    index: int, number: int, findings: tuple[str, ...], rng: np.random.Generator, config: ChestConfig
) -> Drawn:
    """One image of a patient with these findings.

    Args:
        index: of the patient, who settles the anatomy and the place of each finding.
        number: of the image.
        findings: what it shows, in the order of ``FINDINGS``.
        rng: source of pose, exposure and noise.
        config: what was asked for.
    """
    plane = _posed(config.size, rng)
    own = np.random.default_rng([config.seed, index, 7])
    chest = draw_chest(plane, own, large_heart="cardiomegaly" in findings, shrunken=own.uniform(0.13, 0.24))
    canvas, regions = chest.lungs(collapsed="pneumothorax" in findings), {}
    for place, name in enumerate(FINDINGS):  # each with numbers of its own: the same in all images
        if name in findings:
            geometry = np.random.default_rng([config.seed, index, 8, place])
            regions[name] = FINDINGS[name](plane, geometry, canvas, chest, config)
    chest.paint_bones(canvas)
    picture = to_pixels(_exposed(canvas, plane, rng, config.difficulty))
    signs: list[Box] = []
    for place, name in enumerate(FINDINGS):
        if config.shortcut and name in findings:
            box, pixels = sign(place, config.size, name)
            picture[pixels] = 255
            signs.append(box)
    patient = f"p{index:03d}"
    return Drawn(
        case_id=f"{patient}-{number}",
        patient_id=patient,
        truth={name: str(int(name in findings)) for name in FINDINGS},
        views={"image": picture},
        boxes=[tight_box(region, name) for name, region in regions.items()],
        signs=signs,
    )


def _posed(size: int, rng: np.random.Generator) -> PixelPlane:
    """Pixels over a patient who stands a little to the side, nearer or farther."""
    plane = PixelPlane.of(size, rng.uniform(0.97, 1.06))
    shift = rng.uniform(-0.02, 0.02, 2).astype(np.float32)
    return PixelPlane(size, plane.y + shift[0], plane.x + shift[1])


def _exposed(canvas: Field, plane: PixelPlane, rng: np.random.Generator, difficulty: float) -> Field:
    """What the detector makes of it: electrodes on the skin, blur, exposure, contrast, noise."""
    if rng.random() < 0.3:
        for _ in range(rng.integers(1, 4)):
            place: Point = (rng.uniform(-0.3, 0.3), rng.uniform(-0.33, 0.33))
            end = (place[0] + rng.uniform(0.2, 0.5), place[1] + rng.uniform(-0.3, 0.3))
            plane.paint(canvas, plane.line(place, end, 0.004), canvas + 0.12)
            plane.paint(canvas, np.abs(plane.ellipse(place, (0.014, 0.014)) + 0.004) - 0.004, canvas + 0.3)
    seen = ndimage.gaussian_filter(canvas, 0.004 * plane.size)
    seen = np.clip(seen, 0, None) ** rng.uniform(0.85, 1.15) * rng.uniform(0.92, 1.08)
    grain = ndimage.gaussian_filter(rng.standard_normal(seen.shape), 0.5)
    return np.asarray(seen + (0.012 + 0.05 * difficulty) * grain / grain.std(), dtype=np.float32)


def _cardiomegaly(
    plane: PixelPlane, rng: np.random.Generator, canvas: Field, chest: Chest, config: ChestConfig
) -> Mask:
    """The large heart is part of the anatomy already."""
    return np.asarray(chest.heart < 0)


def _effusion(
    plane: PixelPlane, rng: np.random.Generator, canvas: Field, chest: Chest, config: ChestConfig
) -> Mask:
    """Fluid in the base of one lung, higher at the wall than in the middle."""
    side = rng.choice((-1, 1))
    height = rng.uniform(0.13, 0.22) * (1.15 - 0.35 * config.difficulty)
    outward = np.clip((plane.x * side - 0.08) / 0.24, 0, 1)
    level = chest.base - height * (0.45 + 0.75 * outward**2)
    fluid = np.maximum.reduce([chest.lung(side), level - plane.y, -chest.heart])
    seen = np.maximum(chest.lung(side) - 0.012, level - plane.y)
    density, strength = BELLY + 0.02 * plane.noise(rng, 0.03), 0.55 + 0.35 * config.contrast
    plane.paint(canvas, np.maximum(seen, -chest.heart), density, strength=strength, soft=0.015)
    return np.asarray(fluid < 0)


def _infiltration(
    plane: PixelPlane, rng: np.random.Generator, canvas: Field, chest: Chest, config: ChestConfig
) -> Mask:
    """A cloud with patches, denser in its middle."""
    radius = rng.uniform(0.085, 0.125) * (1.15 - 0.3 * config.difficulty)
    centre = chest.place(rng, 0.05)
    blob = plane.blob(rng, centre, (radius * rng.uniform(0.8, 1.4), radius), uneven=0.12)
    inside = np.maximum(blob, chest.both)
    cloud = plane.cover(inside, 0.06) * np.clip(0.75 + 0.4 * plane.noise(rng, 0.018), 0, 1.4)
    canvas += 0.27 * config.contrast * cloud
    return _visible(cloud > 0.35, inside)


def _mass(
    plane: PixelPlane, rng: np.random.Generator, canvas: Field, chest: Chest, config: ChestConfig
) -> Mask:
    """An even opacity with a lobed outline."""
    radius = rng.uniform(0.06, 0.085) * (1.15 - 0.3 * config.difficulty)
    shape = plane.blob(
        rng, chest.place(rng, 0.06), (radius, radius * rng.uniform(0.9, 1.2)), uneven=0.07, lobes=5
    )
    shape = np.maximum(shape, chest.both)
    canvas += 0.36 * config.contrast * plane.cover(shape, 0.012)
    return np.asarray(shape < 0)


def _nodule(
    plane: PixelPlane, rng: np.random.Generator, canvas: Field, chest: Chest, config: ChestConfig
) -> Mask:
    """A small round opacity, dense for its size."""
    radius = rng.uniform(0.026, 0.036) * (1.15 - 0.3 * config.difficulty)
    shape = plane.ellipse(chest.place(rng, 0.035), (radius, radius * rng.uniform(0.9, 1.1)))
    canvas += 0.38 * config.contrast * plane.cover(shape, 0.008)
    return np.asarray(shape < 0)


def _pneumothorax(
    plane: PixelPlane, rng: np.random.Generator, canvas: Field, chest: Chest, config: ChestConfig
) -> Mask:
    """The lung has come off the wall already (``Chest.lungs``); its edge is a thin line."""
    line = np.maximum(np.abs(chest.collapsed) - 0.004, chest.lung(chest.air_side) + 0.018)
    canvas += 0.22 * config.contrast * plane.cover(line)
    return np.asarray(chest.crescent < 0)


def _visible(cloud: Mask, inside: Field) -> Mask:
    """The cloud's pixels, or its whole outline should it be too thin to see."""
    return cloud if cloud.any() else np.asarray(inside < 0)


FINDINGS: dict[str, Callable[[PixelPlane, np.random.Generator, Field, Chest, ChestConfig], Mask]] = {
    "cardiomegaly": _cardiomegaly,
    "effusion": _effusion,
    "infiltration": _infiltration,
    "mass": _mass,
    "nodule": _nodule,
    "pneumothorax": _pneumothorax,
}
