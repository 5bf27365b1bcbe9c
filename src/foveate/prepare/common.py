"""What all images of a cohort have in common: the orientation and spacing that ``auto`` stands for.

Settled once, from headers, before a training, and kept with the model as letters and numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from foveate.errors import InputRefused, UsageError
from foveate.io.reading import probe
from foveate.prepare.align import same_grid
from foveate.prepare.orientation import PLANES, Turn, in_mm
from foveate.prepare.pixels import plane_of
from foveate.study.settings import PreprocessConfig
from foveate.types import Case, Geometry, Track, quiet

ANISOTROPY = 3.0
"""How many times coarser than the others an axis must be to count as anisotropic (nnU-Net's threshold)."""

GeometryReader = Callable[[Path], Geometry]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class CommonGeometry:
    """What was settled.

    Attributes:
        config: the study's choices with ``auto`` replaced.
        notes: what a reader must know, a sentence each.
    """

    config: PreprocessConfig
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Seen:
    """One file as a case uses it: of a slice the geometry of its plane."""

    case: Case
    path: Path
    volume: Geometry
    frame: Geometry


def header_geometry(path: Path) -> Geometry:
    """Geometry of a file or series, from headers alone."""
    return probe(path).geometry


def settle(
    config: PreprocessConfig,
    cases: Sequence[Case],
    training: Collection[str],
    *,
    read: GeometryReader = header_geometry,
    track: Track = quiet,
) -> CommonGeometry:
    """Replace ``auto`` by what the cohort says.

    Files that cannot be read are left for whoever reads them whole to tell of.

    Args:
        config: the study's choices.
        cases: all that will be asked for, of whatever part.
        training: ids of those that a spacing may be learned from.
        read: how the geometry of a file is found out.
        track: shows progress.

    Raises:
        InputRefused: some volumes tell how they lie in the patient and others do not, or slices lie in
            different planes.
        UsageError: the study asks for what none of the images tells.
    """
    sliced = any(case.slice_index is not None for case in cases)
    if not (config.volumes or sliced or config.spacing == "auto"):
        return CommonGeometry(config)
    seen = _look(cases, read, track)
    notes: list[str] = []
    if config.orientation != "none" and (config.volumes or sliced):
        config = _with_orientation(config, [item for item in seen if len(item.volume.shape) == 3], notes)
    if config.spacing == "auto":
        learned = [item for item in seen if item.case.case_id in training]
        config = config.model_copy(update={"spacing": median_spacing(*_turned(config, learned))})
    if config.volumes and config.align == "none":
        notes += _unaligned(config, seen)
    if config.spacing is not None:
        notes.append(_extent(config, [item for item in seen if item.case.case_id in training]))
    return CommonGeometry(config, tuple(notes))


def median_spacing(spacings: Floats, shapes: Floats) -> tuple[float, ...]:
    """The spacing that suits most images, four digits of it.

    The median along each axis; but where one axis is ``ANISOTROPY`` times coarser than all others and has
    that much fewer pixels, the 10th percentile of its spacings, and no finer than the others (Isensee et al.
    2021, Nat. Methods 18:203, online methods; ``determine_fullres_target_spacing`` of nnU-Net 2).

    Args:
        spacings: ``(N, axes)`` mm.
        shapes: ``(N, axes)`` pixels.
    """
    target, sides = np.median(spacings, axis=0), np.median(shapes, axis=0)
    worst = int(target.argmax())
    others = [axis for axis in range(len(target)) if axis != worst]
    coarse = target[worst] > ANISOTROPY * target[others].max()
    if coarse and sides[worst] * ANISOTROPY < sides[others].min():
        target[worst] = max(np.percentile(spacings[:, worst], 10), target[others].max())
    return tuple(float(f"{value:.4g}") for value in target)


def _look(cases: Sequence[Case], read: GeometryReader, track: Track) -> list[_Seen]:
    known: dict[Path, Geometry | None] = {}
    for path in track(sorted({path for case in cases for path in case.views.values()}), "Reading geometry"):
        try:
            known[path] = read(path)
        except InputRefused:
            known[path] = None
    return [
        _Seen(case, path, found, found if case.slice_index is None else plane_of(found))
        for case in cases
        for path in case.views.values()
        if (found := known[path]) is not None and (case.slice_index is None or len(found.shape) == 3)
    ]


def _with_orientation(
    config: PreprocessConfig, volumes: Sequence[_Seen], notes: list[str]
) -> PreprocessConfig:
    """The settings with letters in place of ``auto``; ``none`` where no volume says how it lies."""
    silent = [item for item in volumes if item.volume.orientation is None]
    if len(silent) == len(volumes):
        if config.orientation != "auto":
            raise UsageError(
                f"no volume says how it lies in the patient, so none can be turned to {config.orientation}",
                where="preprocess.orientation",
                fix="set it to none: volumes are then taken in the order of their files",
            )
        if volumes:
            notes.append(
                "no volume says how it lies in the patient: all are taken in the order of their files"
            )
        return config.model_copy(update={"orientation": "none"})
    if silent:
        telling = next(item for item in volumes if item.volume.orientation is not None)
        raise InputRefused(
            f"{len(silent)} of {len(volumes)} volumes do not say how they lie in the patient (no affine), "
            f"such as {silent[0].path}, and others do, such as {telling.path}",
            where=f"case {silent[0].case.case_id}",
            fix="give all files their geometry, leave the cases without it out, or set "
            "preprocess.orientation: none, which takes all in the order of their files",
            code="affine-missing",
        )
    plane = _one_plane(config, volumes)
    wanted = "LPS" if config.orientation == "auto" else config.orientation
    frames = {item.path: item.frame for item in volumes}.values()
    turned = sum(Turn.to(wanted, each.orientation, len(each.shape)).changes for each in frames)
    notes.append(f"volumes are brought to the orientation {wanted}: {turned} of {len(frames)} are turned")
    return config.model_copy(update={"orientation": wanted, "plane": plane})


def _one_plane(config: PreprocessConfig, volumes: Sequence[_Seen]) -> str | None:
    """The plane in which all slices lie; that of the study where there are none."""
    planes: dict[str, list[str]] = {} if config.plane is None else {config.plane: []}
    for item in volumes:
        if item.case.slice_index is not None and item.volume.orientation is not None:
            planes.setdefault(PLANES[item.volume.orientation[0]], []).append(item.case.case_id)
    if len(planes) > 1:
        parties = "; ".join(
            f"{len(ids)} {name}, such as {ids[0]}" if ids else f"none {name}" for name, ids in planes.items()
        )
        raise InputRefused(
            f"the slices to be classified lie in different planes: {parties}",
            fix="keep to one plane (`slice` counts along the first axis of the file's array), classify whole "
            "volumes, or set preprocess.orientation: none to take them as they are",
            code="mixed-planes",
        )
    return next(iter(planes), None)


def _unaligned(config: PreprocessConfig, seen: Sequence[_Seen]) -> list[str]:
    """A sentence if the views of some cases have their voxels in different places, which nothing mends."""
    views: dict[str, list[tuple[Path, Geometry]]] = {}
    for item in seen:
        turn = Turn.to(config.orientation, item.volume.orientation, len(item.volume.shape))
        views.setdefault(item.case.case_id, []).append((item.path, turn.geometry(item.volume)))
    several = {case: items for case, items in views.items() if len(items) > 1}
    apart = {
        case: (items[0][0].name, path.name)
        for case, items in several.items()
        for path, grid in reversed(items[1:])
        if not same_grid(items[0][1], grid)
    }
    if not apart:
        return []
    case, pair = next(iter(apart.items()))
    return [
        f"in {len(apart)} of {len(several)} cases with several views these have their voxels in different "
        f"places, such as {' and '.join(pair)} of case {case}, and are stacked as "
        "they are; preprocess: {align: affine} brings them onto one grid"
    ]


def _turned(config: PreprocessConfig, items: Sequence[_Seen]) -> tuple[Floats, Floats]:
    """``(N, axes)`` spacings and shapes along the turned axes, of the images that tell their spacing."""
    told = [item.frame for item in items if item.frame.spacing is not None]
    if not told:
        raise UsageError(
            "no training image tells its spacing",
            where="preprocess.spacing",
            fix="set it to null, or give files that tell it (DICOM, NIfTI)",
        )
    turns = [Turn.to(config.orientation, each.orientation, len(each.shape)) for each in told]
    spacings = [turn.along(each.spacing or ()) for turn, each in zip(turns, told, strict=True)]
    return np.array(spacings, dtype=np.float64), np.array(
        [turn.along(each.shape) for turn, each in zip(turns, told, strict=True)], dtype=np.float64
    )


def _extent(config: PreprocessConfig, items: Sequence[_Seen]) -> str:
    """What the model sees in millimetres, and how many images that cuts."""
    assert isinstance(config.spacing, tuple)
    spacings, shapes = _turned(config, items)
    seen = np.array(config.size) * np.array(config.spacing)
    cut = int((spacings * shapes > seen + np.array(config.spacing)).any(axis=1).sum())
    return (
        f"the model sees {in_mm(seen.tolist())} at {in_mm(config.spacing)} around the middle of each image: "
        f"{cut} of {len(shapes)} training images are larger, and what lies outside is left out"
    )
