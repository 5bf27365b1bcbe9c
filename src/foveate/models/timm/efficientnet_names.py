"""Weights under the names of EfficientNet-PyTorch become weights under timm's names.

EfficientNet-PyTorch (Melas-Kyriazi, Apache-2.0), from which other collections of such weights descend, counts
all blocks in one row; timm counts them by stage. A stage is known by the number of channels that its blocks
put out, which no two stages in a row share.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

_STEM = "_conv_stem.weight"
_OUTSIDE = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_SQUEEZE = {"_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand"}
_FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"} | _SQUEEZE
_EXPANDED = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
} | _SQUEEZE
"""Parts of a block that does not, and that does, widen its input first."""


def as_timm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict under timm's names; one that is not of EfficientNet-PyTorch stays as it is."""
    if _STEM not in state:
        return dict(state)
    places = _places(state)
    return {_renamed(key, state, places): value for key, value in state.items()}


def _places(state: Mapping[str, Tensor]) -> dict[str, str]:
    """``blocks.<stage>.<number>`` of every block by its number in the one row."""
    widths: dict[int, int] = {}
    for key, value in state.items():
        if key.endswith("._project_conv.weight"):
            widths[int(key.split(".")[1])] = len(value)
    places, stage, number, last = {}, -1, 0, None
    for block in sorted(widths):
        stage, number = (stage, number + 1) if widths[block] == last else (stage + 1, 0)
        last = widths[block]
        places[str(block)] = f"blocks.{stage}.{number}"
    return places


def _renamed(key: str, state: Mapping[str, Tensor], places: Mapping[str, str]) -> str:
    part, _, rest = key.partition(".")
    if part != "_blocks":
        return f"{_OUTSIDE.get(part, part)}.{rest}"
    block, part, rest = rest.split(".", 2)
    names = _EXPANDED if f"_blocks.{block}._expand_conv.weight" in state else _FIRST
    return f"{places.get(block, block)}.{names.get(part, part)}.{rest}"
