"""What a mask alone says, without a pixel of the image: its area, its position, its outline.

All in the model's field, in which masks of volumes are seen from above (any slice).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import ConvexHull, QhullError
from torch import Tensor

from foveate.evaluate.intervals import Floats

ASPECTS = ("area", "position", "outline")
_RADII = 16  # directions in which the outline is measured
_LEAST = 3  # pixels that have an outline
Plane = NDArray[np.bool_]


def mask_features(masks: Tensor, field: Tensor) -> Mapping[str, Floats]:
    """Numbers of masks by aspect, ``(N, P)`` each; every case has a mask.

    * ``area``: share of the image.
    * ``position``: the middle of the mask, as shares of the image's height and width.
    * ``outline``, whatever the size (but for the steps of the pixels) and place: share of the bounding box
      and of the convex hull that is filled, its height by its width, perimeter² by area, ratio of the second
      moments, number of parts, and the spread of the distances from middle to edge.

    Args:
        masks: ``(N, *space)``.
        field: ``(N, *space)`` True where there is image.
    """
    flat = [own.numpy() if own.ndim == 2 else own.any(dim=0).numpy() for own in masks]
    seen = [own.numpy() if own.ndim == 2 else own.any(dim=0).numpy() for own in field]
    pairs = list(zip(flat, seen, strict=True))
    return {
        "area": np.array([[mask.sum() / image.sum()] for mask, image in pairs]),
        "position": np.array([_position(mask, image) for mask, image in pairs]),
        "outline": np.array([_outline(mask) for mask in flat]),
    }


def _position(mask: Plane, image: Plane) -> list[float]:
    places, whole = np.argwhere(mask) + 0.5, np.argwhere(image)
    start, extent = whole.min(axis=0), np.ptp(whole, axis=0) + 1
    return [float(share) for share in (places.mean(axis=0) - start) / extent]


def _outline(mask: Plane) -> list[float]:
    places = np.argwhere(mask).astype(float)
    height, width = np.ptp(places, axis=0) + 1
    area, parts = len(places), ndimage.label(mask, np.ones((3, 3)))[1]
    padded = np.pad(mask, 1).astype(int)
    perimeter = sum(np.abs(np.diff(padded, axis=axis)).sum() for axis in (0, 1))
    moments = np.linalg.eigvalsh(np.cov(places.T) + np.eye(2) / 12) if area >= _LEAST else np.ones(2)
    return [
        area / (height * width),
        area / _hull(places),
        height / width,
        perimeter**2 / area,
        moments[0] / moments[1],
        float(parts),
        _roughness(places),
    ]


def _hull(places: Floats) -> float:
    """Area of the convex hull of pixels as squares."""
    corners = (places[:, None] + np.array([[0, 0], [0, 1], [1, 0], [1, 1]])).reshape(-1, 2)
    try:
        return float(ConvexHull(corners).volume)
    except QhullError:  # pragma: no cover - squares always span a plane
        return float(len(places))


def _roughness(places: Floats) -> float:
    """Standard deviation by mean of the largest distance from the middle, over directions."""
    away = places - places.mean(axis=0)
    sector = ((np.arctan2(*away.T) / (2 * np.pi) + 0.5) * _RADII).astype(int) % _RADII
    reach = np.array([np.hypot(*away[sector == k].T).max(initial=0) for k in range(_RADII)])
    return float(reach.std() / max(reach.mean(), 1e-9))
