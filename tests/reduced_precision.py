"""Gradients in bfloat16 with the convolutions that this processor computes wrong computed otherwise."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from foveate.contract import Classifier
from foveate.train.tuning.convolution import Convolution, RoutedConvolutions, Way
from foveate.train.tuning.kernel_check import KernelCheck

Loss = Callable[[Classifier], Tensor]


def convolutions(model: Classifier, loss: Loss) -> list[Convolution]:
    """Every convolution of a step in bfloat16."""
    with torch.no_grad(), _autocast(), RoutedConvolutions({}) as routed:
        loss(copy.deepcopy(model))
    return list(routed.seen)


def checked_ways(kernels: KernelCheck, shapes: list[Convolution]) -> dict[Convolution, Way]:
    """How this processor computes them right."""
    return {shape: verdict.way for shape, verdict in kernels.verdicts(shapes).items()}


def gradient(model: Classifier, loss: Loss, ways: Mapping[Convolution, Way]) -> Tensor:
    """All of the gradient in bfloat16, in memory that held NaN before; the model itself learns nothing."""
    mine = copy.deepcopy(model)
    with _autocast(), RoutedConvolutions(ways):
        value = loss(mine)
    spoilt = [torch.full_like(item, torch.nan, dtype=torch.bfloat16) for item in mine.parameters()] * 2
    del spoilt
    value.backward()  # type: ignore[no-untyped-call]
    return torch.cat([item.grad.flatten() for item in mine.parameters() if item.grad is not None])


def _autocast() -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16)
