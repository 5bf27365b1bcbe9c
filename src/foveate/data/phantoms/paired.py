"""Imaginary skin lesions, each seen twice: a photo of the surface and an ultrasound image of the depth.

The photo tells whether the surface is smooth or scaly, the ultrasound whether the depth is solid or
cystic, and the class is the combination of both: with one view alone half of the cases at most can be
right (with ``rule="xor"``: none better than by chance). Everything else (skin, lesion colour, size and place,
hair, freckles, gloss, vessels, echoes) is drawn without regard to the class.

The ultrasound is a plane parallel to the skin (a C-mode image) in the photo's pixels, so that one mask
is true in both views.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from foveate.data.phantoms.cohort import (
    CohortConfig,
    CohortLayout,
    Drawn,
    Limits,
    check_choice,
    present_views,
    take_turns,
    write_cohort,
)
from foveate.data.phantoms.drawing import Field, PixelPlane, Point, sign, to_pixels
from foveate.types import Track, quiet

VIEWS = ("clinical", "ultrasound")
SURFACES = ("smooth", "scaly")
DEPTHS = ("solid", "cystic")
GROUPS = tuple(f"{surface}-{depth}" for surface in SURFACES for depth in DEPTHS)
XOR = dict(zip(GROUPS, ("benign", "malignant", "malignant", "benign"), strict=True))
LAYOUT = CohortLayout(("label",), VIEWS, ("mask",))


@dataclass(frozen=True, kw_only=True)
class PairedConfig(CohortConfig):
    """A cohort of pairs.

    Attributes:
        rule: ``grid`` makes each of the four combinations a class; ``xor`` calls malignant what is scaly or
            cystic but not both.
        missing: share of the images that the manifest leaves empty; every case keeps at least one.
    """

    LIMITS: ClassVar[Limits] = {**CohortConfig.LIMITS, "missing": (0, 0.45)}

    rule: Literal["grid", "xor"] = "grid"
    missing: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("rule", self.rule, ("grid", "xor"))


def make_paired(out: Path, config: PairedConfig, track: Track = quiet) -> Path:
    """Write the cohort: a photo, an ultrasound image and a mask per patient; returns ``manifest.csv``."""
    return write_cohort(out, "paired", config, LAYOUT, draw_patient, track=track)


@dataclass(frozen=True, slots=True)
class _PairedLesion:
    """What both views share: the outline as a signed distance, the middle, and the mean radius."""

    surface: Field
    centre: Point
    radius: float


def draw_patient(index: int, config: PairedConfig) -> Iterator[Drawn]:
    """One patient with one lesion, as a photo ``(H, W, 3)`` and an ultrasound image ``(H, W)``."""
    group = take_turns(index, config.seed, GROUPS)
    label = group if config.rule == "grid" else XOR[group]
    rng, plane = np.random.default_rng([config.seed, index, 4]), PixelPlane.of(config.size)
    radius = rng.uniform(0.14, 0.19) * (1.2 - 0.35 * config.difficulty)
    centre = (rng.uniform(-1, 1) * (0.38 - radius), rng.uniform(-1, 1) * (0.38 - radius))
    radii = (radius * rng.uniform(0.85, 1.15), radius * rng.uniform(0.85, 1.15))
    lesion = _PairedLesion(plane.blob(rng, centre, radii, uneven=0.07), centre, radius)
    surface, depth = group.split("-")
    views = {
        "clinical": _photo(plane, rng, lesion, scaly=surface == "scaly", config=config),
        "ultrasound": _ultrasound(plane, rng, lesion, cystic=depth == "cystic", config=config),
    }
    pictures = {view: to_pixels(canvas) for view, canvas in views.items()}
    box, pixels = sign(
        (GROUPS if config.rule == "grid" else ("benign", "malignant")).index(label), config.size, label
    )
    if config.shortcut:
        for picture in pictures.values():
            picture[pixels] = 255
    kept = present_views(np.random.default_rng([config.seed, index, 5]), VIEWS, config.missing)
    name = f"p{index:03d}"
    yield Drawn(
        case_id=name,
        patient_id=name,
        truth={"label": label},
        views={view: pictures[view] for view in kept},
        masks={"mask": lesion.surface < 0},
        signs=(box,) if config.shortcut else (),
    )


def _photo(
    plane: PixelPlane, rng: np.random.Generator, lesion: _PairedLesion, *, scaly: bool, config: PairedConfig
) -> Field:
    """The skin with the lesion, freckles, gloss, hair, a lamp from one side, and the camera's noise."""
    tone = rng.random()  # light to dark skin
    skin = (1 - tone) * np.array([0.88, 0.70, 0.61]) + tone * np.array([0.48, 0.33, 0.25])
    relief = 0.5 * plane.noise(rng, 0.006) + 0.5 * plane.noise(rng, 0.03) + plane.noise(rng, 0.15)
    canvas = np.asarray(skin + 0.018 * relief[..., None] * np.array([1, 0.9, 0.8]), dtype=np.float32)
    for _ in range(rng.integers(0, 9)):
        spot = plane.ellipse(tuple(rng.uniform(-0.48, 0.48, 2)), tuple(rng.uniform(0.006, 0.016, 2)))
        plane.paint(canvas, spot, skin * (0.72, 0.62, 0.55), strength=0.7, soft=0.02)
    _paint_lesion(plane, rng, canvas, lesion, skin)
    _paint_gloss(plane, rng, canvas, lesion)
    if scaly:
        _paint_scales(plane, rng, canvas, lesion, config.contrast)
    for _ in range(rng.integers(0, 7)):
        _paint_hair(plane, rng, canvas)
    turn = rng.uniform(0, 2 * np.pi)
    lamp = (
        1
        + rng.uniform(0, 0.25) * (plane.y * np.sin(turn) + plane.x * np.cos(turn))
        - 0.35 * (plane.y**2 + plane.x**2)
    )
    grain = rng.standard_normal(canvas.shape, dtype=np.float32) * (0.008 + 0.05 * config.difficulty)
    return np.asarray(canvas * lamp[..., None] + grain, dtype=np.float32)


