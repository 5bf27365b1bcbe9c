"""What every model promises to the stations around it: what it eats, what it hands out, what it minimises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike
from torch import Tensor, nn

from foveate.types import Task

Views = Mapping[str, Float[Tensor, "B C *space"]]
Criterion = Callable[[Float[Tensor, "B K"], Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class InputSpec:
    """What a model eats.

    A batch holds every view. A view that a case lacks is a row of NaN (as NaN is "unknown" among the
    targets), which ``given`` turns into zeros and a flag; models that cannot do without one say so.

    Attributes:
        views: names of its inputs, in order.
        dimensions: ``"2"`` a plane, ``"2.5"`` a slice with its neighbours as channels, ``"3"`` a volume.
        size: spatial size in array order, ``(H, W)`` or ``(D, H, W)``.
        channels: channels per view: 3 for pictures (neighbours as channels for ``"2.5"``), 1 for volumes.
    """

    views: tuple[str, ...] = ("image",)
    dimensions: Literal["2", "2.5", "3"] = "2"
    size: tuple[int, ...] = (224, 224)
    channels: int = 3


def given(view: Float[Tensor, "B C *space"]) -> tuple[Float[Tensor, "B C *space"], Bool[Tensor, "B"]]:
    """Tell the cases that have a view from those that lack it.

    Args:
        view: a batch in which a case without this view is a row of NaN.

    Returns:
        The batch with zeros in place of such rows, and ``(B,)`` whether each case has the view.
    """
    there = has_view(view)
    shape = (-1,) + (1,) * (view.ndim - 1)
    return torch.where(there.view(shape), view, torch.zeros((), dtype=view.dtype, device=view.device)), there


def has_view(view: Float[Tensor, "B C *space"]) -> Bool[Tensor, "B"]:
    """Which cases of a batch have a view: rows are NaN throughout or, as readers see to it, nowhere."""
    return ~view.flatten(1)[:, 0].isnan()


@dataclass(frozen=True, slots=True)
class AttentionMap:
    """Attention weights that a model computed on its way.

    Attributes:
        name: the block's name in the paper, such as ``spatial_attention``.
        weights: ``(B, ...)`` tensor.
        normalized_over: axes over which the weights sum to one, or None if they need not.
    """

    name: str
    weights: Tensor
    normalized_over: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class ModelOutput:
    """What a model hands out.

    Attributes:
        logits: ``(B, K)`` scores before softmax or sigmoid.
        features: named spatial maps ``(B, C, h, w)`` or ``(B, C, d, h, w)``, still in the graph, on the
            way to the logits; explainers use these and never walk modules.
        attention: the model's own attention, if it has any.
    """

    logits: Float[Tensor, "B K"]
    features: Mapping[str, Tensor] = field(default_factory=dict)
    attention: tuple[AttentionMap, ...] = ()


class Classifier(nn.Module, ABC):
    """Base of every model in the ``MODELS`` table.

    Attributes:
        input_spec: what it eats.
        num_classes: K.
        cam_feature: for each view, the key in ``ModelOutput.features`` that CAM methods use by default.
        criterion: the classification loss, set by the trainer (class weights, focal, …); takes
            ``(logits (B, K), targets)`` where targets are ``(B,)`` class indices (multi-class) or
            ``(B, K)`` of 1, 0, NaN = unknown (multi-label).
        tolerates_missing: whether a case may lack views (rows of NaN, see ``given``), as long as it has
            one.
    """

    input_spec: InputSpec
    num_classes: int
    cam_feature: Mapping[str, str]
    criterion: Criterion
    tolerates_missing: bool = False

    @property
    def linear_head(self) -> nn.Linear | None:
        """The last layer, if the logits are it on the global average of the cam feature; else None.

        Then Grad-CAM is the analytic CAM and needs no gradient. A property to override: a plain attribute
        of this class would hide the submodule, and a second name would register the layer twice.
        """
        return None

    @abstractmethod
    def forward(self, views: Views) -> ModelOutput:
        """Classify a batch: each view ``(B, C, *space)`` → ``ModelOutput`` with logits ``(B, K)``."""

    def objective(self, output: ModelOutput, targets: Tensor, progress: float) -> dict[str, Tensor]:
        """Named loss terms with their sum under ``total``.

        Args:
            output: of ``forward`` in training mode.
            targets: as ``criterion`` takes them.
            progress: share of training done, in [0, 1].
        """
        loss = self.criterion(output.logits, targets)
        return {"classification": loss, "total": loss}

    def learn_counts(self, task: Task, counts: ArrayLike) -> None:
        """Hear, once ``criterion`` is set and ahead of training, how common each class is.

        For objectives that weigh classes themselves; does nothing here.

        Args:
            task: multi-class or multi-label.
            counts: training cases of each class ``(K,)``; for multi-label ``(K, 2)``, those known to lack
                and to have a finding.
        """

    def parameter_groups(self, lr: float, weight_decay: float) -> list[dict[str, object]]:
        """Optimiser groups; models whose paper trains new layers faster override this."""
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return [{"params": trained, "lr": lr, "weight_decay": weight_decay}]
