"""Imaginary liver lesions in eight registered phases of an MR examination, in seven classes.

Small volumes around a lesion, as in LLD-MMRI. What tells a class apart stands in the table ``LOOKS``, phase
by phase; in a phase that the table does not name for a class, its lesions look like any other
(``PLAIN``). So it is known which phases carry the class (``CARRIERS``, ``carriers_of``), and the
attribution of a model can be tested against it.

| class | signs |
|---|---|
| hemangioma | very bright in T2; nodules at the border, as bright as vessels, that fill it inwards |
| ICC | bright rim in DWI and early; the middle fills late |
| abscess | middle very bright in DWI; bright double rim, middle never enhances |
| metastasis | target in DWI; thin early rim, dark afterwards |
| cyst | water: brightest in T2, dark in DWI and T1, never enhances |
| FNH | early bright with a dark scar, then like the liver; the scar is bright in T2 and late |
| HCC | mosaic, early bright; fat darkens the opposed phase; wash-out, and late a bright capsule |
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
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
from foveate.data.phantoms.ct_anatomy import Field, Grid, Point
from foveate.data.phantoms.drawing import sign
from foveate.errors import UsageError
from foveate.types import Box, Track, quiet

VIEWS = ("t2", "dwi", "in_phase", "out_phase", "c_pre", "c_arterial", "c_venous", "c_delay")
CONTRAST = VIEWS[5:]  # the phases after the contrast medium
CLASSES = ("hemangioma", "ICC", "abscess", "metastasis", "cyst", "FNH", "HCC")
WIDE, HIGH = 80.0, 48.0  # mm, of the volume

# Signal of the liver in stored units; of vessels and of the fat around the liver, in percent above it.
LIVER = dict(zip(VIEWS, (300, 200, 400, 380, 350, 420, 600, 560), strict=True))
VESSEL = dict(zip(VIEWS, (-50, -55, -30, -25, -25, 25, 50, 32), strict=True))
FAT = dict(zip(VIEWS, (10, -75, 60, 25, -45, -55, -60, -58), strict=True))


@dataclass(frozen=True, slots=True)
class LesionLook:
    """How a lesion looks in one phase: signals in percent above the liver's, at contrast 1.

    Attributes:
        body: of the whole lesion.
        core: of its inner part.
        rim: of its outermost shell.
        nodules: of nodules that start at its border.
        fill: how far they reach inwards: 0 not at all, 1 through the whole lesion.
        scar: of a star in its middle.
        mosaic: deviation between its compartments.
    """

    body: float
    core: float | None = None
    rim: float | None = None
    nodules: float | None = None
    fill: float = 0.0
    scar: float | None = None
    mosaic: float = 0.0


PLAIN: dict[str, LesionLook] = dict(
    zip(VIEWS, map(LesionLook, (38, 32, -18, -18, -18, -8, -14, -10)), strict=True)
)  # a lesion of no class
LOOKS: dict[str, dict[str, LesionLook]] = {
    "hemangioma": {
        "t2": LesionLook(110),
        "c_arterial": LesionLook(-38, nodules=40, fill=0.27),
        "c_venous": LesionLook(-38, nodules=45, fill=0.6),
        "c_delay": LesionLook(-25, nodules=32, fill=1.0),
    },
    "ICC": {
        "dwi": LesionLook(20, rim=75),
        "c_arterial": LesionLook(-45, rim=35),
        "c_venous": LesionLook(-40, rim=15),
        "c_delay": LesionLook(-12, core=30),
    },
    "abscess": {
        "t2": LesionLook(50, core=110),
        "dwi": LesionLook(40, core=170),
        "c_arterial": LesionLook(-60, rim=45),
        "c_venous": LesionLook(-65, rim=50),
        "c_delay": LesionLook(-65, rim=45),
    },
    "metastasis": {
        "dwi": LesionLook(85, core=20),
        "c_arterial": LesionLook(-30, rim=22),
        "c_venous": LesionLook(-48),
        "c_delay": LesionLook(-22, rim=-50),
    },
    "cyst": {
        "t2": LesionLook(190),
        "dwi": LesionLook(-40),
        "in_phase": LesionLook(-55),
        "out_phase": LesionLook(-55),
        "c_pre": LesionLook(-55),
        "c_arterial": LesionLook(-68),
        "c_venous": LesionLook(-78),
        "c_delay": LesionLook(-76),
    },
    "FNH": {
        "t2": LesionLook(8, scar=70),
        "c_arterial": LesionLook(62, scar=-15),
        "c_venous": LesionLook(10, scar=-35),
        "c_delay": LesionLook(2, scar=40),
    },
    "HCC": {
        "t2": LesionLook(35, mosaic=22),
        "out_phase": LesionLook(-60, mosaic=15),
        "c_arterial": LesionLook(48, mosaic=26),
        "c_venous": LesionLook(-32, mosaic=8),
        "c_delay": LesionLook(-42, rim=30, mosaic=8),
    },
}
CARRIERS: dict[str, tuple[str, ...]] = {name: tuple(looks) for name, looks in LOOKS.items()}
LAYOUT = CohortLayout(("label",), VIEWS, ("mask",))


@dataclass(frozen=True, kw_only=True)
class LiverMriConfig(CohortConfig):
    """A cohort of liver lesions in MR.

    Attributes:
        slices: of each volume, 48 mm together.
        classes: those to draw; fewer can be learned from fewer patients.
        carriers: ``contrast`` lets the phases after the contrast medium alone tell the class.
        missing: share of the volumes that the manifest leaves empty; every patient keeps at least one.
    """

    LIMITS: ClassVar[Limits] = {**CohortConfig.LIMITS, "slices": (4, 64), "missing": (0, 0.8)}

    size: int = 64
    slices: int = 16
    classes: Sequence[str] = CLASSES
    carriers: Literal["all", "contrast"] = "all"
    missing: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("carriers", self.carriers, ("all", "contrast"))
        for name in self.classes:
            check_choice("classes", name, CLASSES)
        if len(set(self.classes)) != len(self.classes) or len(self.classes) < 2:
            raise UsageError(
                f"these are not two or more different classes: {', '.join(self.classes)}",
                where="classes",
                fix="name each class once",
            )


def carriers_of(config: LiverMriConfig) -> dict[str, tuple[str, ...]]:
    """The phases that carry each class of a cohort; all others show a lesion of no class."""
    told = VIEWS if config.carriers == "all" else CONTRAST
    return {name: tuple(view for view in CARRIERS[name] if view in told) for name in config.classes}


def make_liver_mri(out: Path, config: LiverMriConfig, track: Track = quiet) -> Path:
    """Write the cohort: eight volumes and a mask per patient, one lesion each; returns ``manifest.csv``."""
    return write_cohort(out, "liver-mri", config, LAYOUT, draw_patient, track=track)


def draw_patient(index: int, config: LiverMriConfig) -> Iterator[Drawn]:
    """One patient with one lesion, as arrays ``(D, H, W)``, z up, y to the back, x to the left."""
    label, rng = (
        take_turns(index, config.seed, config.classes),
        np.random.default_rng([config.seed, index, 2]),
    )
    spacing = (HIGH / config.slices, WIDE / config.size, WIDE / config.size)
    grid = Grid.centred((config.slices, config.size, config.size), spacing)
    scene = _scene(grid, rng, config)
    told = carriers_of(config)[label]
    spread, own = 0.1 + 0.25 * config.difficulty, {view: LOOKS[label][view] for view in told}
    looks = {view: _varied(look, rng, spread) for view, look in (PLAIN | own).items()}
    volumes = {view: _scan(scene, view, looks[view], rng, config) for view in VIEWS}
    signs: tuple[Box, ...] = ()
    if config.shortcut:
        flat, pixels = sign(CLASSES.index(label), config.size, label)
        signs = (Box((0, *flat.start), (config.slices, *flat.stop), label),)
        for volume in volumes.values():
            volume[:, pixels] = int(volume.max())
    kept = present_views(np.random.default_rng([config.seed, index, 3]), VIEWS, config.missing)
    name = f"p{index:03d}"
    yield Drawn(
        case_id=name,
        patient_id=name,
        truth={"label": label},
        views={view: volumes[view] for view in kept},
        masks={"mask": scene.surface < 0},
        signs=signs,
        spacing=spacing,
    )


@dataclass(frozen=True, slots=True)
class _Scene:
    """What all phases of a patient share: shapes as signed distances in mm, grain without unit.

    Attributes:
        grid: the voxels.
        surface: of the lesion.
        radius: of the lesion, mm.
        liver, vessels: of the liver and the vessels in it.
        nodules: distance from the nearest starting point of an enhancing nodule, as a share of the way
            that the farthest point of the lesion has.
        scar: of the star in the lesion's middle.
        patches: a constant for each compartment of the lesion, deviation 1.
        texture: of the tissue, deviation 1.
    """

    grid: Grid
    surface: Field
    radius: float
    liver: Field
    vessels: Field
    nodules: Field
    scar: Field
    patches: Field
    texture: Field


def _scene(grid: Grid, rng: np.random.Generator, config: LiverMriConfig) -> _Scene:
    radius = rng.uniform(11, 15) * (1.25 - 0.4 * config.difficulty)
    room = WIDE / 2 - radius - 7
    centre = (rng.uniform(-5, 5), rng.uniform(-room, room), rng.uniform(-room, room))
    radii = (radius * rng.uniform(0.85, 1.1), radius, radius * rng.uniform(0.9, 1.15))
    surface = grid.ellipsoid(centre, radii, rng.uniform(0, np.pi)) + 0.06 * radius * grid.noise(
        rng, 0.5 * radius
    )
    turn, far = rng.uniform(0, 2 * np.pi), rng.uniform(90, 120)  # the liver's edge is cut in many volumes
    gap = 100 - max(0.0, centre[1] * np.sin(turn) + centre[2] * np.cos(turn)) - rng.uniform(18, 40)
    liver = grid.ellipsoid((0, -gap * np.sin(turn), -gap * np.cos(turn)), (far, 100, 100)) + 1.5 * grid.noise(
        rng, 9
    )
    surface = np.maximum(surface, liver + 1)
    return _Scene(
        grid=grid,
        surface=surface,
        radius=radius,
        liver=liver,
        vessels=_vessels(grid, rng),
        nodules=_nodules(grid, rng, centre, radii),
        scar=_scar(grid, rng, centre, radius),
        patches=_patches(grid, rng, centre, radius),
        texture=0.7 * grid.noise(rng, 1.5) + 0.7 * grid.noise(rng, 7),
    )


def _vessels(grid: Grid, rng: np.random.Generator) -> Field:
    """Signed distance to a few vessels that cross the volume."""
    tubes = []
    for _ in range(rng.integers(3, 6)):
        turn, lean = rng.uniform(0, 2 * np.pi), rng.uniform(-22, 22, 2)
        start = (lean[0], 52 * np.sin(turn), 52 * np.cos(turn))
        turn += np.pi + rng.uniform(-0.9, 0.9)
        stop = (lean[1], 52 * np.sin(turn), 52 * np.cos(turn))
        tubes.append(grid.tube(start, stop, (rng.uniform(1.6, 3.4), rng.uniform(1.0, 2.2))))
    return np.asarray(np.minimum.reduce(tubes), dtype=np.float32)


def _nodules(grid: Grid, rng: np.random.Generator, centre: Point, radii: Point) -> Field:
    """Distance from starting points on the border, as a share of the lesion's diameter."""
    ways = rng.standard_normal((rng.integers(5, 8), 3))
    ways[:, 0] *= 0.6
    ways /= np.linalg.norm(ways, axis=1, keepdims=True)
    squares = [
        sum(
            ((axis - middle - way * length) / length) ** 2
            for axis, middle, way, length in zip((grid.z, grid.y, grid.x), centre, point, radii, strict=True)
        )
        for point in 0.95 * ways
    ]
    distance = np.sqrt(np.minimum.reduce([np.broadcast_to(square, grid.shape) for square in squares]))
    return np.asarray(distance / 1.5, dtype=np.float32)


