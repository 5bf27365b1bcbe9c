"""Attention blocks: where (spatial), what (channel), and the channel gates of squeeze-and-excitation.

The two blocks of the dual attention dilated residual network build a Gram matrix of their input, turn it
into weights by a sigmoid or a softmax, and add the weighted sum, times a learned β that starts at 0, to
the input: a fresh block is the identity.

Gram matrices and the weights made of them are computed in float32 even under autocast: their entries
reach hundreds, where bfloat16 moves in steps of 2 or more, and a softmax over them would be off by factors
of ``exp(2)``. Convolutions and weighted sums, which only average such errors, stay in low precision.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from foveate.contract import AttentionMap

Normalization = Literal["sigmoid", "softmax"]
Weighting = Literal["norm", "exp_sum"]


class SpatialAttention(nn.Module):
    """Each position gathers what all positions hold, weighted by how alike they are.

    With A the input of C channels at N = H·W positions, steps 1–4 of the paper (ICIP 2019 slides)::

        S_ij = <B1[:, i], B2[:, j]>       B1 = key(A), B2 = query(A), C' channels each
        α_ji = sigmoid(S_ij)              or exp(S_ij) / Σ_i exp(S_ij), so that Σ_i α_ji = 1
        o_j  = Σ_i α_ji D_i               D = value(A), C channels
        y_j  = β o_j + A_j

    Sigmoid weights are not normalised: their sum grows with N, so β has to start at 0.

    Args:
        channels: C.
        normalization: how similarities become weights.
        key_channels: C'; None means C / 8, as in the cited non-local network (the slides do not say).
        mean: divide ``o`` by N, which keeps sigmoid weights of any map size in one range (not in the paper).
    """

    def __init__(
        self,
        channels: int,
        *,
        normalization: Normalization = "sigmoid",
        key_channels: int | None = None,
        mean: bool = False,
    ) -> None:
        super().__init__()
        inner = key_channels or max(1, channels // 8)
        self.key = nn.Conv2d(channels, inner, kernel_size=1)
        self.query = nn.Conv2d(channels, inner, kernel_size=1)
        self.value = nn.Conv2d(channels, channels, kernel_size=1)
        self.beta = nn.Parameter(torch.zeros(()))
        self.normalization = normalization
        self.mean = mean

    def forward(self, x: Float[Tensor, "B C H W"]) -> tuple[Float[Tensor, "B C H W"], AttentionMap]:
        """Return ``y``, and α as ``(B, H, W, H, W)``: ``[b, y, x]`` is the map that position (y, x) reads.

        Softmax weights sum to one over the last two axes.
        """
        key, query, value = (conv(x).flatten(2) for conv in (self.key, self.query, self.value))
        weights = _weights(query.mT, key, self.normalization)  # [b, j, i]
        gathered = torch.bmm(value, weights.mT.to(value.dtype)).view_as(x)
        if self.mean:
            gathered = gathered / weights.shape[-1]
        weights = weights.view(len(x), *x.shape[2:], *x.shape[2:])
        return x + self.beta * gathered, AttentionMap(
            "spatial_attention", weights, (3, 4) if self.normalization == "softmax" else None
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
    """

    def __init__(self, *, normalization: Normalization = "sigmoid", mean_gram: bool = True) -> None:
        super().__init__()
        self.beta = nn.Parameter(torch.zeros(()))
        self.normalization = normalization
        self.mean_gram = mean_gram

    def forward(self, x: Float[Tensor, "B C H W"]) -> tuple[Float[Tensor, "B C H W"], AttentionMap]:
        """Return ``y``, and α as ``(B, C, C)``: ``[b, c]`` are the weights that channel c reads.

        Softmax weights sum to one over the last axis.
        """
        flat = x.flatten(2)
        scale = 1 / flat.shape[2] if self.mean_gram else 1.0
        weights = _weights(flat, flat.mT, self.normalization, scale)
        gathered = torch.bmm(weights.to(x.dtype), flat).view_as(x)
        return x + self.beta * gathered, AttentionMap(
            "channel_attention", weights, (2,) if self.normalization == "softmax" else None
        )


