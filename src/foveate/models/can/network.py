"""CAN: two backbones whose last maps mask each other by their element-wise product.

*Multi-label thoracic disease image classification with cross-attention networks* (MICCAI 2019, arXiv
2007.10859). Stated: two feature extractors, the Hadamard product of their maps "eliminates attention
noises", an attention loss, and a multi-label balance loss. Code was never published and formulas were not to
be found: transitions, the form of both losses, the weight of the attention loss and the fusions are our
choices, each an option. What the paper does not have, and neither has this, is an attention confined to the
lung.

No training settings are published. Ours: Adam, lr 1e-4, batch 16 to 32, at most 20 epochs, early stop on
validation mean AUROC; ImageNet weights; horizontal flips.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from foveate.contract import AttentionMap, InputSpec, ModelOutput, Views
from foveate.errors import UsageError
from foveate.models.attention import HadamardCross, Transition, averaged_to_one_size
from foveate.models.can.balance import BalanceLoss, Weights, balance_weights
from foveate.models.objectives import BinaryCrossEntropy, CrossEntropy
from foveate.models.single_view import SingleViewClassifier
from foveate.models.timm.backbones import OutputStride, Rate
from foveate.models.timm.timm_trunk import TimmTrunk, load_pair
from foveate.types import Task

logger = logging.getLogger(__name__)

Fusion = Literal["product", "sum+product", "cat", "sum", "average_logits"]
AttentionForm = Literal["spatial", "channel"]
AttentionLoss = Literal["spatial", "channel", "none"]
Loss = Literal["balance", "study"]

_TINY = 1e-6


@dataclass(frozen=True, slots=True)
class CrossOutput(ModelOutput):
    """What CAN hands out besides logits, features and attention.

    Attributes:
        branch_logits: of the two networks whose logits were averaged; empty for other fusions.
    """

    branch_logits: tuple[Tensor, ...] = ()


@dataclass(frozen=True, slots=True)
class CrossLosses:
    """What CAN minimises.

    Attributes:
        classification: ``balance``, or the loss that the study chose.
        focal_gamma: γ of the balance loss.
        attention: form of the attention loss.
        attention_weight: λ of it.
        weights: of the balance loss, see ``balance_weights``.
    """

    classification: Loss = "balance"
    focal_gamma: float = 2.0
    attention: AttentionLoss = "spatial"
    attention_weight: float = 0.1
    weights: Weights = "unit"


class CrossAttentionClassifier(SingleViewClassifier):
    """Two trunks → transitions, if any → fusion of their maps A and B → average pooling → one linear layer.

    With ``H = A ∘ B``, what is pooled is ``product``: H; ``sum+product``: A + H + B; ``cat``: all three as
    channels; ``sum``: A + B. ``average_logits`` are two networks, each with a linear layer and a
    classification loss of its own, whose logits are averaged.

    Hands out the features ``first`` (A), ``second`` (B) and ``crossed`` (what is pooled; for
    ``average_logits`` A and B as channels), and, in evaluation mode, the attention of each of the three,
    ``first_attention`` and so on, ``(B, h, w)``: the sum of magnitudes over the channels, of L2 norm 1.

    Args:
        name: for errors.
        num_classes: K.
        spec: one view.
        trunks: with their weights.
        fusion: see above.
        transition, transition_channels: see ``HadamardCross``.
        losses: the objective.
        drop_rate: dropout of A and of B, drawn for each, ahead of the fusion.

    Raises:
        UsageError: the maps cannot be fused, or compared by the attention loss, as they are.
    """

    def __init__(
        self,
        name: str,
        num_classes: int,
        spec: InputSpec,
        trunks: tuple[TimmTrunk, TimmTrunk],
        *,
        fusion: Fusion = "product",
        transition: Transition = "auto",
        transition_channels: int | None = None,
        losses: CrossLosses | None = None,
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__(name, num_classes, spec, cam_feature="crossed")
        self.first, self.second = trunks
        self.losses = losses or CrossLosses()
        self.balance = BalanceLoss(self.losses.focal_gamma)
        self.fusion = fusion
        self.drop = nn.Dropout(drop_rate)
        widths = self.first.channels, self.second.channels
        self.cross: HadamardCross | None = None
        if fusion == "average_logits":
            _check_separate(self.losses, transition, widths)
            self.heads = nn.ModuleList(nn.Linear(width, num_classes) for width in widths)
        else:
            self.cross = HadamardCross(*widths, transition=transition, channels=transition_channels)
            width = self.cross.channels * (3 if fusion == "cat" else 1)
            self.heads = nn.ModuleList([nn.Linear(width, num_classes)])

    @property
    def linear_head(self) -> nn.Linear:
        """The layer on the average of ``crossed``; of two networks, the one layer that is both averaged."""
        if len(self.heads) == 1:
            (head,) = self.heads
            assert isinstance(head, nn.Linear)
            return head
        return _averaged_heads(self.heads)

    def forward(self, views: Views) -> CrossOutput:
        """Classify ``(B, C, H, W)``; the maps are ``(B, D, h, w)``, h and w those of the coarser trunk."""
        picture = self.only_view(views)
        first, second = averaged_to_one_size(self.first(picture), self.second(picture))
        if self.cross is not None:
            first, second = self.cross.through(first, second)
        a, b = self.drop(first), self.drop(second)
        crossed = self._fuse(a, b)
        logits, branches = self._classify(a, b, crossed)
        return CrossOutput(
            logits=logits,
            features={"first": first, "second": second, "crossed": crossed},
            attention=() if self.training else _shown({"first": first, "second": second, "crossed": crossed}),
            branch_logits=branches,
        )

    def objective(self, output: ModelOutput, targets: Tensor, progress: float) -> dict[str, Tensor]:
        """``classification``, and ``attention`` with its weight λ, unless that is off."""
        assert isinstance(output, CrossOutput)
        criterion = self.balance if self.losses.classification == "balance" else self.criterion
        scored = output.branch_logits or (output.logits,)
        terms = {"classification": torch.stack([criterion(each.float(), targets) for each in scored]).mean()}
        if self.losses.attention != "none":
            pair = output.features["first"], output.features["second"]
            terms["attention"] = self.losses.attention_weight * attention_loss(*pair, self.losses.attention)
        return {**terms, "total": torch.stack(list(terms.values())).sum()}

    def learn_counts(self, task: Task, counts: ArrayLike) -> None:
        """Take the weights of the balance loss from the counts of the training cases."""
        if self.losses.classification != "balance":
            return
        weights = balance_weights(task, counts, self.losses.weights)
        self.balance = BalanceLoss(self.losses.focal_gamma, weights)
        chosen = getattr(self, "criterion", None)
        if not (isinstance(chosen, CrossEntropy | BinaryCrossEntropy) and chosen.weights is None):
            logger.warning(
                "train.balance has no effect on the loss of this model, which brings its own; model option "
                "loss: study lets it have one"
            )

    def _fuse(self, a: Tensor, b: Tensor) -> Float[Tensor, "B E h w"]:
        if self.fusion == "product":
            return a * b
        if self.fusion == "sum+product":
            return a + a * b + b
        if self.fusion == "sum":
            return a + b
        return torch.cat([a, a * b, b] if self.fusion == "cat" else [a, b], dim=1)

    def _classify(self, a: Tensor, b: Tensor, crossed: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Logits, and those of each network if there are two."""
        if self.fusion != "average_logits":
            return self.heads[0](crossed.mean(dim=(2, 3))), ()
        branches = tuple(head(each.mean(dim=(2, 3))) for head, each in zip(self.heads, (a, b), strict=True))
        return torch.stack(branches).mean(dim=0), branches


