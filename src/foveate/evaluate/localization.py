"""Does the heat map point at the lesion? Scores of single cases, and their summary beside two controls.

Conventions, the same for a heat map and for its controls:

* Evidence is the positive part of the map, and nothing outside the organ mask where there is one.
* A case without evidence is a miss in every measure: 0, never left out. The denominator is every case of the
  class that has a truth, misclassified ones included.
* Pointing game (Zhang et al. 2018, IJCV 126:1084): 1 if the maximum lies inside the truth, grown by a
  tolerance that is 0 unless stated. Of several equal maxima each counts its share, so that a flat map scores
  what a random point would.
* Box IoU and IoBB (Wang et al. 2017, CVPR): the first box found, which is the largest, against the true box
  that it overlaps most. Localization accuracy is the share of cases with IoU at least t.
* Mask IoU: everything found against everything marked; only where the truth is an outline.
* Energy inside (Wang et al. 2020, CVPR workshops): share of the evidence that lies inside the truth.
* Chance: the share of the organ, or of the image, that the truth covers, which is what a random point scores
  in the pointing game; the drawn random map estimates the same, with noise.

Rows come one per case and class; ``summarise_localization`` averages them with patient-clustered intervals.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, special

from foveate.errors import UsageError
from foveate.evaluate.intervals import Bootstrap, Floats, ratio
from foveate.regions import Mask, Region, box_iobb, box_iou, nearest, positive_evidence

IOU_THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
IOBB_THRESHOLDS = (0.1, 0.25, 0.5, 0.75, 0.9)
_MEANS = ("pointing_game", "iou", "iobb", "mask_iou", "energy_inside")


@dataclass(frozen=True, slots=True)
class CaseScore:
    """How well one map of one case points at the truth of one class.

    Attributes:
        case_id, patient_id: of the case.
        label: the class or finding whose truth it is.
        method: ``heatmap``, or the name of a control.
        pointing_game: 1 hit, 0 miss, between for equal maxima.
        iou, iobb: of the first box with the true box nearest to it; 0 without a box.
        mask_iou: of the masks; NaN where the truth is known as boxes only.
        energy_inside: share of the evidence that lies inside the truth.
        chance: what a random point scores in the pointing game.
        empty: whether the map held no evidence at all.
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
) -> CaseScore:
    """Score one map.

    Args:
        values: ``(H, W)`` or ``(D, H, W)`` raw signed evidence for the true class, in original pixels.
        found: what ``localize_heatmap`` made of it, with the same organ mask.
        truth: what is marked in the image for this class.
        case_id: of the case.
        patient_id: of the case.
        label: the true class or finding.
        method: ``heatmap``, or the name of a control.
        organ: evidence outside it does not count.
        tolerance: distance in pixels by which a maximum may miss the truth and still count as a hit.

    Raises:
        RunFailed: the map holds values that are not finite.
        UsageError: nothing is marked, or the shapes differ.
    """
    evidence = positive_evidence(values, organ)
    _check(evidence, found, truth, case_id)
    target = truth.mask if tolerance == 0 else ndimage.distance_transform_edt(~truth.mask) <= tolerance
    iou, iobb = _box_scores(found, truth)
    return CaseScore(
        case_id=case_id,
        patient_id=patient_id,
        label=label,
        method=method,
        pointing_game=_pointing(evidence, target),
        iou=iou,
        iobb=iobb,
        mask_iou=_mask_iou(found.mask, truth.mask) if truth.outlined else float("nan"),
        energy_inside=_share(evidence[truth.mask].sum(), evidence.sum()),
        chance=float(target.mean()) if organ is None else _share((target & organ).sum(), organ.sum()),
        empty=not evidence.any(),
    )


