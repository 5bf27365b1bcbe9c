"""How the intervals of a result file were made."""

from __future__ import annotations

from typing import Literal, Self

from foveate.evaluate.intervals import Bootstrap
from foveate.evaluate.results.file import Part


class BootstrapFacts(Part):
    """How intervals were made.

    Attributes:
        n: replicates; 0 for no intervals.
        level: of the intervals.
        unit: what was resampled.
        seed: of the draws.
    """

    n: int
    level: float
    unit: str = "patient"
    seed: int = 0

    @classmethod
    def of(cls, bootstrap: Bootstrap) -> Self:
        """The facts of a bootstrap."""
        return cls(n=bootstrap.n, level=bootstrap.level, seed=bootstrap.seed)


class IntervalFacts(BootstrapFacts):
    """How intervals were made, and of what kind they are.

    Attributes:
        interval: ``percentile`` or ``bca``; None in old files, whose intervals are percentile ones.
    """

    interval: Literal["percentile", "bca"] | None = None

    @classmethod
    def of(cls, bootstrap: Bootstrap) -> Self:
        """The facts of a bootstrap."""
        return cls(n=bootstrap.n, level=bootstrap.level, seed=bootstrap.seed, interval=bootstrap.method)
