"""Two rivals of LCA-DB from its public code: DAMIDL, and the network that it calls deepganet.

Neither has a published figure on liver lesions that could be read. That code has no training loop for them:
DAMIDL trains with the study's criterion here, deepganet with what LCA-DB's patch branch alone trains with.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Annotated, Any

import torch
from jaxtyping import Bool, Float
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from foveate.contract import AttentionMap, InputSpec, ModelOutput, Views
from foveate.models.attention import LossBasedAttention
from foveate.models.lca_db.baselines import fill
from foveate.models.lca_db.branches import (
    PatchBranch,
    TrunkPlan,
    Variant,
    lay_over_tiles,
    shares_of_tiles,
)
from foveate.models.lca_db.objective import LcaObjective, LcaOutput, Loss
from foveate.models.lca_db.tiles import Tiling, make_tiling
from foveate.models.lca_db.trunk import Missing, stage_widths
from foveate.models.lca_db.volumes import VolumesClassifier
from foveate.models.lca_db.weights import DAMIDL, DEEPGANET

Rate = Annotated[float, Field(ge=0, lt=1)]
Tile = Annotated[int, Field(ge=24)]

_TILE = 32
_LEAST, _LEAST_SLICES = 24, 16  # of which DAMIDL's convolutions, without padding, leave five cells and one
_FIRST = 3  # cells of two pixels ahead of the first that they leave, to half a pixel


class DeepGaNet(VolumesClassifier):
    """LCA-DB's patch branch at depth 16 → loss-based attention → a hidden layer → the instances' classifier.

    With v the pooled instances, the logits are ``W h + b``, ``h = drop(U drop(relu(v)) + c)``; W and b also
    score and weigh the instances. Features: ``patch_map`` (the default of CAM methods) and ``regions``,
    ``N α_n x_n`` on the grid of tiles, whose average is v.

    Args:
        num_classes: K.
        spec: volumes, one view for each phase.
        plan: of the trunk.
        tile: wished edge of a tile in pixels, see ``make_tiling``.
        dropout: ahead of the hidden layer and behind it.
        beta: threshold of the attention, see ``LossBasedAttention``.
        objective: the loss.
    """

    def __init__(
        self,
        num_classes: int,
        spec: InputSpec,
        plan: TrunkPlan,
        *,
        tile: int,
        dropout: float,
        beta: float,
        objective: LcaObjective,
    ) -> None:
        super().__init__("deepganet", num_classes, spec, cam_feature=dict.fromkeys(spec.views, "patch_map"))
        self.branch = PatchBranch(plan, make_tiling(spec.size, tile))
        channels = self.branch.channels
        self.attention = LossBasedAttention(channels, num_classes, beta=beta)
        self.hidden = nn.Sequential(
            nn.ReLU(), nn.Dropout(dropout), nn.Linear(channels, channels), nn.Dropout(dropout)
        )
        self.terms = objective

    def forward(self, views: Views) -> LcaOutput:
        """Classify volumes, each view ``(B, 1, D, H, W)``."""
        return self.network(*self.stack(views))

    def network(self, x: Float[Tensor, "B V D H W"], present: Bool[Tensor, "B V"]) -> LcaOutput:
        """Classify stacked phases, zeros where missing."""
        tiling, found = self.branch.tiling, self.branch(x, present)
        with torch.autocast(x.device.type, enabled=False):
            bag = self.attention(found.values, found.gamma)
            regions = shares_of_tiles(found.values, bag.weights, tiling)
            logits = self.attention.classifier(self.hidden(regions.flatten(2).mean(dim=2)))
        return LcaOutput(
            logits=logits,
            features={"patch_map": found.map, "regions": regions},
            attention=() if self.training else (lay_over_tiles("alpha", bag.weights, tiling),),
            instances={"patch": bag.logits},
            weights={"patch": bag.weights},
        )

    def objective(self, output: ModelOutput, targets: Tensor, progress: float) -> dict[str, Tensor]:
        """The terms of ``LcaObjective`` for one branch."""
        assert isinstance(output, LcaOutput)
        return self.terms(output, targets, progress, self.criterion)


class PatchNet(nn.Module):
    """DAMIDL's network for the tiles of one phase: four convolutions, a spatial gate, and a score.

    The convolutions (of 4, 3, 3 and 3 voxels, a max-pooling after the second) have no padding, so that
    16×32×32 leaves 1×9×9.

    Args:
        widths: channels of the four.
    """

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for number, (inputs, outputs) in enumerate(zip((1, *widths), widths, strict=False), start=1):
            layers[f"conv{number}"] = nn.Conv3d(inputs, outputs, kernel_size=4 if number == 1 else 3)
            layers[f"norm{number}"] = nn.BatchNorm3d(outputs)
            layers[f"relu{number}"] = nn.ReLU(inplace=True)
            if number == 2:
                layers["pool1"] = nn.MaxPool3d(kernel_size=2)
        self.features = nn.Sequential(layers)
        self.gate = nn.Conv3d(2, 1, kernel_size=3, padding=1)
        self.score = nn.Linear(widths[-1], 1)

    def judged(
        self, local: Float[Tensor, "BN C d h w"]
    ) -> tuple[Float[Tensor, "BN d h w"], Float[Tensor, " BN"]]:
        """Of the last map: its mean over channels, gated at each place, and the score of the tile."""
        average = local.mean(dim=1, keepdim=True)
        gate = self.gate(torch.cat([average, local.amax(dim=1, keepdim=True)], dim=1)).sigmoid()
        score = self.score(local.mean(dim=(2, 3, 4))).sigmoid()
        return (average * gate).squeeze(1), score.squeeze(1)


class TileAttention(nn.Module):
    """DAMIDL's gates of tiles: ``a = sigmoid(f(GAP m) + f(GMP m) + s)``, f two layers over the N tiles."""

    def __init__(self, tiles: int) -> None:
        super().__init__()
        inner = max(1, tiles // 2)
        self.layers = nn.Sequential(
            nn.Conv3d(tiles, inner, kernel_size=1),
            nn.ReLU(inplace=True),
            nn.Conv3d(inner, tiles, kernel_size=1),
        )

    def forward(self, maps: Float[Tensor, "B N d h w"], scores: Float[Tensor, "B N"]) -> Float[Tensor, "B N"]:
        """The gates, each in (0, 1)."""
        pooled = (maps.mean(dim=(2, 3, 4), keepdim=True), maps.amax(dim=(2, 3, 4), keepdim=True))
        both: Tensor = self.layers(pooled[0]) + self.layers(pooled[1])
        return (both.flatten(1) + scores).sigmoid()


class Damidl(VolumesClassifier):
    """A network for each phase's tiles → gates of tiles → one vector a phase → attention over phases.

    After the dual-attention multi-instance network for Alzheimer's disease (Zhu et al., IEEE TMI 2021), as
    LCA-DB's public code adapts it to phases: gates, the layers that reduce the tiles, and all that follows
    are shared by the phases. A phase that a case lacks has no weight among them; in training its zeros still
    enter its own network's batch statistics.

    Features: ``map_<view>`` for each view (the default of CAM methods), the tiles' last maps side by side,
    with zeros where convolutions without padding leave a margin, so that they lie over the picture.
    Attention: ``phases`` (B, V), which sums to one, and ``tiles_<view>`` (B, 1, 1, rows, cols), gates.

    NOTE[DIFF]: in ``paper`` the logits are probabilities already, as in the public code, whose loss takes
    their softmax once more; ``corrected`` hands out what is ahead of the first softmax. A layer that that
    code builds and never calls (16 parameters) is left out of both.

    Args:
        num_classes: K.
        spec: volumes, one view for each phase.
        widths: channels of the four convolutions.
        tile: wished edge of a tile in pixels, see ``make_tiling``; at least 24.
        variant: as above.
    """

    def __init__(
        self, num_classes: int, spec: InputSpec, widths: tuple[int, ...], *, tile: int, variant: Variant
    ) -> None:
        super().__init__(
            "damidl", num_classes, spec, cam_feature={name: f"map_{name}" for name in spec.views}
        )
        self.tiling = _wide_enough(make_tiling(spec.size, tile))
        self.slices = max(spec.size[0], _LEAST_SLICES)
        self.nets = nn.ModuleList(PatchNet(widths) for _ in spec.views)
        tiles = self.tiling.number
        self.tiles = TileAttention(tiles)
        self.reduce = nn.Sequential(
            *(nn.Conv3d(tiles, 128, kernel_size=(1, 2, 2)), nn.BatchNorm3d(128), nn.ReLU(inplace=True)),
            *(nn.Conv3d(128, 64, kernel_size=(1, 2, 2)), nn.BatchNorm3d(64), nn.ReLU(inplace=True)),
        )
        self.phases = nn.Sequential(
            nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 1)
        )
        self.head = nn.Sequential(nn.Linear(64, 32), nn.ReLU(inplace=True), nn.Linear(32, num_classes))
        self.doubled = variant == "paper"

    def forward(self, views: Views) -> ModelOutput:
        """Classify volumes, each view ``(B, 1, D, H, W)``."""
        return self.network(*self.stack(views))

    def network(self, x: Float[Tensor, "B V D H W"], present: Bool[Tensor, "B V"]) -> ModelOutput:
        """Classify stacked phases, zeros where missing."""
        tiling, size = self.tiling, (self.slices, *_size(self.tiling))
        if tuple(x.shape[2:]) != size:
            x = functional.interpolate(x, size=size, mode="trilinear", align_corners=False)
        maps, gates, vectors = {}, {}, []
        nets: Any = self.nets
        for index, (name, net) in enumerate(zip(self.input_spec.views, nets, strict=True)):
            maps[name] = _joined(net.features(tiling.cut(x[:, [index]])), tiling)
            reduced, gates[name] = self._of_phase(net, maps[name])
            vectors.append(reduced)
        with torch.autocast(x.device.type, enabled=False):
            each = torch.stack(vectors, dim=1)
            each = each.to(torch.promote_types(each.dtype, torch.float32))
            scores = self.phases(each).squeeze(2).masked_fill(~present, -torch.inf)
            weights = scores.softmax(dim=1)
            logits = self.head(torch.einsum("bv,bvc->bc", weights, each))
            logits = logits.softmax(dim=1) if self.doubled else logits
        return ModelOutput(
            logits,
            {f"map_{name}": value for name, value in maps.items()},
            () if self.training else self._told(weights, gates),
        )

    def _of_phase(
        self, net: Any, joined: Float[Tensor, "B C d H W"]
    ) -> tuple[Float[Tensor, "B 64"], Float[Tensor, "B N"]]:
        """One phase's vector, and the gates of its tiles, from its map."""
        batch = len(joined)
        gated, scores = net.judged(_parted(joined, self.tiling))
        gated, scores = gated.unflatten(0, (batch, -1)), scores.unflatten(0, (batch, -1))
        gates = self.tiles(gated, scores)
        return self.reduce(gated * gates[:, :, None, None, None]).mean(dim=(2, 3, 4)), gates

    def _told(self, weights: Tensor, gates: dict[str, Tensor]) -> tuple[AttentionMap, ...]:
        tiles = (
            AttentionMap(f"tiles_{name}", self.tiling.grid(gate)[:, None, None])
            for name, gate in gates.items()
        )
        return (AttentionMap("phases", weights, (1,)), *tiles)


