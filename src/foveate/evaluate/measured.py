"""One function of case weights, computed on the cohort and on every replicate, ready to be told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import compress
from typing import Self

import numpy as np
from numpy.typing import NDArray

from foveate.evaluate.intervals import Bootstrap, Floats, Interval, Statistic, Value
from foveate.evaluate.short_intervals import noted
from foveate.evaluate.table import PredictionTable
from foveate.types import Track, quiet

Bools = NDArray[np.bool_]
_WORK, _LEAST = 200_000_000, 200


@dataclass(frozen=True, slots=True)
class Measured:
    """Figures of a table of predictions.

    Attributes:
        bootstrap: of the intervals.
        patients: patient of each case.
        point: by name, the values on the cohort, without the axis of replicates.
        replicates: by name, the values on every replicate; none where there is no interval.
    """

    bootstrap: Bootstrap
    patients: tuple[str, ...]
    point: Mapping[str, Floats] = field(default_factory=dict)
    replicates: Mapping[str, Floats] = field(default_factory=dict)

    @classmethod
    def of(
        cls, statistic: Statistic, table: PredictionTable, bootstrap: Bootstrap, track: Track = quiet
    ) -> Self:
        """Compute a statistic on the cases of a table and on every replicate of them."""
        cases = len(table.case_ids)
        point = {name: values[0] for name, values in statistic(np.ones((1, cases))).items()}
        replicates = bootstrap.replicates(statistic, table.patient_ids, track)
        return cls(bootstrap, table.patient_ids, point, replicates)

    def tell(
        self,
        name: str,
        at: int | None = None,
        *,
        n: int | None = None,
        cases: Bools | None = None,
        reason: str = "",
        exact: Interval | None = None,
        edge: Interval | None = None,
    ) -> Value:
        """One figure with its interval.

        Args:
            name: of the figure, ``<form>:<figure>`` where there are several forms of it.
            at: place of the value, for figures of several.
            n: number of cases that it rests on; unless given, that of ``cases``.
            cases: ``(N,)`` those that it rests on; all of them unless given.
            reason: what limits it.
            exact: an interval that needs no replicates, to be told instead.
            edge: the same, to be told where the replicates do not differ.
        """
        point, found = self.point[name], self.replicates.get(name)
        own = self.patients if cases is None else list(compress(self.patients, cases))
        value = self.bootstrap.value(
            float(point if at is None else point[at]),
            found if found is None or at is None else found[:, at],
            n=len(own) if n is None else n,
            patients=len(set(own)),
            reason=reason,
            exact=exact,
            edge=edge,
        )
        form, _, figure = name.rpartition(":")
        figure = figure.removeprefix("class_")
        return noted(value, f"change of {figure}" if form == "change" else figure)


def affordable(bootstrap: Bootstrap, table: PredictionTable) -> Bootstrap:
    """The same bootstrap with fewer replicates for very large tables, as parts of a cohort are told with.

    Up to 100,000 pairs of case and class it keeps 2,000; never fewer than 200.
    """
    pairs = max(1, table.probabilities.size)
    return replace(bootstrap, n=min(bootstrap.n, max(_LEAST, _WORK // pairs)))
