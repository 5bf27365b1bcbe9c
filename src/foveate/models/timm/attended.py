"""Any timm backbone with an attention block on its last map, ahead of pooling: ``timm:<name>`` with options.

Blocks that change the map leave its channels as they are, so that timm's own head follows. Blocks that pool
positions by weights α do so by scaling the map with N α at its N positions: its average, which timm's head
takes, is then ``Σ α x``. Either way the logits depend on the map ``attended`` as they would on a plain
network's last map, and so do heat maps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from foveate.contract import Classifier, InputSpec, ModelOutput, Views
from foveate.errors import UsageError
from foveate.models.attention import InstancePooling
from foveate.models.options import call_with_options
from foveate.models.single_view import SingleViewClassifier
from foveate.models.timm.backbones import OutputStride, Rate, TimmClassifier, timm_classifier
from foveate.models.timm.placed import BLOCKS, Place, Placed
from foveate.models.timm.timm_trunk import weights_of

Attention = Literal[
    "none", "spatial", "channel", "dual", "se", "rca", "loss", "gated_mil", "query_key", "hadamard"
]


@dataclass(frozen=True, slots=True)
class AttendedOutput(ModelOutput):
    """What an attended backbone hands out besides logits, features and attention.

    Attributes:
        pooling: weights and logits of the positions, for the objective; None if it has no such block.
    """

    pooling: InstancePooling | None = None


class AttendedClassifier(SingleViewClassifier):
    """timm's network up to its last map → a block → timm's head.

    Hands out the features ``last`` and ``attended`` (the same map ahead of the block and after it) and, in
    evaluation mode, the weights.

    Args:
        plain: the network.
        block: on its last map.
    """

    def __init__(self, plain: TimmClassifier, block: Placed) -> None:
        spec = plain.input_spec
        super().__init__("attended backbone", plain.num_classes, spec, cam_feature="attended")
        self.plain = plain
        self.block = block

    @property
    def linear_head(self) -> nn.Linear | None:
        """The last layer if, by calculation, timm's head is it on the averaged map; else None."""
        return self.plain.linear_head

    def forward(self, views: Views) -> AttendedOutput:
        """Classify ``(B, C, H, W)``."""
        picture = self.only_view(views)
        grid, prefix = self.plain.layout.to_map(self.plain.net.forward_features(picture))
        found = self.block(grid, picture)
        return AttendedOutput(
            logits=self.plain.classify(found.grid, prefix),
            features={"last": grid, "attended": found.grid},
            attention=() if self.training else found.attention,
            pooling=found.pooling,
        )

    def objective(self, output: ModelOutput, targets: Tensor, progress: float) -> dict[str, Tensor]:
        """The classification loss, and with loss-based attention the weighted loss of the positions."""
        assert isinstance(output, AttendedOutput)
        loss = self.criterion(output.logits, targets)
        if not self.block.instance_weight or output.pooling is None or output.pooling.logits is None:
            return {"classification": loss, "total": loss}
        instances = instance_loss(output.pooling.logits, output.pooling.weights, targets)
        instances = self.block.instance_weight * instances
        return {"classification": loss, "instances": instances, "total": loss + instances}


def instance_loss(
    logits: Float[Tensor, "B N K"], weights: Float[Tensor, "B N"], targets: Tensor
) -> Float[Tensor, ""]:
    """``mean_b Σ_n α_n ℓ(z_n, y)``: each instance has the label of its bag, and counts by its weight.

    ℓ is the cross-entropy of class indices ``(B,)``, or the mean binary one over the known entries of targets
    ``(B, K)`` (Shi et al., AAAI 2020, the second term of the loss). Nothing is detached: the term
    trains the weights too.
    """
    wide = logits.float()
    if targets.is_floating_point():
        known = ~targets.isnan()
        truth = torch.where(known, targets, 0).float()[:, None].expand_as(wide)
        each = functional.binary_cross_entropy_with_logits(wide, truth, reduction="none")
        losses = (each * known[:, None]).sum(dim=2) / known.sum(dim=1).clamp(min=1)[:, None]
    else:
        losses = functional.cross_entropy(wide.mT, targets[:, None].expand(wide.shape[:2]), reduction="none")
    return (weights.float() * losses).sum(dim=1).mean()


def attended_classifier(
    architecture: str,
    num_classes: int,
    spec: InputSpec,
    *,
    pretrained: bool | str = False,
    global_pool: str | None = None,
    drop_rate: Rate | None = None,
    drop_path_rate: Rate | None = None,
    output_stride: OutputStride | None = None,
    attention: Attention = "none",
    attention_options: dict[str, Any] | None = None,
) -> Classifier:
    """Build ``timm_classifier``, with an attention block on its last map if one is named.

    Args:
        architecture, num_classes, spec, global_pool, drop_rate, drop_path_rate, output_stride: as for
            ``timm_classifier``.
        pretrained: as there; with a partner (``hadamard``) of another architecture, as for ``can``.
        attention: the block; each name is a function of ``foveate.models.timm.placed``, whose keyword
            arguments are its options.
        attention_options: of the block.

    Raises:
        UsageError: as ``timm_classifier``; an option that the block does not take; or a block that cannot be
            placed on this network.
    """
    partner = (attention_options or {}).get("partner")
    alone = not isinstance(partner, str) or partner == architecture
    plain = timm_classifier(
        architecture,
        num_classes,
        spec,
        pretrained=weights_of(pretrained, architecture, alone=alone) if partner else pretrained,
        global_pool=global_pool,
        drop_rate=drop_rate,
        drop_path_rate=drop_path_rate,
        output_stride=output_stride,
    )
    where = "model: options: attention_options"
    if attention == "none":
        if attention_options:
            raise UsageError("attention is none and has no options", where=where, fix="name an attention")
        return plain
    place = Place(architecture, plain, pretrained)
    block = call_with_options(
        BLOCKS[attention], (place,), attention_options or {}, name=f"attention: {attention}", where=where
    )
    return AttendedClassifier(plain, block)
