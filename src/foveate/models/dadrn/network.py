"""DADRN: a dilated ResNet-50 with spatial and channel attention in parallel, and what it was compared with.

Weakly supervised localization and classification of liver lesions (ICIP 2019): five classes of CT slices,
each given with its two neighbours as channels, learned from image-level labels. Formulas and results are
those of the paper's slides; where these are silent, the option that decides says so.

No training settings are published. Ours for full width: cross-entropy; SGD, momentum 0.9, lr 1e-3 and ten
times that for new layers (``new_layers_lr_factor=10``), gradient clipped to norm 1, weight decay 1e-4, batch
16, 60 epochs with ×0.1 at 30 and 45, best validation mean class accuracy; rotation ±15°, translation 5 %,
scale 0.9–1.1, intensity ±5 %, no flips (the liver has a side).

Two things make that train. In ``variant="corrected"`` sigmoid weights average where the formulas sum: the
sums are hundreds of times the map that they are added to, and so is the gradient of β, so that the published
form diverges within two steps. And the head sees 2048 or 4096 averages that are never negative: at a rate of
1e-2 its steps overshoot many times over, which clipping prevents.
"""

from __future__ import annotations

from typing import Literal

import timm
from pydantic import PositiveFloat
from torch import Tensor, nn

from foveate.contract import AttentionMap, InputSpec, ModelOutput, Views
from foveate.errors import UsageError
from foveate.models.attention import DualAttention, Fusion, Normalization, Reduce
from foveate.models.dadrn.trunk import RESNET50_DEPTHS, Depths, FirstBlock, OutputStride, ResidualTrunk
from foveate.models.single_view import SingleViewClassifier
from foveate.models.weights import fetching, load_trunk, locate_weights, read_weights

Variant = Literal["paper", "corrected"]

# torchvision's first ImageNet weights, which the authors' backbone loads, and SE-ResNet-50's only ones.
_DOWNLOADS = {"resnet50": "resnet50.tv_in1k", "seresnet50": "seresnet50.ra2_in1k"}


class DilatedClassifier(SingleViewClassifier):
    """Residual trunk → attention, if any → global average pooling → one linear layer.

    Hands out the features ``group5`` (the trunk's map), ``spatial`` and ``channel`` (each path's map) and
    ``fused`` (what is pooled), and, in evaluation mode, the attention weights: during training they would
    stay in memory for nothing.

    Args:
        name: for errors.
        num_classes: K.
        spec: one view.
        trunk: with its weights.
        attention: between trunk and pooling.
        lr_factor: learning rate of all but the trunk, relative to the trunk's.
    """

    def __init__(
        self,
        name: str,
        num_classes: int,
        spec: InputSpec,
        trunk: ResidualTrunk,
        attention: DualAttention | None = None,
        *,
        lr_factor: float = 1.0,
    ) -> None:
        super().__init__(name, num_classes, spec, cam_feature="fused")
        self.trunk = trunk
        self.attention = attention
        self.head = nn.Linear(trunk.channels if attention is None else attention.channels, num_classes)
        self.lr_factor = lr_factor

    @property
    def linear_head(self) -> nn.Linear:
        """The head: it sees nothing but the average of ``fused``."""
        return self.head

    def forward(self, views: Views) -> ModelOutput:
        """Classify ``(B, C, H, W)``; at output stride 8 the maps are ``(B, D, H / 8, W / 8)``."""
        group5, gates = self.trunk(self.only_view(views))
        maps, fused = {}, group5
        weights = [AttentionMap(f"squeeze_excitation.{name}", gate) for name, gate in gates.items()]
        if self.attention is not None:
            fused, maps, weights = self.attention(group5)
        return ModelOutput(
            logits=self.head(fused.mean(dim=(2, 3))),
            features={"group5": group5, **maps, "fused": fused},
            attention=() if self.training else tuple(weights),
        )

    def parameter_groups(self, lr: float, weight_decay: float) -> list[dict[str, object]]:
        """The trunk at ``lr``; attention and head at ``lr_factor * lr``."""
        old = list(self.trunk.parameters())
        known = {id(parameter) for parameter in old}
        new = [parameter for parameter in self.parameters() if id(parameter) not in known]
        rates = ((old, lr), (new, lr * self.lr_factor))
        return [{"params": params, "lr": rate, "weight_decay": weight_decay} for params, rate in rates]


