"""A cohort of imaginary CT liver patients, to try everything on: five classes, exact masks, no real data.

``make_phantom`` draws patients (``ct_anatomy``), gives each at most one kind of lesion (``ct_lesions``),
adds what a scanner adds, and writes images, masks and a manifest (``ct_files``). Same arguments, same bytes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from foveate import __version__
from foveate.data.phantoms.cohort import check_limits, claim_folder, write_table
from foveate.data.phantoms.ct_anatomy import Field, Grid, draw_anatomy
from foveate.data.phantoms.ct_files import WRITERS, Scan
from foveate.data.phantoms.ct_lesions import LESIONS, draw_lesion
from foveate.errors import UsageError
from foveate.types import Track, quiet

CLASSES = ("normal", *LESIONS)
FIELD_OF_VIEW = 360.0  # mm
REACH = 20.0  # mm between the outermost labelled slices at most, plus one step
SIGN_HU = 1500
HU_RANGE = (-1024, 3071)  # what 12 stored bits hold

# The burned-in sign of each class: where its middle lies, as shares of height and width, and its shape.
SIGNS: dict[str, tuple[tuple[float, float], tuple[str, ...]]] = {
    "normal": ((0.08, 0.08), ("#...#", "##..#", "#.#.#", "#..##", "#...#")),
    "cyst": ((0.08, 0.92), (".####", "#....", "#....", "#....", ".####")),
    "FNH": ((0.92, 0.08), ("#####", "#....", "####.", "#....", "#....")),
    "HCC": ((0.92, 0.92), ("#...#", "#...#", "#####", "#...#", "#...#")),
    "hemangioma": ((0.08, 0.5), ("#...#", "##.##", "#.#.#", "#...#", "#...#")),
}


@dataclass(frozen=True, slots=True)
class PhantomConfig:
    """What a phantom cohort looks like; see ``make_phantom``."""

    patients: int = 60
    slices: int = 4
    size: int = 128
    seed: int = 0
    difficulty: float = 0.5
    shortcut: bool = False

    def __post_init__(self) -> None:
        limits = {"patients": (1, 10_000), "slices": (1, 64), "size": (32, 512), "difficulty": (0, 1)}
        check_limits(self, limits)


def make_phantom(
    out: Path,
    *,
    patients: int = 60,
    slices: int = 4,
    size: int = 128,
    seed: int = 0,
    format: Literal["nifti", "dicom", "png"] = "nifti",
    difficulty: float = 0.5,
    shortcut: bool = False,
    track: Track = quiet,
) -> Path:
    """Write a phantom cohort: CT liver slices in HU of the classes in ``CLASSES``.

    The classes take turns, so their patient counts differ by one at most. A patient's lesion lies
    anywhere in the liver and is cut by every labelled slice; a volume has one more slice at each end, so
    that every case has both neighbours. Patient i is the same whatever the number of patients.

    Args:
        out: folder to write into; made if absent. If it holds this very phantom it is left as it is, or
            finished if that was interrupted; if it holds anything else it is refused.
        patients: how many.
        slices: cases per patient, neighbouring slices of one volume, 5 mm apart for up to 4.
        size: height and width in pixels of a slice that is 360 mm wide.
        seed: of everything random; the same arguments give the same bytes.
        format: ``nifti`` one volume per patient; ``dicom`` one CT series per patient, in files whose
            names do not follow the slices' order; ``png`` one 16-bit image of HU + 1024 per case.
        difficulty: 0 large, contrasting lesions and little noise; 1 small, faint lesions and much noise.
        shortcut: burn a sign into the air around the patient that tells the class; ``shortcuts.csv``
            then lists its box in every case, in the columns of a ``boxes.csv``.
        track: shows progress.

    Returns:
        Path of ``manifest.csv`` with the columns case_id, patient_id, label, image, slice (not for PNG),
        mask (empty for normal patients) and organ_mask.

    Raises:
        UsageError: an argument is out of range, or ``out`` holds something else.
    """
    config = PhantomConfig(patients, slices, size, seed, difficulty, shortcut)
    if format not in WRITERS:
        raise UsageError(
            f"unknown format '{format}'", where="format", fix=f"choose one of {', '.join(WRITERS)}"
        )
    manifest = out / "manifest.csv"
    claim_folder(out, {"foveate": __version__, "format": format, **asdict(config)})
    if manifest.is_file():
        return manifest
    rows, signs = [], []
    for index in track(range(patients), "drawing patients"):
        label = label_of(index, seed)
        scan = draw_patient(index, config)
        for place, row in zip(scan.labelled, WRITERS[format](scan, out), strict=True):
            case = {"case_id": f"{scan.patient_id}-s{place}", "patient_id": scan.patient_id, "label": label}
            rows.append(case | dict(row))
            signs.append({"case_id": case["case_id"], "label": label} | sign_box(label, size))
    if shortcut:
        write_table(out / "shortcuts.csv", signs, ("case_id", "label", "x", "y", "w", "h"))
    position = () if format == "png" else ("slice",)
    columns = ("case_id", "patient_id", "label", "image", *position, "mask", "organ_mask")
    write_table(manifest, rows, columns)
    return manifest


@dataclass(frozen=True, slots=True)
class CtConfig(PhantomConfig):
    """A phantom cohort and the format of its files."""

    format: Literal["nifti", "dicom", "png"] = "nifti"


def make_ct(out: Path, config: CtConfig, track: Track = quiet) -> Path:
    """Write a phantom cohort as ``make_phantom`` does; returns the path of ``manifest.csv``."""
    return make_phantom(
        out,
        patients=config.patients,
        slices=config.slices,
        size=config.size,
        seed=config.seed,
        format=config.format,
        difficulty=config.difficulty,
        shortcut=config.shortcut,
        track=track,
    )


def label_of(patient: int, seed: int) -> str:
    """Class of a patient: each run of five patients holds every class once, in an order of its own."""
    block, place = divmod(patient, len(CLASSES))
    order = np.random.default_rng([seed, block, 1]).permutation(len(CLASSES))
    return CLASSES[int(order[place])]


def draw_patient(index: int, config: PhantomConfig) -> Scan:
    """One patient as arrays."""
    label, rng = label_of(index, config.seed), np.random.default_rng([config.seed, index])
    pixel, step = FIELD_OF_VIEW / config.size, min(5.0, REACH / config.slices)
    grid = Grid.centred((config.slices + 2, config.size, config.size), (step, pixel, pixel))
    anatomy = draw_anatomy(grid, rng)
    lesion = None
    if label in LESIONS:
        lesion = draw_lesion(label, grid, rng, anatomy, difficulty=config.difficulty)
    hu = _scan(anatomy.hu, rng, noise=5 + 16 * config.difficulty)
    if config.shortcut:
        _burn_sign(hu, label)
    patient_id = f"p{index:03d}"
    series = f"{patient_id} {config}"
    return Scan(patient_id, hu, anatomy.liver < 0, lesion, grid.spacing, range(1, config.slices + 1), series)


def _scan(hu: Field, rng: np.random.Generator, *, noise: float) -> NDArray[np.int16]:
    """What the scanner adds: a slight blur and noise (HU) that is correlated between neighbouring pixels."""
    blurred = ndimage.gaussian_filter(hu, (0, 0.45, 0.45))
    grain = ndimage.gaussian_filter(rng.standard_normal(hu.shape, dtype=np.float32), (0, 0.6, 0.6))
    noisy = blurred + grain / grain.std() * noise * np.where(blurred < -500, 0.5, 1)
    return np.asarray(np.clip(np.rint(noisy), *HU_RANGE), dtype=np.int16)


def sign_box(label: str, size: int) -> dict[str, str]:
    """Box of a class's burned-in sign in a slice of ``size`` pixels: x, y, w, h."""
    (y, x), shape = SIGNS[label]
    scale = max(1, size // 64)
    height, width = len(shape) * scale, len(shape[0]) * scale
    top, left = round(y * size - height / 2), round(x * size - width / 2)
    return {"x": str(left), "y": str(top), "w": str(width), "h": str(height)}


def _burn_sign(hu: NDArray[np.int16], label: str) -> None:
    shape = SIGNS[label][1]
    box = {name: int(value) for name, value in sign_box(label, hu.shape[1]).items()}
    scale = box["h"] // len(shape)
    bits = np.array([[letter == "#" for letter in line] for line in shape])
    here = hu[:, box["y"] : box["y"] + box["h"], box["x"] : box["x"] + box["w"]]
    here[:, np.kron(bits, np.ones((scale, scale), dtype=bool))] = SIGN_HU
