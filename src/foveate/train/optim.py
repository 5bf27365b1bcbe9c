"""Optimizer and learning rate, each a plain function of the study's choices."""

from __future__ import annotations

import math
from bisect import bisect_right
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, AdamW, Optimizer

from foveate.contract import Classifier
from foveate.study.study import TrainConfig

_FUSED_ON = ("cpu", "cuda")  # devices for which torch has both optimizers in one kernel


def make_optimizer(model: Classifier, config: TrainConfig, device: torch.device) -> Optimizer:
    """AdamW or SGD over the model's own parameter groups, fused where torch can.

    Args:
        model: says which parameters learn how fast.
        config: the study's choices.
        device: that the model lives on.
    """
    groups = model.parameter_groups(config.lr, config.weight_decay)
    fused = device.type in _FUSED_ON
    optimizer: Optimizer
    if config.optimizer == "adamw":
        kind = _AdamWInMemoryOrder if device.type == "cpu" else AdamW
        optimizer = kind(groups, lr=config.lr, weight_decay=config.weight_decay, fused=fused)
    else:
        optimizer = SGD(
            groups, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay, fused=fused
        )
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return optimizer


class _AdamWInMemoryOrder(AdamW):
    """AdamW that shows its kernel weights with channels last in the order of memory.

    On processors the fused kernel would copy them, their gradients and both moments there and back, which
    takes as long as the update. The update is elementwise: the numbers are the same.
    """

    def _init_group(self, group: Any, *lists: Any) -> Any:
        """Fill the lists: weights, gradients, two moments, and what is not used here."""
        has_complex = super()._init_group(group, *lists)  # type: ignore[no-untyped-call]
        orders = [_memory_order(weight) for weight in lists[0]]
        for tensors in lists[:4]:
            tensors[:] = [item.permute(order) for item, order in zip(tensors, orders, strict=True)]
        return has_complex


def _memory_order(weight: Tensor) -> list[int]:
    """Axes from the one with the longest stride to that with the shortest."""
    strides = weight.stride()
    return sorted(range(weight.ndim), key=lambda axis: -strides[axis])


def rate_factor(config: TrainConfig, step: int, steps_per_epoch: int) -> float:
    """Share of the highest learning rate at one step; a function of the step alone, so nothing to resume.

    Linear warm-up from one step's share to the whole, then: ``cosine`` half a wave down to zero at the
    end of training (Loshchilov and Hutter, ICLR 2017, eq. 5, without restarts), ``step`` multiplied by
    ``factor`` after each milestone, ``constant`` one.

    Args:
        config: the study's choices.
        step: counted from 0 over the whole training.
        steps_per_epoch: optimizer steps in one epoch.
    """
    total = config.epochs * steps_per_epoch
    warmup = round(config.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if config.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(total - warmup, 1)))
    if config.schedule == "step":
        return config.factor ** bisect_right(sorted(config.milestones), step // steps_per_epoch)
    return 1.0


def set_rate(optimizer: Optimizer, factor: float) -> float:
    """Give every group its share of its own highest rate; returns that of the first group."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor
    return float(optimizer.param_groups[0]["lr"])