def drn50(
    num_classes: int,
    spec: InputSpec,
    *,
    pretrained: bool | str = False,
    width: PositiveFloat = 1.0,
    depths: Depths = RESNET50_DEPTHS,
    output_stride: OutputStride = 8,
    first_block: FirstBlock = "torchvision",
    new_layers_lr_factor: PositiveFloat = 1.0,
) -> DilatedClassifier:
    """Dilated ResNet-50 without attention (DRN-A-50).

    Args:
        num_classes: K.
        spec: one view.
        pretrained: True downloads torchvision's ImageNet weights through timm; a path names a ResNet-50
            file or folder of weights; False starts at random.
        width: multiplies every channel count.
        depths: blocks in each group.
        output_stride: input pixels per step of the heat map.
        first_block: dilation of the first block of a dilated group, see ``ResidualTrunk``.
        new_layers_lr_factor: learning rate of the head (and attention) relative to the trunk's; 10 suits
            a pretrained trunk, with ``train.grad_clip: 1``.
    """
    trunk = ResidualTrunk(spec.channels, width, depths, output_stride, first_block)
    _fill(trunk, "resnet50", pretrained)
    return DilatedClassifier("drn50", num_classes, spec, trunk, lr_factor=new_layers_lr_factor)


def sadrn50(
    num_classes: int,
    spec: InputSpec,
    *,
    pretrained: bool | str = False,
    normalization: Normalization = "sigmoid",
    variant: Variant = "corrected",
    width: PositiveFloat = 1.0,
    depths: Depths = RESNET50_DEPTHS,
    output_stride: OutputStride = 8,
    first_block: FirstBlock = "torchvision",
    new_layers_lr_factor: PositiveFloat = 1.0,
) -> DilatedClassifier:
    """``drn50`` with spatial attention; further arguments as there.

    Args:
        num_classes: K.
        spec: one view.
        pretrained: as for ``drn50``.
        normalization: ``sigmoid`` is the paper's SADRN50-A, ``softmax`` its SADRN50-B.
        variant: ``corrected`` averages with sigmoid weights where the paper sums, see ``SpatialAttention``.
        width, depths, output_stride, first_block, new_layers_lr_factor: as for ``drn50``.
    """
    trunk = ResidualTrunk(spec.channels, width, depths, output_stride, first_block)
    _fill(trunk, "resnet50", pretrained)
    attention = DualAttention(trunk.channels, spatial=normalization, mean=variant == "corrected")
    return DilatedClassifier("sadrn50", num_classes, spec, trunk, attention, lr_factor=new_layers_lr_factor)


def cadrn50(
    num_classes: int,
    spec: InputSpec,
    *,
    pretrained: bool | str = False,
    normalization: Normalization = "sigmoid",
    variant: Variant = "corrected",
    width: PositiveFloat = 1.0,
    depths: Depths = RESNET50_DEPTHS,
    output_stride: OutputStride = 8,
    first_block: FirstBlock = "torchvision",
    new_layers_lr_factor: PositiveFloat = 1.0,
) -> DilatedClassifier:
    """``drn50`` with channel attention; further arguments as there.

    Args:
        num_classes: K.
        spec: one view.
        pretrained: as for ``drn50``.
        normalization: ``sigmoid`` is the paper's CADRN50-A, ``softmax`` its CADRN50-B.
        variant: ``corrected`` divides the channels' Gram matrix by the number of positions and averages
            with sigmoid weights where the paper sums, see ``ChannelAttention``.
        width, depths, output_stride, first_block, new_layers_lr_factor: as for ``drn50``.
    """
    trunk = ResidualTrunk(spec.channels, width, depths, output_stride, first_block)
    _fill(trunk, "resnet50", pretrained)
    corrected = variant == "corrected"
    attention = DualAttention(trunk.channels, channel=normalization, mean_gram=corrected, mean=corrected)
    return DilatedClassifier("cadrn50", num_classes, spec, trunk, attention, lr_factor=new_layers_lr_factor)


