"""The two branches of LCA-DB: a whole volume, and its tiles one by one, become instances of the same places.

Instance n of either branch belongs to tile n of the grid, so that the branches' attention can be compared
and exchanged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from jaxtyping import Bool, Float
from torch import Tensor, nn

from foveate.contract import AttentionMap
from foveate.models.lca_db.tiles import Tiling
from foveate.models.lca_db.trunk import STRIDE, Depth, Missing, ResidualTrunk3d, initialise, last_depth

Variant = Literal["paper", "corrected"]


@dataclass(frozen=True, slots=True)
class TrunkPlan:
    """What the trunks of both branches have in common.

    Attributes:
        phases: V.
        depth: 10, 16, 18 or 34.
        width: factor on the widths of all stages.
        missing: see ``PhaseStem``.
    """

    phases: int
    depth: Depth = 10
    width: float = 1.0
    missing: Missing = "renormalise"

    def build(self, *, stem: int | None = None, max_pool: bool = False) -> ResidualTrunk3d:
        """A trunk; ``stem`` are the channels of its stem, None means those of its first stage."""
        return ResidualTrunk3d(
            self.phases,
            depth=self.depth,
            width=self.width,
            stem=stem,
            max_pool=max_pool,
            missing=self.missing,
        )


class Instances(NamedTuple):
    """What a branch makes of a batch.

    Attributes:
        map: ``(B, C, d, h, w)`` the trunk's last map, on the way to the instances.
        values: ``(B, N, C)`` one instance for each tile, row by row.
        gamma: γ of the norm form of loss-based attention; None means N.
    """

    map: Float[Tensor, "B C d h w"]
    values: Float[Tensor, "B N C"]
    gamma: int | None


class ImageBranch(nn.Module):
    """IA-Net: a trunk without max-pool over the whole volume, then one cell of a coarse map for each tile.

    The coarse map comes from two convolutions, conv5 of the size of a tile on the last map and conv6 of
    1×1×1, each with batch norm and ReLU.

    NOTE[DIFF]: ``paper`` strides conv5 by 4 on the depth axis too while its kernel has depth 1, so that of
    the last map only the first slice (of two, for 16) is ever read; its γ counts the cells of that map
    (512), not the instances (16), so that nothing is ever cut off. ``corrected`` lets conv5 span the whole
    depth and sets γ = N. For up to 8 slices the convolutions are the same.

    Args:
        plan: of the trunk.
        tiling: the grid.
        slices: D of the input.
        stem: channels of the trunk's stem; None means those of its first stage.
        variant: as above.
    """

    def __init__(
        self,
        plan: TrunkPlan,
        tiling: Tiling,
        slices: int,
        *,
        stem: int | None = None,
        variant: Variant = "corrected",
    ) -> None:
        super().__init__()
        self.tiling = tiling
        self.trunk = plan.build(stem=stem)
        self.channels = channels = self.trunk.channels
        cell = (tiling.height // STRIDE, tiling.width // STRIDE)
        kernel = (1, *cell) if variant == "paper" else (last_depth(slices), *cell)
        stride = (4, *cell) if variant == "paper" else (1, *cell)
        self.conv5 = nn.Conv3d(channels, channels, kernel, stride, bias=False)
        self.bn5 = nn.BatchNorm3d(channels)
        self.conv6 = nn.Conv3d(channels, channels, kernel_size=1, bias=False)
        self.bn6 = nn.BatchNorm3d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.counts_cells = variant == "paper"
        initialise(self)

    def forward(self, x: Float[Tensor, "B V D H W"], present: Bool[Tensor, "B V"]) -> Instances:
        """The last map (an eighth of the input's size on each axis) and an instance for each tile."""
        last = self.trunk(self.tiling.fit(x), present)
        coarse = self.relu(self.bn5(self.conv5(last)))
        coarse = self.relu(self.bn6(self.conv6(coarse)))
        cells = last[0, 0].numel() if self.counts_cells else None
        return Instances(last, coarse.flatten(2).mT, cells)


class PatchBranch(nn.Module):
    """PA-Net: each tile by itself through a trunk with max-pool, then the average of its map.

    Args:
        plan: of the trunk.
        tiling: the grid.
    """

    def __init__(self, plan: TrunkPlan, tiling: Tiling) -> None:
        super().__init__()
        self.tiling = tiling
        self.trunk = plan.build(max_pool=True)
        self.channels = self.trunk.channels

    def forward(self, x: Float[Tensor, "B V D H W"], present: Bool[Tensor, "B V"]) -> Instances:
        """The tiles' maps side by side, of which an instance is the average over its tile."""
        tiles = self.tiling.cut(self.tiling.fit(x))
        last = self.trunk(tiles, present.repeat_interleave(self.tiling.number, dim=0))
        joined = self.tiling.join(last)
        return Instances(joined, self.tiling.average(joined), None)


def shares_of_tiles(
    values: Float[Tensor, "B N C"], alpha: Float[Tensor, "B N"], tiling: Tiling
) -> Float[Tensor, "B C 1 rows cols"]:
    """``N α_n x_n`` at the place of each tile: a map whose average is the pooled ``Σ_n α_n x_n``."""
    shares = tiling.number * alpha[:, :, None] * values.to(alpha.dtype)
    return tiling.grid(shares).permute(0, 3, 1, 2)[:, :, None]


def lay_over_tiles(name: str, alpha: Float[Tensor, "B N"], tiling: Tiling) -> AttentionMap:
    """Weights of tiles as a map ``(B, 1, rows, cols)`` that sums to one."""
    return AttentionMap(name, tiling.grid(alpha)[:, None], (1, 2, 3))
