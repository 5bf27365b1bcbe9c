"""Choices to start from, by what a cohort is like: network, size of volumes, epochs and batch size."""

from __future__ import annotations

import math
from collections.abc import Mapping

from foveate.types import Cohort

PICTURES = (224, 224)
MOST_VOXELS, MOST_TOGETHER = 2**19, 2**21
"""Of one view (32 slices of 128 × 128), and of all views of a case (eight of 16 slices, as LCA-DB's)."""
_DEPTH, _PLANE = 8, 16  # sides are multiples: strides of the volume models, and whole tiles within slices
_LEAST_PLANE = 32
_USUAL_CASES, _USUAL_EPOCHS, _FEWEST_EPOCHS, _MOST_EPOCHS = 1000, 30, 10, 100
_BATCH, _LEAST_BATCH, _STEPS = 16, 4, 4


def are_volumes(cohort: Cohort) -> bool:
    """Whether whole volumes are to be classified: all views are volumes, and no column picks slices."""
    sizes = cohort.reading.sizes.values()
    return bool(sizes) and all(len(size) == 3 for size in sizes) and "slice" not in cohort.reading.known


def network_for(cohort: Cohort) -> str:
    """The name of a network that takes what there is: one picture or volume, or several."""
    several = len(cohort.view_names) > 1
    if are_volumes(cohort):
        return "lca_db10" if several else "resnet3d10"
    return "late_fusion" if several else "timm:resnet18"


def size_for(cohort: Cohort) -> tuple[int, ...]:
    """What the network shall see: ``(H, W)``, or ``(D, H, W)`` of volumes by their own median shape."""
    sizes = cohort.reading.sizes
    return volume_size(sizes) if are_volumes(cohort) else PICTURES


def volume_size(sizes: Mapping[str, tuple[int, ...]]) -> tuple[int, int, int]:
    """A size of volumes: the median shape, its longest sides shortened until the voxels are few enough.

    Shortening the longest side first keeps thick slices as they are, as in nnU-Net's patches (Isensee et al.
    2021, supplement, "Topology of the different architectures"). Sides are then rounded to whole multiples.

    Args:
        sizes: median shape of each view, ``(D, H, W)``; the largest along each axis counts.
    """
    least = (_DEPTH, _LEAST_PLANE, _LEAST_PLANE)
    sides = [float(max(low, *(size[axis] for size in sizes.values()))) for axis, low in enumerate(least)]
    most = min(MOST_VOXELS, MOST_TOGETHER / len(sizes))
    while math.prod(sides) > most:
        longest = max(range(3), key=lambda axis: sides[axis])
        sides[longest] *= 0.95
    depth, height, width = sides
    return _multiple(depth, _DEPTH), _multiple(height, _PLANE), _multiple(width, _PLANE)


def epochs_for(cases: int) -> int:
    """Epochs of a cohort: 30 of 1,000 cases, more of fewer by the square root, within 10 and 100."""
    wanted = _USUAL_EPOCHS * math.sqrt(_USUAL_CASES / max(cases, 1))
    return round(min(max(wanted, _FEWEST_EPOCHS), _MOST_EPOCHS))


def batch_for(cases: int) -> int:
    """Cases of a step, a power of two up to 16: at least four steps an epoch, where there are enough."""
    batch = _BATCH
    while batch > _LEAST_BATCH and cases < _STEPS * batch:
        batch //= 2
    return batch


def _multiple(length: float, step: int) -> int:
    return step * math.floor(length / step + 0.5)
