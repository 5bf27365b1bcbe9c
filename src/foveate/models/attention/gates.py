"""Channel gates: each channel scaled by a number in (0, 1) computed from the pooled map."""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from foveate.contract import AttentionMap

Residual = Literal["none", "skip", "rcab"]


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


class ResidualChannelAttention(nn.Module):
    """RCAN's channel attention, plain or with a residual connection (Zhang et al., ECCV 2018).

    With s the gates of ``SqueezeExcite`` of a map u, each in (0, 1)::

        none:  y = s(x) · x
        skip:  y = x + s(x) · x
        rcab:  y = x + s(u) · u,  u = conv3×3(relu(conv3×3(x)))

    ``none`` is what the cervical cytology comparison calls residual channel attention, ``rcab`` is RCAN's
    own block, and ``skip`` lies between.

    Args:
        channels: C.
        reduction: the hidden layer of the gates has C / reduction channels.
        residual: which form.
    """

    def __init__(self, channels: int, *, reduction: int = 16, residual: Residual = "none") -> None:
        super().__init__()
        self.gates = SqueezeExcite(channels, reduction=reduction)
        self.body: nn.Module = nn.Identity()
        if residual == "rcab":
            convolutions = [nn.Conv2d(channels, channels, kernel_size=3, padding=1) for _ in range(2)]
            self.body = nn.Sequential(convolutions[0], nn.ReLU(inplace=True), convolutions[1])
        self.residual = residual

    def forward(self, x: Float[Tensor, "B C H W"]) -> tuple[Float[Tensor, "B C H W"], AttentionMap]:
        """Return ``y``, and the gates as ``(B, C)``."""
        scaled, gates = self.gates(self.body(x))
        y = scaled if self.residual == "none" else x + scaled
        return y, AttentionMap("residual_channel_attention", gates)
