"""What the phantoms have in common: checked settings, a folder of their own, files, missing views."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import nibabel
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from foveate import __version__
from foveate.errors import UsageError
from foveate.files import write_atomic, write_json
from foveate.types import Box, Track, quiet

RECORD = "phantom.json"  # the arguments, written first; the manifest is written last
SPACE = ("x", "y", "w", "h")
Mask = NDArray[np.bool_]
Pixels = NDArray[np.uint8]
Limits = Mapping[str, tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class CohortConfig:
    """What the phantoms can all be asked for.

    Attributes:
        patients: how many.
        size: pixels per side.
        seed: of everything random; same settings, same bytes.
        difficulty: 0 large, contrasting signs and little noise; 1 small, faint signs and much noise.
        shortcut: burn in a sign that gives the class away; ``shortcuts.csv`` lists its boxes.
    """

    LIMITS: ClassVar[Limits] = {"patients": (1, 10_000), "size": (32, 512), "difficulty": (0, 1)}

    patients: int = 60
    size: int = 128
    seed: int = 0
    difficulty: float = 0.5
    shortcut: bool = False

    def __post_init__(self) -> None:
        check_limits(self, self.LIMITS)

    @property
    def contrast(self) -> float:
        """Factor on what tells the classes apart: 1.2 at difficulty 0, 0.6 at 1."""
        return 1.2 - 0.6 * self.difficulty


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """One case as arrays.

    Attributes:
        case_id, patient_id: as in the manifest.
        truth: the manifest's columns of the label, or of the findings.
        views: ``(H, W)`` or ``(H, W, 3)`` uint8, or ``(D, H, W)`` int16, by name; a missing view is absent.
        masks: ``(H, W)`` or ``(D, H, W)`` by manifest column.
        boxes: true boxes, in pixels.
        signs: boxes of the planted signs, in pixels.
        spacing: mm per step along D, H, W, of volumes.
    """

    case_id: str
    patient_id: str
    truth: Mapping[str, str]
    views: Mapping[str, NDArray[Any]]
    masks: Mapping[str, Mask] = field(default_factory=dict)
    boxes: Sequence[Box] = ()
    signs: Sequence[Box] = ()
    spacing: tuple[float, float, float] | None = None


@dataclass(frozen=True, slots=True)
class CohortLayout:
    """The columns of a kind's manifest: what is known of the truth, the views, and the masks."""

    truth: Sequence[str]
    views: Sequence[str]
    masks: Sequence[str] = ()


Config = TypeVar("Config", bound=CohortConfig)


def write_cohort(
    out: Path,
    kind: str,
    config: Config,
    layout: CohortLayout,
    draw: Callable[[int, Config], Iterable[Drawn]],
    *,
    track: Track = quiet,
) -> Path:
    """Draw every patient and write images, masks, tables and, last, the manifest.

    Args:
        out: folder to write into; made if absent. If it holds this very phantom it is left as it is, or
            finished if that was interrupted; if it holds anything else it is refused.
        kind: name of the phantom, for its record.
        config: what was asked for.
        layout: columns of the manifest.
        draw: the cases of one patient, who is the same whatever the number of patients.
        track: shows progress.

    Returns:
        Path of ``manifest.csv``.

    Raises:
        UsageError: ``out`` holds something else.
    """
    manifest = out / "manifest.csv"
    claim_folder(out, {"foveate": __version__, "kind": kind, **asdict(config)})
    if manifest.is_file():
        return manifest
    rows: list[dict[str, str]] = []
    boxes: list[dict[str, str]] = []
    signs: list[dict[str, str]] = []
    for index in track(range(config.patients), "drawing patients"):
        for case in draw(index, config):
            rows.append(_write_case(out, case, layout))
            boxes += [{"case_id": case.case_id, **box_cells(box)} for box in case.boxes]
            signs += [{"case_id": case.case_id, **box_cells(box)} for box in case.signs]
    for name, found in (("boxes.csv", boxes), ("shortcuts.csv", signs)):
        if found:
            write_table(out / name, found, list(found[0]))
    columns = ("case_id", "patient_id", *layout.truth, *layout.views, *layout.masks)
    write_table(manifest, rows, columns)
    return manifest


def box_cells(box: Box) -> dict[str, str]:
    """A box as a row of ``boxes.csv``: label, x, y, w, h, and z, d for volumes."""
    cells = dict(zip(SPACE, box.xywh, strict=True))
    depth = {"z": box.start[0], "d": box.stop[0] - box.start[0]} if len(box.start) == 3 else {}
    return {"label": box.label, **{name: f"{value:g}" for name, value in (cells | depth).items()}}


