"""Attention blocks as placed on the last map of a timm backbone: one function for each, with its options."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from jaxtyping import Float
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor, nn

from foveate.contract import AttentionMap
from foveate.errors import UsageError
from foveate.models.attention import (
    ChannelAttention,
    DualAttention,
    Fusion,
    GatedAttentionMIL,
    HadamardCross,
    InstancePooling,
    LossBasedAttention,
    Normalization,
    QueryKeyAttention,
    Residual,
    ResidualChannelAttention,
    SpatialAttention,
    SqueezeExcite,
    Transition,
    Weighting,
)
from foveate.models.timm.backbones import TimmClassifier
from foveate.models.timm.timm_trunk import TimmTrunk, set_apart, weights_of


class Attended(NamedTuple):
    """What a block makes of a map.

    Attributes:
        grid: ``(B, C, h, w)``.
        attention: the weights.
        pooling: of the positions as instances, row by row, if it is a pooling block.
    """

    grid: Float[Tensor, "B C h w"]
    attention: tuple[AttentionMap, ...]
    pooling: InstancePooling | None = None


class Placed(nn.Module):
    """A block as it is placed on the last map of a backbone.

    Attributes:
        instance_weight: of a loss on the positions' own logits.
    """

    instance_weight: float = 0.0

    @abstractmethod
    def forward(self, grid: Float[Tensor, "B C h w"], picture: Float[Tensor, "B D H W"]) -> Attended:
        """Apply the block to the map of a picture."""


@dataclass(frozen=True)
class Place:
    """Where a block is put.

    Attributes:
        architecture: timm's name of the backbone.
        plain: the backbone with its head.
        pretrained: as the user gave it.
    """

    architecture: str
    plain: TimmClassifier
    pretrained: bool | str

    @property
    def channels(self) -> int:
        """Of the map."""
        return self.plain.map_shape[0]

    def check_average(self, block: str) -> None:
        """Refuse a network in which a weighted average of positions cannot stand for the pooled map.

        Raises:
            UsageError: its head takes more from the map than the average.
        """
        if not self.plain.averages:
            raise UsageError(
                f"{block} attention puts a weighted average of positions in place of the plain one, but the "
                f"head of timm:{self.architecture} does not take the average of its last map",
                where="model: options: attention",
                fix="set global_pool: avg, choose another backbone, or an attention that changes the map "
                "(spatial, channel, dual, se, rca, query_key)",
                code="no-average-pooling",
            )


def spatial(
    place: Place,
    *,
    normalization: Normalization = "sigmoid",
    key_channels: PositiveInt | None = None,
    mean: bool = True,
) -> Placed:
    """Positions gather from positions; options as of ``SpatialAttention``."""
    return _Changing(
        SpatialAttention(place.channels, normalization=normalization, key_channels=key_channels, mean=mean)
    )


def channel(
    place: Place,
    *,
    normalization: Normalization = "sigmoid",
    mean_gram: bool = True,
    mean: bool = True,
) -> Placed:
    """Channels gather from channels; options as of ``ChannelAttention``."""
    return _Changing(ChannelAttention(normalization=normalization, mean_gram=mean_gram, mean=mean))


def dual(
    place: Place,
    *,
    normalization: Normalization = "sigmoid",
    fusion: Fusion = "sum",
    mean_gram: bool = True,
    mean: bool = True,
) -> Placed:
    """Both in parallel; options as of ``DualAttention``, ``normalization`` that of both paths.

    A concatenation is brought back to the map's channels by a 1×1 convolution.
    """
    block = DualAttention(
        place.channels,
        spatial=normalization,
        channel=normalization,
        fusion=fusion,
        reduce="after" if fusion == "concat" else "none",
        mean_gram=mean_gram,
        mean=mean,
    )
    return _Dual(block)


def se(place: Place, *, reduction: PositiveInt = 16) -> Placed:
    """Channel gates; options as of ``SqueezeExcite``."""
    return _Gated(SqueezeExcite(place.channels, reduction=reduction))


def rca(place: Place, *, reduction: PositiveInt = 16, residual: Residual = "none") -> Placed:
    """Channel gates of RCAN; options as of ``ResidualChannelAttention``."""
    return _Changing(ResidualChannelAttention(place.channels, reduction=reduction, residual=residual))


def query_key(place: Place, *, key_channels: PositiveInt | None = None, pooled: PositiveInt = 14) -> Placed:
    """The map reads itself by queries and keys; options as of ``QueryKeyAttention``."""
    return _ReadingItself(QueryKeyAttention(place.channels, key_channels, pooled))


def hadamard(
    place: Place,
    *,
    partner: str,
    fusion: Literal["product", "sum+product"] = "product",
    transition: Transition = "auto",
    jitter: NonNegativeFloat = 0.05,
) -> Placed:
    """The map is multiplied by that of a second network of the same picture.

    Args:
        place: where.
        partner: a name of ``timm.list_models()``.
        fusion: A ∘ B, or A + A ∘ B + B.
        transition: as of ``HadamardCross``, to the channels of the first map.
        jitter: as of ``can``.
    """
    weights = weights_of(place.pretrained, partner, alone=partner == place.architecture)
    trunk = TimmTrunk(partner, place.plain.input_spec, pretrained=weights)
    set_apart(place.plain.net, trunk.net, jitter)
    cross = HadamardCross(place.channels, trunk.channels, transition=transition, channels=place.channels)
    return _Masked(trunk, cross, plus=fusion == "sum+product")


def loss(
    place: Place,
    *,
    weighting: Weighting = "norm",
    beta: NonNegativeFloat = 0.1,
    instance_weight: NonNegativeFloat = 1.0,
) -> Placed:
    """Positions are pooled by how sure a classifier of positions is; options as of ``LossBasedAttention``.

    NOTE[DIFF]: the classifier of positions is a layer of its own, as in LCA-DB, and not the network's last
    layer, since many heads have a norm or a layer between pooling and that.

    Args:
        place: where.
        weighting, beta: see ``LossBasedAttention``.
        instance_weight: λ of ``instance_loss``.
    """
    place.check_average("loss")
    block = LossBasedAttention(place.channels, place.plain.num_classes, weighting=weighting, beta=beta)
    return _Pooling(block, "loss_based_attention", instance_weight)


def gated_mil(place: Place, *, hidden: PositiveInt = 128, gated: bool = True) -> Placed:
    """Positions are pooled by a small network's weights; options as of ``GatedAttentionMIL``."""
    place.check_average("gated_mil")
    return _Pooling(GatedAttentionMIL(place.channels, hidden=hidden, gated=gated), "gated_attention")


