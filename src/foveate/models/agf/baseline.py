"""Late fusion: one timm encoder per view, pooled features joined, one linear layer.

The plain baseline of several views that every way of attention between views has to beat; with one view it
is the encoder with a linear head.
"""

from __future__ import annotations

from typing import Literal, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from foveate.contract import InputSpec, ModelOutput, Views
from foveate.errors import UsageError
from foveate.models.agf.stages import where_there
from foveate.models.several_views import SeveralViewsClassifier
from foveate.models.timm.backbones import TimmClassifier, timm_classifier

Fusion = Literal["concat", "mean"]
Missing = Literal["allow", "refuse"]


class LateFusion(SeveralViewsClassifier):
    """Encoders → pooling as the encoder's own head has it → concatenation or mean → one linear layer.

    ``features`` are the encoders' last maps under the names of the views. Where a case lacks a view,
    concatenation puts a learned vector in place of its pooled features (it starts at 0 and learns from cases
    that lack the view), and the mean is over the views that are there. In training, missing views enter no
    batch norm.

    Args:
        name: for errors.
        num_classes: K.
        spec: one or more views.
        encoders: one per view, or one for all; their last layers are taken off.
        fusion: of the pooled features.
        missing: whether cases may lack views; with ``refuse`` there are no vectors for it.

    Raises:
        UsageError: an encoder does not end in one linear layer.
    """

    def __init__(
        self,
        name: str,
        num_classes: int,
        spec: InputSpec,
        encoders: list[TimmClassifier],
        *,
        fusion: Fusion = "concat",
        missing: Missing = "allow",
    ) -> None:
        several = len(spec.views) > 1
        super().__init__(
            name,
            num_classes,
            spec,
            cam_feature={view: view for view in spec.views},
            dimensions=("2", "2.5"),
            tolerates_missing=several and missing == "allow",
        )
        self._averages = all(encoder.linear_head is not None for encoder in encoders)
        widths = [_take_head_off(name, encoder) for encoder in encoders]
        self.encoders = nn.ModuleList(encoders)
        self.fusion = fusion
        self.head = nn.Linear(widths[0] * (len(spec.views) if fusion == "concat" else 1), num_classes)
        stands_in = self.tolerates_missing and fusion == "concat"
        self.stand_in = nn.Parameter(torch.zeros(len(spec.views), widths[0])) if stands_in else None

    @property
    def linear_head(self) -> nn.Linear | None:
        """The head, if there is one view and its encoder only averages its map."""
        return self.head if len(self.input_spec.views) == 1 and self._averages else None

    def forward(self, views: Views) -> ModelOutput:
        """Classify views ``(B, C, H, W)``."""
        pictures, present = self.pick(views)
        return self.fuse(pictures, present)

    def fuse(self, pictures: dict[str, Tensor], present: Bool[Tensor, "B V"]) -> ModelOutput:
        """Classify pictures by view; those that are not present may hold anything finite."""
        trained = self.training and not bool(present.all())
        maps, pooled = {}, []
        for i, (view, picture) in enumerate(pictures.items()):
            encoder = cast(TimmClassifier, self.encoders[i % len(self.encoders)])
            there = present[:, i] if trained else None
            raw = where_there(encoder.net.forward_features, encoder, picture, there)
            maps[view], prefix = encoder.layout.to_map(raw)
            pooled.append(encoder.classify(maps[view], prefix))
        return ModelOutput(self.head(self._join(torch.stack(pooled, dim=1), present)), features=maps)

    def _join(self, pooled: Float[Tensor, "B V D"], present: Bool[Tensor, "B V"]) -> Float[Tensor, "B E"]:
        there = present[:, :, None]
        if self.fusion == "mean":
            return torch.where(there, pooled, 0).sum(dim=1) / there.sum(dim=1)
        if self.stand_in is not None:
            pooled = torch.where(there, pooled, self.stand_in.to(pooled.dtype))
        return pooled.flatten(1)


def late_fusion(
    num_classes: int,
    spec: InputSpec,
    *,
    pretrained: bool | str = False,
    encoder: str = "resnet18",
    shared: bool = False,
    fusion: Fusion = "concat",
    missing: Missing = "allow",
) -> LateFusion:
    """Join the pooled features of one encoder per view.

    Args:
        num_classes: K.
        spec: one or more views.
        pretrained: True downloads timm's weights of the encoder; a path names a file or folder of them.
        encoder: any timm architecture that ``timm:<name>`` takes.
        shared: one encoder for all views; each view is a batch of its own to its batch norms.
        fusion: ``concat``: a weight for each feature of each view; ``mean``: over the views that a case
            has, for views of one kind.
        missing: ``allow`` cases to lack views (never all), or ``refuse`` them.

    Raises:
        UsageError: timm has no such encoder, or it cannot do what is asked.
    """
    alone = InputSpec(spec.views[:1], spec.dimensions, spec.size, spec.channels)
    count = 1 if shared else len(spec.views)
    encoders = [timm_classifier(encoder, num_classes, alone, pretrained=pretrained) for _ in range(count)]
    return LateFusion(f"late_fusion ({encoder})", num_classes, spec, encoders, fusion=fusion, missing=missing)


def _take_head_off(name: str, encoder: TimmClassifier) -> int:
    """Leave an encoder that hands out pooled features; return how many."""
    last = encoder.net.get_classifier()
    if not isinstance(last, nn.Linear):
        raise UsageError(
            f"the encoder ends in a {type(last).__name__} and not in one linear layer",
            where=name,
            fix="choose another encoder, such as resnet18 or convnext_tiny",
        )
    encoder.net.reset_classifier(0)
    return last.in_features
