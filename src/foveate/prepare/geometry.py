"""Which box of an image the model sees, and the way back from it: written once for every way of predicting.

An image comes into the model's field by an exact turn of its axes, one box (crop to the organ, padding to the
aspect of the model's grid, or a fixed extent in millimetres) and one interpolation; a map over the field goes
back by the same box, a linear interpolation, and the turn undone. This
module needs no torch, so runs, exported files and archives bring maps back with the same code. The
way there is ``resample.to_field``, in torch, whose antialiased interpolation models are trained with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from foveate.errors import InputRefused, UndoImpossible
from foveate.prepare.orientation import Turn
from foveate.study.settings import PreprocessConfig
from foveate.types import Array, Box

How = Literal["linear", "area"]
_SQUARE = 1e-3  # relative difference of spacings below which pixels count as square


@dataclass(frozen=True, slots=True)
class FieldOfView:
    """What a model sees of one image, and how large: enough to go there and back.

    Attributes:
        shape: ``(H, W)`` of the original image or slice, ``(D, H, W)`` of the original volume.
        turn: of its axes; all that follows is along the turned ones.
        start, stop: the box that is cut out of it, in its pixels.
        before, after: rows of zeros on both sides of the box along each axis. Where a spacing fixes the
            field, these are fractions of a pixel, and negative where the field is smaller than the box.
        size: of the model's grid, which the padded box is interpolated onto.
        how: that interpolation, see ``resample.resize``.
        fixed: whether a spacing fixes the field.
    """

    shape: tuple[int, ...]
    turn: Turn
    start: tuple[int, ...]
    stop: tuple[int, ...]
    before: tuple[float, ...]
    after: tuple[float, ...]
    size: tuple[int, ...]
    how: How = "linear"
    fixed: bool = False

    @classmethod
    def of(
        cls,
        shape: Sequence[int],
        config: PreprocessConfig,
        organ: NDArray[np.bool_] | None = None,
        *,
        orientation: Sequence[str] | None = None,
        spacing: Sequence[float] | None = None,
        where: str = "",
    ) -> FieldOfView:
        """What a study's choices make of an image.

        Args:
            shape: of the original image, slice or volume.
            config: of the view.
            organ: where the organ is that the image is cut to, in ``shape`` and not empty; None cuts nothing.
            orientation: directions in which the axes grow, see ``Geometry``; None if unknown.
            spacing: millimetres along the axes; None if unknown.
            where: the file, for errors.

        Raises:
            InputRefused: the study wants a spacing, and that of the image is unknown.
        """
        turn = Turn.to(config.orientation, orientation, len(shape))
        turned = turn.along(shape)
        start, stop = (0,) * len(shape), turned
        box = None if organ is None else _around(turn.there(organ), config.organ_margin)
        if config.spacing is not None:
            steps = _steps(config, turn, spacing, where)
            low, high = box or (start, stop)
            centre = [(first + last) / 2 for first, last in zip(low, high, strict=True)]
            half = [size * step / 2 for size, step in zip(config.size, steps, strict=True)]
            before = tuple(reach - middle for reach, middle in zip(half, centre, strict=True))
            after = tuple(
                reach + middle - side for reach, middle, side in zip(half, centre, turned, strict=True)
            )
            return cls(
                tuple(shape), turn, start, stop, before, after, tuple(config.size), config.resize, fixed=True
            )
        start, stop = box or (start, stop)
        cut = [high - low for low, high in zip(start, stop, strict=True)]
        gaps = [0] * len(shape)
        if config.keep_aspect:  # within the slices: how far they lie apart says nothing about their number
            steps_mm = None if spacing is None or config.aspect == "pixels" else turn.along(spacing)
            padded = _padded_in_mm(cut[-2:], config.size[-2:], steps_mm and steps_mm[-2:])
            gaps[-2:] = [side - have for side, have in zip(padded, cut[-2:], strict=True)]
        before = tuple(gap // 2 for gap in gaps)
        after = tuple(gap - gap // 2 for gap in gaps)
        return cls(tuple(shape), turn, start, stop, before, after, tuple(config.size), config.resize)

    @property
    def turned(self) -> tuple[int, ...]:
        """Shape of the image along the turned axes."""
        return self.turn.along(self.shape)

    @property
    def padded(self) -> tuple[float, ...]:
        """Lengths of the field in pixels of the image, along the turned axes."""
        sides = zip(self.start, self.stop, self.before, self.after, strict=True)
        return tuple(before + high - low + after for low, high, before, after in sides)

    @property
    def box(self) -> Box:
        """Where the field lies, in pixels of the original image.

        Padding may reach over the image's edge, or over pixels that the crop to the organ left out.
        """
        start = (float(low - gap) for low, gap in zip(self.start, self.before, strict=True))
        stop = (float(high + gap) for high, gap in zip(self.stop, self.after, strict=True))
        return self.turn.box_back(Box(tuple(start), tuple(stop)), self.shape)

    def cut(self, values: Array) -> Array:
        """The box with its padding, ``(C, *shape)`` → ``(C, *padded)``: the way there, but to interpolate.

        A field that a spacing fixes is not cut here, only turned.
        """
        inside: Array = self.turn.there(values)[(slice(None), *self._inside)]
        if self.fixed or not any(self.before + self.after):
            return inside
        return np.pad(inside, [(0, 0), *zip(map(int, self.before), map(int, self.after), strict=True)])

    def back(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Bring a map back to the pixels of the original image, slice or volume.

        Args:
            values: ``(h, w)``, or ``(d, h, w)`` over volumes, at any resolution, over the whole field.

        Returns:
            ``shape`` float32: linearly interpolated to the model's grid and from there to the image's pixels;
            zero where the model did not look (outside the organ's crop, or the field of a fixed spacing).

        Raises:
            UndoImpossible: the map has other axes than the model's input.
        """
        if values.ndim != len(self.size):
            what = "volume" if len(self.size) == 3 else "plane"
            raise UndoImpossible(f"a map of shape {values.shape} does not lie over a {what}")
        seen = np.array(values, dtype=np.float32)
        for axis, side in enumerate(self.size):
            seen = _interpolated(seen, axis, side, 0, side)
        for axis, (low, high) in enumerate(zip(self.start, self.stop, strict=True)):
            seen = _interpolated(seen, axis, self.padded[axis], self.before[axis], high - low)
        for axis in range(seen.ndim) if self.fixed else ():
            place = np.arange(seen.shape[axis]) + self.before[axis] + 0.5
            outside = (place < 0) | (place > self.padded[axis])
            seen[(slice(None),) * axis + (outside,)] = 0
        if seen.shape != self.turned:
            whole = np.zeros(self.turned, dtype=np.float32)
            whole[self._inside] = seen
            seen = whole
        return np.ascontiguousarray(self.turn.back(seen))

    def unturned(self, cells: Array) -> Array:
        """Maps on the model's own grid, ``(…, *grid)``, with the axes of the original image."""
        return np.ascontiguousarray(self.turn.back(cells))

    @property
    def _inside(self) -> tuple[slice, ...]:
        return tuple(slice(low, high) for low, high in zip(self.start, self.stop, strict=True))