BLOCKS: Mapping[str, Callable[..., Placed]] = {
    "spatial": spatial,
    "channel": channel,
    "dual": dual,
    "se": se,
    "rca": rca,
    "loss": loss,
    "gated_mil": gated_mil,
    "query_key": query_key,
    "hadamard": hadamard,
}


class _Changing(Placed):
    """A block that makes one map and one set of weights of a map."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, grid: Float[Tensor, "B C h w"], picture: Float[Tensor, "B c H W"]) -> Attended:
        y, attention = self.block(grid)
        return Attended(y, (attention,))


class _ReadingItself(_Changing):
    def forward(self, grid: Float[Tensor, "B C h w"], picture: Float[Tensor, "B c H W"]) -> Attended:
        y, attention = self.block(grid, grid)
        return Attended(y, (attention,))


class _Dual(_Changing):
    def forward(self, grid: Float[Tensor, "B C h w"], picture: Float[Tensor, "B c H W"]) -> Attended:
        y, _, attention = self.block(grid)
        return Attended(y, tuple(attention))


class _Gated(_Changing):
    def forward(self, grid: Float[Tensor, "B C h w"], picture: Float[Tensor, "B c H W"]) -> Attended:
        y, gates = self.block(grid)
        return Attended(y, (AttentionMap("squeeze_excitation", gates),))


class _Masked(Placed):
    """The product with a partner's map; its attention is the partner's Σ_c |B_c|, largest 1."""

    def __init__(self, partner: TimmTrunk, cross: HadamardCross, *, plus: bool) -> None:
        super().__init__()
        self.partner = partner
        self.cross = cross
        self.plus = plus

    def forward(self, grid: Float[Tensor, "B C h w"], picture: Float[Tensor, "B c H W"]) -> Attended:
        a, b, product = self.cross(grid, self.partner(picture))
        magnitude = b.float().abs().sum(dim=1)
        weights = magnitude / magnitude.amax(dim=(1, 2), keepdim=True).clamp(min=1e-6)
        return Attended(a + product + b if self.plus else product, (AttentionMap("partner", weights),))


class _Pooling(Placed):
    """Pooling by weights, expressed as a map whose average is the pooled vector."""

    def __init__(self, block: nn.Module, name: str, instance_weight: float = 0.0) -> None:
        super().__init__()
        self.block = block
        self.name = name
        self.instance_weight = instance_weight

    def forward(self, grid: Float[Tensor, "B C h w"], picture: Float[Tensor, "B c H W"]) -> Attended:
        pooling: InstancePooling = self.block(grid.flatten(2).mT)
        weights = pooling.weights.view(grid.shape[0], *grid.shape[2:])
        scale = (weights * weights[0].numel()).to(grid.dtype)[:, None]
        return Attended(grid * scale, (AttentionMap(self.name, weights, (1, 2)),), pooling)
