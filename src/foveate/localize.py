"""From a heat map to boxes and masks, by one stated rule.

Negative evidence is dropped (ReLU), what lies outside the organ is dropped, the rest is cut at a share of its
maximum, and the connected components of what remains (8-connectivity in 2-D, 26 in 3-D) are the regions
found. A map without positive evidence finds nothing: it is never stretched until something shows.

The rule follows Zhou et al. 2016 (CAM, threshold 0.2 of the maximum, largest component) and Selvaraju et al.
2017 (Grad-CAM, 0.15), with the threshold chosen on validation cases instead of fixed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from foveate.errors import UsageError
from foveate.regions import Mask, Region, as_box, box_iou, components, nearest, positive_evidence


@dataclass(frozen=True, slots=True)
class BoxRule:
    """How a heat map becomes regions.

    Attributes:
        threshold: share of the map's maximum, in (0, 1], from which a pixel counts as found.
        keep: ``largest`` keeps the component with most pixels (of equals, the one with more evidence);
            ``all`` keeps every component, the largest first.
        min_pixels: smaller components are dropped.
    """

    threshold: float = 0.5
    keep: Literal["largest", "all"] = "largest"
    min_pixels: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise UsageError(
                f"the threshold must lie in (0, 1], got {self.threshold}",
                fix="give a share of the map's maximum",
            )
        if self.keep not in ("largest", "all"):
            raise UsageError(f"unknown keep '{self.keep}'", fix="choose from: largest, all")


def localize_heatmap(
    values: NDArray[np.floating[Any]], rule: BoxRule, *, organ: Mask | None = None, label: str = ""
) -> Region:
    """Find where a heat map points.

    Args:
        values: ``(H, W)`` or ``(D, H, W)`` raw signed evidence for one class.
        rule: how to cut it.
        organ: same shape; evidence outside it is dropped before the maximum is taken.
        label: the class or finding, for the boxes.

    Returns:
        Mask and boxes of what was found, in the pixels of ``values``, largest first. A box's score is the
        share of the map's positive evidence that its component holds, in (0, 1]. Without positive evidence
        the mask is empty and there is no box.

    Raises:
        RunFailed: the map holds values that are not finite.
        UsageError: the organ mask has another shape.
    """
    evidence = positive_evidence(values, organ)
    peak = float(evidence.max(initial=0.0))
    if peak == 0:
        return Region(np.zeros(evidence.shape, dtype=bool), ())
    # A subnormal peak times the threshold may round to 0; a pixel without evidence is never found.
    parts, count = components((evidence >= rule.threshold * peak) & (evidence > 0))
    return _keep(parts, _by_size(parts, count, evidence), evidence, rule, label)


def choose_threshold(
    maps: Iterable[NDArray[np.floating[Any]]],
    truths: Iterable[Region],
    candidates: Sequence[float],
    rule: BoxRule | None = None,
    *,
    organs: Iterable[Mask | None] | None = None,
) -> float:
    """Choose the threshold on validation cases: the one whose first box overlaps the truth best on average.

    The measure is the mean, over all maps, of the IoU of the first box found with the true box nearest to it
    (0 where nothing is found). Maps are taken one by one, so that a generator keeps memory small.

    Args:
        maps: raw heat maps of the true class, of validation cases only.
        truths: what is marked in each.
        candidates: thresholds to try, as shares of the maximum.
        rule: what else the rule says; its own threshold is ignored.
        organs: organ mask of each map, or None.

    Returns:
        The best candidate; of equals, the first given.

    Raises:
        UsageError: there is no map or no candidate.
    """
    rules = [replace(rule or BoxRule(), threshold=candidate) for candidate in candidates]
    rows = [
        [_first_iou(localize_heatmap(values, each, organ=organ), truth) for each in rules]
        for values, truth, organ in _aligned(maps, truths, organs)
    ]
    if not rows or not rules:
        raise UsageError(
            "there is nothing to choose the threshold from",
            fix="give validation cases with a mask or boxes and a candidate, or state the threshold",
            code="no-validation-maps",
        )
    return float(candidates[int(np.mean(rows, axis=0).argmax())])


def _aligned(
    maps: Iterable[NDArray[np.floating[Any]]], truths: Iterable[Region], organs: Iterable[Mask | None] | None
) -> Iterable[tuple[NDArray[np.floating[Any]], Region, Mask | None]]:
    if organs is None:
        return ((values, truth, None) for values, truth in zip(maps, truths, strict=True))
    return zip(maps, truths, organs, strict=True)


def _first_iou(found: Region, truth: Region) -> float:
    return box_iou(found.boxes[0], nearest(found.boxes[0], truth.boxes)) if found.boxes else 0.0


def _by_size(
    parts: NDArray[np.int32], count: int, evidence: NDArray[np.float64]
) -> list[tuple[int, int, float]]:
    """``(label, pixels, evidence)`` of each component, the largest first, of equals the stronger."""
    pixels = np.bincount(parts.ravel(), minlength=count + 1)
    weight = np.bincount(parts.ravel(), weights=evidence.ravel(), minlength=count + 1)
    found = [(part, int(pixels[part]), float(weight[part])) for part in range(1, count + 1)]
    return sorted(found, key=lambda item: (-item[1], -item[2]))


def _keep(
    parts: NDArray[np.int32],
    found: list[tuple[int, int, float]],
    evidence: NDArray[np.float64],
    rule: BoxRule,
    label: str,
) -> Region:
    kept = [item for item in found if item[1] >= rule.min_pixels]
    if rule.keep == "largest":
        kept = kept[:1]
    places, total = ndimage.find_objects(parts), float(evidence.sum())
    boxes = tuple(as_box(places[part - 1], label, weight / total) for part, _, weight in kept)
    return Region(np.isin(parts, [part for part, _, _ in kept]), boxes)
