"""Cards of DADRN and of what it was compared with: figures, and what was found out about them."""

from __future__ import annotations

from collections.abc import Mapping

from foveate.models.by_class import DADRN_CLASSES, DADRN_DATA, DADRN_LOCALIZATION, DADRN_RECALL, UPPER
from foveate.models.card import ModelCard, Published

DADRN_PAPER = (
    "A dual-attention dilated residual network for liver lesion classification and localization on CT "
    "images, IEEE ICIP 2019 (slides)"
)
CLASSES = DADRN_CLASSES

_MEAN_OF_CLASSES = (
    "The published 'accuracy' is the unweighted mean of the five class-wise accuracies, not overall "
    "accuracy; it differs from the published macro recall, which must have been computed another way."
)
_FEWER_CASES = (
    "Class-wise values fit whole numbers of slices only if 5 cysts and 3 hemangiomas of the second test set "
    "were left out."
)
_LOCALIZED_ONCE = (
    "Each published localization accuracy is the same count of slices divided by both test-set sizes and "
    "averaged, and its rule of correctness is not stated: take differences of 2 slices as noise."
)
_SUCCESSOR = (
    "Its authors' next network, a cascade over the phases of a CT (MIL3ID 2019, doi "
    "10.1007/978-3-030-33391-1_15), has DADRN as its first stage; mean accuracy 0.8968 on private data; not "
    "rebuilt here."
)
_STATED = "backbone, formulas of the spatial block, tables: stated in the slides"
_INFERRED = "widths, pretraining, initialisation and training settings: our choice, not stated"


def _row(
    name: str, overall: tuple[float, ...] = (), *, options: Mapping[str, str] | None = None
) -> Published:
    """One row of the slides' three tables: overall figures, class-wise and localization accuracy."""
    figures = dict(zip(("accuracy", "F1", "precision", "recall"), overall, strict=False))
    figures |= {f"accuracy: {label}": value for label, value in DADRN_RECALL.of(name).items()}
    located = DADRN_LOCALIZATION.of(name)
    figures |= {f"localization accuracy: {label}": value for label, value in located.items()}
    return Published(name, figures, DADRN_DATA, options or {})


def _listed(figures: Mapping[str, float]) -> str:
    return ", ".join(f"{label} {value}" for label, value in figures.items())


DADRN_CAVEATS = (_MEAN_OF_CLASSES, _FEWER_CASES, _LOCALIZED_ONCE)
# A row of the paper's tables whose network is of another family.
RESIDUAL_ATTENTION_ROW = _row(
    "RAResnet50",
    (0.8047, 0.8041, 0.8304, 0.7905),
)

DADRN_CARDS: dict[str, ModelCard] = {
    "drn50": ModelCard(
        system="DADRN",
        summary="dilated ResNet-50: heat maps at an eighth of the input size",
        parameters=23_518_277,
        paper="Dilated residual networks, IEEE CVPR 2017; baseline of: " + DADRN_PAPER,
        provenance=(
            "backbone with a 28×28 last map for 224 pixels: stated in the slides",
            "dilations: from the public code of the backbone; two forms with equal parameters (first_block)",
            _INFERRED,
        ),
        caveats=DADRN_CAVEATS,
        published=(
            _row(
                "DRN50",
                (0.8083, 0.8197, 0.8294, 0.8207),
            ),
        ),
    ),
    "sadrn50": ModelCard(
        system="DADRN",
        summary="drn50 with attention over positions",
        parameters=28_763_718,
        paper=DADRN_PAPER,
        provenance=(_STATED, "key width C/8, β starting at 0: as in the networks it cites", _INFERRED),
        caveats=(
            "variant=paper: sigmoid weights are not normalised, and their sum grows with the map's size "
            "until training diverges; variant=corrected (default) divides it by the number of positions.",
            _MEAN_OF_CLASSES,
            _FEWER_CASES,
        ),
        published=(
            _row(
                "SADRN50-A",
                (0.8449, 0.8372, 0.8463, 0.8346),
                options={"normalization": "sigmoid"},
            ),
            _row("SADRN50-B", options={"normalization": "softmax"}),
        ),
    ),
    "cadrn50": ModelCard(
        system="DADRN",
        summary="drn50 with attention over channels",
        parameters=23_518_278,
        paper=DADRN_PAPER,
        provenance=(
            "the block's existence and its A/B rows: stated in the slides",
            "its formula: inferred, the spatial block's on channels, as in DANet",
            _INFERRED,
        ),
        caveats=(
            "variant=paper: on features after a ReLU every sigmoid weight is 1, so that the block adds one "
            "and the same map to every channel, and one so large that training diverges; variant=corrected "
            "(default) divides the Gram matrix by the number of positions first, and the sum by that of "
            "channels.",
            _MEAN_OF_CLASSES,
            _FEWER_CASES,
        ),
        published=(
            _row(
                "CADRN50-A",
                (0.8591, 0.8263, 0.8506, 0.8149),
                options={"normalization": "sigmoid"},
            ),
            _row("CADRN50-B", options={"normalization": "softmax"}),
        ),
    ),
    "dadrn50": ModelCard(
        system="DADRN",
        summary="drn50 with attention over positions and channels in parallel",
        parameters=28_773_959,
        paper=DADRN_PAPER,
        provenance=(
            _STATED,
            "channel formula, and sigmoid in both blocks (it won both single-block comparisons): inferred",
            "fusion of maps before pooling, by sum (A) or concatenation (B): stated; the place inferred",
            _INFERRED,
        ),
        caveats=(
            "Each image needs (positions)² and (channels)² attention weights: 2.5 MB and 17 MB at full width "
            "and 224 pixels, kept for the backward pass.",
            "variant=paper diverges within steps at the learning rates that suit the rest; "
            "variant=corrected (default) averages where sigmoid weights sum.",
            "An upper reference of the paper, ResGLNet, sees the lesion's region and is not rebuilt here; "
            f"accuracies: {_listed(DADRN_RECALL.of(UPPER))}.",
            _SUCCESSOR,
            _MEAN_OF_CLASSES,
            _FEWER_CASES,
            _LOCALIZED_ONCE,
        ),
        published=(
            _row(
                "DADRN50-A",
                (0.8407, 0.8213, 0.8446, 0.8111),
                options={"fusion": "sum"},
            ),
            _row(
                "DADRN50-B",
                (0.8690, 0.8412, 0.8528, 0.8386),
                options={"fusion": "concat"},
            ),
        ),
    ),
    "seresnet50": ModelCard(
        system="DADRN",
        summary="ResNet-50 with channel gates in every block; a baseline of the DADRN paper",
        parameters=26_049_269,
        paper="Squeeze-and-excitation networks, IEEE CVPR 2018; baseline of: " + DADRN_PAPER,
        provenance=("named as a baseline in the slides; the network is that of its own paper", _INFERRED),
        caveats=(
            "Its heat maps are a 32nd of the input size; output_stride=8 makes them as fine as drn50's.",
            _MEAN_OF_CLASSES,
            _FEWER_CASES,
            _LOCALIZED_ONCE,
        ),
        published=(
            _row(
                "SEResnet50",
                (0.8296, 0.8265, 0.8552, 0.8149),
            ),
        ),
    ),
}