def attention_loss(
    first: Float[Tensor, "B C h w"], second: Float[Tensor, "B C h w"], form: AttentionForm = "spatial"
) -> Float[Tensor, ""]:
    """How far the attention of two maps lies apart; 0 where it is the same.

    ``spatial``: mean over the cases of ``‖a − b‖²`` with a and b the maps Σ_c |F_c| as vectors of length 1,
    which is 2 − 2 cos and lies in [0, 2]. ``channel``: mean over cases and positions of the same of the
    vectors of channels, which lies in [0, 2] for maps without negative values.

    NOTE[DIFF]: the paper's formula was not to be found; ``channel`` normalises as a later 3-D
    re-implementation by other authors does.
    """
    if form == "spatial":
        a, b = (
            functional.normalize(_magnitude(each).flatten(1), dim=1, eps=_TINY) for each in (first, second)
        )
    else:
        a, b = (functional.normalize(each.float(), dim=1, eps=_TINY) for each in (first, second))
    return (a - b).square().sum(dim=1).mean()


def can(
    num_classes: int,
    spec: InputSpec,
    *,
    pretrained: bool | str = False,
    first: str = "densenet121",
    second: str = "densenet121",
    fusion: Fusion = "product",
    transition: Transition = "auto",
    transition_channels: PositiveInt | None = None,
    loss: Loss = "balance",
    focal_gamma: NonNegativeFloat = 2.0,
    weights: Weights = "unit",
    attention_loss: AttentionLoss = "spatial",
    attention_weight: NonNegativeFloat = 0.1,
    drop_rate: Rate = 0.0,
    jitter: NonNegativeFloat = 0.05,
    output_stride: OutputStride | None = None,
) -> CrossAttentionClassifier:
    """Cross-attention network of any two timm backbones.

    Args:
        num_classes: K.
        spec: one view.
        pretrained: True downloads timm's weights. A path names a file or folder of weights, for both
            backbones if they are of one architecture; or a folder that holds a file or folder named after
            each architecture (``weights/resnet50.safetensors``, ``weights/densenet121/``).
        first, second: names of ``timm.list_models()``.
        fusion: see ``CrossAttentionClassifier``. NOTE[DIFF]: not stated; ``product`` is what the paper's
            sentence on attention noise makes sense with.
        transition, transition_channels: see ``HadamardCross``.
        loss: ``balance`` is the paper's, see ``BalanceLoss``, with weights from the training cases;
            ``study`` is what the study chose under ``train: balance``.
        focal_gamma: γ of the balance loss.
        weights: of the balance loss, see ``balance_weights``.
        attention_loss: see ``attention_loss``; ``none`` leaves it out.
        attention_weight: λ of it. NOTE[DIFF]: not stated; 1 would be the plain sum. The default keeps its
            gradient on the trunks below the classification's (``benchmarks/can_gradients.py``).
        drop_rate: dropout of each branch's map ahead of the fusion.
        jitter: if both backbones start from the same weights, noise of this share of each weight tensor's
            standard deviation is added to the second. NOTE[DIFF]: not in the paper. Two equal branches
            under a symmetric fusion get equal gradients, and without noise would stay equal for ever.
        output_stride: of both backbones, as for ``timm_classifier``.

    Raises:
        UsageError: a backbone, a fusion or weights that cannot be.
    """
    trunks = load_pair(
        (first, second), spec, pretrained=pretrained, jitter=jitter, output_stride=output_stride
    )
    return CrossAttentionClassifier(
        "can",
        num_classes,
        spec,
        trunks,
        fusion=fusion,
        transition=transition,
        transition_channels=transition_channels,
        losses=CrossLosses(loss, focal_gamma, attention_loss, attention_weight, weights),
        drop_rate=drop_rate,
    )


