"""One training step, and the ways to compute it: precision and memory format.

The ways differ in speed and in rounding, and in nothing else: the same numbers go in, and the same formulas
come out. Which of them is right and fastest depends on the machine and the network; ``plan`` finds out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from foveate.contract import Classifier, ModelOutput, Views
from foveate.device import channels_last
from foveate.train.tuning.convolution import Convolution, RoutedConvolutions, Way


@dataclass(frozen=True, slots=True)
class Choice:
    """One way to compute a step.

    Attributes:
        half: bfloat16 where autocast allows it; weights and optimizer stay float32.
        channels_last: images and convolution kernels have channels last in memory.
    """

    half: bool = False
    channels_last: bool = True

    def words(self) -> str:
        """For a person."""
        precision = "bfloat16" if self.half else "float32"
        return f"{precision}, channels {'last' if self.channels_last else 'first'}"


class TrainingStep(nn.Module):
    """A model with its objective as one module, since devices wrap ``forward`` alone.

    Args:
        model: brought into the chosen form, in place.
        choice: how it is computed.
        device_type: of the device that it is computed on.
        ways: for convolutions that the library computes wrong in reduced precision.

    Attributes:
        in_bfloat16: whether steps are computed so; may be changed between two of them.
    """

    def __init__(
        self,
        model: Classifier,
        choice: Choice,
        device_type: str,
        ways: Mapping[Convolution, Way] | None = None,
    ) -> None:
        super().__init__()
        self.model = _in_form(model, choice)
        self.in_bfloat16 = choice.half
        self._channels_last = choice.channels_last
        self._device_type = device_type
        self._ways = dict(ways or {})

    def forward(self, views: Views, targets: Tensor, progress: float) -> dict[str, Tensor]:
        """The model's named loss terms for views ``(B, C, *space)``; logits enter them in float32."""
        with self._autocast():
            if not (self.in_bfloat16 and self._ways):
                return self._terms(views, targets, progress)
            with RoutedConvolutions(self._ways):
                return self._terms(views, targets, progress)

    def logits(self, views: Views) -> Tensor:
        """``(B, K)`` float32, for validation."""
        with self._autocast():
            output: ModelOutput = self.model(self._arranged(views))
            return output.logits.float()

    @contextmanager
    def noting(self, seen: dict[Convolution, int]) -> Iterator[None]:
        """Meanwhile, write down every convolution of ``forward`` and how often it is computed."""
        with RoutedConvolutions(self._ways) as routed:
            yield
        seen.update({shape: seen.get(shape, 0) + count for shape, count in routed.seen.items()})

    def _terms(self, views: Views, targets: Tensor, progress: float) -> dict[str, Tensor]:
        output: ModelOutput = self.model(self._arranged(views))
        return self.model.objective(replace(output, logits=output.logits.float()), targets, progress)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self._device_type, torch.bfloat16, enabled=self.in_bfloat16)

    def _arranged(self, views: Views) -> Views:
        """Views in the chosen memory format; the feed's have channels last."""
        if self._channels_last:
            return views
        return {name: view.contiguous() for name, view in views.items()}


def _in_form(model: Classifier, choice: Choice) -> Classifier:
    for parameter in model.parameters():
        form = channels_last if choice.channels_last else Tensor.contiguous
        parameter.data = form(parameter.data)
    return model