def _paint_lesion(
    plane: PixelPlane, rng: np.random.Generator, canvas: Field, lesion: _PairedLesion, skin: NDArray[Any]
) -> None:
    """A reddish to brown plaque with uneven pigment, a halo of inflammation and a raised edge."""
    red = rng.random()
    colour = skin * (red * np.array([0.86, 0.52, 0.50]) + (1 - red) * np.array([0.62, 0.48, 0.40]))
    plane.paint(
        canvas, lesion.surface - 0.02, skin * (1.02, 0.84, 0.82), strength=rng.uniform(0, 0.6), soft=0.05
    )
    pigment = 1 + rng.uniform(0.03, 0.09) * plane.noise(rng, 0.03)
    plane.paint(canvas, lesion.surface, np.asarray(colour * pigment[..., None], dtype=np.float32), soft=0.012)
    plane.paint(canvas, np.abs(lesion.surface + 0.012) - 0.006, colour * 0.85, strength=0.5, soft=0.012)


def _paint_gloss(plane: PixelPlane, rng: np.random.Generator, canvas: Field, lesion: _PairedLesion) -> None:
    """A few wet highlights anywhere, on every kind of lesion: bright, soft, without edges."""
    for _ in range(rng.integers(1, 5)):
        place = tuple(np.array(lesion.centre) + rng.uniform(-1.6, 1.6, 2) * lesion.radius)
        spot = plane.ellipse(
            place, (rng.uniform(0.008, 0.02), rng.uniform(0.015, 0.04)), rng.uniform(0, np.pi)
        )
        plane.paint(canvas, spot, (0.97, 0.95, 0.93), strength=rng.uniform(0.3, 0.6), soft=0.03)


def _paint_scales(
    plane: PixelPlane, rng: np.random.Generator, canvas: Field, lesion: _PairedLesion, contrast: float
) -> None:
    """Pale flakes with hard edges that cover more than half of the lesion."""
    seeds = rng.uniform(-1.3, 1.3, (70, 2)) * lesion.radius + np.array(lesion.centre)
    away = np.sort([np.hypot(plane.y - y, plane.x - x) for y, x in seeds], axis=0)[:2]
    nearest = np.argmin([np.hypot(plane.y - y, plane.x - x) for y, x in seeds], axis=0)
    kept = rng.random(len(seeds)) < 0.7
    cracks = 0.008 - (away[1] - away[0]) / 2
    flakes = np.maximum(np.where(kept[nearest], cracks, 1.0), lesion.surface + 0.015)
    shade = (rng.uniform(0.82, 1.0, len(seeds)))[nearest][..., None] * np.array([0.93, 0.89, 0.80])
    plane.paint(
        canvas, flakes.astype(np.float32), shade.astype(np.float32), strength=min(1.0, 0.8 * contrast)
    )


