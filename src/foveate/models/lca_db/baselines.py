"""What LCA-DB is compared with: a plain 3-D ResNet, gated attention over tiles, and CAN in 3-D.

After the comparison networks in the public code of LCA-DB (Information Fusion 2024), without the layers
that theirs build and never use. All train with the study's criterion.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field, PositiveFloat
from torch import Tensor, nn

from foveate.contract import InputSpec, ModelOutput, Views
from foveate.models.attention import GatedAttentionMIL, InstancePooling
from foveate.models.lca_db.branches import (
    PatchBranch,
    TrunkPlan,
    Variant,
    lay_over_tiles,
    shares_of_tiles,
)
from foveate.models.lca_db.tiles import make_tiling
from foveate.models.lca_db.trunk import Depth, Missing, ResidualTrunk3d, stage_widths
from foveate.models.lca_db.volumes import VolumesClassifier, no_download
from foveate.models.lca_db.weights import MA, RESMIL, RNET, load_weights
from foveate.models.weights import KeyTable

Fusion = Literal["sum", "product"]
Pooling = Literal["gated", "attention", "mlp"]

_HIDDEN, _DROPOUT = (128, 64), 0.2


class ResNet3d(VolumesClassifier):
    """A 3-D ResNet of all phases → global average pooling → one linear layer.

    Args:
        name: for errors.
        num_classes: K.
        spec: volumes, one view for each phase.
        trunk: of as many phases.
    """

    def __init__(self, name: str, num_classes: int, spec: InputSpec, trunk: ResidualTrunk3d) -> None:
        super().__init__(name, num_classes, spec, cam_feature=dict.fromkeys(spec.views, "map"))
        self.trunk = trunk
        self.head = nn.Linear(trunk.channels, num_classes)

    @property
    def linear_head(self) -> nn.Linear:
        """The head: it sees nothing but the average of ``map``."""
        return self.head

    def forward(self, views: Views) -> ModelOutput:
        """Classify volumes, each view ``(B, 1, D, H, W)``; ``map`` is an eighth (a 16th) of their size."""
        return self.network(*self.stack(views))

    def network(self, x: Float[Tensor, "B V D H W"], present: Bool[Tensor, "B V"]) -> ModelOutput:
        """Classify stacked phases, zeros where missing."""
        last = self.trunk(x, present)
        return ModelOutput(self.head(last.mean(dim=(2, 3, 4))), {"map": last})


class MlpAttention(nn.Module):
    """Pooling of the public code's multiple-instance baseline: ``α = softmax_n(C–128 ReLU–64 Tanh–1)``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        first, second = _HIDDEN
        self.score = nn.Sequential(
            nn.Linear(channels, first), nn.ReLU(), nn.Linear(first, second), nn.Tanh(), nn.Linear(second, 1)
        )

    def forward(self, x: Float[Tensor, "B N C"]) -> InstancePooling:
        """Pool a bag, in float32 even under autocast."""
        with torch.autocast(x.device.type, enabled=False):
            wide = x.to(torch.promote_types(x.dtype, torch.float32))
            weights = self.score(wide).squeeze(2).softmax(dim=1)
            return InstancePooling(torch.einsum("bn,bnc->bc", weights, wide), weights, None)


