"""Cards of the AGF-style network and of the plain baseline of several views."""

from __future__ import annotations

from foveate.models.card import ModelCard

AGF_PAPER = (
    "AGFnet: attention-guided learning with feature reconstruction, clinical photographs and skin "
    "ultrasound, IEEE TMI 44(1), 2024 (abstract)"
)

_STATED = (
    "two modalities, one diagnosis; local attention within and between modalities over several scales, "
    "global attention, feature reconstruction as a training strategy: stated in the abstract"
)
_OURS = "backbone, every formula and width, losses, weights, training settings: our design; none is published"
_NO_NUMBERS = (
    "Only the abstract is public: no code, no weights, no data, no figure of its results. This is a design "
    "after the abstract and not the authors' network; its results say nothing about theirs."
)
_STAND_IN = (
    "1,024 of its parameters are the vectors that stand in for a missing modality (missing=refuse: none); "
    "they start at 0 and learn only from cases that lack one, or with augment: drop_views."
)
_TRAINING_ONLY = "5.2 million parameters rebuild features in training and are idle afterwards."

AGF_CARDS: dict[str, ModelCard] = {
    "agf_resnet18": ModelCard(
        system="AGF-style",
        summary="two ResNet-18 that attend to each other on three scales; two views, one may be missing",
        parameters=29_854_226,
        paper=AGF_PAPER,
        provenance=(_STATED, _OURS),
        caveats=(_NO_NUMBERS, _STAND_IN, _TRAINING_ONLY),
        classes=6,
    ),
    "agf_resnet50": ModelCard(
        system="AGF-style",
        summary="the same with two ResNet-50: the design's full size",
        parameters=68_810_706,
        paper=AGF_PAPER,
        provenance=(_STATED, _OURS),
        caveats=(_NO_NUMBERS, _STAND_IN, _TRAINING_ONLY),
        classes=6,
    ),
    "agf": ModelCard(
        system="AGF-style",
        summary="the same on any timm backbone with stages (option encoder)",
        parameters=None,
        paper=AGF_PAPER,
        provenance=(_STATED, _OURS),
        caveats=(
            _NO_NUMBERS,
            "The backbone has to be a chain of stages at strides 8, 16 and 32, so that the attention's "
            "results can go into the next stage; others (plain vision transformers, HRNet) are refused.",
        ),
        classes=6,
    ),
    "late_fusion": ModelCard(
        system="baseline",
        summary="one timm encoder per view, pooled features joined; any number of views, some may be missing",
        parameters=None,
        paper="none; the usual baseline of several views",
        provenance=("network: ours; encoders and their weights: timm's",),
        caveats=(
            "With concatenation, a learned vector stands in for a missing view. It starts at 0 and learns "
            "only from cases that lack one, or with augment: drop_views.",
        ),
        classes=6,
    ),
}