def _scar(grid: Grid, rng: np.random.Generator, centre: Point, radius: float) -> Field:
    """Signed distance to a star of three to five spokes."""
    spokes = rng.integers(3, 6)
    turns = np.linspace(0, 2 * np.pi, spokes, endpoint=False) + rng.uniform(0, np.pi)
    tubes = [grid.ellipsoid(centre, (0.45 * radius, 0.22 * radius, 0.22 * radius))]
    for turn in turns + rng.uniform(-0.25, 0.25, spokes):
        way = 0.62 * radius * np.array([rng.uniform(-0.4, 0.4), np.sin(turn), np.cos(turn)])
        z, y, x = np.array(centre) + way
        tubes.append(grid.tube(centre, (z, y, x), (0.16 * radius, 0.06 * radius)))
    return np.asarray(np.minimum.reduce(tubes), dtype=np.float32)


def _patches(grid: Grid, rng: np.random.Generator, centre: Point, radius: float) -> Field:
    """A constant in each of the compartments nearest to random points, softened a little."""
    seeds = np.array(centre) + rng.uniform(-1, 1, (24, 3)) * radius
    squares = [(grid.z - z) ** 2 + (grid.y - y) ** 2 + (grid.x - x) ** 2 for z, y, x in seeds]
    nearest = np.argmin([np.broadcast_to(square, grid.shape) for square in squares], axis=0)
    tissue = rng.permutation(np.resize((1.2, -1.2, 0.7, -0.7), len(seeds)))
    return np.asarray(ndimage.gaussian_filter(tissue[nearest], (0, 0.6, 0.6)), dtype=np.float32)


