"""A running mean of a network's weights over epochs.

The weights of one epoch wander about with the last few steps; their mean over some epochs generalizes as well
or better, and the validation figures that choose an epoch move less from one epoch to the next (Polyak and
Juditsky 1992, SIAM J. Control Optim. 30:838; Izmailov et al. 2018, UAI, arXiv 1803.05407; by epochs, latest
first: Kaddour 2022, arXiv 2209.14981). ``benchmarks/epochs.py`` shows what it is worth on small validation
parts.

# NOTE[DIFF] Izmailov et al. compute statistics of batch normalization anew for the mean weights. Here they
are averaged like the weights, as is usual for running means: another pass over the training cases would cost
a third of an epoch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

Weights = dict[str, Tensor]


def running_mean(
    mean: Mapping[str, Tensor], weights: Mapping[str, Tensor], epoch: int, decay: float
) -> Weights:
    """The mean after one more epoch.

    Args:
        mean: before it; empty before the first epoch.
        weights: of the epoch, as ``state_dict`` has them; numbers that are not floating-point are taken over.
        epoch: 1-based. The first ones all count the same, until one of them is ``1 - decay`` of the mean.
        decay: share of the mean that stays; at 0 the mean is the weights.

    Returns:
        Copies, on the device of ``weights``.
    """
    share = max(1 / epoch, 1 - decay)
    return {
        name: torch.lerp(mean[name].to(value.device), value, share)
        if value.is_floating_point() and name in mean
        else value.detach().clone()
        for name, value in weights.items()
    }


@contextmanager
def in_place(model: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[Weights]:
    """Let a model have other weights for a while; gives its own."""
    own = {name: value.detach().clone() for name, value in model.state_dict().items()}
    model.load_state_dict(weights)
    try:
        yield own
    finally:
        model.load_state_dict(own)
