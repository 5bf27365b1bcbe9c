"""Attention within one map by how alike its parts are: where (spatial), what (channel), or both (dual).

The two blocks of the dual attention dilated residual network build a Gram matrix of their input, turn it
into weights by a sigmoid or a softmax, and add the weighted sum, times a learned β that starts at 0, to
the input: a fresh block is the identity.

Gram matrices and the weights made of them are computed in float32 even under autocast: their entries
reach hundreds, where bfloat16 moves in steps of 2 or more, and a softmax over them would be off by factors
of ``exp(2)``. Convolutions and weighted sums, which only average such errors, stay in low precision.

The weights are the largest tensors of the network: 2048² or 784² for each image of a dual attention
network. Where gradients do not need them they are made block by block and thrown away, and the
``AttentionMap`` that is handed out makes them once more when they are read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from foveate.contract import AttentionMap

Normalization = Literal["sigmoid", "softmax"]
Fusion = Literal["sum", "concat"]
Reduce = Literal["none", "after", "before"]

_DANET_CHANNELS = 512
_ROWS = 512  # of a block of weights; smaller ones are slower


class WeightsWhenRead(AttentionMap):
    """An attention map whose weights are computed each time that they are read, and not kept.

    Args:
        name, normalized_over: as of any attention map.
        compute: makes the weights.
    """

    __slots__ = ("_compute",)
    _compute: Callable[[], Tensor]

    def __init__(
        self, name: str, compute: Callable[[], Tensor], normalized_over: tuple[int, ...] | None = None
    ) -> None:
        object.__setattr__(self, "name", name)  # the base is frozen
        object.__setattr__(self, "normalized_over", normalized_over)
        object.__setattr__(self, "_compute", compute)

    @property
    def weights(self) -> Tensor:
        """``(B, ...)``."""
        return self._compute()


class SpatialAttention(nn.Module):
    """Each position gathers what all positions hold, weighted by how alike they are.

    With A the input of C channels at N = H·W positions, steps 1–4 of the paper (ICIP 2019 slides)::

        S_ij = <B1[:, i], B2[:, j]>       B1 = key(A), B2 = query(A), C' channels each
        α_ji = sigmoid(S_ij)              or exp(S_ij) / Σ_i exp(S_ij), so that Σ_i α_ji = 1
        o_j  = Σ_i α_ji D_i               D = value(A), C channels
        y_j  = β o_j + A_j

    Args:
        channels: C.
        normalization: how similarities become weights.
        key_channels: C'; None means C / 8, as in the cited non-local network (the slides do not say).
        mean: divide the ``o`` of sigmoid weights by N; those of a softmax make a mean as they are.
            NOTE[DIFF]: not in the paper. The sum of sigmoid weights grows with N, and so do ``o`` and the
            gradient of β: hundreds of times the map, on which training with ten times the trunk's learning
            rate diverges within steps.
    """

    def __init__(
        self,
        channels: int,
        *,
        normalization: Normalization = "sigmoid",
        key_channels: int | None = None,
        mean: bool = True,
    ) -> None:
        super().__init__()
        inner = key_channels or max(1, channels // 8)
        self.key = nn.Conv2d(channels, inner, kernel_size=1)
        self.query = nn.Conv2d(channels, inner, kernel_size=1)
        self.value = nn.Conv2d(channels, channels, kernel_size=1)
        self.beta = nn.Parameter(torch.zeros(()))
        self.normalization = normalization
        self.mean = mean and normalization == "sigmoid"

    def forward(self, x: Float[Tensor, "B C H W"]) -> tuple[Float[Tensor, "B C H W"], AttentionMap]:
        """Return ``y``, and α as ``(B, H, W, H, W)``: ``[b, y, x]`` is the map that position (y, x) reads.

        Softmax weights sum to one over the last two axes.
        """
        key, query, value = (conv(x).flatten(2) for conv in (self.key, self.query, self.value))
        query, space = query.mT, x.shape[2:]
        gathered = gather(query, key, value.mT, self.normalization).mT.reshape(x.shape)  # rows are j
        if self.mean:
            gathered = gathered / key.shape[2]
        return x + self.beta * gathered, WeightsWhenRead(
            "spatial_attention",
            lambda: similarity_weights(query, key, self.normalization).view(query.shape[0], *space, *space),
            (3, 4) if self.normalization == "softmax" else None,
        )


class ChannelAttention(nn.Module):
    """Each channel gathers all channels, weighted by how alike their maps are; no parameter but β.

    With A the input as a C × N matrix::

        S = A Aᵀ,  α = sigmoid(S) or softmax over the last axis,  y = β α A + A

    The paper's slides name the block without formulas; this mirrors its spatial block as DANet does.

    Args:
        normalization: how similarities become weights.
        mean_gram: divide S by N before the sigmoid or softmax. NOTE[DIFF]: not in the paper. Its input
            comes out of a ReLU, so every entry of S is a sum of N non-negative products, and sigmoid(S)
            is 1 for every pair of channels that are ever active together.
        mean: divide ``α A`` by C if the weights are those of a sigmoid. NOTE[DIFF]: not in the paper; see
            ``SpatialAttention``. Of 2048 channels after a ReLU, ``α A`` is some 600 times A.
    """

    def __init__(
        self, *, normalization: Normalization = "sigmoid", mean_gram: bool = True, mean: bool = True
    ) -> None:
        super().__init__()
        self.beta = nn.Parameter(torch.zeros(()))
        self.normalization = normalization
        self.mean_gram = mean_gram
        self.mean = mean and normalization == "sigmoid"

    def forward(self, x: Float[Tensor, "B C H W"]) -> tuple[Float[Tensor, "B C H W"], AttentionMap]:
        """Return ``y``, and α as ``(B, C, C)``: ``[b, c]`` are the weights that channel c reads.

        Softmax weights sum to one over the last axis.
        """
        flat = x.flatten(2)
        scale = 1 / flat.shape[2] if self.mean_gram else 1.0
        gathered = gather(flat, flat.mT, flat, self.normalization, scale).view_as(x)
        if self.mean:
            gathered = gathered / flat.shape[1]
        return x + self.beta * gathered, WeightsWhenRead(
            "channel_attention",
            lambda: similarity_weights(flat, flat.mT, self.normalization, scale),
            (2,) if self.normalization == "softmax" else None,
        )


class DualAttention(nn.Module):
    """Spatial attention, channel attention, or both in parallel, on the last map.

    Args:
        channels: C of the map.
        spatial: normalization of the spatial weights, or None for no spatial path.
        channel: normalization of the channel weights, or None for no channel path.
        fusion: of two paths: their sum, or their concatenation.
        reduce: ``after``: a 1×1 convolution brings concatenated paths back to C channels. ``before``: a
            3×3 convolution, batch norm and ReLU bring the map to 512 channels ahead of each block, as
            DANet does. The slides mention neither.
        mean_gram: see ``ChannelAttention``.
        mean: of both blocks, see there.
    """

    def __init__(
        self,
        channels: int,
        *,
        spatial: Normalization | None = None,
        channel: Normalization | None = None,
        fusion: Fusion = "sum",
        reduce: Reduce = "none",
        mean_gram: bool = True,
        mean: bool = True,
    ) -> None:
        super().__init__()
        inner = min(_DANET_CHANNELS, channels) if reduce == "before" else channels
        self.paths = nn.ModuleDict()
        self.entries = nn.ModuleDict()
        if spatial:
            self.paths["spatial"] = SpatialAttention(inner, normalization=spatial, mean=mean)
        if channel:
            self.paths["channel"] = ChannelAttention(normalization=channel, mean_gram=mean_gram, mean=mean)
        for name in self.paths:
            self.entries[name] = _entry(channels, inner) if reduce == "before" else nn.Identity()
        self.fusion = fusion
        joined = inner * len(self.paths) if fusion == "concat" else inner
        self.exit = nn.Conv2d(joined, channels, kernel_size=1) if reduce == "after" else nn.Identity()
        self.channels = channels if reduce == "after" else joined

    def forward(
        self, x: Float[Tensor, "B C h w"]
    ) -> tuple[Float[Tensor, "B D h w"], dict[str, Tensor], list[AttentionMap]]:
        """Return the fused map, the map of each path by name, and the attention weights."""
        maps, attention = {}, []
        for name, block in self.paths.items():
            maps[name], weights = block(self.entries[name](x))
            attention.append(weights)
        paths = list(maps.values())
        fused = torch.cat(paths, dim=1) if self.fusion == "concat" else sum(paths[1:], start=paths[0])
        return self.exit(fused), maps, attention


def similarity_weights(
    left: Float[Tensor, "B m C"],
    right: Float[Tensor, "B C n"],
    normalization: Normalization,
    scale: float = 1.0,
) -> Float[Tensor, "B m n"]:
    """Weights from scaled inner products, in float32 at least; those of a softmax sum to one over n."""
    wide = torch.promote_types(left.dtype, torch.float32)
    with torch.autocast(left.device.type, enabled=False):
        products = torch.bmm(scale * left.to(wide), right.to(wide))
        # In place: nothing else needs the products, the largest tensors of the network.
        return products.softmax(dim=-1) if normalization == "softmax" else products.sigmoid_()


def gather(
    left: Float[Tensor, "B m C"],
    right: Float[Tensor, "B C n"],
    values: Float[Tensor, "B n d"],
    normalization: Normalization,
    scale: float = 1.0,
) -> Float[Tensor, "B m d"]:
    """``Σ_n α_mn values_n`` with α as ``similarity_weights`` makes it, in the precision of the values.

    Without gradients α is never whole: a block of rows follows the other. Graphs that are traced keep one
    block, as they must not depend on m.
    """
    whole = torch.is_grad_enabled() or torch.compiler.is_compiling()
    blocks = [left] if whole else [left[:, k : k + _ROWS] for k in range(0, left.shape[1], _ROWS)]
    found = [
        torch.bmm(similarity_weights(block, right, normalization, scale).to(values.dtype), values)
        for block in blocks
    ]
    return found[0] if len(found) == 1 else torch.cat(found, dim=1)


def _entry(channels: int, inner: int) -> nn.Sequential:
    convolution = nn.Conv2d(channels, inner, kernel_size=3, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(inner), nn.ReLU(inplace=True))
