"""Weights of LCA-DB from a file: our own, or a checkpoint of the authors' public code (its names, ours)."""

from __future__ import annotations

import logging
import re

from torch import Tensor, nn

from foveate.models.weights import fitting, locate_weights, read_weights

logger = logging.getLogger(__name__)

# Prefixes of the public code's names; what follows them is the same in both.
AUTHORS_NAMES = {
    "conv1_compose.": "branches.image.trunk.stem.conv.",
    "bn1_compose.": "branches.image.trunk.stem.bn.",
    "layer1_compose.": "branches.image.trunk.stages.0.",
    "layer2_compose.": "branches.image.trunk.stages.1.",
    "layer3_compose.": "branches.image.trunk.stages.2.",
    "layer4_compose.": "branches.image.trunk.stages.3.",
    "conv5.": "branches.image.conv5.",
    "bn5.": "branches.image.bn5.",
    "conv6.": "branches.image.conv6.",
    "bn6.": "branches.image.bn6.",
    "conv1_patch_com.": "branches.patch.trunk.stem.conv.",
    "bn1_patch_com.": "branches.patch.trunk.stem.bn.",
    "layer1_patch_com.": "branches.patch.trunk.stages.0.",
    "layer2_patch_com.": "branches.patch.trunk.stages.1.",
    "layer3_patch_com.": "branches.patch.trunk.stages.2.",
    "layer4_patch_com.": "branches.patch.trunk.stages.3.",
    "linear1.": "attention.image.classifier.",
    "linear2.": "attention.patch.classifier.",
    "bag_classifier.": "bag.",
}
_HEADS = re.compile(r"^(attention\.\w+\.classifier|bag)\.")


def ours(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights under our names: the authors' are translated, others stay as they are."""
    bare = {key.removeprefix("module."): value for key, value in state.items()}
    return {_translated(key): value for key, value in bare.items()}


def load_weights(model: nn.Module, path: str) -> None:
    """Fill an LCA-DB from a file; classifiers of another number of classes are left as drawn, with a warning.

    Args:
        model: of the very options that the weights were trained with.
        path: as ``locate_weights`` takes it.

    Raises:
        UsageError: there is no such file, or its weights are of another network.
        InputRefused: the file is damaged.
    """
    state, own = ours(read_weights(locate_weights(path, []))), model.state_dict()
    other = [
        key
        for key in state
        if _HEADS.match(key) and key in own and state[key].shape[:1] != own[key].shape[:1]
    ]
    if other:
        logger.warning(
            "pretrained: %s: %s are of other classes, ours start at random", path, ", ".join(other)
        )
    with fitting(f"pretrained: {path}"):
        model.load_state_dict(state | {key: own[key] for key in other}, strict=True)


def _translated(key: str) -> str:
    for theirs, name in AUTHORS_NAMES.items():
        if key.startswith(theirs):
            return name + key.removeprefix(theirs)
    return key
