"""From a heat map to boxes and masks, by one stated rule.

Negative evidence is dropped (ReLU), what lies outside the organ is dropped, and one of four rules is applied
to the rest. Connected components join over corners (8-connectivity in 2-D, 26 in 3-D). A map without positive
evidence finds nothing: it is never stretched until something shows.

* ``peak``: cut at a share of the maximum, largest component (Zhou et al. 2016, CAM, 0.2; Selvaraju et al.
  2017, Grad-CAM, 0.15), with the share chosen on validation cases instead of fixed.
* ``two_thresholds``: the map scaled to [0, 255] is cut at 60 and, separately, at 180, and every component of
  both is a region (Wang et al. 2017, ChestX-ray8).
* ``top``: the hottest 5 % of the image or organ, largest component.
* ``patch``: the window with the largest mean (Shi et al. 2020, AAAI, for the cell with most attention).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from foveate.errors import UsageError
from foveate.maps.regions import Mask, Region, as_box, components, extent, positive_evidence, shifted
from foveate.study.methods import RuleKind

Floats = NDArray[np.float64]
LOW, HIGH = 60 / 255, 180 / 255  # of the rule ``two_thresholds``
HOTTEST = 0.05  # share of the rule ``top``


@dataclass(frozen=True, slots=True)
class BoxRule:
    """How a heat map becomes regions.

    Attributes:
        threshold: share of the map's maximum, in (0, 1], from which a pixel counts as found (``peak``).
        keep: ``largest`` keeps the component with most pixels (of equals, the one with more evidence);
            ``all`` keeps every component, the largest first, as ``two_thresholds`` always does.
        min_pixels: smaller components are dropped.
        kind: which of the rules.
        window: size in pixels of the window of ``patch``; None takes a seventh of each side.
    """

    threshold: float = 0.5
    keep: Literal["largest", "all"] = "largest"
    min_pixels: int = 1
    kind: RuleKind = "peak"
    window: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise UsageError(
                f"the threshold must lie in (0, 1], got {self.threshold}",
                fix="give a share of the map's maximum",
            )
        if self.keep not in ("largest", "all"):
            raise UsageError(f"unknown keep '{self.keep}'", fix="choose from: largest, all")
        if self.kind not in (kinds := get_args(RuleKind)):
            raise UsageError(f"unknown rule '{self.kind}'", fix=f"choose from: {', '.join(kinds)}")


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
    if rule.kind == "patch":
        return _window(evidence, rule, label)
    if rule.kind == "two_thresholds":
        return _both(*(_cut(evidence, share * peak, "all", rule.min_pixels, label) for share in (LOW, HIGH)))
    level = rule.threshold * peak if rule.kind == "peak" else _hottest(evidence, organ)
    return _cut(evidence, level, rule.keep, rule.min_pixels, label)


def sweep(
    values: NDArray[np.floating[Any]], thresholds: Sequence[float], *, organ: Mask | None = None
) -> list[Region]:
    """Every component at each share of the maximum, the largest first (rule ``peak``, keeping all)."""
    return [localize_heatmap(values, BoxRule(share, keep="all"), organ=organ) for share in thresholds]


def choose_threshold(ious: NDArray[np.floating[Any]], candidates: Sequence[float]) -> float:
    """Choose the threshold on validation cases: the one whose first box overlaps the truth best on average.

    Args:
        ious: ``(N, T)`` for each of N maps of validation cases the IoU of the largest box, at each of T
            candidates, with the true box nearest to it (0 where nothing is found).
        candidates: T thresholds, as shares of the maximum.

    Returns:
        The best candidate; of equals, the first given.

    Raises:
        UsageError: there is no map or no candidate.
    """
    if np.size(ious) == 0 or not candidates:
        raise UsageError(
            "there is nothing to choose the threshold from",
            fix="give validation cases with a mask or boxes and a candidate, or state the threshold",
            code="no-validation-maps",
        )
    return float(candidates[int(np.mean(ious, axis=0).argmax())])


def _hottest(evidence: Floats, organ: Mask | None) -> float:
    """The value from which a pixel is among the hottest 5 % of the organ or image."""
    seen = evidence.ravel() if organ is None else evidence[organ]
    rank = max(1, round(HOTTEST * seen.size))
    return float(np.partition(seen, -rank)[-rank])


def _cut(evidence: Floats, level: float, keep: str, min_pixels: int, label: str) -> Region:
    """The components from a level on, the largest first, of equals the stronger."""
    # A subnormal peak times the threshold may round to 0; a pixel without evidence is never found.
    above = (evidence >= level) & (evidence > 0)
    inner = extent(above)  # labelling the rest would find nothing
    parts, count = components(above[inner])
    pixels = np.bincount(parts.ravel(), minlength=count + 1)
    weight = np.bincount(parts.ravel(), weights=evidence[inner].ravel(), minlength=count + 1)
    order = [int(part) for part in np.lexsort((-weight[1:], -pixels[1:])) + 1 if pixels[part] >= min_pixels]
    kept = order[:1] if keep == "largest" else order
    places, total = ndimage.find_objects(parts), float(evidence.sum())
    offset = [side.start for side in inner]
    boxes = tuple(shifted(as_box(places[p - 1], label, float(weight[p]) / total), offset) for p in kept)
    chosen = np.zeros(count + 1, dtype=bool)
    chosen[kept] = True
    mask = np.zeros(evidence.shape, dtype=bool)
    mask[inner] = chosen[parts]
    return Region(mask, boxes)


def _both(low: Region, high: Region) -> Region:
    """The regions of two thresholds; what both name counts once."""
    known = {(box.start, box.stop) for box in low.boxes}
    return Region(low.mask, (*low.boxes, *(box for box in high.boxes if (box.start, box.stop) not in known)))


def _window(evidence: Floats, rule: BoxRule, label: str) -> Region:
    """The whole window with the largest mean; of equals the first in reading order."""
    window = rule.window or tuple(max(1, round(side / 7)) for side in evidence.shape)
    window = tuple(min(size, side) for size, side in zip(window, evidence.shape, strict=True))
    sums = evidence
    for axis, size in enumerate(window):
        running = np.insert(np.cumsum(sums, axis=axis), 0, 0.0, axis=axis)
        ahead = np.take(running, range(size, running.shape[axis]), axis=axis)
        sums = ahead - np.take(running, range(running.shape[axis] - size), axis=axis)
    start = np.unravel_index(sums.argmax(), sums.shape)
    place = tuple(slice(int(at), int(at) + size) for at, size in zip(start, window, strict=True))
    mask = np.zeros(evidence.shape, dtype=bool)
    mask[place] = True
    return Region(mask, (as_box(place, label, float(evidence[place].sum() / evidence.sum())),))
