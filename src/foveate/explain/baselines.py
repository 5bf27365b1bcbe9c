"""Pictures that say nothing, from which a path to the image starts and with which parts of it are covered."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from foveate.explain.options import ExplainOptions

_BLUR = 0.1  # standard deviation of the blurred baseline, as a share of each side


def baselines_of(
    x: Float[Tensor, "B C *space"], view: str, options: ExplainOptions, seed: int
) -> list[Float[Tensor, "B C *space"]]:
    """The baselines that ``options.baseline`` names: one, or several that are averaged over.

    Args:
        x: one view of a batch, normalized; every case has it.
        view: its name, for what black and white are in it.
        options: ``baseline``, ``baselines``, ``black``, ``white``.
        seed: of ``random``. The noise depends on it and on the view's name, not on the case, so that cases
            can be compared.
    """
    if options.baseline == "zero":
        return [torch.zeros_like(x)]
    if options.baseline == "mean":
        return [x.mean(dim=_space(x), keepdim=True).expand(x.shape)]
    if options.baseline == "blur":
        return [_blurred(x)]
    black = _level(x, options.black.get(view), x.amin(dim=_space(x), keepdim=True))
    if options.baseline == "black":
        return [black.expand(x.shape)]
    white = _level(x, options.white.get(view), x.amax(dim=_space(x), keepdim=True))
    draw = torch.Generator().manual_seed(seed + zlib.crc32(view.encode()))  # on the CPU: the same everywhere
    noise = [torch.rand(x.shape[1:], generator=draw).to(x) for _ in range(options.baselines)]
    return [(black + (white - black) * each).expand(x.shape) for each in noise]


def _space(x: Tensor) -> tuple[int, ...]:
    return tuple(range(2, x.ndim))


def _level(x: Tensor, stated: Sequence[float] | None, own: Tensor) -> Tensor:
    """A value for each channel: as stated, or else the image's own."""
    return own if stated is None else x.new_tensor(stated).view(1, -1, *[1] * (x.ndim - 2))


def _blurred(x: Float[Tensor, "B C *space"]) -> Float[Tensor, "B C *space"]:
    """Gaussian blur along each axis in turn, cut off after four standard deviations; edges are held."""
    for axis in range(2, x.ndim):
        width = _BLUR * x.shape[axis]
        reach = int(4 * width + 0.5)
        place = torch.arange(-reach, reach + 1, dtype=x.dtype, device=x.device)
        weights = torch.exp(-0.5 * (place / width) ** 2)
        lines = x.movedim(axis, -1)
        held = functional.pad(lines.reshape(-1, 1, lines.shape[-1]), (reach, reach), mode="replicate")
        blurred = functional.conv1d(held, (weights / weights.sum())[None, None])
        x = blurred.reshape(lines.shape).movedim(-1, axis)
    return x
