"""How alike two heat maps are, by rank and by structure; NumPy and scipy only.

What is compared are patterns, not heights: maps are raw, and two models may differ in the scale of their
logits. A map that is the same everywhere has no pattern; it is like nothing, and its likeness is undefined.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, stats

Floats = NDArray[np.float64]
_SIGMA, _REACH = 1.5, 5  # of the window of Wang et al. 2004: a Gaussian cut to 11 cells
_LUMINANCE, _CONTRAST = 0.01**2, 0.03**2  # K1 and K2 of Wang et al., for a range of 1


def rank_correlation(first: NDArray[np.floating[Any]], second: NDArray[np.floating[Any]]) -> Floats:
    """Spearman's rank correlation of each pair of maps; ties share their mean rank.

    Args:
        first, second: ``(B, *space)``.

    Returns:
        ``(B,)`` in [−1, 1], NaN where one of the two maps is the same everywhere.
    """
    ranks = [stats.rankdata(maps.reshape(len(maps), -1), axis=1) for maps in (first, second)]
    one, two = (each - each.mean(axis=1, keepdims=True) for each in ranks)
    size = np.sqrt((one**2).sum(axis=1) * (two**2).sum(axis=1))
    found: Floats = np.full(len(one), np.nan)
    np.divide((one * two).sum(axis=1), size, out=found, where=size > 0)
    return found


def structural_similarity(first: NDArray[np.floating[Any]], second: NDArray[np.floating[Any]]) -> Floats:
    """Mean structural similarity of the magnitudes of each pair of maps (Wang et al. 2004, equation 13).

    Magnitudes are divided by their maximum, so that the range is 1, as in the sanity checks of Adebayo et
    al. (2018, section 3.1). The window is a Gaussian of 1.5 cells; borders are mirrored.

    Args:
        first, second: ``(B, *space)``.

    Returns:
        ``(B,)`` in [−1, 1], NaN where one of the two maps is the same everywhere.
    """
    return np.array([_similarity(one, two) for one, two in zip(first, second, strict=True)])


def _similarity(first: NDArray[np.floating[Any]], second: NDArray[np.floating[Any]]) -> float:
    if min(np.ptp(first), np.ptp(second)) == 0:
        return float("nan")
    one, two = (np.abs(each).astype(np.float64) / np.abs(each).max() for each in (first, second))
    mean_one, mean_two = _smooth(one), _smooth(two)
    spread_one = _smooth(one * one) - mean_one**2
    spread_two = _smooth(two * two) - mean_two**2
    together = _smooth(one * two) - mean_one * mean_two
    above = (2 * mean_one * mean_two + _LUMINANCE) * (2 * together + _CONTRAST)
    below = (mean_one**2 + mean_two**2 + _LUMINANCE) * (spread_one + spread_two + _CONTRAST)
    return float((above / below).mean())


def _smooth(values: Floats) -> Floats:
    smoothed: Floats = ndimage.gaussian_filter(values, _SIGMA, radius=_REACH, mode="mirror")
    return smoothed
