"""Cards of CAN, cross-attention networks for chest X-rays: what is known of the paper, and what is ours."""

from __future__ import annotations

from collections.abc import Mapping

from foveate.models.card import ModelCard, Published

CAN_PAPER = (
    "Multi-label thoracic disease image classification with cross-attention networks, MICCAI 2019, "
    "arXiv 2007.10859"
)
CAN_DATA = (
    "published, other data: ChestX-ray14, official test set (25 596 images), mean AUROC of 14 findings; the "
    "figure is from a secondary source"
)

_PROVENANCE = (
    "two extractors, the Hadamard product of their maps, an attention loss and a multi-label balance loss: "
    "stated in the abstract and introduction",
    "formulas of both losses, fusion, transitions and the weight of the attention loss: inferred, each an "
    "option",
    "training settings: our choice, not stated",
)
_LOCAL = (
    "The paper has no attention confined to the lung, though summaries of it say so; where the maps point is "
    "for you to check."
)
_SPLIT = (
    "The published figure is on the official split by patient and cannot be compared with figures on random "
    "splits of the same images."
)
_ALIKE = (
    "Two backbones that start from the same weights would stay equal for ever: the second starts with noise "
    "on its weights (jitter)."
)
_FORGIVES = (
    "A place counts only if both branches see something there, so that maps are sharper than those of one "
    "network, and what one branch misses is lost."
)
_COSTS = (
    "The product may cost accuracy: on 757 radiographs two averaged networks (fusion: average_logits) had a "
    "mean AUROC of 0.693, their product 0.666 and all of CAN 0.622 (one seed, not told apart; "
    "docs/models/can.md)."
)

CAN_CARDS: Mapping[str, ModelCard] = {
    "can_densenet121": ModelCard(
        system="CAN",
        summary="two DenseNet-121 whose maps mask each other; several findings at once",
        parameters=13_922_062,
        paper=CAN_PAPER,
        provenance=("the pair of backbones: from a secondary source", *_PROVENANCE),
        caveats=(_ALIKE, _FORGIVES, _COSTS, _LOCAL, _SPLIT),
        published=(Published("CAN", {"AUROC: mean of 14 findings": 0.817}, CAN_DATA),),
        classes=14,
    ),
    "can_resnet50_densenet121": ModelCard(
        system="CAN",
        summary="a ResNet-50 and a DenseNet-121 whose maps mask each other",
        parameters=33_626_062,
        paper=CAN_PAPER,
        provenance=("the pair of backbones: ours, for two extractors of different kind", *_PROVENANCE),
        caveats=(
            "The published result is that of two DenseNet-121, not of this pair.",
            _FORGIVES,
            _COSTS,
            _LOCAL,
        ),
        classes=14,
    ),
    "can": ModelCard(
        system="CAN",
        summary="any two timm backbones whose maps mask each other (options first and second)",
        parameters=None,
        paper=CAN_PAPER,
        provenance=("the pair of backbones: yours", *_PROVENANCE),
        caveats=(_ALIKE, _FORGIVES, _COSTS, _LOCAL),
    ),
}
