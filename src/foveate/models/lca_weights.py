"""Weights of LCA-DB and its baselines from a file: our own, or a checkpoint of the authors' public code.

That code reads NIfTI files in their own order of axes, so that its planes are (x, y); ours are (y, x). On
loading the last two axes of every kernel are exchanged, which gives the same logits of the same files. Its
tiles are numbered the other way too, which matters to nothing that adds them up.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor, nn

from foveate.models.weights import KeyTable, load_whole, locate_weights, read_weights

_HEADS = re.compile(r"(attention\.\w+\.classifier|bag|head(\.2)?)\.(weight|bias)$")
_PAPER = "a checkpoint of the authors' code needs the network as published: options: {variant: paper}"


def _trunk(theirs: str, ours: str, *, bare: bool = False) -> dict[str, str]:
    """A trunk's names: theirs end in ``_<theirs>``, the last two stages' not if they are ``bare``."""
    stages = [f"layer{number}" + ("" if bare and number > 2 else f"_{theirs}") for number in (1, 2, 3, 4)]
    return {
        f"conv1_{theirs}.": f"{ours}.stem.conv.",
        f"bn1_{theirs}.": f"{ours}.stem.bn.",
        **{f"{stage}.": f"{ours}.stages.{index}." for index, stage in enumerate(stages)},
    }


_COARSE = {f"{name}.": f"branches.image.{name}." for name in ("conv5", "bn5", "conv6", "bn6")}
_IMAGE, _PATCH = "branches.image.trunk", "branches.patch.trunk"

LCA_DB = KeyTable(  # crossatten, which it calls 3dres too
    _trunk("compose", _IMAGE)
    | _COARSE
    | _trunk("patch_com", _PATCH)
    | {"linear1.": "attention.image.classifier.", "linear2.": "attention.patch.classifier."}
    | {"bag_classifier.": "bag."}
)
RA_NET = KeyTable(
    _trunk("compose", _IMAGE, bare=True) | _COARSE | {"bag_classifier.": "attention.image.classifier."}
)
PA_NET = KeyTable(
    _trunk("patch_com", _PATCH) | {"bag_classifier.": "attention.patch.classifier."},
    re.compile(r"(attention|attention_patch_com|whichatten)\."),
)
RNET = KeyTable(
    _trunk("resbase", "trunk", bare=True) | {"bag_classifier.": "head."},
    re.compile(r"(attention|modal_attention|whichatten)\."),
)
MA = KeyTable(
    _trunk("netb", "trunks.first") | _trunk("neta", "trunks.second") | {"bag_classifier.": "head."},
    re.compile(r"(conv5|bn5|conv6|bn6)\."),
)
RESMIL = KeyTable(
    _trunk("patch_com", "branch.trunk", bare=True)
    | {"attention_patch_com.": "attention.score.", "bag_classifier.": "head."},
    re.compile(r"(attention|attention_all|whichatten)\."),
)


def ours(state: Mapping[str, Tensor], table: KeyTable) -> dict[str, Tensor]:
    """Weights under our names, for our planes: those of the authors are translated, others stay."""
    if not table.fits(state):
        return dict(state)
    return {
        key: value.transpose(3, 4).contiguous() if value.ndim == 5 else value
        for key, value in table.translated(state).items()
    }


def load_weights(model: nn.Module, path: str, table: KeyTable) -> None:
    """Fill a model from a file; classifiers of another number of classes are left as drawn, with a warning.

    Args:
        model: of the very options that the weights were trained with.
        path: as ``locate_weights`` takes it.
        table: of the network in the authors' code.

    Raises:
        UsageError: there is no such file, or its weights are of another network.
        InputRefused: the file is damaged.
    """
    state = read_weights(locate_weights(path, []))
    fix = _PAPER if table.fits(state) else ""
    load_whole(model, ours(state, table), heads=_HEADS, where=f"pretrained: {path}", fix=fix)
