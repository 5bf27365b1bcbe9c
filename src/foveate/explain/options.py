"""What an explainer is, and the choices that can be made about one and about its measurement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, get_args

from jaxtyping import Float
from torch import Tensor

from foveate.contract import Classifier, Views
from foveate.errors import UsageError
from foveate.study.methods import Baseline, Rule, Score

Precision = Literal["auto", "float32"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainOptions:
    """Choices of all explainers; each reads its own.

    Attributes:
        batch_size: images that go through the model at once, be they cases, steps, noisy copies or
            occluded copies; bounds the memory and changes no map.
        feature: key of ``ModelOutput.features`` that CAM methods use instead of the model's own choice.
        score: what gradients, integrated gradients, SmoothGrad and occlusion explain: the class's ``logit``,
            or its probability by ``softmax`` (all classes compete) or ``sigmoid`` (each finding on its own).
            Where the model is sure, a probability is flat, and its maps fade.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class FaithfulnessOptions:
    """Choices of the measurement.

    Attributes:
        score: of the target: its probability by ``softmax`` or ``sigmoid``, or its ``logit``. Sensitivity-n
            takes the logit in any case, as the maps explain it.
        blocks: squares along the longest side of each view; the other sides get squares of about that size.
        baselines: what takes the place of squares in deletion and insertion, see ``ExplainOptions``.
        fractions: shares of the squares removed (deletion) or shown (insertion), besides 0 and 1.
        road_fractions: shares of the squares removed by ROAD.
        road_noise: standard deviation of ROAD's noise, in normalized pixels.
        subset_fractions: sizes of the random sets of sensitivity-n, as shares of the squares.
        subsets: random sets of each size; 0 leaves sensitivity-n out.
        least_rise: deletion and insertion are undefined for a case whose whole image scores less than this
            above the baseline: there is nothing to lose, and the curves are measured in units of that rise.
        precision: ``auto``: bfloat16 where the machine computes in it and a sample of the answers agrees with
            float32, else float32.
        batch_size: images that go through the model at once.
    """

    score: Score = "softmax"
    blocks: int = 14
    baselines: tuple[Baseline, ...] = ("blur", "mean")
    fractions: tuple[float, ...] = (0.1, 0.2, 0.4, 0.7)
    road_fractions: tuple[float, ...] = (0.1, 0.3, 0.6)
    road_noise: float = 0.01
    subset_fractions: tuple[float, ...] = (0.1, 0.5)
    subsets: int = 16
    least_rise: float = 0.1
    precision: Precision = "auto"
    batch_size: int = 16

    def __post_init__(self) -> None:
        for name, least in (("blocks", 2), ("subsets", 0), ("batch_size", 1)):
            if (value := getattr(self, name)) < least:
                raise UsageError(f"{name} must be at least {least}, got {value}")
        for name in ("fractions", "road_fractions", "subset_fractions"):
            shares = getattr(self, name)
            if not all(0 < share < 1 for share in shares) or list(shares) != sorted(set(shares)):
                raise UsageError(f"{name} must ascend between 0 and 1, got {shares}")
        for name in ("road_noise", "least_rise"):
            if not 0 <= (value := getattr(self, name)) < float("inf"):
                raise UsageError(f"{name} must be 0 or more, got {value}")
        for name, value, known in (
            ("score", self.score, get_args(Score)),
            ("precision", self.precision, get_args(Precision)),
            *(("baseline", each, get_args(Baseline)) for each in self.baselines),
        ):
            if value not in known:
                raise UsageError(f"there is no {name} '{value}'", fix=f"choose from: {', '.join(known)}")

    def passes(self, maps: int) -> int:
        """Images that go through the model for each case when ``maps`` maps are measured at once."""
        of_orders = 2 * len(self.baselines) * len(self.fractions) + 2 * len(self.road_fractions)
        shared = 1 + len(self.baselines) + self.subsets * len(self.subset_fractions)
        return shared + (maps + 1) * of_orders


class Explainer(Protocol):
    """The inside of one explanation method; ``explain_batch`` is the door to it.

    It may count on what ``explain_batch`` sees to: the model is in evaluation mode, gradients can be
    taken, inputs are detached and have the model's dtype and device, and the targets exist.
    """

    def __call__(
        self, model: Classifier, views: Views, targets: Sequence[int], options: ExplainOptions, seed: int
    ) -> dict[str, Tensor]:
        """For each view ``(B, T, *space)``: raw signed values, one map per case and target."""


def as_score(logits: Float[Tensor, "B K"], options: ExplainOptions) -> Float[Tensor, "B K"]:
    """What ``options.score`` makes of logits."""
    if options.score == "softmax":
        return logits.softmax(dim=1)
    return logits.sigmoid() if options.score == "sigmoid" else logits
