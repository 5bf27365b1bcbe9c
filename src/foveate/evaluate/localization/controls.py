"""The maps that any explanation has to beat, because none of them looks into the model."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, special

from foveate.evaluate.localization.grids import Floats, spread, whole
from foveate.maps.regions import Mask
from foveate.types import Box

CELLS = 14  # of a ResNet's last feature map at 448 pixels, or of DRN's at 112


def control_maps(
    shape: tuple[int, ...],
    *,
    organ: Mask | None = None,
    seed: int = 0,
    case_id: str = "",
    grid: Sequence[int] = (),
    field: Box | None = None,
    picture: NDArray[Any] | None = None,
    average: NDArray[np.floating[Any]] | None = None,
) -> dict[str, NDArray[np.float32]]:
    """Draw the controls of one case.

    ``random`` is a smooth random field with the coarseness of a class-activation map: ``random_cells`` on the
    same grid, enlarged linearly. ``centre`` is a
    Gaussian in the middle of the organ's bounding box, or of the image, with a standard deviation of a
    quarter of each side: it stands for the prior that lesions are photographed in the middle. ``edge`` is
    the Sobel magnitude of the image (Adebayo et al. 2018 showed that maps can look convincing and be no more
    than that). ``average`` is where lesions of the training cases lie: what one knows before looking. All are
    0 outside the organ.

    Args:
        shape: ``(H, W)`` or ``(D, H, W)``.
        organ: mask of the same shape.
        seed: of the study.
        case_id: with the seed, makes the draw of each case its own.
        grid: cells of the heat map along each axis; none takes 14 along the longest side of the image.
        field: where they lie, in pixels; None means over the whole image.
        picture: the displayed image at any resolution, ``(h, w)``, ``(h, w, 3)``, ``(d, h, w)`` or
            ``(d, h, w, 3)``; without it there is no ``edge``.
        average: mean mask of training cases on a grid over the whole image; without it no ``average``.

    Returns:
        ``random``, ``centre``, and if they can be drawn ``edge`` and ``average``: float32 of the given shape,
        not negative.
    """
    inside = np.ones(shape, dtype=bool) if organ is None else organ
    drawn = random_cells(grid or _usual_grid(shape), seed, case_id)
    maps = {"random": spread(drawn, shape, field or whole(shape)), "centre": _centred(inside)}
    if picture is not None:
        maps["edge"] = _edges(picture, shape)
    if average is not None:
        maps["average"] = spread(average, shape, whole(shape))
    return {name: np.where(inside, values, 0.0).astype(np.float32) for name, values in maps.items()}


def random_cells(grid: Sequence[int], seed: int, case_id: str) -> Floats:
    """A smooth random field on a grid, in [0, 1]; its maximum is equally likely in every cell.

    White noise, smoothed over one cell, brought to [0, 1] by its own distribution function.

    Args:
        grid: cells along each axis.
        seed: of the study.
        case_id: with the seed, makes the draw of each case its own.
    """
    draws = np.random.default_rng([seed, zlib.crc32(case_id.encode())])
    field = ndimage.gaussian_filter(draws.standard_normal(tuple(grid)), sigma=1.0, mode="wrap")
    scale = float(field.std()) or 1.0
    even: Floats = special.ndtr((field - field.mean()) / scale)  # of few cells the mean is far from 0
    return even


def _usual_grid(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(min(size, max(1, round(CELLS * size / max(shape)))) for size in shape)


def _edges(picture: NDArray[Any], shape: tuple[int, ...]) -> Floats:
    grey = picture.astype(np.float64)
    grey = grey.mean(axis=-1) if grey.ndim > len(shape) else grey
    edges = ndimage.generic_gradient_magnitude(grey, ndimage.sobel, mode="nearest")
    zoom = [size / have for size, have in zip(shape, edges.shape, strict=True)]
    enlarged: Floats = ndimage.zoom(edges, zoom, order=1, mode="nearest", grid_mode=True)
    return enlarged


def _centred(inside: Mask) -> Floats:
    """Gaussian over the bounding box of a mask; the whole image where the mask is empty."""
    place = ndimage.find_objects(inside.astype(np.int8))
    box = place[0] if place else tuple(slice(0, size) for size in inside.shape)
    exponent: Floats = np.zeros(inside.shape)
    for axis, (side, size) in enumerate(zip(box, inside.shape, strict=True)):
        length = side.stop - side.start
        distance = (np.arange(size) - (side.start + (length - 1) / 2)) / (length / 4)
        exponent = exponent + (distance**2 / 2).reshape([-1 if i == axis else 1 for i in range(inside.ndim)])
    return np.asarray(np.exp(-exponent))
