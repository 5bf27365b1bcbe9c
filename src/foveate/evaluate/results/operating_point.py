"""One threshold, as ``metrics.json`` and the bundle hold it; a prediction needs nothing else of that file."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Rule = Literal["youden", "f1", "sensitivity", "specificity"]


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """One threshold, and what the cases that it was chosen on reach with it.

    Attributes:
        threshold: the class counts as present from this raw probability on.
        rule: how it was chosen.
        target: the sensitivity or specificity aimed at, or None.
        sensitivity, specificity: on the validation cases.
        present, absent: number of validation cases with and without the class.
        reason: what limits it, or None.
    """

    threshold: float
    rule: Rule
    target: float | None
    sensitivity: float
    specificity: float
    present: int
    absent: int
    reason: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return asdict(self)
