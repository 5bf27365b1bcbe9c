"""Scores of one map of one case against what is marked in it.

* Pointing game (Zhang et al. 2018, IJCV 126:1084): 1 if the maximum lies inside the truth, grown by a
  tolerance that is 0 unless stated. Of several equal maxima each counts its share, so that a flat map scores
  what a random point would. Where the map's own cells are known, the maximum lies at the centre of the
  hottest one (``peaks``).
* Cell, plane and depth: of volumes, in ``volumes``. Box IoU in the plane: the first box found and the true
  one that it overlaps most, both without their slices.
* Box IoU and IoBB (Wang et al. 2017, CVPR): the first box found, which is the largest, against the true box
  that it overlaps most; over all boxes found, the best of these. A box that stays below a threshold with
  every true box is a false positive at it.
* Mask IoU and Dice: everything found against everything marked; only where the truth is an outline.
* Energy inside (Wang et al. 2020, CVPR workshops): share of the evidence that lies inside the truth.
* Pixel AP: area under the precision–recall curve of the pixels (the PxAP of Choe et al. 2020, CVPR, for one
  image). Theirs pools the pixels of all images; ours is averaged over cases, so that large lesions do not
  decide it and patients can be resampled. Pixels without evidence are never found: recall ends there.
* Centre inside: the first box found holds the centre of a true box. Half inside: at least half of what was
  found lies inside the truth (Shi et al. 2020, AAAI, for the patch with the largest attention).
* Sweep (Choe et al. 2020): IoU of the largest box, and the best of all boxes, at each threshold of a list.
* Chance: the share of the organ, or of the image, that the truth covers, which is what a random point scores
  in the pointing game; the drawn random map estimates the same, with noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from foveate.errors import UsageError
from foveate.evaluate.localization.peaks import Cells, Peaks, find_peaks
from foveate.evaluate.localization.volumes import VolumeTruth, in_plane
from foveate.maps.regions import Mask, Region, box_iou, overlaps, positive_evidence

Floats = NDArray[np.float64]
IOU_THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
IOBB_THRESHOLDS = (0.1, 0.25, 0.5, 0.75, 0.9)
_LEVELS = 1000  # of the evidence, among which the precision–recall curve of the pixels is drawn
NAN = float("nan")


@dataclass(frozen=True, slots=True)
class CaseScore:
    """How well one map of one case points at the truth of one class.

    Attributes:
        case_id, patient_id: of the case.
        label: the class or finding whose truth it is.
        method: ``heatmap``, ``predicted`` (map of the class predicted), ``ceiling``, or a control.
        pointing_game: 1 hit, 0 miss, between for equal maxima.
        iou, iobb: of the first box with the true box nearest to it; 0 without a box.
        mask_iou: of the masks; NaN where the truth is known as boxes only.
        energy_inside: share of the evidence that lies inside the truth.
        chance: what a random point scores in the pointing game.
        empty: whether the map held no evidence at all.
        best_iou, best_iobb: the best of all boxes found, each with the true box nearest to it.
        dice, pixel_ap: of masks and of pixels; NaN where the truth is known as boxes only.
        centre_inside, half_inside: 1 or 0.
        area: share of the image that the truth covers.
        answer: ``right`` if the class was predicted, ``wrong`` if not, empty where unknown.
        false_iou, false_iobb: boxes found that reach no true box, at each of the thresholds.
        largest_ious, any_ious: of the sweep, the largest box's IoU and the best of all boxes.
        cell_hit: of volumes, as all that follow (NaN for planes): whether the hottest cell holds the truth.
        cell_chance: what a random cell scores.
        plane_pointing: whether the maximum lies inside the truth as seen along the depth.
        plane_chance: what a random point scores.
        plane_iou: of the first box with the true box nearest to it, without their slices.
        depth_error: slices from the maximum to the nearest one of the truth; NaN if the map has one slice.
        depth_error_mm: the same in millimetres; NaN where these are unknown.
    """

    case_id: str
    patient_id: str
    label: str
    method: str
    pointing_game: float
    iou: float
    iobb: float
    mask_iou: float
    energy_inside: float
    chance: float
    empty: bool
    best_iou: float = NAN
    best_iobb: float = NAN
    dice: float = NAN
    pixel_ap: float = NAN
    centre_inside: float = NAN
    half_inside: float = NAN
    area: float = NAN
    answer: str = ""
    false_iou: tuple[float, ...] = ()
    false_iobb: tuple[float, ...] = ()
    largest_ious: tuple[float, ...] = ()
    any_ious: tuple[float, ...] = ()
    cell_hit: float = NAN
    cell_chance: float = NAN
    plane_pointing: float = NAN
    plane_chance: float = NAN
    plane_iou: float = NAN
    depth_error: float = NAN
    depth_error_mm: float = NAN


def score_case(
    values: NDArray[np.floating[Any]],
    found: Region,
    truth: Region,
    *,
    case_id: str,
    patient_id: str,
    label: str,
    method: str = "heatmap",
    organ: Mask | None = None,
    tolerance: float = 0.0,
    answer: str = "",
    sweep: Sequence[Region] = (),
    cells: Cells | None = None,
    volume: VolumeTruth | None = None,
) -> CaseScore:
    """Score one map.

    Args:
        values: ``(H, W)`` or ``(D, H, W)`` raw signed evidence for one class, in original pixels.
        found: what ``localize_heatmap`` made of it, with the same organ mask.
        truth: what is marked in the image for the true class.
        case_id: of the case.
        patient_id: of the case.
        label: the true class or finding.
        method: see ``CaseScore``.
        organ: evidence outside it does not count.
        tolerance: distance in pixels by which a maximum may miss the truth and still count as a hit.
        answer: ``right``, ``wrong``, or empty.
        sweep: all regions found at each of a list of thresholds, the largest box first.
        cells: the map on its own grid, before it was brought to original pixels, if it has one.
        volume: the truth as cells, plane and depth see it; None for planes, or to leave these out.

    Raises:
        RunFailed: the map holds values that are not finite.
        UsageError: nothing is marked, or the shapes differ.
    """
    evidence = positive_evidence(values, organ)
    _check(evidence, found, truth, case_id)
    target = truth.mask if tolerance == 0 else ndimage.distance_transform_edt(~truth.mask) <= tolerance
    largest_ious, any_ious = sweep_ious(sweep, truth)
    within = np.ones(evidence.shape, dtype=bool) if organ is None else organ
    peaks = find_peaks(evidence, within, cells)
    return CaseScore(
        case_id=case_id,
        patient_id=patient_id,
        label=label,
        method=method,
        pointing_game=peaks.mean(target) if len(peaks.pixels) else 0.0,
        energy_inside=_share(evidence[truth.mask].sum(), evidence.sum()),
        pixel_ap=_pixel_ap(evidence, truth.mask) if truth.outlined else NAN,
        chance=_share((target & within).sum(), within.sum()),
        empty=not evidence.any(),
        area=float(truth.mask.mean()),
        answer=answer,
        largest_ious=largest_ious,
        any_ious=any_ious,
        **_of_boxes(found, truth),
        **_of_masks(found.mask, truth),
        **_of_volume(volume, peaks),
    )


def sweep_ious(sweep: Sequence[Region], truth: Region) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """IoU of the largest box, and the best of all boxes, at each threshold; 0 without a box."""
    tables = [overlaps(found.boxes, truth.boxes)[0] if found.boxes else np.zeros((1, 1)) for found in sweep]
    return tuple(float(ious[0].max()) for ious in tables), tuple(float(ious.max()) for ious in tables)


def _of_boxes(found: Region, truth: Region) -> dict[str, Any]:
    """Measures of the boxes."""
    flat = truth.mask.ndim == 2
    if not found.boxes:
        nothing = dict.fromkeys(("iou", "iobb", "best_iou", "best_iobb", "centre_inside"), 0.0)
        return {
            **nothing,
            "plane_iou": NAN if flat else 0.0,
            "false_iou": (0.0,) * len(IOU_THRESHOLDS),
            "false_iobb": (0.0,) * len(IOBB_THRESHOLDS),
        }
    ious, iobbs = overlaps(found.boxes, truth.boxes)
    own = np.arange(len(ious)), ious.argmax(axis=1)  # each box with the true one that it overlaps most
    iou, iobb = ious[own], iobbs[own]
    first = found.boxes[0]
    centres = np.array([np.add(box.start, box.stop) / 2 for box in truth.boxes])
    holds = ((centres >= first.start) & (centres < np.asarray(first.stop))).all(axis=1)
    return {
        "iou": float(iou[0]),
        "iobb": float(iobb[0]),
        "best_iou": float(iou.max()),
        "best_iobb": float(iobb.max()),
        "centre_inside": float(holds.any()),
        "plane_iou": NAN if flat else max(box_iou(in_plane(first), in_plane(box)) for box in truth.boxes),
        "false_iou": tuple(float((iou < at).sum()) for at in IOU_THRESHOLDS),
        "false_iobb": tuple(float((iobb < at).sum()) for at in IOBB_THRESHOLDS),
    }


def _of_masks(found: Mask, truth: Region) -> dict[str, Any]:
    """Measures of the masks; overlap with the outline only where the truth is one."""
    shared, size, marked = int((found & truth.mask).sum()), int(found.sum()), int(truth.mask.sum())
    return {
        "mask_iou": _share(shared, size + marked - shared) if truth.outlined else NAN,
        "dice": _share(2 * shared, size + marked) if truth.outlined else NAN,
        "half_inside": float(size > 0 and 2 * shared >= size),
    }


def _of_volume(volume: VolumeTruth | None, peaks: Peaks) -> dict[str, Any]:
    """Measures that only volumes have."""
    return {} if volume is None else dict(volume.score(peaks))


def _check(evidence: Floats, found: Region, truth: Region, case_id: str) -> None:
    shapes = {"heat map": evidence.shape, "region found": found.mask.shape, "truth": truth.mask.shape}
    if len(set(shapes.values())) != 1:
        listing = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise UsageError(
            f"shapes differ: {listing}", where=f"case {case_id}", fix="use original pixels throughout"
        )
    if not truth.boxes:
        raise UsageError(
            "nothing is marked in this case", where=f"case {case_id}", fix="score only cases with a truth"
        )


def _pixel_ap(evidence: Floats, target: Mask) -> float:
    """``Σ (R_l − R_{l−1}) P_l`` over levels of the evidence, highest first."""
    peak = float(evidence.max(initial=0.0))
    if peak == 0:
        return 0.0
    level = np.ceil(evidence / peak * _LEVELS).astype(np.int64)  # 0 only without evidence
    found = np.cumsum(np.bincount(level.ravel(), minlength=_LEVELS + 1)[:0:-1])
    true = np.cumsum(np.bincount(level[target], minlength=_LEVELS + 1)[:0:-1])
    gained = np.diff(true, prepend=0)
    return float((gained * true / np.maximum(found, 1)).sum() / target.sum())


def _share(part: Any, whole: Any) -> float:
    return float(part / whole) if whole else 0.0
