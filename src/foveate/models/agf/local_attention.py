"""Local attention between two modalities' maps: what each place gathers within and across modalities.

The block ALL of the AGF-style network (see ``agf``), of which an abstract gives the role and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

_KEY_SIDE = 14  # keys and values are pooled to at most this, which bounds memory on the finest stage


class Gathering(nn.Module):
    """``β · conv1×1(V Aᵀ)``: what the attention weights A gather of the values V; β starts at 0."""

    def __init__(self, inner: int, channels: int) -> None:
        super().__init__()
        self.out = nn.Conv2d(inner, channels, kernel_size=1)
        self.beta = nn.Parameter(torch.zeros(()))

    def forward(
        self, weights: Float[Tensor, "B N M"], value: Float[Tensor, "B d M"], size: Sequence[int]
    ) -> Float[Tensor, "B C h w"]:
        """Gather values of M places for the N = h·w places of ``size`` ``(h, w)``."""
        gathered = torch.bmm(value, weights.mT.to(value.dtype))
        added: Tensor = self.beta * self.out(gathered.view(*gathered.shape[:2], *size))
        return added


class Branch(nn.Module):
    """One modality's projections, and what it gathers: from itself (intra), from the other (inter).

    Args:
        channels: C; queries, keys and values have d = C / 4.
        kinds: which of ``intra``, ``inter``.
    """

    def __init__(self, channels: int, kinds: Sequence[str]) -> None:
        super().__init__()
        inner = max(1, channels // 4)
        self.query = nn.Conv2d(channels, inner, kernel_size=1)
        self.key = nn.Conv2d(channels, inner, kernel_size=1)
        self.value = nn.Conv2d(channels, inner, kernel_size=1)
        self.gather = nn.ModuleDict({kind: Gathering(inner, channels) for kind in kinds})

    def read(self, x: Float[Tensor, "B C h w"]) -> tuple[Tensor, Tensor, Tensor]:
        """Query ``(B, d, h·w)``; key and value ``(B, d, k·l)`` of the pooled map."""
        pooled = functional.adaptive_avg_pool2d(x, key_size(x))
        return self.query(x).flatten(2), self.key(pooled).flatten(2), self.value(pooled).flatten(2)


class LocalAttention(nn.Module):
    """ALL: both modalities' maps gather from themselves and from each other.

    With X_i the map of modality i at N places, j the other modality, and X̄ average-pooled to at most 14 × 14
    = M places::

        Q_i = conv1×1(X_i),  K_i = conv1×1(X̄_i),  V_i = conv1×1(X̄_i)         each of d = C / 4 channels
        A_intra = softmax(Q_iᵀ K_i / √d),  A_inter = softmax(Q_iᵀ K_j / √d)    over the M places
        X_i ← X_i + β_i1 conv1×1(V_i A_intraᵀ) + β_i2 conv1×1(V_j A_interᵀ)

    β start at 0, so that a fresh block is the identity. Queries, keys and values of a modality serve both
    kinds. Softmax is computed in float32 at least.

    Args:
        channels: C of both maps.
        kinds: which of ``intra``, ``inter``.
    """

    def __init__(self, channels: int, kinds: Sequence[str] = ("intra", "inter")) -> None:
        super().__init__()
        self.kinds = tuple(kinds)
        self.branches = nn.ModuleList([Branch(channels, kinds) for _ in range(2)])

    def forward(
        self, maps: Sequence[Float[Tensor, "B C h w"]], present: Bool[Tensor, "B 2"] | None = None
    ) -> tuple[list[Float[Tensor, "B C h w"]], list[dict[str, Float[Tensor, "B h w k l"]]]]:
        """Return both maps, and for each modality its weights by kind; they sum to one over ``(k, l)``.

        Args:
            maps: of both modalities, of one size.
            present: which modality each case has; None means both. Nothing is gathered from a modality
                that is missing, and the weights from or to one are equal everywhere.
        """
        branches = [cast(Branch, branch) for branch in self.branches]
        read = [branch.read(x) for branch, x in zip(branches, maps, strict=True)]
        results, weights = list(maps), []
        for i, branch in enumerate(branches):
            found = {}
            for kind, gather in branch.gather.items():
                source = i if kind == "intra" else 1 - i
                attention = _attend(read[i][0], read[source][1])
                added = gather(attention, read[source][2], maps[i].shape[2:])
                if present is not None:
                    added = torch.where(as_rows(present[:, source], added), added, 0)
                    known = as_rows(present[:, i] & present[:, source], attention)
                    attention = torch.where(known, attention, 1 / attention.shape[2])
                results[i] = results[i] + added
                found[kind] = attention.view(-1, *maps[i].shape[2:], *key_size(maps[source]))
            weights.append(found)
        return results, weights


def key_size(x: Float[Tensor, "B C h w"]) -> tuple[int, int]:
    """Places ``(k, l)`` of the keys of a map."""
    return min(x.shape[2], _KEY_SIDE), min(x.shape[3], _KEY_SIDE)


def as_rows(flags: Bool[Tensor, "B"], x: Tensor) -> Tensor:
    """Flags of cases in a shape that spreads over ``x``."""
    return flags.view(-1, *[1] * (x.ndim - 1))


def _attend(query: Float[Tensor, "B d N"], key: Float[Tensor, "B d M"]) -> Float[Tensor, "B N M"]:
    """``softmax(Qᵀ K / √d)`` over the keys, in float32 at least."""
    wide = torch.promote_types(query.dtype, torch.float32)
    with torch.autocast(query.device.type, enabled=False):
        scaled = query.mT.to(wide) / query.shape[1] ** 0.5
        return torch.bmm(scaled, key.to(wide)).softmax(dim=-1)
