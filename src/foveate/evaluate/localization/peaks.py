"""Where a map is highest, found among the cells of its own grid.

Enlarged to the pixels of an image, the outer half of every outermost cell is flat, because interpolation
holds the last value there: of two slices over sixteen, the maximum fills four slices at one end of the
volume, and their middle lies near the border, away from the cell's centre. Between centres, interpolation
lowers a peak the more the colder its neighbours are. So the hottest cell is sought, and its centre taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foveate.evaluate.localization.grids import Floats, centre_pixels
from foveate.maps.regions import Mask
from foveate.types import Box

Ints = NDArray[np.intp]
EQUAL = 1e-6
"""Share of the maximum by which equal cells may differ: the rounding of float32 on the way to the map."""


@dataclass(frozen=True, slots=True)
class Cells:
    """A map on the grid of the explainer, before it was enlarged.

    Attributes:
        values: ``(rows, cols)`` or ``(slices, rows, cols)``, raw and signed.
        field: where the grid lies, in pixels of the image.
    """

    values: NDArray[Any]
    field: Box


@dataclass(frozen=True, slots=True)
class Peaks:
    """The places at which a map is highest; none without evidence.

    Attributes:
        pixels: ``(M, axes)`` pixels of the image. A centre between two pixels counts half for each.
        weights: ``(M,)`` how much each counts, so that several equal maxima count alike.
        cells: ``(M, axes)`` cells of the map's own grid that they are the centres of; None where the maximum
            was found among pixels.
    """

    pixels: Ints
    weights: Floats
    cells: Ints | None = None

    def mean(self, values: NDArray[Any], axes: slice = slice(None)) -> float:
        """Mean over the maxima of what lies there.

        Args:
            values: of the image's shape, or of those of its ``axes`` that are named.
            axes: which these are.
        """
        return float(self.weights @ values[tuple(self.pixels[:, axes].T)] / self.weights.sum())


def find_peaks(evidence: Floats, within: Mask, cells: Cells | None = None) -> Peaks:
    """Find the maximum of a map.

    Args:
        evidence: the enlarged map in pixels of the image, not negative, 0 where nothing counts.
        within: ``evidence``'s shape, True where evidence counts at all.
        cells: the map on its own grid; None, or a maximum that lies off the centre of every cell that counts,
            as at the edge of an organ, takes the highest pixels.
    """
    highest = float(evidence.max(initial=0.0))
    if highest == 0:
        axes = evidence.ndim
        return Peaks(np.empty((0, axes), np.intp), np.empty(0), None)
    centred = None if cells is None else _hottest_cells(cells, within, highest)
    if centred is not None:
        return centred
    pixels = np.argwhere(evidence == highest)
    return Peaks(pixels, np.ones(len(pixels)))


def _hottest_cells(cells: Cells, within: Mask, highest: float) -> Peaks | None:
    """Centres of the hottest cells that count; None where a pixel away from them all is hotter."""
    axes = [
        centre_pixels(size, start, stop)
        for size, start, stop in zip(cells.values.shape, cells.field.start, cells.field.stop, strict=True)
    ]
    places = {
        tuple(cell): pixels
        for cell in np.argwhere(cells.values >= highest * (1 - EQUAL)).tolist()
        if (pixels := _inside(axes, cell, within))
    }
    if not places:
        return None
    top = max(cells.values[cell] for cell in places)
    kept = {cell: pixels for cell, pixels in places.items() if cells.values[cell] >= top * (1 - EQUAL)}
    shares = [1 / len(pixels) for pixels in kept.values() for _ in pixels]
    return Peaks(
        np.array([place for pixels in kept.values() for place in pixels], dtype=np.intp),
        np.array(shares),
        np.array([cell for cell, pixels in kept.items() for _ in pixels], dtype=np.intp),
    )


def _inside(
    axes: Sequence[Sequence[tuple[int, ...]]], cell: Sequence[int], within: Mask
) -> list[tuple[int, ...]]:
    """The pixels at the centre of a cell that count."""
    places = product(*(axis[index] for axis, index in zip(axes, cell, strict=True)))
    return [
        place
        for place in places
        if all(0 <= at < side for at, side in zip(place, within.shape, strict=True)) and within[place]
    ]
