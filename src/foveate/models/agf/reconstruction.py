"""Feature reconstruction learning: hide part of a fused map, rebuild it, and diagnose from the rebuilding.

Used in training only. Known of it is one sentence of an abstract (see ``agf``): it "encourages the network to
extract more discriminative features and corrects the focus of the network". Everything here is our design:
hiding the places that the network attends to most makes it diagnose from, and rebuild, the evidence outside
its favourite spot.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

Masking = Literal["attended", "random", "cross_modal"]


@dataclass(frozen=True, slots=True)
class ReconstructionPlan:
    """What is hidden, and what its loss terms weigh.

    Attributes:
        masking: ``attended``: the places that speak most for the true class; ``random``: any;
            ``cross_modal``: all of one modality's part, drawn by case, to be rebuilt from the other's.
        rho: share of places hidden, rounded up (not of ``cross_modal``).
        lambda_r: weight of the reconstruction loss.
        lambda_c: weight of the classification loss of the rebuilt map.
        ramp: share of the training over which both weights rise from 0; 0 for none.
    """

    masking: Masking = "attended"
    rho: float = 0.3
    lambda_r: float = 1.0
    lambda_c: float = 0.5
    ramp: float = 0.1

    def weight(self, progress: float) -> float:
        """The ramp ``w = min(1, progress / ramp)`` at a share of training done."""
        return 1.0 if progress >= self.ramp else progress / self.ramp


class FeatureReconstruction(nn.Module):
    """A learned mask token and a decoder for the fused map of two modalities.

    The decoder is ``conv 1×1 (2C → C) – BN – ReLU – conv 3×3 (C → 2C)``, its convolutions with bias: the one
    ahead of the batch norm changes nothing and is kept for the design's number of parameters. The token has
    2C channels; where one modality's part is hidden, its half of the token stands there.

    Args:
        channels: C of one modality's part of the map.
        plan: what is hidden.
    """

    def __init__(self, channels: int, plan: ReconstructionPlan) -> None:
        super().__init__()
        self.plan = plan
        self.token = nn.Parameter(torch.empty(2 * channels))
        nn.init.normal_(self.token, std=0.02)
        self.decoder = nn.Sequential(
            nn.Conv2d(2 * channels, channels, kernel_size=1),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, 2 * channels, kernel_size=3, padding=1),
        )

    def hide(
        self, importance: Float[Tensor, "B h w"], present: Bool[Tensor, "B 2"]
    ) -> Bool[Tensor, "B 2 h w"]:
        """Choose what is hidden of each modality's part.

        Args:
            importance: how much each place speaks for the truth; used by ``attended``.
            present: which modality each case has. ``cross_modal`` hides the part of the missing one, which
                held nothing, where there is no pair to choose from.
        """
        if self.plan.masking == "cross_modal":
            second = torch.rand(len(present), device=present.device) < 0.5
            second = torch.where(present.all(dim=1), second, present[:, 0])
            parts = torch.stack([~second, second], dim=1)
            return parts[:, :, None, None].expand(*parts.shape, *importance.shape[1:])
        rank = importance if self.plan.masking == "attended" else torch.rand_like(importance)
        return top_tokens(rank, self.plan.rho)[:, None].expand(-1, 2, -1, -1)

    def forward(
        self, fused: Float[Tensor, "B 2C h w"], hidden: Bool[Tensor, "B 2 h w"]
    ) -> Float[Tensor, "B 2C h w"]:
        """Rebuild the whole map from what is not hidden."""
        token = self.token.to(fused.dtype).view(1, -1, 1, 1)
        rebuilt: Tensor = self.decoder(torch.where(_by_channel(hidden, fused), token, fused))
        return rebuilt


def top_tokens(importance: Float[Tensor, "B h w"], rho: float) -> Bool[Tensor, "B h w"]:
    """The ``ceil(rho · h · w)`` most important places of each case.

    Importance is signed. To rank ``relu(importance)`` instead would leave the order among the places that
    speak against the truth to chance, and is the same where enough speak for it.
    """
    flat = importance.flatten(1).float()
    count = max(1, math.ceil(rho * flat.shape[1] - 1e-9))  # 0.07 · 100 is a little more than 7
    chosen = flat.topk(count, dim=1).indices
    return torch.zeros_like(flat, dtype=torch.bool).scatter(1, chosen, True).view_as(importance)


@torch.no_grad()
def token_importance(
    fused: Float[Tensor, "B C h w"], weight: Float[Tensor, "K C"], targets: Tensor
) -> Float[Tensor, "B h w"]:
    """How much each place speaks for the truth: ``Σ_c w_c F_c`` with the head's weights.

    Args:
        fused: F.
        weight: of the linear head on the average of F.
        targets: ``(B,)`` classes: ``w = weight[y]``. Or ``(B, K)`` of 1, 0, NaN: the weights of findings
            that are present less those of findings that are absent, since these speak for their answers.
    """
    if targets.ndim == 1:
        rows = weight[targets]
    else:
        rows = torch.where(targets.isnan(), 0.0, 2 * targets - 1).to(weight.dtype) @ weight
    return torch.einsum("bc,bchw->bhw", rows.float(), fused.float())


def reconstruction_loss(
    rebuilt: Float[Tensor, "B 2C h w"], fused: Float[Tensor, "B 2C h w"], counted: Bool[Tensor, "B 2 h w"]
) -> Float[Tensor, ""]:
    """Mean over the counted places of ``1 − cos(rebuilt, fused)``, in [0, 2]; 0 if none is counted.

    Args:
        rebuilt: by the decoder.
        fused: the truth; it gets no gradient.
        counted: hidden parts that held something; channels of the other part are left out of the cosine.
    """
    channels, places = _by_channel(counted, fused), counted.any(dim=1)
    pair = [torch.where(channels, x, 0).movedim(1, -1)[places].float() for x in (rebuilt, fused.detach())]
    loss = 1 - functional.cosine_similarity(pair[0], pair[1], dim=-1)
    return loss.sum() / max(1, len(loss))


def _by_channel(parts: Bool[Tensor, "B 2 h w"], fused: Float[Tensor, "B 2C h w"]) -> Bool[Tensor, "B 2C h w"]:
    return parts.repeat_interleave(fused.shape[1] // 2, dim=1)
