"""Cutting volumes into tiles of full depth and joining maps again; tile n is row · cols + col."""

from __future__ import annotations

import math
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from foveate.models.lca_db.trunk import STRIDE


@dataclass(frozen=True, slots=True)
class Tiling:
    """A grid of equal tiles in the plane.

    Attributes:
        rows, cols: of the grid, along H and W.
        height, width: of a tile, in pixels.
    """

    rows: int
    cols: int
    height: int
    width: int

    @property
    def number(self) -> int:
        """Tiles of a volume."""
        return self.rows * self.cols

    def fit(self, x: Float[Tensor, "B C D H W"]) -> Float[Tensor, "B C D h w"]:
        """The volume at the size that the tiles cover; resampled linearly in the plane if it has another.

        Resampled and not padded, so that the tiles cover the picture and nothing else, and maps need no
        shift.
        """
        size = (self.rows * self.height, self.cols * self.width)
        if tuple(x.shape[3:]) == size:
            return x
        return functional.interpolate(x, size=(x.shape[2], *size), mode="trilinear", align_corners=False)

    def cut(self, x: Float[Tensor, "B C D H W"]) -> Float[Tensor, "BN C D h w"]:
        """Tiles of each volume after each other, row by row."""
        batch, channels, depth = x.shape[:3]
        parts = x.reshape(batch, channels, depth, self.rows, self.height, self.cols, self.width)
        return parts.permute(0, 3, 5, 1, 2, 4, 6).reshape(-1, channels, depth, self.height, self.width)

    def join(self, x: Float[Tensor, "BN C d h w"]) -> Float[Tensor, "B C d H W"]:
        """One map of the maps of its tiles."""
        channels, depth, height, width = x.shape[1:]
        parts = x.reshape(-1, self.rows, self.cols, channels, depth, height, width)
        joined = parts.permute(0, 3, 4, 1, 5, 2, 6)
        return joined.reshape(-1, channels, depth, self.rows * height, self.cols * width)

    def average(self, x: Float[Tensor, "B C d H W"]) -> Float[Tensor, "B N C"]:
        """Average of a joined map over each tile."""
        batch, channels, depth, height, _ = x.shape
        parts = x.reshape(batch, channels, depth, self.rows, height // self.rows, self.cols, -1)
        return parts.mean(dim=(2, 4, 6)).flatten(2).mT

    def grid(self, values: Float[Tensor, "B N *rest"]) -> Float[Tensor, "B rows cols *rest"]:
        """Values of tiles, on the grid."""
        return values.reshape(values.shape[0], self.rows, self.cols, *values.shape[2:])


def make_tiling(size: tuple[int, ...], tile: int) -> Tiling:
    """Tiles for pictures of a size: about ``tile`` pixels each way, at least two a side.

    Edges are whole multiples of 8, the stride of the residual trunk. Of those from ¾ to 1½ of the wish,
    the one that changes the picture's size least is taken, of equals the nearest to the wish, then the
    larger. So 128 is 4 tiles of 32, 64 is 2 of 32, 48 is 2 of 24, 80 is 2 of 40.

    Args:
        size: ``(..., H, W)`` of the input.
        tile: wished edge, in pixels.
    """
    (rows, height), (cols, width) = (_divide(length, tile) for length in size[-2:])
    return Tiling(rows, cols, height, width)


def _divide(length: int, tile: int) -> tuple[int, int]:
    """Number and edge of the tiles along one axis."""
    wish = min(tile, length / 2)
    least, most = math.ceil(0.75 * wish / STRIDE), math.floor(1.5 * wish / STRIDE)
    edges = [STRIDE * count for count in range(least, most + 1)] or [STRIDE * math.ceil(wish / STRIDE)]
    counts = {edge: max(2, math.floor(length / edge + 0.5)) for edge in edges}
    edge = min(edges, key=lambda edge: (abs(counts[edge] * edge - length), abs(edge - wish), -edge))
    return counts[edge], edge
