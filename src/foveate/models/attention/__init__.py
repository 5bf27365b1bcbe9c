"""Attention blocks, each on its own, and on any timm backbone from a study file: docs/attention.md.

* ``similarity``: ``SpatialAttention``, ``ChannelAttention``, ``DualAttention`` weigh positions, channels or
  both by how alike they are.
* ``gates``: ``SqueezeExcite`` and ``ResidualChannelAttention`` scale channels by gates from the pooled map.
* ``cross``: with ``QueryKeyAttention`` a map reads another (or itself) by queries and keys; in
  ``HadamardCross`` each of two maps is the other's mask.
* ``instances``: ``LossBasedAttention`` and ``GatedAttentionMIL`` pool instances by weights.
"""

from __future__ import annotations

from foveate.models.attention.cross import (
    HadamardCross,
    QueryKeyAttention,
    Transition,
    averaged_to_one_size,
)
from foveate.models.attention.gates import Residual, ResidualChannelAttention, SqueezeExcite
from foveate.models.attention.instances import (
    GatedAttentionMIL,
    InstancePooling,
    LossBasedAttention,
    Weighting,
)
from foveate.models.attention.similarity import (
    ChannelAttention,
    DualAttention,
    Fusion,
    Normalization,
    Reduce,
    SpatialAttention,
)

__all__ = [
    "ChannelAttention",
    "DualAttention",
    "Fusion",
    "GatedAttentionMIL",
    "HadamardCross",
    "InstancePooling",
    "LossBasedAttention",
    "Normalization",
    "QueryKeyAttention",
    "Reduce",
    "Residual",
    "ResidualChannelAttention",
    "SpatialAttention",
    "SqueezeExcite",
    "Transition",
    "Weighting",
    "averaged_to_one_size",
]
