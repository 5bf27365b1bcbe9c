"""Cards of DADRN and of what it was compared with: figures, and what was found out about them."""

from __future__ import annotations

from collections.abc import Mapping

from foveate.models.cards.card import ModelCard, Published

DADRN_PAPER = (
    "A dual-attention dilated residual network for liver lesion classification and localization on CT "
    "images, IEEE ICIP 2019 (slides)"
)
DADRN_DATA = "published, other data: 1091 arterial-phase CT liver slices, mean of two patient-disjoint splits"
CLASSES = ("normal", "cyst", "FNH", "HCC", "hemangioma")

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
_STATED = "backbone, formulas of the spatial block, tables: stated in the slides"
_INFERRED = "widths, pretraining, initialisation and training settings: our choice, not stated"


def _row(
    name: str,
    by_class: tuple[float, ...],
    overall: tuple[float, ...] = (),
    localized: tuple[float, ...] = (),
    *,
    options: Mapping[str, str] | None = None,
) -> Published:
    """One row of the slides' three tables: class-wise accuracy, overall figures, localization accuracy."""
    figures = dict(zip(("accuracy", "F1", "precision", "recall"), overall, strict=False))
    figures |= {f"accuracy: {label}": value for label, value in zip(CLASSES, by_class, strict=True)}
    lesions = zip(CLASSES[1:], localized, strict=False)
    figures |= {f"localization accuracy: {label}": value for label, value in lesions}
    return Published(name, figures, DADRN_DATA, options or {})


DADRN_CAVEATS = (_MEAN_OF_CLASSES, _FEWER_CASES, _LOCALIZED_ONCE)
# A row of the paper's tables whose network is of another family.
RESIDUAL_ATTENTION_ROW = _row(
    "RAResnet50",
    (0.9675, 0.9182, 0.7596, 0.8227, 0.5556),
    (0.8047, 0.8041, 0.8304, 0.7905),
    (0.2628, 0.0742, 0.6931, 0.3292),
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
                (0.9788, 0.9327, 0.7596, 0.8427, 0.5278),
                (0.8083, 0.8197, 0.8294, 0.8207),
                (0.5110, 0.6676, 0.5941, 0.3798),
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
            "Sigmoid weights are not normalised: their sum grows with the map's size, which only the learned "
            "β, starting at 0, holds in check.",
            _MEAN_OF_CLASSES,
            _FEWER_CASES,
        ),
        published=(
            _row(
                "SADRN50-A",
                (0.9577, 0.9096, 0.8132, 0.8816, 0.6625),
                (0.8449, 0.8372, 0.8463, 0.8346),
                options={"normalization": "sigmoid"},
            ),
            _row("SADRN50-B", (0.9334, 0.8761, 0.7775, 0.8220, 0.5458), options={"normalization": "softmax"}),
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
            "and the same map to every channel; variant=corrected (default) divides the Gram matrix by the "
            "number of positions first.",
            _MEAN_OF_CLASSES,
            _FEWER_CASES,
        ),
        published=(
            _row(
                "CADRN50-A",
                (0.9675, 0.9551, 0.8530, 0.9016, 0.6181),
                (0.8591, 0.8263, 0.8506, 0.8149),
                options={"normalization": "sigmoid"},
            ),
            _row("CADRN50-B", (0.9588, 0.9413, 0.8324, 0.8322, 0.5847), options={"normalization": "softmax"}),
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
            "An upper reference of the paper, ResGLNet, sees the lesion's region and is not rebuilt here; "
            "accuracies: cyst 0.9615, FNH 0.8405, HCC 0.8846, hemangioma 0.8462.",
            _MEAN_OF_CLASSES,
            _FEWER_CASES,
            _LOCALIZED_ONCE,
        ),
        published=(
            _row(
                "DADRN50-A",
                (0.9690, 0.9451, 0.7802, 0.8024, 0.7069),
                (0.8407, 0.8213, 0.8446, 0.8111),
                options={"fusion": "sum"},
            ),
            _row(
                "DADRN50-B",
                (0.9804, 0.9551, 0.8159, 0.9116, 0.6819),
                (0.8690, 0.8412, 0.8528, 0.8386),
                (0.5986, 0.6676, 0.7327, 0.5064),
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
                (0.9334, 0.9327, 0.7788, 0.9116, 0.5917),
                (0.8296, 0.8265, 0.8552, 0.8149),
                (0.1898, 0.0742, 0.7327, 0.2532),
            ),
        ),
    ),
}