def padded_sides(
    height: Any, width: Any, tall: int, wide: int, *, larger: Callable[[Any, Any], Any] = max
) -> tuple[Any, Any]:
    """Sides of a plane after padding to the aspect of ``tall × wide``, in whole numbers, halves to even.

    Args:
        height, width: of the plane. An exported graph calls this too, with sides that it does not know yet.
        tall, wide: of the model's grid.
        larger: the greater of two sides.
    """
    if tall == wide:
        return (larger(height, width),) * 2
    return larger(height, _rounded(width * tall, wide)), larger(width, _rounded(height * wide, tall))


def _padded_in_mm(
    sides: Sequence[int], size: Sequence[int], spacing: Sequence[float] | None
) -> tuple[int, int]:
    """``padded_sides`` where pixels need not be square: to the aspect of ``size`` in millimetres.

    Args:
        sides: height and width in pixels.
        size: of the model's grid, whose pixels are square.
        spacing: between rows and between columns, mm; None if unknown.
    """
    (height, width), (tall, wide) = sides, size
    ratio = 1.0 if spacing is None else float(spacing[1]) / float(spacing[0])
    if abs(ratio - 1) <= _SQUARE:
        return padded_sides(height, width, tall, wide)
    return max(height, round(width * ratio * tall / wide)), max(width, round(height / ratio * wide / tall))


def _rounded(number: Any, divisor: int) -> Any:
    """``round(number / divisor)``, halves to even, without a branch; neither is negative."""
    return (2 * number + divisor - 1 + number // divisor % 2) // (2 * divisor)


def _steps(config: PreprocessConfig, turn: Turn, spacing: Sequence[float] | None, where: str) -> list[float]:
    """Pixels of the image from one voxel of the model to the next, along the turned axes."""
    if isinstance(config.spacing, str) or config.spacing is None:
        raise AssertionError("a training settles what 'auto' means before it prepares an image")
    if spacing is None:
        raise InputRefused(
            "the study brings all images to one spacing, and that of this one is unknown",
            where=where,
            fix="give files that tell their spacing, leave this case out, or set preprocess.spacing: null",
            code="spacing-unknown",
        )
    return [wanted / float(own) for wanted, own in zip(config.spacing, turn.along(spacing), strict=True)]


def _around(organ: NDArray[np.bool_], margin: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """First pixel, and one past the last, of the box around an organ with a margin, inside the image."""
    axes = range(organ.ndim)
    rows = [np.flatnonzero(organ.any(axis=tuple(other for other in axes if other != axis))) for axis in axes]
    start = tuple(max(int(row[0]) - margin, 0) for row in rows)
    stop = tuple(min(int(row[-1]) + 1 + margin, side) for row, side in zip(rows, organ.shape, strict=True))
    return start, stop


def _interpolated(
    values: NDArray[np.float32], axis: int, side: float, first: float, count: int
) -> NDArray[np.float32]:
    """Stretch one axis to ``side`` pixels linearly and keep so many from ``first`` on.

    Between pixel centres, flat beyond the outermost, without antialiasing: ``align_corners=False`` of torch.
    """
    have = values.shape[axis]
    if side == have and first >= 0 and float(first).is_integer() and first + count <= have:
        return values[(slice(None),) * axis + (slice(int(first), int(first) + count),)]
    place = np.clip((np.arange(count) + first + 0.5) * (have / side) - 0.5, 0, have - 1)
    below = np.floor(place).astype(np.intp)
    share = (place - below).astype(np.float32).reshape(-1, *[1] * (values.ndim - axis - 1))
    low: NDArray[np.float32] = np.take(values, below, axis)
    step = np.take(values, np.minimum(below + 1, have - 1), axis)
    step -= low
    step *= share
    low += step
    return low
