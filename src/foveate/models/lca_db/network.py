"""LCA-DB: a whole volume and its tiles, each pooled by its own loss, exchanging their attention in training.

Cross-attention guided loss-based dual-branch fusion for liver tumours in multi-phase MRI (Information Fusion
2024, 102713): seven kinds of lesion from eight registered sequences around the lesion, learned from one label
a case. Structure and loss are those of the authors' public code; ``variant="paper"`` computes what it
computes, ``variant="corrected"`` what it means to. The "cross attention" is no layer: it is a loss in which
each branch's instances are weighted by the other branch's attention.

The published training: Adam, lr 1e-4, no weight decay, batch 8, 100 epochs, ×0.333 at 9, 19, 29, …; the best
validation accuracy is kept; volumes of 128×128×16, rotation ±10° and a flip with probability 0.3 each,
z-score of each volume.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from foveate.contract import AttentionMap, InputSpec, ModelOutput, Views
from foveate.errors import UsageError
from foveate.models.attention import LossBasedAttention, Weighting
from foveate.models.lca_db.branches import (
    ImageBranch,
    Instances,
    PatchBranch,
    TrunkPlan,
    Variant,
    lay_over_tiles,
    shares_of_tiles,
)
from foveate.models.lca_db.objective import LcaObjective, LcaOutput, Loss, Reduction
from foveate.models.lca_db.tiles import Tiling, make_tiling
from foveate.models.lca_db.trunk import Depth, Missing, stage_widths
from foveate.models.lca_db.volumes import VolumesClassifier, no_download
from foveate.models.lca_db.weights import LCA_DB, PA_NET, RA_NET, load_weights

Branches = Literal["both", "image", "patch"]
Cam = Literal["map", "regions"]
Cross = Literal["loss", "feature", "none"]
ImageStem = Literal["authors", 64]
Share = Annotated[float, Field(gt=0, le=1)]

_PAPER_TILE, _PAPER_SLICES = 32, 32


@dataclass(frozen=True, slots=True)
class LcaPlan:
    """Choices of the network; they mean what the arguments of ``lca_db`` of the same names mean."""

    depth: Depth = 10
    width: float = 1.0
    branches: Branches = "both"
    variant: Variant = "corrected"
    image_stem: ImageStem = 64
    tile: int = _PAPER_TILE
    missing: Missing = "renormalise"
    weighting: Weighting = "norm"
    beta: float = 0.1
    exchange: bool = False
    cam: Cam = "map"

    @property
    def stem(self) -> int | None:
        """Channels of the image branch's stem; None for those of its first stage."""
        return stage_widths(self.width)[-1] if self.image_stem == "authors" else None


