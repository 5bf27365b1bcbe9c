"""A residual trunk for volumes of several phases: 3-D plain blocks at depth 10, 16, 18 or 34.

Phases (sequences, contrast phases) are the input channels of the first convolution, so a case may lack
some of them: see ``PhaseStem``. Widths 64/128/256/512 and strides 1/2/2/2 are those of the trunks in the
public code of LCA-DB (Information Fusion 2024), and so is the initialisation.
"""

from __future__ import annotations

import math
from typing import Literal, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

Depth = Literal[10, 16, 18, 34]
Missing = Literal["renormalise", "token", "zero"]

BLOCKS: dict[Depth, tuple[int, int, int, int]] = {
    10: (1, 1, 1, 1),
    16: (1, 2, 2, 2),
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
}
WIDTHS = (64, 128, 256, 512)
STRIDE = 8  # of the last map, in pixels and slices of the input, without max-pool
_STRIDES = (1, 2, 2, 2)


def stage_widths(factor: float) -> tuple[int, ...]:
    """Channels of the four stages at a width factor, rounded down, at least one each."""
    return tuple(max(1, int(width * factor)) for width in WIDTHS)


def last_depth(slices: int) -> int:
    """Slices of the last map of a trunk without max-pool: each stride 2 leaves half, rounded up."""
    return math.ceil(slices / STRIDE)


class PhaseStem(nn.Module):
    """3×3×3 convolution over all phases, batch norm and ReLU, for cases that may lack phases.

    What stands in for a missing phase is decided here, where phases are added up. The convolution has no
    bias, so its result is a sum with one part for each phase:

    * ``renormalise``: the parts that are there are scaled by V / (number there), so that their sum stays
      in the range that later layers know. With all phases present nothing changes.
    * ``token``: a learned vector of the phase, the same at every place, takes the part's place. It starts
      at 0, and learns from cases that lack the phase.
    * ``zero``: nothing does.

    Args:
        phases: V.
        channels: C that go out.
        max_pool: 3×3×3 max-pool of stride 2 at the end.
        missing: the choice above.
    """

    def __init__(
        self, phases: int, channels: int, *, max_pool: bool = False, missing: Missing = "renormalise"
    ) -> None:
        super().__init__()
        self.conv = nn.Conv3d(phases, channels, kernel_size=3, padding=1, bias=False)
        self.bn = nn.BatchNorm3d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.MaxPool3d(kernel_size=3, stride=2, padding=1) if max_pool else nn.Identity()
        self.token = nn.Parameter(torch.zeros(phases, channels)) if missing == "token" else None
        self.missing = missing

    def forward(
        self, x: Float[Tensor, "B V D H W"], present: Bool[Tensor, "B V"]
    ) -> Float[Tensor, "B C D H W"]:
        """The map; phases that a case lacks are zeros in ``x``. Halved in all axes after max-pool."""
        if self.missing == "renormalise":
            scale = present.shape[1] / present.sum(dim=1).clamp(min=1)
            x = x * scale.to(x.dtype).view(-1, 1, 1, 1, 1)
        x = self.conv(x)
        if self.token is not None:
            stand_in = (~present).to(self.token.dtype) @ self.token
            x = x + stand_in.to(x.dtype)[:, :, None, None, None]
        x = self.relu(self.bn(x))
        if x.is_meta:  # shapes only: there is no autocast
            return cast(Tensor, self.pool(x))
        with torch.autocast(x.device.type, enabled=False):  # it would widen the map, and all that follow
            return cast(Tensor, self.pool(x))


class ResidualBlock3d(nn.Module):
    """Two 3×3×3 convolutions around a shortcut, ReLU after the sum.

    Args:
        inputs: channels that come in.
        outputs: channels that go out.
        stride: of the first convolution and the shortcut, on all axes.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(inputs, outputs, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm3d(outputs)
        self.conv2 = nn.Conv3d(outputs, outputs, kernel_size=3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm3d(outputs)
        self.relu = nn.ReLU(inplace=True)
        changes = stride != 1 or inputs != outputs
        self.downsample = _projection(inputs, outputs, stride) if changes else None

    def forward(self, x: Float[Tensor, "B C D H W"]) -> Float[Tensor, "B E d h w"]:
        """The block's output."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        summed: Tensor = self.relu(self.bn2(self.conv2(x)).add_(shortcut))
        return summed


class ResidualTrunk3d(nn.Module):
    """Stem and four stages, without pooling or head.

    Without max-pool, 16×128×128 comes out as 2×16×16; with it, 16×32×32 as 1×2×2.

    Args:
        phases: V, channels of the input.
        depth: 10, 16, 18 or 34.
        width: factor on the stage widths 64/128/256/512.
        stem: channels of the stem; None means those of the first stage.
        max_pool: see ``PhaseStem``.
        missing: see ``PhaseStem``.

    Attributes:
        channels: of the last map.
    """

    def __init__(
        self,
        phases: int,
        *,
        depth: Depth = 10,
        width: float = 1.0,
        stem: int | None = None,
        max_pool: bool = False,
        missing: Missing = "renormalise",
    ) -> None:
        super().__init__()
        widths = stage_widths(width)
        inputs = stem or widths[0]
        self.stem = PhaseStem(phases, inputs, max_pool=max_pool, missing=missing)
        stages = []
        for outputs, blocks, stride in zip(widths, BLOCKS[depth], _STRIDES, strict=True):
            stages.append(_stage(inputs, outputs, blocks, stride))
            inputs = outputs
        self.stages = nn.ModuleList(stages)
        self.channels = inputs
        initialise(self)

    def forward(
        self, x: Float[Tensor, "B V D H W"], present: Bool[Tensor, "B V"]
    ) -> Float[Tensor, "B C d h w"]:
        """The last map."""
        x = self.stem(x, present)
        for stage in self.stages:
            x = stage(x)
        return x


def initialise(module: nn.Module) -> None:
    """Draw convolutions from N(0, 2 / (kernel size · outputs)), as the public code of LCA-DB does."""
    for part in module.modules():
        if isinstance(part, nn.Conv3d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")


def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    first = ResidualBlock3d(inputs, outputs, stride)
    return nn.Sequential(first, *(ResidualBlock3d(outputs, outputs, 1) for _ in range(blocks - 1)))


class _Pointwise3d(nn.Conv3d):
    """A 1×1×1 kernel that skips voxels before it is applied, not while; the same sums.

    oneDNN (of torch 2.15) never returns from the gradient of such a strided kernel in bfloat16, with several
    threads where there is AMX: from 128 to 256 channels, two volumes of 8×64×64. Without a stride it returns,
    with channels left unwritten, which is found out before a training (``train.kernel_check``).
    """

    def forward(self, input: Float[Tensor, "B C D H W"]) -> Float[Tensor, "B K d h w"]:
        down, along, across = self.stride
        return nn.functional.conv3d(input[..., ::down, ::along, ::across], self.weight)


def _projection(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    convolution = _Pointwise3d(inputs, outputs, kernel_size=1, stride=stride, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm3d(outputs))
