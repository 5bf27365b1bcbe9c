"""Regions that may hold a shortcut: tiles, the frame, what lies outside the organ, strokes.

All in the pixels that the model sees. Of volumes, tiles and frame reach through all slices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.nn.functional import avg_pool2d, max_pool2d

from foveate.evaluate.results.probes import ShareBox
from foveate.stations.shortcuts.material import Places

CONTENT = 0.5  # share of a tile that must be image and no padding, on average, for it to be asked about
PLAIN = (
    1 / 255
)  # of the range of values: a tile whose pixels differ less, in all cases together, shows nothing
MARGIN = 1 / 16  # of the longer side, around lesions, that still belongs to them
COVERED = 0.05  # a tile lies outside the organ (or the lesions) if these cover less of it, on average
STROKE = 0.3  # of the range of values: what differs so much from its surroundings is a stroke
_STROKE_PIXELS = 6  # fewest pixels of strokes that a case must show
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Tiles:
    """A grid over rows and columns of the model's field.

    Attributes:
        rows, columns: where tiles begin and end, in pixels: ``rows[i] <= y < rows[i + 1]``.
    """

    rows: tuple[int, ...]
    columns: tuple[int, ...]

    @classmethod
    def over(cls, space: tuple[int, ...], count: int) -> Tiles:
        """Tiles as square as can be, ``count`` of them along the longer side of the last two axes."""
        height, width = space[-2:]
        side = max(height, width) / count
        edges = [
            np.linspace(0, length, max(round(length / side), 1) + 1).round().astype(int).tolist()
            for length in (height, width)
        ]
        return cls(tuple(edges[0]), tuple(edges[1]))

    @property
    def shape(self) -> tuple[int, int]:
        """Number of tiles along rows and columns."""
        return len(self.rows) - 1, len(self.columns) - 1

    @property
    def places(self) -> list[tuple[int, int]]:
        """Every tile by row and column, from the upper left."""
        return [(row, column) for row in range(self.shape[0]) for column in range(self.shape[1])]

    def mask(self, *places: tuple[int, int]) -> Tensor:
        """``(H, W)`` True inside the named tiles."""
        found = torch.zeros(self.rows[-1], self.columns[-1], dtype=torch.bool)
        for row, column in places:
            found[self.rows[row] : self.rows[row + 1], self.columns[column] : self.columns[column + 1]] = True
        return found

    def covered(self, mask: Tensor) -> Floats:
        """Share of each tile that a mask covers: ``(N, *space)`` → ``(N, rows, columns)``."""
        flat = mask.float()
        if flat.ndim == 4:
            flat = flat.mean(dim=1)
        parts = [
            flat[:, self.rows[i] : self.rows[i + 1], self.columns[j] : self.columns[j + 1]].mean(dim=(1, 2))
            for i, j in self.places
        ]
        found: Floats = torch.stack(parts, dim=1).view(-1, *self.shape).double().numpy()
        return found

    def box(self, *places: tuple[int, int]) -> ShareBox:
        """The smallest box around tiles: top, left, bottom, right as shares of the field."""
        rows, columns = [row for row, _ in places], [column for _, column in places]
        height, width = self.rows[-1], self.columns[-1]
        return (
            self.rows[min(rows)] / height,
            self.columns[min(columns)] / width,
            self.rows[max(rows) + 1] / height,
            self.columns[max(columns) + 1] / width,
        )


def with_content(tiles: Tiles, places: Places, images: Tensor) -> NDArray[np.bool_]:
    """Tiles that show something, ``(rows, columns)``: neither padding nor the same plain area in all cases.

    Args:
        tiles: the grid.
        places: of N cases.
        images: ``(N, C, *space)`` in [0, 1].
    """
    plain = np.zeros(tiles.shape, dtype=bool)
    for row, column in tiles.places:
        down, across = slice(*tiles.rows[row : row + 2]), slice(*tiles.columns[column : column + 2])
        part, field = images[..., down, across], places.field[:, None, ..., down, across]
        inside = part[field.expand(part.shape)].float()
        plain[row, column] = not len(inside) or float(inside.max() - inside.min()) < PLAIN
    return np.asarray((tiles.covered(places.field).mean(axis=0) >= CONTENT) & ~plain)


def suspects(tiles: Tiles, places: Places) -> NDArray[np.bool_]:
    """Tiles in which nothing of the disease should be seen: ``(rows, columns)``.

    Where organs are known, those that no organ reaches; else those along the edge of the image. In neither
    case tiles that lesions reach. Padding counts as edge; ``with_content`` tells it apart.
    """
    if places.organ is not None:
        known = places.organ.flatten(1).any(dim=1)
        found = tiles.covered(places.organ[known]).mean(axis=0) < COVERED
    else:
        found = tiles.covered(frame(tiles, places.field) | ~places.field).mean(axis=0) >= 0.5
    if places.truth is not None:
        marked = places.truth.flatten(1).any(dim=1)
        found &= tiles.covered(places.truth[marked]).mean(axis=0) < COVERED
    return np.asarray(found)


def frame(tiles: Tiles, field: Tensor) -> Tensor:
    """The outer frame of each image, as wide as a tile: ``(N, *space)`` → the same."""
    inner = torch.zeros_like(field)
    high, wide = tiles.rows[1] - tiles.rows[0], tiles.columns[1] - tiles.columns[0]
    for row, own in enumerate(field):
        flat = own.any(dim=0) if own.ndim == 3 else own
        ys, xs = flat.any(dim=1).nonzero().flatten(), flat.any(dim=0).nonzero().flatten()
        if len(ys):
            top, bottom = int(ys[0]) + high, int(ys[-1]) + 1 - high
            left, right = int(xs[0]) + wide, int(xs[-1]) + 1 - wide
            inner[row, ..., top : max(bottom, top), left : max(right, left)] = True
    return field & ~inner


def clear_frame(tiles: Tiles, places: Places) -> Tensor:
    """The frame, without what of organs and lesions reaches into it: ``(N, *space)``."""
    edge = frame(tiles, places.field) & _clear_of_lesions(places)
    return edge if places.organ is None else edge & ~places.organ


def outside_organ(places: Places) -> Tensor | None:
    """All image outside organ and lesions, ``(N, *space)``; nothing where a case has no organ mask."""
    if places.organ is None:
        return None
    known = places.organ.flatten(1).any(dim=1)
    found = places.field & ~places.organ & _clear_of_lesions(places)
    found[~known] = False
    return found


def outside_lesion(places: Places) -> Tensor | None:
    """All image outside marked lesions and a margin, ``(N, *space)``; nothing where none is marked."""
    if places.truth is None:
        return None
    return places.field & ~grown(places.truth) & _any(places.truth)


def organ_without_lesion(places: Places) -> Tensor | None:
    """The organ without marked lesions and a margin, ``(N, *space)``; None if no organ or no lesion is known.

    Only where both are marked: in other cases of the organ, a lesion may lie anywhere.
    """
    if places.organ is None or places.truth is None:
        return None
    return places.field & places.organ & ~grown(places.truth) & _any(places.truth)


def grown(masks: Tensor) -> Tensor:
    """``(N, *space)`` masks with a margin within the plane, ``MARGIN`` of the longer side wide."""
    reach = max(round(MARGIN * max(masks.shape[-2:])), 1)
    planes = masks.reshape(-1, 1, *masks.shape[-2:]).float()
    return max_pool2d(planes, 2 * reach + 1, 1, reach).view(masks.shape) > 0


def _any(masks: Tensor) -> Tensor:
    """Whether a case has any, ``(N, 1, …)`` to be combined with the masks."""
    return masks.flatten(1).any(dim=1).view(-1, *(1 for _ in masks.shape[1:]))


def _clear_of_lesions(places: Places) -> Tensor:
    return torch.ones_like(places.field) if places.truth is None else ~places.truth


def strokes(images: Tensor, where: Tensor) -> Tensor:
    """Thin, sharp, bright or dark structures, as letters and markers burned into an image are.

    White and black top-hats of the mean over channels (Soille 2003, Morphological Image Analysis, chapter 4),
    with a square of a sixteenth of the longer side, above ``STROKE``; grown by a pixel.

    Args:
        images: ``(N, C, *space)`` in [0, 1].
        where: ``(N, *space)`` where to look.

    Returns:
        ``(N, *space)``; empty for cases with hardly any.
    """
    grey = images.float().mean(dim=1).numpy()
    side = max(grey.shape[-2:]) // 16 + 1
    size = (1,) * (grey.ndim - 2) + (side, side)
    near = np.ones((1,) * (grey.ndim - 3) + (3, 3), dtype=bool)
    found = []
    for own, inside in zip(grey, where.numpy(), strict=True):
        hats = np.maximum(ndimage.white_tophat(own, size[1:]), ndimage.black_tophat(own, size[1:]))
        marks = (hats > STROKE) & inside
        found.append(ndimage.binary_dilation(marks, near) & (marks.sum() >= _STROKE_PIXELS))
    return torch.from_numpy(np.stack(found))


def filled(images: Tensor, mask: Tensor) -> Tensor:
    """Take a region out of images: what surrounds it within the plane flows in.

    Normalized convolution (Knutsson and Westin 1993) of what is outside with a box, three times; where
    nothing is near, the mean of what is outside.

    Args:
        images: ``(N, C, *space)``.
        mask: ``(N, *space)`` or ``(*space)``, True where to fill; every image keeps something.

    Returns:
        ``(N, C, *space)`` in the type of the images.
    """
    gone = over_channels(mask, images).expand(images.shape)
    values, known = images.float().where(~gone, 0), (~gone).float()
    mean = values.flatten(2).sum(dim=2) / known.flatten(2).sum(dim=2).clamp(min=1)
    height, width = images.shape[-2:]
    kernel = 2 * (max(height, width) // 12) + 1
    planes, weight = (part.reshape(-1, 1, height, width) for part in (values, known))
    for _ in range(3):
        planes = avg_pool2d(planes, kernel, 1, kernel // 2, count_include_pad=False)
        weight = avg_pool2d(weight, kernel, 1, kernel // 2, count_include_pad=False)
    near = (planes / weight.clamp(min=1e-6)).view(images.shape)
    flat = mean.view(*mean.shape, *(1 for _ in images.shape[2:]))
    soft = torch.where(weight.view(images.shape) > 1e-4, near, flat)
    return torch.where(gone, soft.to(images.dtype), images)


def over_channels(mask: Tensor, images: Tensor) -> Tensor:
    """A mask over ``(N, C, *space)`` images: ``(1 or N, 1, *space)``, planes put in front of every slice."""
    if mask.ndim == 2:
        return mask.view(*(1 for _ in images.shape[:-2]), *mask.shape)
    return mask[:, None]


def position(box: Sequence[float]) -> str:
    """Where a box lies, in words."""
    middle_y, middle_x = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    vertical = "top" if middle_y < 1 / 3 else "bottom" if middle_y > 2 / 3 else ""
    horizontal = "left" if middle_x < 1 / 3 else "right" if middle_x > 2 / 3 else ""
    return " ".join(filter(None, (vertical, horizontal))) or "middle"
