"""Pooling of instances (patches, slices, positions) by attention: loss-based, and gated multiple-instance."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

Weighting = Literal["norm", "exp_sum"]


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
