"""A view is registered rigidly to the reference view of its case: how the patient moved between the two.

Mattes mutual information (Mattes et al. 2003, IEEE Trans. Med. Imaging 22:120) by SimpleITK, from coarse to
fine, from where the affines put the images. Sampling and seed are fixed and one thread computes, so that the
same files give the same transform. It is kept beside the prepared images, in ``registered/`` of the cache
folder, one JSON file a pair: the transform, how far it moves the patient, how well the images agree then.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from foveate.errors import InputRefused, MissingExtra
from foveate.files import default_cache_folder, write_json
from foveate.prepare.align import Floats, grid_matrix, sampled
from foveate.types import Geometry

FARTHEST, WIDEST = 60.0, 30.0  # mm and degrees that no patient moves within one examination
_VERSION = 1  # raise it, and that of ``preprocess``, when registrations start to give other transforms
_BINS, _SAMPLES, _SEED = 32, 30_000, 1
_DIGITS = 7  # of matrices: ITK repeats itself but for the last bits, which are not kept
_STEP = 1.5  # mm that voxels have at least while they are registered: finer ones only cost time
_SQUARE = 1e-3  # cosine between axes that counts as upright
_FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])  # LPS of ITK to RAS and back
Volume = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Registration:
    """What a registration found.

    Attributes:
        matrix: ``(4, 4)``, rows of numbers: where a place of the reference in mm (RAS+) is found in the view.
        shift: mm that the middle of the reference is moved.
        degrees: that it is turned.
        agreement: of the two images afterwards, over what both show: mutual information as a share of their
            mean entropy, 0 for none and 1 for images of which one tells the other (``agreement_of``).
        before: the same by the affines alone.
    """

    matrix: tuple[tuple[float, ...], ...]
    shift: float
    degrees: float
    agreement: float
    before: float

    @property
    def moved(self) -> Floats:
        """``matrix`` as an array."""
        return np.array(self.matrix, dtype=np.float64)

    @classmethod
    def of(cls, moved: Floats, middle: Floats, agreement: float, before: float) -> Self:
        """Put together what is known of a transform; ``middle`` is that of the reference in mm."""
        moved = np.round(moved, _DIGITS)
        turned = np.degrees(np.arccos(np.clip((np.trace(moved[:3, :3]) - 1) / 2, -1, 1)))
        shift = float(np.linalg.norm((moved @ [*middle, 1])[:3] - middle))
        rows = tuple(tuple(float(each) for each in row) for row in moved)
        told = (round(float(each), 4) for each in (shift, turned, agreement, before))
        return cls(rows, *told)


def registered(
    reference: Volume, view: Volume, grids: tuple[Geometry, Geometry], threshold: float, names: Sequence[str]
) -> Registration:
    """Register a view, or take what an earlier registration of the same two found.

    Args:
        reference, view: ``(D, H, W)`` in [0, 1].
        grids: their geometries, with affines.
        threshold: lowest agreement to accept.
        names: their files, for errors.

    Raises:
        InputRefused: slices lean, or the result is not to be trusted: the images agree too little, or are
            said to have moved farther than patients do.
        MissingExtra: SimpleITK is not installed.
    """
    path = default_cache_folder() / "registered" / f"{_key(reference, view, grids)}.json"
    found = _read(path)
    if found is None:
        found = _register(reference, view, grids, names)
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_json(path, asdict(found))
    if found.agreement < threshold or found.shift > FARTHEST or found.degrees > WIDEST:
        raise InputRefused(
            f"the registration to {names[0]} is not to be trusted: agreement {found.agreement:.3f} (at least "
            f"{threshold:g}; {found.before:.3f} by the affines alone), moved {found.shift:.1f} mm and turned "
            f"{found.degrees:.1f}° (at most {FARTHEST:g} mm and {WIDEST:g}°)",
            where=names[1],
            fix="look at the two images; leave this view or case out, set preprocess.align: affine, or lower "
            "preprocess.agreement",
            code="registration-poor",
        )
    return found


def agreement_of(one: Floats, other: Floats) -> float:
    """Mutual information of two images as a share of their mean entropy, ``2 I / (H1 + H2)``.

    From the joint histogram of ``_BINS`` grey levels in [0, 1] (Studholme et al. 1999, Pattern Recognition
    32:71; as symmetric uncertainty it lies between 0 and 1). 0 where an image is constant.
    """
    joint = np.histogram2d(one.ravel(), other.ravel(), bins=_BINS, range=((0, 1), (0, 1)))[0]
    joint = joint / max(joint.sum(), 1)
    entropies = [_entropy(joint.sum(axis=axis)) for axis in (0, 1)]
    total = sum(entropies)
    return 2 * (total - _entropy(joint.ravel())) / total if total > 0 else 0.0


def _entropy(shares: Floats) -> float:
    some = shares[shares > 0]
    return float(-(some * np.log(some)).sum())


def _register(
    reference: Volume, view: Volume, grids: tuple[Geometry, Geometry], names: Sequence[str]
) -> Registration:
    try:
        import SimpleITK as sitk
    except ImportError:
        raise MissingExtra("register") from None
    fixed, moving = (
        _as_itk(sitk, values, grid, name)
        for values, grid, name in zip((reference, view), grids, names, strict=True)
    )
    centre = fixed.TransformContinuousIndexToPhysicalPoint([(side - 1) / 2 for side in fixed.GetSize()])
    start = sitk.Euler3DTransform()
    start.SetCenter(centre)
    method = _method(sitk, fixed)
    method.SetInitialTransform(start, inPlace=False)
    try:
        found = sitk.Euler3DTransform(method.Execute(fixed, moving).GetNthTransform(0))
    except RuntimeError as error:
        raise InputRefused(
            f"it cannot be registered to {names[0]}: {str(error).strip().splitlines()[-1]}",
            where=names[1],
            fix="look at the two images; leave this view or case out, or set preprocess.align: affine",
            code="registration-poor",
        ) from error
    lps = np.eye(4)
    lps[:3, :3] = np.array(found.GetMatrix()).reshape(3, 3)
    lps[:3, 3] = np.array(found.TransformPoint((0.0, 0.0, 0.0)))
    moved, middle = _FLIP @ lps @ _FLIP, _FLIP[:3, :3] @ np.array(centre)
    after, before = (_agreement(reference, view, grids, each) for each in (moved, np.eye(4)))
    if after < before:  # nothing better was found than where the scanner put them
        moved, after = np.eye(4), before
    return Registration.of(moved, middle, after, before)


def _method(sitk: Any, fixed: Any) -> Any:
    """How the transform is sought."""
    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfThreads(1)
    method.SetMetricAsMattesMutualInformation(numberOfHistogramBins=_BINS)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentage(min(1.0, _SAMPLES / fixed.GetNumberOfPixels()), _SEED)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=2.0, minStep=1e-3, numberOfIterations=200, relaxationFactor=0.6
    )
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([2, 1])
    method.SetSmoothingSigmasPerLevel([4.0, 1.0])
    method.SetSmoothingSigmasAreSpecifiedInPhysicalUnits(True)
    return method


def _as_itk(sitk: Any, values: Volume, grid: Geometry, name: str) -> Any:
    """A volume with its geometry, its voxels at least ``_STEP`` mm wide."""
    assert grid.affine is not None
    lps = (_FLIP @ grid.affine)[:, [2, 1, 0, 3]]
    steps = np.linalg.norm(lps[:3, :3], axis=0)
    axes = lps[:3, :3] / steps
    if np.abs(axes.T @ axes - np.eye(3)).max() > _SQUARE:
        raise InputRefused(
            "slices of this volume lean (gantry tilt), which a rigid registration does not take",
            where=name,
            fix="set preprocess.align: affine, or resample the volume",
            code="tilted-stack",
        )
    image = sitk.GetImageFromArray(np.ascontiguousarray(values, dtype=np.float32))
    image.SetSpacing(steps.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection(axes.ravel().tolist())
    factors = [max(int(_STEP / step), 1) for step in steps]
    return sitk.BinShrink(image, factors) if max(factors) > 1 else image


def _agreement(reference: Volume, view: Volume, grids: tuple[Geometry, Geometry], moved: Floats) -> float:
    """``agreement_of`` a reference and a view over what both show; 0 where that is less than a tenth."""
    matrix = grid_matrix(*grids, moved)
    both = np.stack([view, np.ones_like(view)])
    seen, there = sampled(both, matrix, reference.shape)
    inside = there > 0
    return agreement_of(reference[inside], seen[inside]) if inside.mean() >= 0.1 else 0.0


def _key(reference: Volume, view: Volume, grids: tuple[Geometry, Geometry]) -> str:
    content = hashlib.sha256(f"{_VERSION}".encode())
    for values, grid in zip((reference, view), grids, strict=True):
        assert grid.affine is not None
        content.update(np.ascontiguousarray(values).tobytes())
        content.update(repr((grid.shape, grid.affine.tolist())).encode())
    return content.hexdigest()


def _read(path: Any) -> Registration | None:
    with suppress(OSError, ValueError, TypeError, KeyError):
        found = json.loads(path.read_text(encoding="utf-8"))
        return Registration(**{**found, "matrix": tuple(map(tuple, found["matrix"]))})
    return None
