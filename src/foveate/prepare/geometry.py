"""The way back of an exported graph's maps to the pixels of the original image, in NumPy.

The same numbers as ``Preprocess.undo``: linear interpolation to the model's size, then to the padded image,
then the padding is cut off.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from foveate.study.settings import PreprocessConfig


def undo(values: NDArray[np.float32], shape: Sequence[int], config: PreprocessConfig) -> NDArray[np.float32]:
    """Bring a map back.

    Args:
        values: ``(h, w)`` or ``(d, h, w)`` over the field that the model saw.
        shape: of the original image, slice or volume.
        config: of the view; without a crop to the organ.

    Returns:
        ``shape``, float32.
    """
    gaps = padding(shape, config.size) if config.keep_aspect else (0,) * len(shape)
    seen = stretched(values, config.size)
    padded = stretched(seen, [side + gap for side, gap in zip(shape, gaps, strict=True)])
    inside = tuple(slice(gap // 2, gap // 2 + side) for side, gap in zip(shape, gaps, strict=True))
    return np.ascontiguousarray(padded[inside])


def padding(shape: Sequence[int], size: Sequence[int]) -> tuple[int, ...]:
    """Pixels that each axis lacks for the aspect of ``size``, as ``resample.border`` has them."""
    plane, wanted = shape[-2:], size[-2:]
    scale = max(have / want for have, want in zip(plane, wanted, strict=True))
    missing = [max(round(scale * want) - have, 0) for have, want in zip(plane, wanted, strict=True)]
    return (*(0 for _ in shape[:-2]), *missing)


def stretched(values: NDArray[np.float32], size: Sequence[int]) -> NDArray[np.float32]:
    """Linear interpolation between pixel centres, flat beyond the outermost; no antialiasing."""
    for axis, want in enumerate(size):
        have = values.shape[axis]
        at = np.clip((np.arange(want) + 0.5) * (have / want) - 0.5, 0, have - 1)
        below = np.floor(at).astype(np.intp)
        above = np.minimum(below + 1, have - 1)
        share = (at - below).astype(np.float32).reshape(-1, *[1] * (values.ndim - axis - 1))
        values = np.take(values, below, axis) * (1 - share) + np.take(values, above, axis) * share
    return values.astype(np.float32)
