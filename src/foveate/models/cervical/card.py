"""Cards of the cervical cytology comparison: figures, and what was found out about them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from foveate.models.by_class import CROPPED, HERLEV, MASKED, MULTI_CELL
from foveate.models.card import ModelCard, Published
from foveate.models.dadrn.card import DADRN_CAVEATS, DADRN_PAPER, RESIDUAL_ATTENTION_ROW

CERVICAL_PAPER = (
    "Towards interpretable attention networks for cervical cancer analysis, IEEE EMBC 2021 (arXiv 2106.00557)"
)
REBUILT = "accuracy rebuilt from the class recalls"

_TWO_EVALUATIONS = (
    "Published accuracies and published class recalls are of two evaluations, each with test images rotated "
    "at random anew: rebuilt from the recalls, 8 of 10 accuracies differ, by 1 to 6 images. Take such "
    "differences as noise."
)
_LEAK = (
    "The single-cell crops were split by crop, so that crops of one slide image are in both training and "
    "test. Split by source image; which patient an image is of is not published."
)
_PRETRAINING = (
    "The published DenseNets started from ImageNet weights, ResNet-50 and the residual attention network at "
    "random: between them, attention and pretraining cannot be told apart."
)
_STATED = "network, split and training settings: from the published code; tables: its results page"


def _rows(name: str, *figures: tuple[str, float, float], options: Mapping[str, Any]) -> tuple[Published, ...]:
    """One row for each set: what it was measured on, accuracy, and accuracy rebuilt from class recalls."""
    return tuple(
        Published(name, {"accuracy": accuracy, REBUILT: rebuilt}, data, options)
        for data, accuracy, rebuilt in figures
    )


CERVICAL_CARDS: dict[str, ModelCard] = {
    "residual_attention56": ModelCard(
        system="DADRN",
        summary="residual attention network, one module a stage; a baseline of the DADRN paper",
        parameters=29_771_973,
        paper="Residual attention network for image classification, IEEE CVPR 2017; baseline of: "
        + DADRN_PAPER,
        provenance=(
            "named as a baseline in the slides, without its depth: 56 is our choice",
            "network: that of residual_attention92 with one module in each stage",
        ),
        caveats=("Its heat maps are a 32nd of the input size.", *DADRN_CAVEATS),
        published=(RESIDUAL_ATTENTION_ROW,),
    ),
    "residual_attention92": ModelCard(
        system="cervical",
        summary="residual attention network, one, two and three modules in its stages",
        parameters=50_427_589,
        paper="Residual attention network for image classification, IEEE CVPR 2017; as in: " + CERVICAL_PAPER,
        provenance=(
            "network: from the published code, whose outputs it reproduces to 1e-5",
            "any input size: ours; masks grow to the map they meet, which is the same at 224 pixels",
            _STATED,
        ),
        caveats=(
            "The published network counts 83,195,589 parameters. 32,768,000 of them never learn: shortcut "
            "convolutions of blocks that keep their shape, built and not called. They are left out here.",
            "Its heat maps are a 32nd of the input size.",
            _PRETRAINING,
            _TWO_EVALUATIONS,
        ),
        published=_rows("RAN", (MULTI_CELL, 0.8416, 85 / 101), options={}),
    ),
    "densenet121_ca": ModelCard(
        system="cervical",
        summary="DenseNet-121 with channel gates in its last block",
        parameters=6_961_573,
        paper=CERVICAL_PAPER,
        provenance=(
            "placement=authors: from the published code; 6,959,143 parameters, 162 more than without",
            "placement=all_dense (default) and rcab: ours",
            _STATED,
        ),
        caveats=(
            "The published gate has 2 hidden units and acts on the last 32 of 1024 channels only. It is "
            "called residual channel attention, and has no residual sum.",
            _LEAK,
            _PRETRAINING,
            _TWO_EVALUATIONS,
        ),
        published=_rows(
            "CA-DenseNet",
            (MULTI_CELL, 0.9109, 93 / 101),
            (CROPPED, 0.9633, 393 / 409),
            (MASKED, 0.8713, 85 / 101),
            options={"placement": "authors"},
        ),
    ),
    "timm:resnet50": ModelCard(
        system="cervical",
        summary="ResNet-50, the baseline of the cervical comparison (drop_rate 0.5)",
        parameters=23_518_277,
        paper="Deep residual learning for image recognition, IEEE CVPR 2016; baseline of: " + CERVICAL_PAPER,
        provenance=("network: timm's, as torchvision's", _STATED),
        caveats=(
            "Trained from scratch in the published code, although its plots say pre-trained.",
            _LEAK,
            _PRETRAINING,
            _TWO_EVALUATIONS,
        ),
        published=(
            *_rows(
                "ResNet50",
                (MULTI_CELL, 0.8515, 85 / 101),
                (CROPPED, 0.9511, 393 / 409),
                (MASKED, 0.8613, 81 / 101),
                options={"drop_rate": 0.5},
            ),
            Published("ResNet50", {"accuracy": 0.5761}, HERLEV, {"drop_rate": 0.5}),
        ),
    ),
    "timm:densenet121": ModelCard(
        system="cervical",
        summary="DenseNet-121 without attention, of the cervical comparison (drop_rate 0.5)",
        parameters=6_958_981,
        paper="Densely connected convolutional networks, IEEE CVPR 2017; baseline of: " + CERVICAL_PAPER,
        provenance=("network: timm's, as torchvision's", _STATED),
        caveats=(_LEAK, _PRETRAINING, _TWO_EVALUATIONS),
        published=_rows(
            "DenseNet",
            (MULTI_CELL, 0.8911, 90 / 101),
            (CROPPED, 0.9584, 390 / 409),
            (MASKED, 0.9010, 89 / 101),
            options={"drop_rate": 0.5},
        ),
    ),
}