class GatedMil(VolumesClassifier):
    """Tiles of full depth, each through one trunk → attention over tiles → one linear layer.

    The features are those of ``LcaDb``'s patch branch: ``patch_map`` (the default of CAM methods) and
    ``regions``, ``N α_n x_n`` on the grid of tiles, whose average the linear layer sees.

    Args:
        name: for errors.
        num_classes: K.
        spec: volumes, one view for each phase.
        plan: of the trunk.
        tile: wished edge of a tile in pixels, see ``make_tiling``.
        pooling: how tiles are weighed.
    """

    def __init__(
        self, name: str, num_classes: int, spec: InputSpec, plan: TrunkPlan, *, tile: int, pooling: Pooling
    ) -> None:
        super().__init__(name, num_classes, spec, cam_feature=dict.fromkeys(spec.views, "patch_map"))
        self.branch = PatchBranch(plan, make_tiling(spec.size, tile))
        channels = self.branch.channels
        self.attention: nn.Module = (
            MlpAttention(channels)
            if pooling == "mlp"
            else GatedAttentionMIL(channels, gated=pooling == "gated")
        )
        self.head = nn.Linear(channels, num_classes)

    def forward(self, views: Views) -> ModelOutput:
        """Classify volumes, each view ``(B, 1, D, H, W)``."""
        return self.network(*self.stack(views))

    def network(self, x: Float[Tensor, "B V D H W"], present: Bool[Tensor, "B V"]) -> ModelOutput:
        """Classify stacked phases, zeros where missing."""
        tiling, found = self.branch.tiling, self.branch(x, present)
        with torch.autocast(x.device.type, enabled=False):
            alpha = self.attention(found.values).weights
            regions = shares_of_tiles(found.values, alpha, tiling)
            logits = self.head(regions.flatten(2).mean(dim=2))
        attention = () if self.training else (lay_over_tiles("alpha", alpha, tiling),)
        return ModelOutput(logits, {"patch_map": found.map, "regions": regions}, attention)


class Can3d(VolumesClassifier):
    """Two 3-D trunks on the same volume → sum or product of their maps → pooling → two linear layers.

    The public code's stand-in for CAN (Ma et al., MICCAI 2019): fused by a sum, and without CAN's losses.
    Its linear layers follow each other with nothing but dropout between. Features: ``fused`` (the default
    of CAM methods), ``first`` and ``second``.

    Args:
        name: for errors.
        num_classes: K.
        spec: volumes, one view for each phase.
        plan: of the trunks.
        stem: channels of the second trunk's stem; None means those of its first stage.
        fusion: ``sum`` as in the public code, or the element-wise ``product`` of CAN.
        dropout: between the linear layers.
    """

    def __init__(
        self,
        name: str,
        num_classes: int,
        spec: InputSpec,
        plan: TrunkPlan,
        *,
        stem: int | None = None,
        fusion: Fusion = "sum",
        dropout: float = _DROPOUT,
    ) -> None:
        super().__init__(name, num_classes, spec, cam_feature=dict.fromkeys(spec.views, "fused"))
        self.trunks = nn.ModuleDict({"first": plan.build(), "second": plan.build(stem=stem)})
        channels = stage_widths(plan.width)[-1]
        self.head = nn.Sequential(
            nn.Linear(channels, channels), nn.Dropout(dropout), nn.Linear(channels, num_classes)
        )
        self.fusion = fusion

    def forward(self, views: Views) -> ModelOutput:
        """Classify volumes, each view ``(B, 1, D, H, W)``; the maps are an eighth of their size."""
        return self.network(*self.stack(views))

    def network(self, x: Float[Tensor, "B V D H W"], present: Bool[Tensor, "B V"]) -> ModelOutput:
        """Classify stacked phases, zeros where missing."""
        maps = {name: trunk(x, present) for name, trunk in self.trunks.items()}
        first, second = maps.values()
        fused = first + second if self.fusion == "sum" else first * second
        return ModelOutput(self.head(fused.mean(dim=(2, 3, 4))), {**maps, "fused": fused})


