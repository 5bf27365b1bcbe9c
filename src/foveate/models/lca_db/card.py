"""Cards of LCA-DB, its ablations, and what it was compared with.

Parameters are those of seven classes and eight phases of 16×128×128 with default options.
"""

from __future__ import annotations

from collections.abc import Mapping

from foveate.models.card import ModelCard, Published

LCA_PAPER = (
    "Cross-attention guided loss-based deep dual-branch fusion network for liver tumor classification, "
    "Information Fusion 2024, 102713"
)
LCA_DATA = (
    "published, other data: LLD-MMRI-7, 104 test cases, seven kinds of liver lesion in eight MR sequences; "
    "five-fold training, presumably averaged"
)
LCA_FIGURES = {"accuracy": 0.692, "F1": 0.659, "AUC": 0.885}
LCA_ROW = Published("LCA-DB", LCA_FIGURES, LCA_DATA, {"variant": "paper"})

_PUBLIC_CODE = (
    "trunks, branches, loss-based attention, loss and its ramp, initialisation: from the authors' public "
    "code, whose numbers variant=paper gives"
)
_TABLES = "accuracy, F1 and AUC of the whole system on seven classes: stated in the abstract"
_OURS = (
    "variant=corrected, missing phases, sizes other than 128×128×16, region maps, feature-level cross "
    "attention: inferred or our choice, each an option"
)
_NOT_TRAINED = "No figure of ours stands beside the published one: their data are not part of this project."
_CHALLENGE = (
    "On the same 104 test cases the best team of the LLD-MMRI challenge reports a macro F1 of 83.2 %, far "
    "above 65.9 % (the challenge's own baseline: 60.8 %)."
)
_BATCHWISE = (
    "The public test code prints precision, recall and F1 twice, averaged over 13 batches of 8 and of all "
    "104 cases, and which of the two the paper took is not said; kappa and AUC are averaged over batches "
    "only, and the names of micro and macro AUC are swapped."
)
_NO_LAYER = "Its cross attention is a loss, not a layer: at test time the branches exchange nothing."
_REGISTERED = (
    "All phases must show the same place: the published volumes were registered, by means that are not "
    "published; a volume around the lesion is expected, not a whole abdomen."
)
_SELECTED = (
    "The published epoch was chosen by accuracy on 78 or 79 validation cases, where one case is 1.3 points."
)
_NO_ABLATIONS = "No table of ablations is publicly readable: this entry has no published figure."


def _lca(summary: str, parameters: int, *caveats: str, published: tuple[Published, ...] = ()) -> ModelCard:
    return ModelCard(
        system="LCA-DB",
        summary=summary,
        parameters=parameters,
        paper=LCA_PAPER,
        provenance=(_PUBLIC_CODE, _TABLES, _OURS),
        caveats=caveats,
        published=published,
        classes=7,
    )


def _baseline(summary: str, parameters: int, source: str, *caveats: str) -> ModelCard:
    return ModelCard(
        system="LCA-DB",
        summary=summary,
        parameters=parameters,
        paper="baseline of: " + LCA_PAPER,
        provenance=(source, _OURS),
        caveats=(*caveats, _NO_ABLATIONS),
        classes=7,
    )


LCA_DB_CARDS: Mapping[str, ModelCard] = {
    "lca_db10": _lca(
        "volumes of several phases, some may be missing: whole and in tiles, attention from the loss",
        37_358_357,
        _NO_LAYER,
        _REGISTERED,
        "variant=paper needs 3.0 times the multiplications of variant=corrected (353 against 116 thousand "
        "million a case of eight 128×128×16 phases), by a stem eight times as wide as meant.",
        "Regions are tiles of about 32 pixels: heat maps on them are exact but coarse; the default map is "
        "finer but shows the image branch alone.",
        _CHALLENGE,
        _BATCHWISE,
        _SELECTED,
        _NOT_TRAINED,
        published=(LCA_ROW,),
    ),
    "lca_db18": _lca("lca_db10 with trunks of depth 18", 74_967_317, _NO_LAYER, _REGISTERED, _NO_ABLATIONS),
    "lca_db34": _lca("lca_db10 with trunks of depth 34", 135_586_581, _NO_LAYER, _REGISTERED, _NO_ABLATIONS),
    "lca_db10_image": _lca("lca_db10's image branch alone", 23_003_783, _REGISTERED, _NO_ABLATIONS),
    "lca_db10_patch": _lca("lca_db10's patch branch alone", 14_350_983, _REGISTERED, _NO_ABLATIONS),
    "lca_db10_no_cross": _lca("lca_db10 without the cross terms of its loss", 37_358_357, _NO_ABLATIONS),
    "lca_db10_no_similarity": _lca(
        "lca_db10 without the likeness of both attentions in its loss", 37_358_357, _NO_ABLATIONS
    ),
    "resnet3d10": _baseline(
        "a plain 3-D ResNet-10 for volumes of several phases, as wide as LCA-DB's trunks",
        14_350_983,
        "widths, blocks and max-pool of variant=paper: from the public code of LCA-DB",
        "variant=paper is half as wide as LCA-DB's trunks and pools early, so that it is no fair baseline.",
    ),
    "resnet3d18": _baseline(
        "resnet3d10 at depth 18",
        33_155_463,
        "blocks: from the public code of LCA-DB",
        "variant=paper is half as wide as LCA-DB's trunks and pools early, so that it is no fair baseline.",
    ),
    "gated_mil10": _baseline(
        "tiles of a volume, weighed by gated attention (multiple-instance learning)",
        14_482_439,
        "gated attention: Attention-based deep multiple instance learning, ICML 2018, equation 9; trunk, "
        "tiles and pooling=mlp: from the public code of LCA-DB",
    ),
    "can3d10": _baseline(
        "two 3-D trunks whose maps are added: a stand-in for CAN on volumes",
        28_961_031,
        "two trunks, sum, pooling, two linear layers: from the public code of LCA-DB, which calls it CAN",
        "It is not CAN: maps are added, not multiplied (fusion=product does), and CAN's losses are missing.",
    ),
    "deepganet": _baseline(
        "tiles of a volume, weighed by loss-based attention, ahead of a hidden layer",
        33_196_679,
        "network: from the public code of LCA-DB, which calls it deepganet at depth 18 (its stages have 1, "
        "2, 2 and 2 blocks, which is 16) and does not say which work it stands for; its published count of "
        "33,344,649 holds 147,970 of layers that are never called",
        "How it was trained is not in the public code: the loss is that of LCA-DB's patch branch alone, our "
        "choice (loss=study, instance_weight=0 leave the study's).",
    ),
    "damidl": _baseline(
        "a network for the tiles of each phase, gates of tiles, attention over phases",
        37_269_664,
        "network: from the public code of LCA-DB, which adapts the dual-attention multi-instance network for "
        "Alzheimer's disease (Zhu et al., IEEE TMI 2021) to phases; its published count of 37,269,680 holds "
        "16 of a layer that is never called",
        "variant=paper hands out probabilities in place of logits, so that its loss takes a softmax of a "
        "softmax, in which no class of seven gets beyond 0.31; variant=corrected takes one.",
        "How it was trained is not in the public code: the study's criterion is our choice.",
        "About 310 thousand million multiplications a case of eight 16×128×128 phases. Each phase has a "
        "network and heat maps of its own, which are zero in a margin of 6 to 8 pixels around each tile.",
    ),
}
