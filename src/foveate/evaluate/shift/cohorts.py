"""Cases of two cohorts, side by side, that share no patient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foveate.evaluate.averages import difference_interval
from foveate.evaluate.intervals import Bootstrap, Floats, Interval, Value
from foveate.evaluate.rates import Rates

Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Cohorts:
    """Cases of two cohorts, those of the source first.

    Attributes:
        new: ``(N,)`` which of them are of the new cohort.
        patients: ``(N,)`` a number for the patient of each; no patient is in both.
    """

    new: Bools
    patients: NDArray[np.intp]

    @classmethod
    def of(cls, source: Sequence[str], new: Sequence[str]) -> Cohorts:
        """Put two cohorts together.

        Args:
            source: patient of each case that the model comes from.
            new: patient of each case of the new cohort; the same name is another patient.
        """
        names = [f"0 {name}" for name in source] + [f"1 {name}" for name in new]
        numbers = np.unique(np.asarray(names, dtype=object).astype(str), return_inverse=True)[1]
        return cls(np.repeat([False, True], [len(source), len(new)]), numbers)

    @property
    def names(self) -> list[str]:
        """The patient of each case, as text."""
        return [str(number) for number in self.patients.tolist()]

    def only(self, keep: Bools) -> Cohorts:
        """The cases at which ``keep``, ``(N,)``, is True."""
        return Cohorts(self.new[keep], np.unique(self.patients[keep], return_inverse=True)[1])

    def both_sides(self) -> bool:
        """Whether there are cases of both cohorts."""
        return bool(self.new.any() and not self.new.all())

    def exchanged(self, draws: int, seed: int) -> Bools:
        """``(draws, N)``: which cases are of the new cohort if whole patients change cohort at random."""
        side = np.zeros(int(self.patients.max()) + 1, dtype=bool)
        side[self.patients[self.new]] = True
        chance = np.random.default_rng(seed)
        return np.stack([chance.permutation(side)[self.patients] for _ in range(draws)])

    def value(
        self,
        point: float,
        drawn: Floats | None,
        bootstrap: Bootstrap,
        *,
        reason: str = "",
        exact: Interval | None = None,
    ) -> Value:
        """A figure over both cohorts with its interval."""
        patients = int(self.patients.max(initial=-1)) + 1
        return bootstrap.value(point, drawn, n=len(self.new), patients=patients, reason=reason, exact=exact)

    def share_difference(self, has: Bools, bootstrap: Bootstrap) -> Value:
        """Share of cases in the new cohort less that in the source, from the exact intervals of both.

        Args:
            has: ``(N,)`` which cases count.
            bootstrap: whose level it has.
        """
        new, source = (self._share(has, side, bootstrap.level) for side in (self.new, ~self.new))
        assert new.value is not None and source.value is not None  # there are cases on both sides
        exact = difference_interval(new, source, independent=True)
        return self.value(new.value - source.value, None, bootstrap, exact=exact)

    def _share(self, has: Bools, side: Bools, level: float) -> Value:
        rates = Rates.of(has[side, None], np.ones((int(side.sum()), 1)), self.patients[side])
        low, high = rates.intervals(level)[0].tolist()
        return Value(float(has[side].mean()), low, high, int(side.sum()), int(rates.patients[0]))