def deepganet(
    num_classes: int,
    spec: InputSpec,
    *,
    pretrained: bool | str = False,
    width: PositiveFloat = 1.0,
    tile: Annotated[int, Field(ge=8)] = _TILE,
    dropout: Rate = 0.5,
    beta: NonNegativeFloat = 0.1,
    missing: Missing = "renormalise",
    loss: Loss = "paper",
    instance_weight: NonNegativeFloat = 0.2,
    epochs: PositiveInt = 100,
    ramp_epochs: PositiveFloat = 24.0,
) -> DeepGaNet:
    """What LCA-DB's public code calls deepganet, at its depth "18": stages of 1, 2, 2 and 2 blocks.

    Args:
        num_classes: K.
        spec: volumes, one view for each phase.
        pretrained: a path names a file of weights of this very network, our own or the authors'.
        width: factor on the trunk's widths.
        tile: wished edge of a tile in pixels, see ``make_tiling``.
        dropout, beta: see ``DeepGaNet``.
        missing: what stands in for a missing phase, see ``PhaseStem``.
        loss, instance_weight, epochs, ramp_epochs: see ``LcaObjective``. NOTE[DIFF]: how it was trained is
            not in the public code; the loss is that of LCA-DB's patch branch alone, whose attention is its.

    Raises:
        UsageError: the input is not of volumes, or the weights do not fit.
    """
    objective = LcaObjective(
        loss=loss,
        cross=False,
        similarity=False,
        instance_weight=instance_weight,
        epochs=epochs,
        ramp_epochs=ramp_epochs,
    )
    plan = TrunkPlan(len(spec.views), 16, width, missing)
    model = DeepGaNet(num_classes, spec, plan, tile=tile, dropout=dropout, beta=beta, objective=objective)
    fill(model, "deepganet", pretrained, DEEPGANET)
    return model