def tight_box(mask: Mask, label: str) -> Box:
    """The smallest box around the true pixels of a mask that is not empty."""
    places = np.nonzero(mask)
    start = tuple(float(axis.min()) for axis in places)
    return Box(start, tuple(float(axis.max() + 1) for axis in places), label)


def take_turns(index: int, seed: int, names: Sequence[str]) -> str:
    """Class of a patient: each run of as many patients as classes has every class once, in any order."""
    block, place = divmod(index, len(names))
    return names[int(np.random.default_rng([seed, block, 1]).permutation(len(names))[place])]


def present_views(rng: np.random.Generator, names: Sequence[str], missing: float) -> tuple[str, ...]:
    """Which views a case has: each is absent with a chance for which ``missing`` is the expected share.

    A case that would lose all views keeps one of them, so the chance p solves p - p^V / V = missing.
    """
    low, high = 0.0, 1.0
    for _ in range(50):
        chance = (low + high) / 2
        low, high = (low, chance) if chance - chance ** len(names) / len(names) > missing else (chance, high)
    kept, spared = rng.random(len(names)) >= (low if missing else 0), rng.integers(len(names))
    kept[spared] |= not kept.any()
    return tuple(name for name, here in zip(names, kept, strict=True) if here)


def check_limits(config: object, limits: Limits) -> None:
    """Refuse numbers out of range, and negative seeds.

    Raises:
        UsageError: naming the setting and its range.
    """
    for name, (low, high) in limits.items():
        value = getattr(config, name)
        if not low <= value <= high:
            raise UsageError(
                f"a phantom cannot have {name} = {value}",
                where=name,
                fix=f"choose a value from {low:g} to {high:g}",
            )
    if (seed := getattr(config, "seed", 0)) < 0:
        raise UsageError(f"a seed cannot be negative, got {seed}", where="seed", fix="choose 0 or more")


def check_choice(name: str, value: str, choices: Iterable[str]) -> None:
    """Refuse a word that is not among the choices.

    Raises:
        UsageError: naming the choices.
    """
    if value not in (known := tuple(choices)):
        raise UsageError(f"unknown {name} '{value}'", where=name, fix=f"choose from: {', '.join(known)}")


def claim_folder(out: Path, record: Mapping[str, object]) -> None:
    """Make the folder this phantom's own.

    Raises:
        UsageError: it holds anything else.
    """
    plain = json.loads(json.dumps(record))
    if (out / RECORD).is_file() and json.loads((out / RECORD).read_text()) == plain:
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(
            "this folder holds something else already",
            where=str(out),
            fix="name a new or empty folder, or remove this one",
            code="folder-not-empty",
        )
    write_json(out / RECORD, plain)


def write_table(path: Path, rows: Iterable[Mapping[str, str]], columns: Sequence[str]) -> None:
    """Write a CSV; what a row lacks stays empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(dict(row) for row in rows)
    write_atomic(path, text.getvalue())


def _write_case(out: Path, case: Drawn, layout: CohortLayout) -> dict[str, str]:
    """Write the files of a case; its row of the manifest."""
    row = {"case_id": case.case_id, "patient_id": case.patient_id, **case.truth}
    suffix = "png" if case.spacing is None else "nii.gz"
    arrays = {**case.views, **{name: mask for name, mask in case.masks.items() if mask.any()}}
    for name, array in arrays.items():
        row[name] = f"{FOLDERS.get(name, name)}/{case.case_id}.{suffix}"
        path = out / row[name]
        path.parent.mkdir(parents=True, exist_ok=True)
        if case.spacing is None:
            Image.fromarray(array).save(path)
        else:
            _write_volume(path, array, case.spacing)
    return row


FOLDERS = {"image": "images", "mask": "masks", "organ_mask": "organs"}


def _write_volume(path: Path, values: NDArray[Any], spacing: tuple[float, float, float]) -> None:
    """Write ``(D, H, W)`` values with z up, y to the back, x to the patient's left; zero is the middle."""
    centre = [step * (length - 1) / 2 for step, length in zip(spacing, values.shape, strict=True)]
    (dz, dy, dx), (z, y, x) = spacing, centre
    affine = np.array([[-dx, 0, 0, x], [0, -dy, 0, y], [0, 0, dz, -z], [0, 0, 0, 1]])
    stored = values.astype(np.uint8) if values.dtype == bool else values
    volume = nibabel.Nifti1Image(stored.transpose(2, 1, 0), affine)
    volume.header.set_xyzt_units("mm")
    nibabel.save(volume, path)