class LcaDb(VolumesClassifier):
    """One or two branches of instances → loss-based attention of each → sum → one linear layer.

    With x_n the N instances and α_n the weights of a branch, v = Σ_n α_n x_n; the logits are
    ``W (v^I + v^P) + b``. A single branch takes W and b from its own instance classifier. With ``exchange``
    each v also gets Σ_n α_n x_n with the other branch's α.

    Features, all on the way to the logits, for h = H / 8 (of the size that the tiles cover):

    * ``image_map`` (B, C, D / 8, h, w): last map of the image branch. The finest, and the default of CAM
      methods; a gradient at it includes the way through α.
    * ``patch_map`` (B, C, D / 16, h / 2, w / 2): last maps of the tiles, side by side.
    * ``regions`` (B, C, 1, rows, cols): ``N Σ α_n x_n`` of both branches at the place of tile n. Its average
      is what the linear layer sees: ``W_c · regions_n / N``, summed over n, is the logit without its bias,
      so that CAM on it is exact (``cam="regions"`` makes it the default).
    * ``regions_image``, ``regions_patch``: each branch's part of it; HiResCAM on one gives the region map
      ``m_n = α_n (W_c · x_n)`` of that branch.

    The attention maps ``alpha_image`` and ``alpha_patch``, and with both branches ``alpha``, their mean, are
    (B, 1, rows, cols) as ``regions`` is, and sum to one; they are handed out in evaluation. Instance scores,
    attention, pooling and logits are computed in float32 under autocast.

    Args:
        name: for errors.
        num_classes: K.
        spec: volumes, one view for each phase.
        plan: choices of the network.
        objective: the loss.

    Raises:
        UsageError: the input is not of volumes, or of a size that the paper's variant cannot take.
    """

    def __init__(
        self,
        name: str,
        num_classes: int,
        spec: InputSpec,
        plan: LcaPlan,
        objective: LcaObjective,
    ) -> None:
        first = "patch" if plan.branches == "patch" else "image"
        feature = "regions" if plan.cam == "regions" else f"{first}_map"
        super().__init__(name, num_classes, spec, cam_feature=dict.fromkeys(spec.views, feature))
        self.plan, self.terms = plan, objective
        self.tiling = (
            _paper_tiling(name, spec) if plan.variant == "paper" else make_tiling(spec.size, plan.tile)
        )
        trunk = TrunkPlan(len(spec.views), plan.depth, plan.width, plan.missing)
        self.branches = nn.ModuleDict()
        if plan.branches != "patch":
            self.branches["image"] = ImageBranch(
                trunk, self.tiling, spec.size[0], stem=plan.stem, variant=plan.variant
            )
        if plan.branches != "image":
            self.branches["patch"] = PatchBranch(trunk, self.tiling)
        channels = stage_widths(plan.width)[-1]
        self.attention = nn.ModuleDict()
        for branch in self.branches:
            self.attention[branch] = LossBasedAttention(
                channels, num_classes, weighting=plan.weighting, beta=plan.beta
            )
        self.bag = nn.Linear(channels, num_classes) if plan.branches == "both" else None

    @property
    def bag_classifier(self) -> nn.Linear:
        """W and b of the logits."""
        if self.bag is not None:
            return self.bag
        only = next(iter(self.attention.values()))
        assert isinstance(only, LossBasedAttention)
        return only.classifier

    @property
    def linear_head(self) -> nn.Linear | None:
        """The bag classifier where CAM methods work on ``regions``, whose average it sees."""
        return self.bag_classifier if "regions" in self.cam_feature.values() else None

    def forward(self, views: Views) -> LcaOutput:
        """Classify volumes, each view ``(B, 1, D, H, W)``."""
        return self.network(*self.stack(views))

    def network(self, x: Float[Tensor, "B V D H W"], present: Bool[Tensor, "B V"]) -> LcaOutput:
        """Classify stacked phases, zeros where missing; looks at no value, so that it can be traced."""
        found = {name: branch(x, present) for name, branch in self.branches.items()}
        with torch.autocast(x.device.type, enabled=False):
            bags = {name: self.attention[name](part.values, part.gamma) for name, part in found.items()}
            weights = {name: bag.weights for name, bag in bags.items()}
            regions = self._regions(found, weights)
            pooled = regions["regions"].flatten(2).mean(dim=2)
            logits = self.bag_classifier(pooled)
        return LcaOutput(
            logits=logits,
            features={f"{name}_map": part.map for name, part in found.items()} | regions,
            attention=() if self.training else self._alphas(weights),
            instances={name: bag.logits for name, bag in bags.items()},
            weights=weights,
        )

    def objective(self, output: ModelOutput, targets: Tensor, progress: float) -> dict[str, Tensor]:
        """The terms of ``LcaObjective``."""
        assert isinstance(output, LcaOutput)
        return self.terms(output, targets, progress, self.criterion)

    def _alphas(self, weights: dict[str, Tensor]) -> tuple[AttentionMap, ...]:
        """Attention maps of the branches and, of two, their mean."""
        maps = {f"alpha_{name}": value for name, value in weights.items()}
        if len(maps) == 2:
            maps["alpha"] = torch.stack(list(weights.values())).mean(dim=0)
        return tuple(lay_over_tiles(name, value, self.tiling) for name, value in maps.items())

    def _regions(self, found: dict[str, Instances], weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """``regions``, and with two branches the part of each."""
        together = torch.stack(list(weights.values())).sum(dim=0)
        parts = {}
        for name, part in found.items():
            alpha = together if self.plan.exchange else weights[name]
            parts[f"regions_{name}"] = shares_of_tiles(part.values, alpha, self.tiling)
        total = torch.stack(list(parts.values())).sum(dim=0)
        return {**(parts if len(parts) == 2 else {}), "regions": total}


def lca_db(
    depth: Depth,
    num_classes: int,
    spec: InputSpec,
    *,
    pretrained: bool | str = False,
    variant: Variant = "corrected",
    width: PositiveFloat = 1.0,
    branches: Branches = "both",
    cross: Cross | None = None,
    similarity: bool | None = None,
    weighting: Weighting = "norm",
    beta: NonNegativeFloat = 0.1,
    image_stem: ImageStem | None = None,
    tile: Annotated[int, Field(ge=8)] = _PAPER_TILE,
    missing: Missing = "renormalise",
    loss: Loss = "paper",
    cross_reduction: Reduction | None = None,
    cross_weight: NonNegativeFloat | None = None,
    instance_weight: NonNegativeFloat = 0.2,
    similarity_weight: NonNegativeFloat = 0.25,
    epochs: PositiveInt = 100,
    ramp_epochs: PositiveFloat = 24.0,
    ramp_share: Share | None = None,
    cam: Cam = "map",
) -> LcaDb:
    """Build LCA-DB or one of its ablations.

    Args:
        depth: of both trunks; 10 is the published one.
        num_classes: K.
        spec: volumes ``(D, H, W)``, one view for each phase, as many as there are.
        pretrained: a path names a file of weights, our own or the authors'; nothing can be downloaded.
        variant: ``paper`` is the authors' code with its peculiarities; ``corrected`` differs in the image
            branch's stem and conv5 and γ (``ImageBranch``) and in the cross terms (``cross_reduction``).
        width: factor on all stage widths.
        branches: both, or one alone; then the instance classifier is the bag's.
        cross: ``loss``: the cross terms of the loss, as in the public code; ``feature``: the other
            branch's attention pools instances too, as the abstract may be read; ``none``. None means
            ``loss`` if there are two branches.
        similarity: whether the loss has the likeness of both attentions. None means yes if there are two.
        weighting: form of loss-based attention, see ``LossBasedAttention``.
        beta: threshold of its norm form; 1 sharpens for localization.
        image_stem: channels of the image branch's stem: ``authors`` (512, the width of the last stage, by
            a counter that was not reset) or 64, both times ``width``. None means that of the variant.
        tile: wished edge of a tile in pixels, see ``make_tiling``; always 32 in the paper's variant.
        missing: what stands in for a missing phase, see ``PhaseStem``.
        loss: of the bag: the paper's focal loss, or what the study chose.
        cross_reduction: see ``LcaObjective``. None means that of the variant.
        cross_weight, instance_weight, similarity_weight: see ``LcaObjective``.
        epochs: what ``ramp_epochs`` is counted in, over the whole training: the published 100 stretch the
            published ramp over a training of any length.
        ramp_epochs: of these, until u is at its largest.
        ramp_share: the same as a share of the training; comes before ``ramp_epochs``.
        cam: default feature of CAM methods, see ``LcaDb``.

    Raises:
        UsageError: the input is not of volumes, or of a size that the paper's variant cannot take; options
            contradict each other; the weights do not fit.
    """
    name, both = f"lca_db{depth}", branches == "both"
    _check_options(variant, tile, both, bool(similarity) or cross in ("loss", "feature"))
    cross = cross or "loss"
    objective = LcaObjective(
        loss=loss,
        cross=cross == "loss",
        similarity=similarity is not False,
        cross_reduction=cross_reduction or ("sum" if variant == "paper" else "mean"),
        cross_weight=cross_weight,
        instance_weight=instance_weight,
        similarity_weight=similarity_weight,
        epochs=epochs,
        ramp_epochs=ramp_epochs if ramp_share is None else ramp_share * epochs,
    )
    plan = LcaPlan(
        depth=depth,
        width=width,
        branches=branches,
        variant=variant,
        image_stem=image_stem or ("authors" if variant == "paper" and both else 64),
        tile=tile,
        missing=missing,
        weighting=weighting,
        beta=beta,
        exchange=cross == "feature",
        cam=cam,
    )
    if pretrained is True:
        raise no_download(name)
    model = LcaDb(name, num_classes, spec, plan, objective)
    if pretrained is not False:
        load_weights(model, pretrained, {"both": LCA_DB, "image": RA_NET, "patch": PA_NET}[branches])
    return model


def _check_options(variant: Variant, tile: int, both: bool, exchange: bool) -> None:
    """Raise if options contradict each other; ``exchange`` is whether one asks for two branches."""
    if exchange and not both:
        raise UsageError(
            "cross attention and similarity are between two branches",
            where="model: options",
            fix="leave cross and similarity out, or set branches: both",
        )
    if variant == "paper" and tile != _PAPER_TILE:
        raise UsageError(
            f"the paper's tiles are of {_PAPER_TILE} pixels, not {tile}",
            where="model: options",
            fix="leave tile out, or set variant: corrected",
        )


def _paper_tiling(name: str, spec: InputSpec) -> Tiling:
    """Tiles of 32 pixels, if the public code's network can take the size."""
    slices, *plane = spec.size
    if slices > _PAPER_SLICES or any(length % _PAPER_TILE or length < 2 * _PAPER_TILE for length in plane):
        raise UsageError(
            f"{name} as published takes up to {_PAPER_SLICES} slices of whole tiles of {_PAPER_TILE} pixels, "
            f"at least two a side, the study has {spec.size}",
            fix="set preprocess.size to such a size (published: [16, 128, 128]), or variant: corrected, "
            "which takes any",
        )
    rows, cols = (length // _PAPER_TILE for length in plane)
    return Tiling(rows, cols, _PAPER_TILE, _PAPER_TILE)


lca_db10 = partial(lca_db, 10)
lca_db18 = partial(lca_db, 18)
lca_db34 = partial(lca_db, 34)
lca_db10_image = partial(lca_db, 10, branches="image")
lca_db10_patch = partial(lca_db, 10, branches="patch")
lca_db10_no_cross = partial(lca_db, 10, cross="none")
lca_db10_no_similarity = partial(lca_db, 10, similarity=False)
