"""Weights of LCA-DB and its baselines from a file: our own, or a checkpoint of the authors' public code.

That code reads NIfTI files in their own order of axes, so that its planes are (x, y); ours are (y, x). On
loading the last two axes of every kernel are exchanged, which gives the same logits of the same files. Its
tiles are numbered the other way too, which matters to DAMIDL alone: all others add them up.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from foveate.models.weights import KeyTable, load_whole, locate_weights, read_weights

_HEADS = re.compile(r"(attention\.(\w+\.)?classifier|bag|head(\.2)?)\.(weight|bias)$")
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
DEEPGANET = KeyTable(
    _trunk("patch_com", "branch.trunk") | {"fc.": "hidden.", "bag_classifier.": "attention.classifier."},
    re.compile(r"(attention|attention_patch_com)\."),
)
_PHASES = ("in", "adc", "b500", "ap", "pvp", "dp", "t1", "t2")  # names left over from other data; in order
DAMIDL = KeyTable(
    {
        f"patch_net_{name}.{theirs}.": f"nets.{index}.{ours}."
        for index, name in enumerate(_PHASES)
        for theirs, ours in (
            ("features", "features"),
            ("spatial_attention.cs.0", "gate"),
            ("classify.0", "score"),
        )
    }
    | {"attention_net.Attn.": "tiles.layers.", "reduce_channels.": "reduce."}
    | {"attention_all.": "phases.", "fc.": "head."},
    re.compile(r"attention_net\.pearson_attn\."),
)
# Axes of DAMIDL's layers over tiles that number them.
_TILE_AXES = {
    "tiles.layers.0.weight": 1,
    "tiles.layers.2.weight": 0,
    "tiles.layers.2.bias": 0,
    "reduce.0.weight": 1,
}


def ours(state: Mapping[str, Tensor], table: KeyTable) -> dict[str, Tensor]:
    """Weights under our names, for our planes: those of the authors are translated, others stay."""
    if not table.fits(state):
        return dict(state)
    found = {}
    for key, value in table.translated(state).items():
        turned = value.transpose(3, 4).contiguous() if value.ndim == 5 else value
        found[key] = _renumbered(turned, _TILE_AXES[key]) if key in _TILE_AXES else turned
    return found


def _renumbered(value: Tensor, axis: int) -> Tensor:
    """With the tiles of a square grid counted along its other side."""
    edge = math.isqrt(value.shape[axis])
    return value.index_select(axis, torch.arange(edge**2).view(edge, edge).T.flatten())


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