def control_maps(
    shape: tuple[int, ...], *, organ: Mask | None = None, seed: int = 0, case_id: str = "", cells: int = 14
) -> dict[str, NDArray[np.float32]]:
    """Draw the two maps that any explanation has to beat.

    ``random`` is a smooth random field with the coarseness of a class-activation map: white noise on a grid
    with ``cells`` cells along the longest side, smoothed over one cell, brought to [0, 1] by its own
    distribution function, and enlarged linearly. Its maximum is equally likely in every cell. ``centre`` is a
    Gaussian in the middle of the organ's bounding box, or of the image, with a standard deviation of a
    quarter of each side: it stands for the prior that lesions are photographed in the middle. Both are 0
    outside the organ.

    Args:
        shape: ``(H, W)`` or ``(D, H, W)``.
        organ: mask of the same shape.
        seed: of the study.
        case_id: with the seed, makes the draw of each case its own.
        cells: cells along the longest side; what the model's last feature map has.

    Returns:
        ``random`` and ``centre``, float32 of the given shape, not negative.
    """
    inside = np.ones(shape, dtype=bool) if organ is None else organ
    draws = np.random.default_rng([seed, zlib.crc32(case_id.encode())])
    maps = {"random": _random_field(shape, draws, cells), "centre": _centred(inside)}
    return {name: np.where(inside, values, 0.0).astype(np.float32) for name, values in maps.items()}


def summarise_localization(
    rows: Sequence[CaseScore],
    *,
    split: str,
    explainer: str,
    rule: Mapping[str, object],
    iou_thresholds: Sequence[float] = IOU_THRESHOLDS,
    bootstrap: Bootstrap | None = None,
    threshold_chosen_on: str = "val",
    views: Sequence[str] = (),
) -> dict[str, Any]:
    """Average the scores of all cases, over all and by class: the content of ``localization.json``.

    Args:
        rows: one per case, class, view and method.
        split: the part they are of.
        explainer: name in the ``EXPLAINERS`` table.
        rule: how maps became boxes, in plain JSON values (the threshold of each method among them).
        iou_thresholds: for the localization accuracy.
        bootstrap: of the intervals; None takes 1,000 replicates at 95 %.
        threshold_chosen_on: the part on which the thresholds of the rule were chosen.
        views: the view that each row is of; where there are several, each is summarised as well.

    Returns:
        Plain JSON. Every average is a ``Value`` whose ``n`` counts rows: cases, or pairs of case and finding,
        or of case and view. The views of a case are of one patient, so their number makes no interval narrow.
    """
    drawn = bootstrap or Bootstrap()
    labels = list(dict.fromkeys(row.label for row in rows))
    named = list(dict.fromkeys(views))
    by_view = {
        view: _summary(
            [row for row, own in zip(rows, views, strict=True) if own == view], iou_thresholds, drawn
        )
        for view in (named if len(named) > 1 else ())
    }
    return {
        "split": split,
        "explainer": explainer,
        "rule": dict(rule),
        "threshold_chosen_on": threshold_chosen_on,
        "iou_thresholds": list(iou_thresholds),
        "iobb_thresholds": list(IOBB_THRESHOLDS),
        "bootstrap": {"n": drawn.n, "level": drawn.level, "unit": "patient", "seed": drawn.seed},
        "overall": _summary(rows, iou_thresholds, drawn),
        "by_class": {
            label: _summary([row for row in rows if row.label == label], iou_thresholds, drawn)
            for label in labels
        },
        "by_view": by_view,
    }


def _summary(rows: Sequence[CaseScore], ious: Sequence[float], bootstrap: Bootstrap) -> dict[str, Any]:
    methods = list(dict.fromkeys(row.method for row in rows))
    by_method = {method: [row for row in rows if row.method == method] for method in methods}
    return {
        "n": len({(row.case_id, row.label) for row in rows}),
        "patients": len({row.patient_id for row in rows}),
        "methods": {method: _method(chosen, ious, bootstrap) for method, chosen in by_method.items()},
    }


