"""How far apart places of a patient lie after `preprocess.align`: affine and rigid, on phantoms that moved.

    python benchmarks/alignment.py --cases 20

Each case is an abdomen of ellipsoids with organs of its own size and place, seen in two contrasts (some
organs that are brighter than their surroundings in the first are darker in the second), with noise. The
second phase has another orientation, spacing and origin; in half of the table the patient has also moved, by
up to 15 mm along each axis and up to 8° about each. Residual: mean distance between where a place of the body
is looked for in the second phase and where it is, over the body, in mm.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foveate.io.stack import geometry_of
from foveate.prepare.align import grid_matrix
from foveate.prepare.preprocess import Preprocess
from foveate.study.settings import PreprocessConfig
from foveate.types import Image

Floats = NDArray[np.float64]
ORGANS = {  # centre and half axes in mm (RAS+), grey in both phases
    "body": ((0, 0, 0), (150, 100, 140), 300, 260),
    "liver": ((60, 10, 30), (70, 60, 55), 480, 700),
    "spleen": ((-85, -35, 35), (30, 35, 40), 520, 820),
    "kidney right": ((55, -50, -45), (25, 25, 45), 650, 950),
    "kidney left": ((-55, -50, -40), (25, 25, 45), 650, 950),
    "spine": ((0, -60, 0), (22, 22, 200), 420, 180),
    "aorta": ((-8, -28, 0), (11, 11, 200), 180, 1100),
    "stomach": ((-55, 45, 25), (40, 30, 35), 700, 120),
    "lesion": ((75, 25, 45), (14, 12, 13), 640, 540),
}
GRIDS = (
    ("LPS", (2.0, 2.0, 5.0)),
    ("RAS", (2.4, 2.4, 4.0)),
    ("LAS", (1.8, 1.8, 6.0)),
    ("ASR", (2.5, 2.5, 3.0)),
)
AXES = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}
EXTENT = np.array([330.0, 230.0, 200.0])


@dataclass(frozen=True)
class Patient:
    """Organs of one patient: ``(K, 3)`` centres and half axes, ``(K, 2)`` greys."""

    centres: Floats
    axes: Floats
    greys: Floats

    @classmethod
    def drawn(cls, draws: np.random.Generator) -> Patient:
        centres, axes, first, second = (np.array(each, float) for each in zip(*ORGANS.values(), strict=True))
        centres += draws.uniform(-8, 8, centres.shape) * (np.arange(len(centres)) > 0)[:, None]
        return cls(centres, axes * draws.uniform(0.85, 1.15, axes.shape), np.stack([first, second], axis=1))

    def seen(self, places: Floats, phase: int) -> Floats:
        """Grey at places ``(…, 3)`` in mm; edges are 3 mm wide."""
        grey = np.zeros(places.shape[:-1])
        for centre, half, values in zip(self.centres, self.axes, self.greys, strict=True):
            depth = (1 - np.sqrt((((places - centre) / half) ** 2).sum(axis=-1))) * half.min()
            inside = np.clip(depth / 3 + 0.5, 0, 1)
            grey = grey * (1 - inside) + values[phase] * inside
        return grey


def volume(
    patient: Patient, phase: int, grid: tuple[str, Any], origin: Floats, motion: Floats, noise: Any
) -> Image:
    """One phase: the patient, moved by ``motion`` (4 × 4, mm), on a grid around ``origin``."""
    letters, spacing = grid
    affine, shape = np.zeros((4, 4)), []
    affine[3, 3] = 1
    for column, letter in enumerate(reversed(letters)):  # array order
        along, sign = AXES[letter]
        affine[along, column] = sign * spacing[along]
        shape.append(round(EXTENT[along] / spacing[along]))
    affine[:3, 3] = origin - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    back = np.linalg.inv(motion)
    places = (index @ affine[:3, :3].T + affine[:3, 3]) @ back[:3, :3].T + back[:3, 3]
    grey = patient.seen(places, phase) + noise.normal(0, 40, shape)
    return Image(grey[None].astype(np.float32), geometry_of(affine, tuple(shape)), f"phase{phase}", "")


def moved(draws: np.random.Generator) -> Floats:
    """Up to 15 mm along each axis and 8° about each."""
    matrix = np.eye(4)
    for axis, angle in enumerate(np.radians(draws.uniform(-8, 8, 3))):
        one, other = (axis + 1) % 3, (axis + 2) % 3
        turn = np.eye(3)
        turn[[one, one, other, other], [one, other, one, other]] = [
            np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
        ]  # fmt: skip
        matrix[:3, :3] = turn @ matrix[:3, :3]
    matrix[:3, 3] = draws.uniform(-15, 15, 3)
    return matrix


def residual(images: tuple[Image, Image], motion: Floats, patient: Patient, found: Floats) -> float:
    """Mean distance in mm between where places of the body are looked for and where they are."""
    places = np.random.default_rng(0).uniform(-1, 1, (4000, 3)) * patient.axes[0]
    inside = ((places / patient.axes[0]) ** 2).sum(axis=1) < 1
    spots = np.concatenate([places[inside], np.ones((inside.sum(), 1))], axis=1)
    reference, view = (each.geometry.affine for each in images)
    assert reference is not None and view is not None
    voxels = spots @ np.linalg.inv(reference).T  # as the product goes: voxel of the reference → of the view
    looked = voxels @ grid_matrix(images[0].geometry, images[1].geometry, found).T @ view.T
    return float(np.linalg.norm((looked - spots @ motion.T)[:, :3], axis=1).mean())


def main() -> None:
    """Print one row for each way and kind of case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cases", type=int, default=20)
    cases = parser.parse_args().cases
    os.environ["FOVEATE_CACHE"] = tempfile.mkdtemp()
    rigid = Preprocess(PreprocessConfig(size=(8, 8, 8), align="rigid", agreement=0))
    rows: dict[str, list[tuple[float, ...]]] = {}
    for number in range(cases):
        draws = np.random.default_rng([7, number])
        patient, origin, motion = Patient.drawn(draws), draws.uniform(-15, 15, 3), moved(draws)
        grid = GRIDS[1 + number % 3]
        first = volume(patient, 0, GRIDS[0], np.zeros(3), np.eye(4), draws)
        other = Patient.drawn(draws)
        for name, motion_of in (("still", np.eye(4)), ("moved", motion)):
            images = first, volume(patient, 1, grid, origin, motion_of, draws)
            left = residual(images, motion_of, patient, np.eye(4))
            began = time.perf_counter()
            found = rigid.registration(images[1], "b", first, "a")
            took = time.perf_counter() - began
            assert found is not None
            after = residual(images, motion_of, patient, found.moved)
            rows.setdefault(f"rigid, {name}", []).append((after, took, found.agreement))
            rows.setdefault(f"affine, {name}", []).append((left, 0, found.before))
        stranger = volume(other, 1, grid, origin + 60, motion, draws)
        found = rigid.registration(stranger, "b", first, "a")
        assert found is not None
        rows.setdefault("rigid, another patient 60 mm off", []).append((np.nan, 0, found.agreement))
    print(f"| {cases} cases | residual, median (mm) | worst (mm) | s a case | agreement, lowest | highest |")
    print("|---|---|---|---|---|---|")
    for name, found_rows in rows.items():
        left, took, agreed = np.array(found_rows).T
        print(
            f"| {name} | {np.median(left):.2f} | {left.max():.2f} | {np.median(took):.1f} | "
            f"{agreed.min():.3f} | {agreed.max():.3f} |"
        )


if __name__ == "__main__":
    main()
