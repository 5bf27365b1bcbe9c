"""What an explainer is, and the choices that can be made about one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, get_args

from torch import Tensor

from foveate.contract import Classifier, Views
from foveate.errors import UsageError

Baseline = Literal["zero", "mean", "blur", "black", "random"]
Rule = Literal["midpoint", "gauss_legendre", "left"]
Score = Literal["logit", "softmax", "sigmoid"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainOptions:
    """Choices of all explainers; each reads its own.

    Attributes:
        batch_size: images that go through the model at once, be they cases, steps, noisy copies or
            occluded copies; bounds the memory and changes no map.
        feature: key of ``ModelOutput.features`` that CAM methods use instead of the model's own choice.
        score: what integrated gradients, SmoothGrad and occlusion explain: the class's ``logit``, or its
            probability by ``softmax`` (all classes compete) or ``sigmoid`` (each finding on its own). Where
            the model is sure, a probability is flat, and its maps fade.
        baseline: the image that says nothing, for integrated gradients and occlusion: ``zero`` (after
            normalization, so the mean of the training data), ``mean`` (each channel's own mean), ``blur``
            (the image blurred until only its broad shading is left), ``black``, or ``random`` (uniform
            noise from black to white in every pixel and channel; ``baselines`` of them, averaged over).
        baselines: how many of ``random``.
        black: for each view, what the darkest pixel becomes by normalization, one number per channel; of a
            view that is not named, each channel's own least value in the image.
        white: for each view, what the brightest pixel becomes, as ``black``.
        ig_steps: points on the path from the baseline to the image.
        ig_rule: where these points lie: in the middle of equal steps, at Gauss–Legendre nodes, or at the
            left end of equal steps (the rule of the cervical comparison's published code, the least exact).
        smoothgrad_samples: noisy copies.
        smoothgrad_noise: standard deviation of the noise, as a share of the image's own range.
        occlusion_window: side of the occluded window in model pixels, one for all axes or one each;
            None: an eighth of each side.
        occlusion_stride: step of the window; None: half the window.
    """

    batch_size: int = 8
    feature: str | None = None
    score: Score = "logit"
    baseline: Baseline = "zero"
    baselines: int = 10
    black: Mapping[str, Sequence[float]] = field(default_factory=dict)
    white: Mapping[str, Sequence[float]] = field(default_factory=dict)
    ig_steps: int = 50
    ig_rule: Rule = "midpoint"
    smoothgrad_samples: int = 16
    smoothgrad_noise: float = 0.1
    occlusion_window: int | tuple[int, ...] | None = None
    occlusion_stride: int | tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("baselines", 1), ("ig_steps", 2), ("smoothgrad_samples", 1)):
            if (value := getattr(self, name)) < least:
                raise UsageError(f"{name} must be at least {least}, got {value}")
        if not 0 <= self.smoothgrad_noise < float("inf"):
            raise UsageError(f"smoothgrad_noise must be 0 or more, got {self.smoothgrad_noise}")
        for name, known in (("baseline", Baseline), ("ig_rule", Rule), ("score", Score)):
            if (value := getattr(self, name)) not in get_args(known):
                fix = f"choose from: {', '.join(get_args(known))}"
                raise UsageError(f"there is no {name} '{value}'", fix=fix)


class Explainer(Protocol):
    """The inside of one explanation method; ``explain_batch`` is the door to it.

    It may count on what ``explain_batch`` sees to: the model is in evaluation mode, gradients can be
    taken, inputs are detached and have the model's dtype and device, and the targets exist.
    """

    def __call__(
        self, model: Classifier, views: Views, targets: Sequence[int], options: ExplainOptions, seed: int
    ) -> dict[str, Tensor]:
        """For each view ``(B, T, *space)``: raw signed values, one map per case and target."""