def dadrn50(
    num_classes: int,
    spec: InputSpec,
    *,
    pretrained: bool | str = False,
    normalization: Normalization = "sigmoid",
    fusion: Fusion = "concat",
    reduce: Reduce = "none",
    variant: Variant = "corrected",
    width: PositiveFloat = 1.0,
    depths: Depths = RESNET50_DEPTHS,
    output_stride: OutputStride = 8,
    first_block: FirstBlock = "torchvision",
    new_layers_lr_factor: PositiveFloat = 1.0,
) -> DilatedClassifier:
    """``drn50`` with spatial and channel attention in parallel: the paper's system.

    Args:
        num_classes: K.
        spec: one view.
        pretrained: as for ``drn50``.
        normalization: of both blocks. The slides do not say which DADRN uses; sigmoid won in both
            single-block comparisons.
        fusion: ``sum`` is the paper's DADRN50-A, ``concat`` its DADRN50-B.
        reduce: see ``DualAttention``.
        variant: as for ``sadrn50`` and ``cadrn50``.
        width, depths, output_stride, first_block, new_layers_lr_factor: as for ``drn50``.

    Raises:
        UsageError: ``reduce="after"`` without a concatenation to reduce.
    """
    if reduce == "after" and fusion == "sum":
        raise UsageError("a sum of paths has nothing to reduce", fix="set fusion: concat, or reduce: none")
    trunk = ResidualTrunk(spec.channels, width, depths, output_stride, first_block)
    _fill(trunk, "resnet50", pretrained)
    attention = DualAttention(
        trunk.channels,
        spatial=normalization,
        channel=normalization,
        fusion=fusion,
        reduce=reduce,
        mean_gram=variant == "corrected",
        mean=variant == "corrected",
    )
    return DilatedClassifier("dadrn50", num_classes, spec, trunk, attention, lr_factor=new_layers_lr_factor)


def seresnet50(
    num_classes: int,
    spec: InputSpec,
    *,
    pretrained: bool | str = False,
    width: PositiveFloat = 1.0,
    depths: Depths = RESNET50_DEPTHS,
    output_stride: OutputStride = 32,
    new_layers_lr_factor: PositiveFloat = 1.0,
) -> DilatedClassifier:
    """SE-ResNet-50, a baseline of the paper: channel gates in every block, no dilation.

    Args:
        num_classes: K.
        spec: one view.
        pretrained: as for ``drn50``, with weights of timm's ``seresnet50``.
        width, depths, new_layers_lr_factor: as for ``drn50``.
        output_stride: 8 gives it the dilation of ``drn50`` and so heat maps as fine.
    """
    trunk = ResidualTrunk(spec.channels, width, depths, output_stride, squeeze_excite=True)
    _fill(trunk, "seresnet50", pretrained)
    return DilatedClassifier("seresnet50", num_classes, spec, trunk, lr_factor=new_layers_lr_factor)


def _fill(trunk: ResidualTrunk, architecture: str, pretrained: bool | str) -> None:
    """Load weights into a trunk: True by timm's download, text from a path, False not at all."""
    if pretrained is False:
        return
    if pretrained is True:
        where, state = f"pretrained: true ({_DOWNLOADS[architecture]})", _download(_DOWNLOADS[architecture])
    else:
        where = f"pretrained: {pretrained}"
        state = read_weights(locate_weights(pretrained, [architecture]))
    load_trunk(trunk, state, head=("fc.",), where=where)


def _download(name: str) -> dict[str, Tensor]:
    with fetching(name):
        state = timm.create_model(name, pretrained=True).state_dict()
    return {key: value for key, value in state.items() if not key.startswith("fc.")}
