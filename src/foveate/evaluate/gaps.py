"""How small a calibration error may be that chance has lifted: lower bounds of ECE and reliability.

In bins of few cases the share of outcomes is off by chance, so that the observed error lies above the true
one, and resampling lifts it once more. A lower bound comes from asking which smaller error could have shown
as much (test inversion in one parameter: Carpenter 1999, J. R. Stat. Soc. B 61:159): the gaps of all bins are
taken to be s times those observed, outcomes to be drawn with the probabilities that follow from them, and the
bound is the error at the smallest s whose chance of the error observed reaches ``(1 - level) / 2``. At s = 0
the model is perfectly calibrated, and what shows then is the consistency bar of Bröcker and Smith 2007,
Weather Forecast. 22:651. Sums of outcomes are taken to be normal; outcomes of one patient in one bin move
together, which makes the bound lower. Upper bounds need no such care: chance is on their side.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from foveate.evaluate.intervals import Floats, ratio

_DRAWS, _STEPS = 1000, 12


class Gaps:
    """Stated less observed in each bin, and how far chance moves them.

    Args:
        stated: ``(n,)`` probability of each prediction.
        outcome: ``(n,)`` 1 or 0.
        place: ``(n,)`` its bin.
        patient: ``(n,)`` its patient.
        answers: that the error is per; unless given, n.
    """

    def __init__(
        self,
        stated: Floats,
        outcome: Floats,
        place: NDArray[np.intp],
        patient: NDArray[np.intp],
        answers: float | None = None,
    ) -> None:
        _, self._bin, count = np.unique(place, return_inverse=True, return_counts=True)
        self._stated, self._count = stated, count.astype(np.float64)
        self._gap = np.bincount(self._bin, outcome - stated, len(count)) / self._count
        self._share = self._count / (answers or max(len(stated), 1))
        cells, cell = np.unique(patient * len(count) + self._bin, return_inverse=True)
        shapes = (len(cells), len(cell)), (len(count), len(cells))
        self._sums = csr_array((np.ones(len(cell)), (cell, np.arange(len(cell)))), shape=shapes[0])
        places = cells % max(len(count), 1)
        self._cells = csr_array((np.ones(len(cells)), (places, np.arange(len(cells)))), shape=shapes[1])
        self._chance = np.random.default_rng(0).normal(size=(_DRAWS, len(count)))

    def lower_bound(self, power: int, level: float) -> float:
        """Lower bound of ``sum_b n_b / n |gap_b|^power``: 1 for ECE, 2 for reliability."""
        observed = float((self._share * np.abs(self._gap) ** power).sum())

        def reached(scale: float) -> bool:
            """Whether gaps so many times those observed could have shown the error that was."""
            shown = np.abs(scale * self._gap + self._chance * self._spread(scale)) ** power @ self._share
            return bool((shown >= observed).mean() >= (1 - level) / 2)

        low, high = 0.0, 1.0
        if reached(low):
            return 0.0
        for _ in range(_STEPS):
            middle = (low + high) / 2
            low, high = (low, middle) if reached(middle) else (middle, high)
        return float(low**power * observed)

    def _spread(self, scale: float) -> Floats:
        """Standard deviation of each gap, where outcomes of a patient in a bin move together."""
        likely = np.clip(self._stated + scale * self._gap[self._bin], 0.0, 1.0)
        moved = self._sums @ np.sqrt(likely * (1 - likely))
        return ratio(np.sqrt(self._cells @ moved**2), self._count)