def resnet3d(
    depth: Depth,
    num_classes: int,
    spec: InputSpec,
    *,
    pretrained: bool | str = False,
    variant: Variant = "corrected",
    width: PositiveFloat | None = None,
    max_pool: bool | None = None,
    missing: Missing = "renormalise",
) -> ResNet3d:
    """Build a plain 3-D ResNet.

    Args:
        depth: 10, 18 or 34.
        num_classes: K.
        spec: volumes, one view for each phase.
        pretrained: a path names a file of weights of this very network, our own or the authors'; nothing can
            be downloaded.
        variant: ``paper``: half as wide as LCA-DB's trunks and with max-pool, as in the public code, so
            that it is no fair baseline; ``corrected``: as wide, and without.
        width: factor on the stage widths 64/128/256/512. None means that of the variant.
        max_pool: after the stem. None means as the variant has it.
        missing: what stands in for a missing phase, see ``PhaseStem``.

    Raises:
        UsageError: the input is not of volumes, or the weights do not fit.
    """
    paper = variant == "paper"
    trunk = ResidualTrunk3d(
        len(spec.views),
        depth=depth,
        width=width or (0.5 if paper else 1.0),
        max_pool=paper if max_pool is None else max_pool,
        missing=missing,
    )
    model = ResNet3d(f"resnet3d{depth}", num_classes, spec, trunk)
    fill(model, f"resnet3d{depth}", pretrained, RNET)
    return model


def gated_mil10(
    num_classes: int,
    spec: InputSpec,
    *,
    pretrained: bool | str = False,
    width: PositiveFloat = 1.0,
    pooling: Pooling = "gated",
    tile: Annotated[int, Field(ge=8)] = 32,
    missing: Missing = "renormalise",
) -> GatedMil:
    """Attention-based multiple-instance learning over the tiles of LCA-DB's patch branch.

    Args:
        num_classes: K.
        spec: volumes, one view for each phase.
        pretrained: as for ``resnet3d``.
        width: factor on the trunk's widths.
        pooling: ``gated`` or without gates (``attention``) as in Ilse et al. 2018, or ``mlp`` as in the
            public code of LCA-DB.
        tile: wished edge of a tile in pixels, see ``make_tiling``.
        missing: what stands in for a missing phase, see ``PhaseStem``.

    Raises:
        UsageError: the input is not of volumes, or the weights do not fit.
    """
    plan = TrunkPlan(len(spec.views), 10, width, missing)
    model = GatedMil("gated_mil10", num_classes, spec, plan, tile=tile, pooling=pooling)
    fill(model, "gated_mil10", pretrained, RESMIL)
    return model


def can3d10(
    num_classes: int,
    spec: InputSpec,
    *,
    pretrained: bool | str = False,
    variant: Variant = "corrected",
    width: PositiveFloat = 1.0,
    fusion: Fusion = "sum",
    dropout: Annotated[float, Field(ge=0, lt=1)] = _DROPOUT,
    missing: Missing = "renormalise",
) -> Can3d:
    """The 3-D stand-in for CAN with two trunks of depth 10.

    Args:
        num_classes: K.
        spec: volumes, one view for each phase.
        pretrained: as for ``resnet3d``.
        variant: ``paper`` gives the second trunk a stem as wide as the last stage, as the public code
            does by a counter that was not reset; ``corrected`` makes the trunks equal.
        width: factor on the trunks' widths.
        fusion: see ``Can3d``.
        dropout: between the linear layers.
        missing: what stands in for a missing phase, see ``PhaseStem``.

    Raises:
        UsageError: the input is not of volumes, or the weights do not fit.
    """
    plan = TrunkPlan(len(spec.views), 10, width, missing)
    stem = stage_widths(width)[-1] if variant == "paper" else None
    model = Can3d("can3d10", num_classes, spec, plan, stem=stem, fusion=fusion, dropout=dropout)
    fill(model, "can3d10", pretrained, MA)
    return model


def fill(model: nn.Module, name: str, pretrained: bool | str, table: KeyTable) -> None:
    """Load a file of the model's own weights, or a checkpoint of the authors' code.

    Raises:
        UsageError: ``pretrained=True``, or weights of another network.
    """
    if pretrained is True:
        raise no_download(name)
    if pretrained is not False:
        load_weights(model, pretrained, table)


resnet3d10 = partial(resnet3d, 10)
resnet3d18 = partial(resnet3d, 18)
