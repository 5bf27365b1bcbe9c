"""In which order cases are, by class, where probabilities near 0 and 1 are rounded to the same number."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

SAME_ODDS = 1e-6
"""Log odds that differ by less, absolutely or relatively, do so by rounding."""


def places(scores: Floats, ties: Floats) -> Floats:
    """Place of each case by its score, of equals by the second one; the same place where both are equal."""
    order = np.lexsort((ties, scores))
    low, high = ties[order][:-1], ties[order][1:]
    rises = (np.diff(scores[order]) != 0) | ~np.isclose(low, high, rtol=SAME_ODDS, atol=SAME_ODDS)
    found = np.empty(len(scores))
    found[order] = np.concatenate([[0], np.cumsum(rises)])[: len(scores)]
    return found


def log_odds(logits: Floats) -> Floats:
    """Log odds of each class against all others, ``(N, K)``; the order of the others makes no difference."""
    others = [np.sort(np.delete(logits, k, axis=1), axis=1) for k in range(logits.shape[1])]
    return np.stack(
        [own - np.logaddexp.reduce(rest, axis=1) for own, rest in zip(logits.T, others, strict=True)], axis=1
    )
