"""Whether probabilities mean what they say, as functions of case weights (see ``intervals``).

* Multi-class: a prediction is the most probable class, its confidence that probability, its outcome whether
  it is true: one per case. Brier score: mean over cases of ``sum_k (p_k - y_k)^2``, in [0, 2] (Brier 1950, as
  defined there; half of it is also in use).
* Multi-label: a prediction is a case and a finding with known truth, its confidence the probability of the
  finding, its outcome whether it is present; all findings pooled. Brier score: mean of ``(p - y)^2``, in [0,
  1].
* Expected calibration error (Naeini et al. 2015, AAAI): predictions in 15 bins of equal width, ``sum_b n_b /
  n * |mean outcome - mean confidence|``. A bin holds ``low <= confidence < high``, the last also 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from foveate.evaluate.intervals import Floats, ratio
from foveate.evaluate.table import PredictionTable

BINS = 15


class Calibration:
    """ECE and Brier score of a table of predictions, as one function of case weights.

    Args:
        table: N cases over K classes; cases without truth count for nothing.
        bins: number of bins of equal width.
    """

    def __init__(self, table: PredictionTable, bins: int = BINS) -> None:
        self.edges = np.linspace(0.0, 1.0, bins + 1)
        confidence, outcome = _predictions(table)
        place = np.clip(np.searchsorted(self.edges, confidence, side="right") - 1, 0, bins - 1)
        known = ~np.isnan(outcome)
        self._counts = _binned(known, place, bins)
        self._confidence = _binned(np.where(known, confidence, 0.0), place, bins)
        self._outcome = _binned(np.where(known, outcome, 0.0), place, bins)
        errors = np.nan_to_num((table.probabilities - table.truth) ** 2)  # unknown truth adds nothing
        self._squares = errors.sum(axis=1)

    def __call__(self, weights: Floats) -> dict[str, Floats]:
        """``ece`` and ``brier``, each ``(B,)``, for ``(B, N)`` case weights; NaN without any known truth."""
        gaps = np.abs(weights @ (self._outcome - self._confidence))
        total = (weights @ self._counts).sum(axis=1)
        return {"ece": ratio(gaps.sum(axis=1), total), "brier": ratio(weights @ self._squares, total)}

    def bins(self) -> list[dict[str, Any]]:
        """Points of the reliability curve: mean confidence and share of true outcomes; None in empty bins."""
        counts = self._counts.sum(axis=0)
        confidence, outcome = (ratio(sums.sum(axis=0), counts) for sums in (self._confidence, self._outcome))
        return [
            {
                "low": float(self.edges[b]),
                "high": float(self.edges[b + 1]),
                "confidence": float(confidence[b]) if counts[b] else None,
                "accuracy": float(outcome[b]) if counts[b] else None,
                "n": int(counts[b]),
            }
            for b in range(len(counts))
        ]


def _predictions(table: PredictionTable) -> tuple[Floats, Floats]:
    """Confidence and outcome, ``(N, 1)`` multi-class, ``(N, K)`` multi-label; NaN where unknown."""
    if table.task == "multilabel":
        return table.probabilities, table.truth
    best = table.probabilities.argmax(axis=1)[:, None]
    return np.take_along_axis(table.probabilities, best, axis=1), np.take_along_axis(
        table.truth, best, axis=1
    )


def _binned(values: NDArray[Any], place: NDArray[np.intp], bins: int) -> Floats:
    """Sum ``(N, M)`` values into bins, case by case: ``(N, bins)``."""
    cases = np.broadcast_to(np.arange(len(values))[:, None], place.shape)
    flat = (cases * bins + place).ravel()
    sums: Floats = np.bincount(flat, weights=values.ravel(), minlength=len(values) * bins).astype(np.float64)
    return sums.reshape(len(values), bins)
