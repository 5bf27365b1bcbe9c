"""Between the pixels of an image and a coarser grid that lies over it, in two and three dimensions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foveate.types import Box

Floats = NDArray[np.float64]


def whole(shape: Sequence[int]) -> Box:
    """The field that is the whole image."""
    return Box((0.0,) * len(shape), tuple(float(side) for side in shape))


def coverage(mask: NDArray[Any], grid: Sequence[int], field: Box) -> Floats:
    """Share of each cell's area that a mask covers, exactly: cells may cut pixels.

    Args:
        mask: ``(H, W)`` or ``(D, H, W)``.
        grid: number of cells along each axis.
        field: where the grid lies, in pixels of the mask; what lies outside the image is covered by nothing.

    Returns:
        Shares in [0, 1], in the shape of the grid.
    """
    return _along_axes(np.asarray(mask, dtype=np.float64), grid, field, _overlap)


def spread(cells: NDArray[np.floating[Any]], shape: Sequence[int], field: Box) -> Floats:
    """Interpolate values of a grid linearly, as heat maps are brought back: centre to centre, edges held.

    The product brings maps back in two steps (grid to model input to original pixels); this is one step, and
    differs from it by a fraction of a model pixel.

    Args:
        cells: values of the grid.
        shape: of the image.
        field: where the grid lies, in pixels of the image.

    Returns:
        Values in the shape of the image; 0 outside the field.
    """
    return _along_axes(np.asarray(cells, dtype=np.float64), shape, field, _interpolation)


def seen_inside(mask: NDArray[Any], grid: Sequence[int], field: Box, within: NDArray[Any]) -> Floats:
    """Share of the energy that each cell alone, spread over the image, has inside a mask.

    Args:
        mask: of the image.
        grid: number of cells along each axis.
        field: where the grid lies.
        within: mask of the pixels that count at all.

    Returns:
        Shares in [0, 1], in the shape of the grid; 0 for cells that are not seen.
    """
    inside, seen = (
        _along_axes(np.asarray(part, dtype=np.float64), grid, field, _gathering)
        for part in (mask & within, within)
    )
    return ratio_or_zero(inside, seen)


def peaks_inside(mask: NDArray[Any], grid: Sequence[int], field: Box) -> Floats:
    """Share of the pixels at the centre of each cell, where it alone is highest, that lie in a mask."""
    return _along_axes(np.asarray(mask, dtype=np.float64), grid, field, _peaks)


def ratio_or_zero(part: Floats, of: Floats) -> Floats:
    """``part / of``, 0 where there is nothing to share."""
    return np.divide(part, of, out=np.zeros_like(part), where=of > 0)


def _along_axes(
    values: Floats,
    sizes: Sequence[int],
    field: Box,
    matrix: Callable[[int, int, float, float], Floats],
) -> Floats:
    """Apply one ``(new, old)`` matrix along each axis."""
    for axis, (size, start, stop) in enumerate(zip(sizes, field.start, field.stop, strict=True)):
        step = matrix(size, values.shape[axis], start, stop)
        values = np.moveaxis(np.tensordot(step, values, axes=(1, axis)), 0, axis)
    return values


def _overlap(cells: int, pixels: int, start: float, stop: float) -> Floats:
    """``(cells, pixels)``: share of each cell that lies in each pixel."""
    side = (stop - start) / cells
    low = start + side * np.arange(cells)[:, None]
    first = np.arange(pixels)[None]
    shared = np.minimum(low + side, first + 1) - np.maximum(low, first)
    return np.asarray(np.maximum(shared, 0.0) / side)


def _interpolation(pixels: int, cells: int, start: float, stop: float) -> Floats:
    """``(pixels, cells)``: weights of linear interpolation at the centre of each pixel."""
    centres = np.arange(pixels) + 0.5
    place = (centres - start) * cells / (stop - start) - 0.5
    held = np.clip(place, 0, cells - 1)
    weights = np.maximum(0.0, 1.0 - np.abs(held[:, None] - np.arange(cells)[None]))
    weights[(centres < start) | (centres > stop)] = 0.0
    return np.asarray(weights)


def _gathering(cells: int, pixels: int, start: float, stop: float) -> Floats:
    """``(cells, pixels)``: the interpolation's own weights, the other way round."""
    return _interpolation(pixels, cells, start, stop).T


def _peaks(cells: int, pixels: int, start: float, stop: float) -> Floats:
    """``(cells, pixels)``: one for the pixel at a cell's centre, or even shares of several.

    Of a cell whose centre lies off the image, these are the pixels at which it weighs most.
    """
    weights = _gathering(cells, pixels, start, stop)
    highest = (weights == weights.max(axis=1, keepdims=True)) & (weights > 0)
    for cell, places in enumerate(centre_pixels(cells, start, stop)):
        if inside := [at for at in places if 0 <= at < pixels]:
            highest[cell] = np.isin(np.arange(pixels), inside)
    return ratio_or_zero(highest.astype(np.float64), highest.sum(axis=1, keepdims=True) + np.zeros(pixels))


def centre_pixels(cells: int, start: float, stop: float) -> list[tuple[int, ...]]:
    """For each cell along one axis the pixel that holds its centre, or the two that it lies between."""
    centres = start + (np.arange(cells) + 0.5) * (stop - start) / cells
    edges = np.rint(centres)
    between = np.isclose(centres, edges, rtol=0, atol=1e-6)
    return [
        (int(edge) - 1, int(edge)) if split else (int(np.floor(centre)),)
        for centre, edge, split in zip(centres, edges, between, strict=True)
    ]