def _paint_hair(plane: PixelPlane, rng: np.random.Generator, canvas: Field) -> None:
    """One dark hair, bent, across any part of the picture."""
    plane.paint(canvas, plane.curve(_arc(rng), 0.005), (0.13, 0.09, 0.07), strength=0.75)


def _arc(rng: np.random.Generator) -> list[Point]:
    """Points on a bent line, half a side long, anywhere."""
    middle, turn, bend = rng.uniform(-0.5, 0.5, 2), rng.uniform(0, 2 * np.pi), rng.uniform(-1.2, 1.2)
    steps = np.linspace(-0.25, 0.25, 9)
    y = middle[0] + steps * np.sin(turn) + bend * steps**2 * np.cos(turn)
    x = middle[1] + steps * np.cos(turn) - bend * steps**2 * np.sin(turn)
    return list(zip(y, x, strict=True))


def _ultrasound(
    plane: PixelPlane, rng: np.random.Generator, lesion: _PairedLesion, *, cystic: bool, config: PairedConfig
) -> Field:
    """Echoes of the dermis with fibres and vessels, the lesion's echo-poor bulk, and speckle."""
    canvas = np.full((plane.size, plane.size), rng.uniform(0.48, 0.58), dtype=np.float32)
    canvas += 0.05 * plane.noise(rng, 0.08)
    for _ in range(rng.integers(5, 10)):  # bundles of fibres, brighter
        start, stop = rng.uniform(-0.6, 0.6, (2, 2))
        plane.paint(
            canvas,
            plane.line(tuple(start), tuple(stop), rng.uniform(0.01, 0.02)),
            0.8,
            strength=0.5,
            soft=0.01,
        )
    for _ in range(rng.integers(1, 4)):  # vessels, without echoes
        tube = plane.curve(_arc(rng), rng.uniform(0.018, 0.032))
        plane.paint(canvas, np.maximum(tube, 0.02 - lesion.surface), 0.14, soft=0.015)
    bulk = rng.uniform(0.30, 0.38)
    plane.paint(canvas, lesion.surface, bulk + 0.02 * plane.noise(rng, 0.02), soft=0.012)
    if cystic:
        _paint_cysts(plane, rng, canvas, lesion, bulk, config.contrast)
    speckle = ndimage.gaussian_filter(rng.standard_normal((2, plane.size, plane.size)), (0, 0.7, 0.9))
    speckle = np.hypot(*(speckle / speckle.std())) / np.sqrt(np.pi / 2)
    share = 0.22 + 0.4 * config.difficulty
    return np.asarray(canvas * (1 - share + share * speckle) * rng.uniform(0.85, 1.15), dtype=np.float32)


def _paint_cysts(
    plane: PixelPlane,
    rng: np.random.Generator,
    canvas: Field,
    lesion: _PairedLesion,
    bulk: float,
    contrast: float,
) -> None:
    """Chambers without echoes behind bright walls; brighter bulk between them keeps the mean alike."""
    plane.paint(canvas, lesion.surface, bulk + 0.08 * contrast + 0.02 * plane.noise(rng, 0.02), soft=0.012)
    placed: list[tuple[Point, float]] = []
    for _ in range(60):
        size = lesion.radius * rng.uniform(0.2, 0.36)
        turn, away = rng.uniform(0, 2 * np.pi), lesion.radius * np.sqrt(rng.uniform(0, 0.55))
        place = (lesion.centre[0] + away * np.sin(turn), lesion.centre[1] + away * np.cos(turn))
        if len(placed) == 6 or any(
            np.hypot(place[0] - y, place[1] - x) < 0.9 * (size + other) for (y, x), other in placed
        ):
            continue
        placed.append((place, size))
        chamber = np.maximum(
            plane.ellipse(place, (size, size * rng.uniform(0.8, 1.2)), turn), lesion.surface + 0.01
        )
        plane.paint(canvas, chamber - 0.008, bulk + 0.3 * contrast)
        plane.paint(canvas, chamber, bulk - 0.28 * contrast)
