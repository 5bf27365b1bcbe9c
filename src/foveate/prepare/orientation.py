"""Which way an image is turned, exactly: its axes are exchanged and mirrored, and no value is interpolated.

Anatomical directions are letters: R and L (right, left), A and P (front, back), S and I (up, down). An
*orientation* names, as is usual, those in which x, y and z grow: in ``LPS`` columns grow to the patient's
left, rows to the back and slices upwards, which in array order ``(z, y, x)`` is S, P, L.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from foveate.types import Array, Box, Geometry

Number = TypeVar("Number", int, float)
_AXIS = {"R": 0, "L": 0, "A": 1, "P": 1, "S": 2, "I": 2}
PLANES = {"S": "axial", "I": "axial", "A": "coronal", "P": "coronal", "R": "sagittal", "L": "sagittal"}
"""What slices are called, by the direction in which they follow one another."""


@dataclass(frozen=True, slots=True)
class Turn:
    """An exchange of axes with mirroring.

    Attributes:
        axes: axis k of the result is axis ``axes[k]`` of the original,
        flips: and runs backwards where ``flips[k]``.
    """

    axes: tuple[int, ...]
    flips: tuple[bool, ...]

    @classmethod
    def none(cls, dimensions: int) -> Turn:
        """The turn that changes nothing."""
        return cls(tuple(range(dimensions)), (False,) * dimensions)

    @classmethod
    def to(cls, orientation: str, codes: Sequence[str] | None, dimensions: int) -> Turn:
        """What brings an image to an orientation.

        Args:
            orientation: three letters, ``auto`` for ``LPS``, or ``none``.
            codes: directions in which the image's axes grow, as in ``Geometry.orientation``; None if unknown.
            dimensions: 2 for planes, 3 for volumes.
        """
        if orientation == "none" or codes is None:
            return cls.none(dimensions)
        wanted = _wanted("LPS" if orientation == "auto" else orientation, codes)
        places = [_AXIS[code] for code in codes]
        axes = tuple(places.index(_AXIS[code]) for code in wanted)
        return cls(axes, tuple(codes[axis] != code for axis, code in zip(axes, wanted, strict=True)))

    @property
    def changes(self) -> bool:
        """Whether it is not the turn that changes nothing."""
        return self != self.none(len(self.axes))

    def along(self, original: Sequence[Number]) -> tuple[Number, ...]:
        """Lengths, or other numbers, along the turned axes, of those along the original ones."""
        return tuple(original[axis] for axis in self.axes)

    def there(self, values: Array) -> Array:
        """Turn the last axes of an array."""
        lead = values.ndim - len(self.axes)
        turned = values.transpose(*range(lead), *(lead + axis for axis in self.axes))
        return np.flip(turned, self._mirrored(lead))

    def back(self, values: Array) -> Array:
        """Undo ``there``."""
        lead = values.ndim - len(self.axes)
        order = np.argsort(self.axes)
        mirrored = np.flip(values, self._mirrored(lead))
        return mirrored.transpose(*range(lead), *(lead + int(axis) for axis in order))

    def matrix(self, shape: Sequence[int]) -> Array:
        """``(n + 1, n + 1)`` from the index of a turned pixel to that in the original of this shape."""
        count = len(self.axes)
        found = np.zeros((count + 1, count + 1))
        found[count, count] = 1
        for axis, (place, flip) in enumerate(zip(self.axes, self.flips, strict=True)):
            found[place, axis] = -1 if flip else 1
            found[place, count] = shape[place] - 1 if flip else 0
        return found

    def geometry(self, original: Geometry) -> Geometry:
        """Geometry of a turned volume; only its shape and affine."""
        affine = None if original.affine is None else original.affine @ self.matrix(original.shape)
        return Geometry(self.along(original.shape), affine=affine)

    def box_back(self, box: Box, shape: Sequence[int]) -> Box:
        """A box among the turned pixels in those of the original, whose shape this is."""
        start, stop = [0.0] * len(shape), [0.0] * len(shape)
        for axis, flip, low, high in zip(self.axes, self.flips, box.start, box.stop, strict=True):
            start[axis], stop[axis] = (shape[axis] - high, shape[axis] - low) if flip else (low, high)
        return Box(tuple(start), tuple(stop), box.label, box.score)

    def _mirrored(self, lead: int) -> tuple[int, ...]:
        return tuple(lead + axis for axis, flip in enumerate(self.flips) if flip)


def _wanted(orientation: str, codes: Sequence[str]) -> list[str]:
    """Directions of the turned axes in array order: of a plane its own two, from head to feet."""
    letters = list(reversed(orientation))
    if len(codes) == 3:
        return letters
    there = {_AXIS[code] for code in codes}
    return ["I" if letter in "SI" else letter for letter in letters if _AXIS[letter] in there]


def in_words(orientation: str, spacing: Sequence[float] | str | None) -> str:
    """A sentence on what all images of a model were brought to; empty where there is nothing to tell.

    Args:
        orientation: as the study has it, ``auto`` settled where images are volumes.
        spacing: mm along each axis; nothing for none.
    """
    size = in_mm(spacing) if spacing and not isinstance(spacing, str) else ""
    if orientation in ("", "auto"):
        return f"Images were brought to pixels of {size}." if size else ""
    if orientation == "none":
        order = "Volumes were taken in the order of their files, not turned to a common orientation"
        return f"{order}, and brought to voxels of {size}." if size else f"{order}."
    return f"Images were brought to the orientation {orientation}" + (f" and to {size}." if size else ".")


def in_mm(lengths: Sequence[float]) -> str:
    """Lengths as people write them: ``5 × 0.8 × 0.8 mm``."""
    return " × ".join(f"{length:.4g}" for length in lengths) + " mm"
