"""Attention between two maps: one reads the other by queries and keys, or each is the other's mask."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from foveate.contract import AttentionMap
from foveate.errors import UsageError
from foveate.models.attention.similarity import similarity_weights

Transition = Literal["auto", "always", "never"]


class QueryKeyAttention(nn.Module):
    """Each position of one map gathers what the positions of another hold, queries against keys.

    With x the map that reads and u the one that is read, d key channels::

        Q = query(x),  K = key(pool(u)),  V = value(pool(u))
        A = softmax(Qᵀ K / √d) over the positions of pool(u)
        y = x + β · out(V Aᵀ)

    β is a learned number that starts at 0: a fresh block is the identity. Called with the same map twice
    it is attention within a modality, with two maps attention between modalities (our AGF-style network).
    Pooling bounds the memory, since A has (positions of x) · (positions of pool(u)) entries.

    Args:
        channels: C of both maps.
        key_channels: d; None means C / 4.
        pooled: u is average-pooled to at most this many rows and columns.
    """

    def __init__(self, channels: int, key_channels: int | None = None, pooled: int = 14) -> None:
        super().__init__()
        inner = key_channels or max(1, channels // 4)
        self.query = nn.Conv2d(channels, inner, kernel_size=1)
        self.key = nn.Conv2d(channels, inner, kernel_size=1)
        self.value = nn.Conv2d(channels, inner, kernel_size=1)
        self.out = nn.Conv2d(inner, channels, kernel_size=1)
        self.beta = nn.Parameter(torch.zeros(()))
        self.pooled = pooled

    def forward(
        self, x: Float[Tensor, "B C H W"], context: Float[Tensor, "B C h w"]
    ) -> tuple[Float[Tensor, "B C H W"], AttentionMap]:
        """Return ``y``, and A as ``(B, H, W, h', w')``: ``[b, y, x]`` is the map of u that (y, x) reads.

        A sums to one over the last two axes.
        """
        rows, columns = (min(self.pooled, n) for n in context.shape[2:])
        pooled = functional.adaptive_avg_pool2d(context, (rows, columns))
        query, key, value = (
            self.query(x).flatten(2),
            self.key(pooled).flatten(2),
            self.value(pooled).flatten(2),
        )
        weights = similarity_weights(query.mT, key, "softmax", query.shape[1] ** -0.5)  # [b, i, j]
        gathered = torch.bmm(value, weights.mT.to(value.dtype)).view(*query.shape[:2], *x.shape[2:])
        weights = weights.view(x.shape[0], *x.shape[2:], *pooled.shape[2:])
        return x + self.beta * self.out(gathered), AttentionMap("query_key_attention", weights, (3, 4))


class HadamardCross(nn.Module):
    """The element-wise product of two maps: what only one of them holds is suppressed.

    The cross-attention of CAN (MICCAI 2019): with F the two maps and T transitions that bring them to one
    number of channels, each a 1×1 convolution, batch norm and ReLU::

        A = T_a(F_a),  B = T_b(F_b),  H = A ∘ B

    The map of more positions is first averaged down to the size of the other.

    Args:
        first, second: channels of the two maps.
        transition: ``auto``: both maps pass through one if their channels differ (or differ from
            ``channels``); ``always``; ``never``. The paper's abstract names none (our choice).
        channels: after the transitions; None means the smaller of ``first`` and ``second``.

    Attributes:
        channels: of A, B and H.

    Raises:
        UsageError: the channels differ and no transition is wanted.
    """

    def __init__(
        self, first: int, second: int, *, transition: Transition = "auto", channels: int | None = None
    ) -> None:
        super().__init__()
        wanted = channels or min(first, second)
        differ = not first == second == wanted
        if differ and transition == "never":
            raise UsageError(
                f"maps of {first} and {second} channels have no product of {wanted} channels",
                fix="set transition: auto, or choose two backbones of equal width",
            )
        through = differ or transition == "always"
        self.first = _transition(first, wanted) if through else nn.Identity()
        self.second = _transition(second, wanted) if through else nn.Identity()
        self.channels = wanted

    def forward(
        self, first: Float[Tensor, "B C h w"], second: Float[Tensor, "B D k l"]
    ) -> tuple[Float[Tensor, "B E m n"], Float[Tensor, "B E m n"], Float[Tensor, "B E m n"]]:
        """Return A, B and H."""
        a, b = self.through(*averaged_to_one_size(first, second))
        return a, b, a * b

    def through(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Two maps of one size through their transitions: A and B."""
        return self.first(first), self.second(second)


def averaged_to_one_size(
    first: Float[Tensor, "B C h w"], second: Float[Tensor, "B D k l"]
) -> tuple[Float[Tensor, "B C m n"], Float[Tensor, "B D m n"]]:
    """Two maps with the rows and columns of the one that has fewer, by adaptive average pooling."""
    size = min(first.shape[2], second.shape[2]), min(first.shape[3], second.shape[3])
    return _averaged(first, size), _averaged(second, size)


def _transition(channels: int, out: int) -> nn.Sequential:
    convolution = nn.Conv2d(channels, out, kernel_size=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(out), nn.ReLU(inplace=True))


def _averaged(x: Tensor, size: tuple[int, int]) -> Tensor:
    return x if x.shape[2:] == size else functional.adaptive_avg_pool2d(x, size)
