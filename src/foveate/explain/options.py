"""What an explainer is, and the choices that can be made about one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

from torch import Tensor

from foveate.contract import Classifier, Views
from foveate.errors import UsageError

Baseline = Literal["zero", "mean", "blur"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainOptions:
    """Choices of all explainers; each reads its own.

    Attributes:
        batch_size: images that go through the model at once, be they cases, steps, noisy copies or
            occluded copies; bounds the memory and changes no map.
        feature: key of ``ModelOutput.features`` that CAM methods use instead of the model's own choice.
        baseline: the image that says nothing, for integrated gradients and occlusion: ``zero`` (after
            normalization, so the mean of the training data), ``mean`` (each channel's own mean), or
            ``blur`` (the image blurred until only its broad shading is left).
        ig_steps: points on the path from the baseline to the image.
        smoothgrad_samples: noisy copies.
        smoothgrad_noise: standard deviation of the noise, as a share of the image's own range.
        occlusion_window: side of the occluded window in model pixels, one for all axes or one each;
            None: an eighth of each side.
        occlusion_stride: step of the window; None: half the window.
    """

    batch_size: int = 8
    feature: str | None = None
    baseline: Baseline = "zero"
    ig_steps: int = 32
    smoothgrad_samples: int = 16
    smoothgrad_noise: float = 0.1
    occlusion_window: int | tuple[int, ...] | None = None
    occlusion_stride: int | tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("batch_size", "ig_steps", "smoothgrad_samples"):
            if (value := getattr(self, name)) < 1:
                raise UsageError(f"{name} must be at least 1, got {value}")
        if not 0 <= self.smoothgrad_noise < float("inf"):
            raise UsageError(f"smoothgrad_noise must be 0 or more, got {self.smoothgrad_noise}")
        if self.baseline not in get_args(Baseline):
            names = ", ".join(get_args(Baseline))
            raise UsageError(f"there is no baseline '{self.baseline}'", fix=f"choose from: {names}")


class Explainer(Protocol):
    """The inside of one explanation method; ``explain_batch`` is the door to it.

    It may count on what ``explain_batch`` sees to: the model is in evaluation mode, gradients can be
    taken, inputs are detached and have the model's dtype and device, and the targets exist.
    """

    def __call__(
        self, model: Classifier, views: Views, targets: Sequence[int], options: ExplainOptions, seed: int
    ) -> dict[str, Tensor]:
        """For each view ``(B, T, *space)``: raw signed values, one map per case and target."""
