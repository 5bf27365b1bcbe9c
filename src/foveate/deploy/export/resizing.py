"""The resize of preprocessing as two or three matrix products, for graphs that take images of any size.

Engines disagree on resizing (OpenVINO's ignores ONNX's ``antialias``), but not on products. The matrices are
made of whole numbers from the sizes, so that no precision of an engine can shift a pixel: for ``have`` pixels
that become ``want``, pixel ``i`` of the result lies at ``(2i + 1) · have`` and pixel ``j`` at
``(2j + 1) · want``, both in units of ``1 / (2 · have · want)`` of the field.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import SymInt, Tensor

from foveate.prepare.geometry import How, padded_sides

Side = int | SymInt  # a number of pixels, which is not known while a graph is made


def resized(
    values: Float[Tensor, "B C *space"], size: Sequence[int], *, how: How = "linear", keep_aspect: bool = True
) -> Float[Tensor, "B C *size"]:
    """``resample.to_field`` of whole images, without ever making the padded image.

    Args:
        values: images or volumes of any size.
        size: ``(h, w)`` or ``(d, h, w)``.
        how: as for ``resample.resize``.
        keep_aspect: pad with zeros within the planes to the aspect of ``size``.
    """
    height, width = values.shape[-2:]
    tall, wide = height, width
    if keep_aspect:
        tall, wide = padded_sides(height, width, size[-2], size[-1], larger=torch.sym_max)
    rows = _matrix(height, tall, size[-2], how, values)
    columns = _matrix(width, wide, size[-1], how, values)
    seen = rows @ values @ columns.T
    if len(size) == 3:
        slices = _matrix(values.shape[2], values.shape[2], size[0], how, values)
        columns = slices @ seen.flatten(3)
        seen = columns.reshape(*columns.shape[:3], *size[-2:])
    return seen


def _matrix(have: Side, padded: Side, want: int, how: How, like: Tensor) -> Float[Tensor, "want have"]:
    """Weights of each of ``have`` pixels, which lie in the middle of ``padded``, in each of ``want``."""
    ends = torch.arange(want, device=like.device)[:, None], torch.arange(padded, device=like.device)[None]
    weights = _triangles(*ends, padded, want) if how == "linear" else _areas(*ends, padded, want)
    inside = weights.narrow(1, (padded - have) // 2, have)
    return inside.to(like.dtype) / weights.sum(dim=1, keepdim=True).to(like.dtype)


def _triangles(i: Tensor, j: Tensor, have: Side, want: int) -> Tensor:
    """Linear interpolation, with antialiasing on the way down: triangles as wide as the coarser pixels."""
    reach = 2 * torch.sym_max(have, want)
    distance: Tensor = ((2 * j + 1) * want - (2 * i + 1) * have).abs()
    return torch.clamp(-distance + reach, min=0)


def _areas(i: Tensor, j: Tensor, have: Side, want: int) -> Tensor:
    """Adaptive average: 1 for each pixel that reaches into the block, from its floor to its ceiling."""
    first, last = i * have // want, ((i + 1) * have + want - 1) // want
    return ((j >= first) & (j < last)).to(torch.int64)