def damidl(
    num_classes: int,
    spec: InputSpec,
    *,
    pretrained: bool | str = False,
    variant: Variant = "corrected",
    width: PositiveFloat = 1.0,
    tile: Tile = _TILE,
) -> Damidl:
    """DAMIDL as LCA-DB's public code has it.

    Args:
        num_classes: K.
        spec: volumes, one view for each phase.
        pretrained: a path names a file of weights of this very network, our own or the authors'.
        variant: ``paper`` hands out probabilities in place of logits, see ``Damidl``.
        width: factor on the channels 64/128/256/512 of the convolutions.
        tile: wished edge of a tile in pixels, see ``make_tiling``. Less than 16 slices, and tiles of less
            than 24 pixels, are resampled to these.

    Raises:
        UsageError: the input is not of volumes, or the weights do not fit.
    """
    model = Damidl(num_classes, spec, stage_widths(width), tile=tile, variant=variant)
    fill(model, "damidl", pretrained, DAMIDL)
    return model


def _wide_enough(tiling: Tiling) -> Tiling:
    """The same grid, of tiles that leave a cell after all convolutions."""
    return Tiling(tiling.rows, tiling.cols, max(tiling.height, _LEAST), max(tiling.width, _LEAST))


def _size(tiling: Tiling) -> tuple[int, int]:
    return tiling.rows * tiling.height, tiling.cols * tiling.width


def _joined(maps: Float[Tensor, "BN C d h w"], tiling: Tiling) -> Float[Tensor, "B C d H W"]:
    """Maps of tiles side by side, at half of the picture's size, each in the middle of its tile."""
    height, width = maps.shape[3:]
    after = (tiling.width // 2 - width - _FIRST, tiling.height // 2 - height - _FIRST)
    return tiling.join(functional.pad(maps, (_FIRST, after[0], _FIRST, after[1])))


def _parted(joined: Float[Tensor, "B C d H W"], tiling: Tiling) -> Float[Tensor, "BN C d h w"]:
    """The maps of tiles again, without their margins."""
    half = Tiling(tiling.rows, tiling.cols, tiling.height // 2, tiling.width // 2)
    height, width = ((edge - 5) // 2 - 4 for edge in (tiling.height, tiling.width))
    return half.cut(joined)[:, :, :, _FIRST : _FIRST + height, _FIRST : _FIRST + width]