# The pair of the published result, and one whose transitions have 1024 channels; the same options.
can_densenet121 = can
can_resnet50_densenet121 = partial(can, first="resnet50")


def _magnitude(features: Float[Tensor, "B C h w"]) -> Float[Tensor, "B h w"]:
    return features.float().abs().sum(dim=1)


def _shown(features: Mapping[str, Tensor]) -> tuple[AttentionMap, ...]:
    """The attention of each map, of length 1 as a vector."""
    found = []
    for name, each in features.items():
        magnitude = _magnitude(each)
        unit = functional.normalize(magnitude.flatten(1), dim=1, eps=_TINY).view_as(magnitude)
        found.append(AttentionMap(f"{name}_attention", unit))
    return tuple(found)


def _averaged_heads(heads: nn.ModuleList) -> nn.Linear:
    """One layer on two maps' averages that gives the mean of the logits of a layer on each."""
    weight = torch.cat([head.get_parameter("weight").detach() / 2 for head in heads], dim=1)
    bias = torch.stack([head.get_parameter("bias").detach() for head in heads]).mean(dim=0)
    whole = nn.Linear(weight.shape[1], len(weight), device="meta")  # its own numbers would cost random ones
    whole.weight, whole.bias = nn.Parameter(weight), nn.Parameter(bias)
    return whole


def _check_separate(losses: CrossLosses, transition: Transition, widths: tuple[int, int]) -> None:
    if transition == "always":
        raise UsageError(
            "two networks whose logits are averaged have no transitions",
            fix="set transition: auto, or another fusion",
        )
    if losses.attention == "channel" and widths[0] != widths[1]:
        raise UsageError(
            f"maps of {widths[0]} and {widths[1]} channels cannot be compared channel by channel",
            fix="set attention_loss: spatial or none",
        )