class SqueezeExcite(nn.Module):
    """Scale each channel by a gate in (0, 1) computed from the pooled map (Hu et al., CVPR 2018).

    ``gate = sigmoid(W2 relu(W1 GAP(x) + b1) + b2)``, ``y = gate · x``. The linear layers are 1×1
    convolutions named as in timm, whose SE-ResNet weights therefore load.

    Args:
        channels: C.
        reduction: the hidden layer has C / reduction channels.
    """

    def __init__(self, channels: int, *, reduction: int = 16) -> None:
        super().__init__()
        hidden = max(1, channels // reduction)
        self.fc1 = nn.Conv2d(channels, hidden, kernel_size=1)
        self.fc2 = nn.Conv2d(hidden, channels, kernel_size=1)

    def forward(self, x: Float[Tensor, "B C H W"]) -> tuple[Float[Tensor, "B C H W"], Float[Tensor, "B C"]]:
        """Return the scaled map and its gates."""
        gate = self.fc2(self.fc1(x.mean(dim=(2, 3), keepdim=True)).relu()).sigmoid()
        return x * gate, gate.flatten(1)


class QueryKeyAttention(nn.Module):
    """Each position of one map gathers what the positions of another hold, queries against keys.

    With x the map that reads and u the one that is read, d key channels::

        Q = query(x),  K = key(pool(u)),  V = value(pool(u))
        A = softmax(Qᵀ K / √d) over the positions of pool(u)
        y = x + g · out(V Aᵀ)

    g is a learned number that starts at 0: a fresh block is the identity. Called with the same map twice
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
        self.gain = nn.Parameter(torch.zeros(()))
        self.pooled = pooled

    def forward(
        self, x: Float[Tensor, "B C H W"], context: Float[Tensor, "B C h w"]
    ) -> tuple[Float[Tensor, "B C H W"], AttentionMap]:
        """Return ``y``, and A as ``(B, H, W, h', w')``: ``[b, y, x]`` is the map of u that (y, x) reads.

        A sums to one over the last two axes.
        """
        pooled = functional.adaptive_avg_pool2d(context, [min(self.pooled, n) for n in context.shape[2:]])
        query, key, value = (
            self.query(x).flatten(2),
            self.key(pooled).flatten(2),
            self.value(pooled).flatten(2),
        )
        weights = _weights(query.mT, key, "softmax", query.shape[1] ** -0.5)  # [b, i, j]
        gathered = torch.bmm(value, weights.mT.to(value.dtype)).view(*query.shape[:2], *x.shape[2:])
        weights = weights.view(len(x), *x.shape[2:], *pooled.shape[2:])
        return x + self.gain * self.out(gathered), AttentionMap("query_key_attention", weights, (3, 4))


class InstancePooling(NamedTuple):
    """What pooling by attention makes of a bag of N instances.

    Attributes:
        pooled: ``(B, C)`` weighted sum of the instances.
        weights: ``(B, N)``, at least 0, summing to one over N; float32 (or as wide as the input).
        logits: ``(B, N, K)`` scores of each instance, or None where instances are not classified.
    """

    pooled: Float[Tensor, "B C"]
    weights: Float[Tensor, "B N"]
    logits: Float[Tensor, "B N K"] | None


class LossBasedAttention(nn.Module):
    """Pool instances by how sure an instance classifier is of them (Shi et al., AAAI 2020 and TIP 2021).

    The classifier that scores instances also weighs them: no further parameter, and a loss on the instance
    scores trains the weights. With ``z_n = W x_n + b`` the two published forms are::

        norm      e_n = |z_n|_2,  a_n = e_n / Σ_m e_m,  α_n ∝ relu(a_n − β/γ)          (TIP 2021)
        exp_sum   α_n = Σ_c exp(z_nc) / Σ_m Σ_c exp(z_mc)                              (AAAI 2020)

    and ``Σ_n α_n x_n`` is pooled. A weight of less than β times the uniform one is cut off if γ = N;
    exp_sum, by far the peakier, cuts nothing off. All is computed in float32 even under autocast.

    NOTE[DIFF]: the published norm form gives NaN, in value or gradient, for an instance or a bag of zero
    scores and where everything is cut off. Here the root is of ``e² + 1e-12``, and a bag of which no
    weight survives keeps ``a``; wherever the published numbers are finite these equal them to rounding.

    Args:
        channels: C of an instance.
        num_classes: K.
        weighting: the form.
        beta: β of the norm form; 1 keeps only what exceeds the uniform weight, for localization.

    Attributes:
        classifier: W and b.
    """

    def __init__(
        self, channels: int, num_classes: int, *, weighting: Weighting = "norm", beta: float = 0.1
    ) -> None:
        super().__init__()
        self.classifier = nn.Linear(channels, num_classes)
        self.weighting = weighting
        self.beta = beta

    def forward(self, x: Float[Tensor, "B N C"], gamma: float | None = None) -> InstancePooling:
        """Pool a bag; ``gamma`` is γ, None means N."""
        with torch.autocast(x.device.type, enabled=False):
            wide = x.to(torch.promote_types(x.dtype, torch.float32))
            logits = self.classifier(wide)
            if self.weighting == "exp_sum":
                weights = logits.logsumexp(dim=2).softmax(dim=1)
            else:
                weights = _norm_weights(logits, self.beta / (gamma or x.shape[1]))
            return InstancePooling(torch.einsum("bn,bnc->bc", weights, wide), weights, logits)


class GatedAttentionMIL(nn.Module):
    """Pool instances by a small network's softmax weights (Ilse et al., ICML 2018, equations 8 and 9).

    ``α = softmax_n(wᵀ (tanh(V x_n) ⊙ sigmoid(U x_n)))``; without gates ``softmax_n(wᵀ tanh(V x_n))``.
    Computed in float32 even under autocast.

    Args:
        channels: C of an instance.
        hidden: rows of V and U.
        gated: whether U is there.
    """

    def __init__(self, channels: int, *, hidden: int = 128, gated: bool = True) -> None:
        super().__init__()
        self.values = nn.Linear(channels, hidden)
        self.gates = nn.Linear(channels, hidden) if gated else None
        self.score = nn.Linear(hidden, 1, bias=False)  # a constant would cancel in the softmax

    def forward(self, x: Float[Tensor, "B N C"]) -> InstancePooling:
        """Pool a bag."""
        with torch.autocast(x.device.type, enabled=False):
            wide = x.to(torch.promote_types(x.dtype, torch.float32))
            inner = self.values(wide).tanh()
            if self.gates is not None:
                inner = inner * self.gates(wide).sigmoid()
            weights = self.score(inner).squeeze(2).softmax(dim=1)
            return InstancePooling(torch.einsum("bn,bnc->bc", weights, wide), weights, None)


def _norm_weights(logits: Float[Tensor, "B N K"], threshold: float) -> Float[Tensor, "B N"]:
    """α of the norm form, finite whatever the logits."""
    energy = (logits.square().sum(dim=2) + 1e-12).sqrt()
    shares = energy / energy.sum(dim=1, keepdim=True)
    kept = (shares - threshold).relu()
    total = kept.sum(dim=1, keepdim=True)
    some = total > 1e-6  # less is the rounding of equal shares at β = 1
    return torch.where(some, kept / torch.where(some, total, 1.0), shares)


def _weights(
    left: Float[Tensor, "B m C"],
    right: Float[Tensor, "B C n"],
    normalization: Normalization,
    scale: float = 1.0,
) -> Float[Tensor, "B m n"]:
    """Weights from scaled inner products, in float32 at least."""
    wide = torch.promote_types(left.dtype, torch.float32)
    with torch.autocast(left.device.type, enabled=False):
        products = torch.bmm(scale * left.to(wide), right.to(wide))
        # In place: nothing else needs the products, the largest tensors of the network.
        return products.softmax(dim=-1) if normalization == "softmax" else products.sigmoid_()
