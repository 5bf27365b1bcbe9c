"""Explaining leaves no trace: the model and the caller's torch modes are as before, whatever happens."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from foveate.contract import Classifier, Views


@contextmanager
def isolated(model: Classifier, views: Views) -> Iterator[tuple[Classifier, dict[str, Tensor]]]:
    """Make a model ready to be explained, and undo it afterwards.

    Inside, the model is in evaluation mode, gradients can be taken even if the caller has switched them
    off, and autocast is off. A half-precision model is explained by a float32 copy of itself.

    Args:
        model: its training flags are restored, module by module; nothing else of it changes.
        views: each ``(B, C, *space)``.

    Yields:
        The model to use, and the views detached, on its device and in its precision.
    """
    weight = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    half = weight.dtype in (torch.float16, torch.bfloat16)
    flags = [(module, module.training) for module in model.modules()]
    worker = copy.deepcopy(model).float() if half else model
    dtype = torch.float32 if half else weight.dtype
    try:
        worker.eval()
        # Switching inference mode off switches gradients on, also inside torch.no_grad().
        with torch.inference_mode(False), torch.autocast(weight.device.type, enabled=False):
            # A tensor made in inference mode can enter a graph only as a copy.
            yield worker, {name: x.detach().clone().to(weight.device, dtype) for name, x in views.items()}
    finally:
        for module, training in flags:
            module.training = training
