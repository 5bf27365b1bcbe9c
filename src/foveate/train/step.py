"""One training step, and the ways to compute it: precision, memory format, gradients, compiled or not.

The ways differ in speed and in rounding, and in nothing else: the same numbers go in, and the same formulas
come out. Which of them is fastest depends on the machine and the network; ``plan`` measures it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from foveate.contract import Classifier, ModelOutput, Views
from foveate.precision import channels_last, native_bf16
from foveate.train.convolution import with_matmul_gradients
from foveate.train.study import TrainConfig


@dataclass(frozen=True, slots=True)
class Choice:
    """One way to compute a step.

    Attributes:
        half: bfloat16 where autocast allows it; weights and optimizer stay float32.
        channels_last: images and convolution kernels have channels last in memory.
        matmul_gradients: gradients of small convolutions' kernels are matrix products, see ``convolution``.
        compiled: by ``torch.compile``.
    """

    half: bool = False
    channels_last: bool = True
    matmul_gradients: bool = False
    compiled: bool = False

    def words(self) -> str:
        """For a person."""
        named = {
            "bfloat16" if self.half else "float32": True,
            "channels last" if self.channels_last else "channels first": True,
            "kernel gradients by matrix product": self.matmul_gradients,
            "compiled": self.compiled,
        }
        return ", ".join(name for name, holds in named.items() if holds)

    def as_dict(self) -> dict[str, bool]:
        """For JSON."""
        return asdict(self)


def safe_choice(config: TrainConfig, device_type: str) -> Choice:
    """What is right on every machine without measuring: bfloat16 if native or asked for, channels last."""
    half = config.precision == "bf16" or (config.precision == "auto" and native_bf16(device_type))
    return Choice(half=half)


def can_compile(device_type: str) -> bool:
    """Whether ``torch.compile`` has what it needs: a C++ compiler, or Triton on a GPU."""
    if device_type == "cuda":
        from torch.utils._triton import has_triton

        return bool(has_triton())
    return device_type == "cpu" and any(map(shutil.which, ("g++", "clang++", "c++")))


class TrainingStep(nn.Module):
    """A model with its objective as one module, since devices wrap ``forward`` alone.

    Args:
        model: brought into the chosen form, in place.
        choice: how it is computed.
        device_type: of the device that it is computed on.
    """

    def __init__(self, model: Classifier, choice: Choice, device_type: str) -> None:
        super().__init__()
        self.model = _in_form(model, choice)
        self._choice = choice
        self._device_type = device_type
        self._compiled = _compile(model) if choice.compiled else None

    def forward(self, views: Views, targets: Tensor, progress: float) -> dict[str, Tensor]:
        """The model's named loss terms for views ``(B, C, *space)``; logits enter them in float32."""
        with self._autocast():
            output: ModelOutput = (self._compiled or self.model)(self._arranged(views))
            return self.model.objective(replace(output, logits=output.logits.float()), targets, progress)

    def logits(self, views: Views) -> Tensor:
        """``(B, K)`` float32, for validation; not compiled, since validation has shapes of its own."""
        with self._autocast():
            output: ModelOutput = self.model(self._arranged(views))
            return output.logits.float()

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self._device_type, torch.bfloat16, enabled=self._choice.half)

    def _arranged(self, views: Views) -> Views:
        """Views in the chosen memory format; the feed's have channels last."""
        if self._choice.channels_last:
            return views
        return {name: view.contiguous() for name, view in views.items()}


def _in_form(model: Classifier, choice: Choice) -> Classifier:
    for parameter in model.parameters():
        form = channels_last if choice.channels_last else Tensor.contiguous
        parameter.data = form(parameter.data)
    if choice.matmul_gradients:
        with_matmul_gradients(model)
    return model


def _compile(model: Classifier) -> Callable[[Views], ModelOutput]:
    """Each shape compiled for itself: what a shape gives must not depend on what came before it.

    An epoch has batches of two lengths, so that this costs two compilations; an interrupted training could
    not go on bit for bit otherwise.
    """
    compiled: Any = torch.compile(model, dynamic=False)
    return cast(Callable[[Views], ModelOutput], compiled.forward)