def _varied(look: LesionLook, rng: np.random.Generator, spread: float) -> LesionLook:
    """The same look in another patient: every signal up to that share more or less, by one draw each."""
    changes: dict[str, Any] = {}
    for item in fields(look):
        factor, value = rng.uniform(1 - spread, 1 + spread), getattr(look, item.name)
        if item.name != "fill" and value is not None:
            changes[item.name] = value * factor
    return replace(look, **changes)


def _scan(
    scene: _Scene, view: str, look: LesionLook, rng: np.random.Generator, config: LiverMriConfig
) -> NDArray[np.int16]:
    """One phase: tissue, lesion, uneven coil sensitivity, noise of a magnitude image, any gain."""
    grid = scene.grid
    signal = 100 + 3 * scene.texture
    grid.paint(signal, scene.vessels, 100 + VESSEL[view])
    _paint_lesion(signal, scene, look, config.contrast)
    grid.paint(signal, -scene.liver, 100 + FAT[view] + 6 * scene.texture)
    signal = ndimage.gaussian_filter(signal, (0, 0.5, 0.5)) * (1 + 0.05 * grid.noise(rng, 25))
    level = 3 + 13 * config.difficulty
    real, imaginary = level * ndimage.gaussian_filter(
        rng.standard_normal((2, *grid.shape), dtype=np.float32), (0, 0, 0.4, 0.4)
    )
    signal = np.hypot(signal + real, imaginary) * LIVER[view] / 100 * rng.uniform(0.7, 1.5)
    return np.asarray(np.clip(np.rint(signal), 0, 4095), dtype=np.int16)


def _paint_lesion(signal: Field, scene: _Scene, look: LesionLook, contrast: float) -> None:
    """Paint the parts of one lesion over the tissue: body, core, nodules, scar and rim in this order."""
    grid, surface = scene.grid, scene.surface
    body = np.float32(100 + contrast * look.body) + contrast * look.mosaic * scene.patches + 2 * scene.texture
    grid.paint(signal, surface, body.astype(np.float32))
    if look.core is not None:
        grid.paint(signal, surface + 0.42 * scene.radius, 100 + contrast * look.core)
    if look.nodules is not None:
        nodules = np.maximum((scene.nodules - look.fill) * 1.5 * scene.radius, surface + 0.5)
        grid.paint(signal, nodules, 100 + contrast * look.nodules)
    if look.scar is not None:
        grid.paint(signal, np.maximum(scene.scar, surface + 1), 100 + contrast * look.scar)
    if look.rim is not None:
        width = max(1.3, 0.1 * scene.radius)
        grid.paint(signal, np.abs(surface + width) - width, 100 + contrast * look.rim)