def _method(rows: Sequence[CaseScore], ious: Sequence[float], bootstrap: Bootstrap) -> dict[str, Any]:
    """Every measure of one method, over one set of rows."""
    columns = {
        name: np.array([getattr(row, name) for row in rows], dtype=np.float64) for name in (*_MEANS, "chance")
    }
    columns |= {f"localization_accuracy {t}": (columns["iou"] >= t).astype(np.float64) for t in ious}
    columns |= {f"iobb_accuracy {t}": (columns["iobb"] >= t).astype(np.float64) for t in IOBB_THRESHOLDS}
    values = _averages(columns, [row.patient_id for row in rows], bootstrap)
    curves: dict[str, dict[str, Any]] = {"localization_accuracy": {}, "iobb_accuracy": {}}
    for name in [name for name in values if " " in name]:
        curve, threshold = name.split()
        curves[curve][threshold] = values.pop(name)
    return {**values, **curves, "empty_maps": sum(row.empty for row in rows)}


def _averages(
    columns: Mapping[str, Floats], patient_ids: Sequence[str], bootstrap: Bootstrap
) -> dict[str, Any]:
    """Mean of each column over its defined rows, with its interval."""
    table = np.stack(list(columns.values()), axis=1)
    defined = ~np.isnan(table)
    sums, counts = np.where(defined, table, 0.0), defined.astype(np.float64)

    def means(weights: Floats) -> dict[str, Floats]:
        return {"means": ratio(weights @ sums, weights @ counts)}

    point = means(np.ones((1, len(table))))["means"][0]
    replicates = bootstrap.replicates(means, patient_ids).get("means")
    patients = np.asarray(patient_ids, dtype=object)
    return {
        name: bootstrap.value(
            float(point[m]),
            None if replicates is None else replicates[:, m],
            n=int(counts[:, m].sum()),
            patients=len(set(patients[defined[:, m]])),
            reason="" if defined[:, m].all() else "left out where the truth is known as boxes only",
        ).to_json()
        for m, name in enumerate(columns)
    }


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


def _pointing(evidence: Floats, target: Mask) -> float:
    """Share of the maxima that lie inside the target; 0 without evidence."""
    maxima = (evidence == evidence.max()) & (evidence > 0)
    return _share((maxima & target).sum(), maxima.sum())


def _box_scores(found: Region, truth: Region) -> tuple[float, float]:
    if not found.boxes:
        return 0.0, 0.0
    true = nearest(found.boxes[0], truth.boxes)
    return box_iou(found.boxes[0], true), box_iobb(found.boxes[0], true)


def _mask_iou(found: Mask, truth: Mask) -> float:
    return _share((found & truth).sum(), (found | truth).sum())


def _share(part: Any, whole: Any) -> float:
    return float(part / whole) if whole else 0.0


def _random_field(shape: tuple[int, ...], draws: np.random.Generator, cells: int) -> Floats:
    grid = tuple(min(size, max(1, round(cells * size / max(shape)))) for size in shape)
    field = ndimage.gaussian_filter(draws.standard_normal(grid), sigma=1.0, mode="wrap")
    even = special.ndtr(field / (float(field.std()) or 1.0))
    zoom = [size / cell for size, cell in zip(shape, grid, strict=True)]
    enlarged: Floats = ndimage.zoom(even, zoom, order=1, mode="nearest", grid_mode=True)
    return enlarged


def _centred(inside: Mask) -> Floats:
    """Gaussian over the bounding box of a mask; the whole image where the mask is empty."""
    place = ndimage.find_objects(inside.astype(np.int8))
    box = place[0] if place else tuple(slice(0, size) for size in inside.shape)
    exponent: Floats = np.zeros(inside.shape)
    for axis, (side, size) in enumerate(zip(box, inside.shape, strict=True)):
        length = side.stop - side.start
        distance = (np.arange(size) - (side.start + (length - 1) / 2)) / (length / 4)
        exponent = exponent + (distance**2 / 2).reshape([-1 if i == axis else 1 for i in range(inside.ndim)])
    return np.asarray(np.exp(-exponent))
