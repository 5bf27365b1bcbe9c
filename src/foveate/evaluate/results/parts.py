"""Parts that result files share: figures by name, and what stands for those that are not there."""

from __future__ import annotations

from foveate.evaluate.intervals import Value
from foveate.evaluate.results.file import Part

ABSENT = Value(None, None, None, 0, 0, "not in the file")
"""Stands for a figure that the version which wrote a file did not compute."""
ALPHA = 0.05
"""Below this corrected p-value a difference is told as shown."""


class Figures(Part):
    """Figures that are known by name."""

    def figure(self, name: str) -> Value:
        """The figure of this name; ``ABSENT`` where the file lacks it."""
        value = getattr(self, name)
        assert isinstance(value, Value), f"{name} is no figure"
        return value

    def named(self) -> dict[str, Value]:
        """Every figure that the file has, by name, in the order of the file."""
        stated = ((name, getattr(self, name)) for name in type(self).model_fields)
        return {name: value for name, value in stated if isinstance(value, Value) and value != ABSENT}


class Unmade(Part):
    """Stands for what could not be made.

    Attributes:
        reason: why.
    """

    reason: str
