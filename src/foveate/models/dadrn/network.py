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

from collections.abc import Mapping
from inspect import get_annotations
from typing import Literal

from pydantic import PositiveFloat
from torch import Tensor, nn

from foveate.contract import AttentionMap, InputSpec, ModelOutput, Views
from foveate.errors import UsageError
from foveate.models.attention import DualAttention, Fusion, Normalization, Reduce
from foveate.models.dadrn.trunk import RESNET50_DEPTHS, Depths, FirstBlock, OutputStride, ResidualTrunk
from foveate.models.single_view import SingleViewClassifier
from foveate.models.weights import fetching, load_trunk, locate_weights, read_weights

Variant = Literal["paper", "corrected"]
Architecture = Literal["resnet50", "seresnet50"]
Attention = Literal["none", "spatial", "channel", "dual"]

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


def dadrn(
    architecture: Architecture,
    attention: Attention,
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
    output_stride: OutputStride | None = None,
    first_block: FirstBlock = "torchvision",
    new_layers_lr_factor: PositiveFloat = 1.0,
) -> DilatedClassifier:
    """The paper's system (``dual`` attention) and what it was compared with; the presets are in ``MODELS``.

    Args:
        architecture: of the trunk: ``resnet50``, or ``seresnet50`` with channel gates in every block.
        attention: between trunk and pooling: ``none`` (DRN-A-50, SE-ResNet-50), ``spatial``, ``channel``, or
            ``dual``: both in parallel.
        num_classes: K.
        spec: one view.
        pretrained: True downloads ImageNet weights of the architecture through timm; a path names a file or
            folder of its weights; False starts at random.
        normalization: of the attention: ``sigmoid`` is the paper's SADRN50-A and CADRN50-A, ``softmax`` its
            SADRN50-B and CADRN50-B. The slides do not say which DADRN uses; sigmoid won in both single-block
            comparisons.
        fusion: of dual attention: ``sum`` is the paper's DADRN50-A, ``concat`` its DADRN50-B.
        reduce: of dual attention, see ``DualAttention``.
        variant: ``corrected`` averages with sigmoid weights where the paper sums, and divides the channels'
            Gram matrix by the number of positions, see ``SpatialAttention`` and ``ChannelAttention``.
        width: multiplies every channel count.
        depths: blocks in each group.
        output_stride: input pixels per step of the heat map; unless given 8, by dilation, and 32 of
            ``seresnet50``.
        first_block: dilation of the first block of a dilated group, see ``ResidualTrunk``.
        new_layers_lr_factor: learning rate of the head (and attention) relative to the trunk's; 10 suits
            a pretrained trunk, with ``train.grad_clip: 1``.

    Raises:
        UsageError: an option that this preset does not use, or ``reduce="after"`` without a concatenation.
    """
    name = next(preset for preset, made in PRESETS.items() if made == (architecture, attention))
    attended = {"normalization": normalization != "sigmoid", "variant": variant != "corrected"}
    fused = {"fusion": fusion != "concat", "reduce": reduce != "none"}
    _refuse_unused(name, (attended if attention == "none" else {}) | ({} if attention == "dual" else fused))
    if reduce == "after" and fusion == "sum":
        raise UsageError("a sum of paths has nothing to reduce", fix="set fusion: concat, or reduce: none")
    gated = architecture == "seresnet50"
    stride: OutputStride = output_stride or (32 if gated else 8)
    trunk = ResidualTrunk(spec.channels, width, depths, stride, first_block, squeeze_excite=gated)
    _fill(trunk, architecture, pretrained)
    corrected = variant == "corrected"
    blocks = (
        None
        if attention == "none"
        else DualAttention(
            trunk.channels,
            spatial=None if attention == "channel" else normalization,
            channel=None if attention == "spatial" else normalization,
            fusion=fusion if attention == "dual" else "sum",
            reduce=reduce,
            mean_gram=corrected,
            mean=corrected,
        )
    )
    return DilatedClassifier(name, num_classes, spec, trunk, blocks, lr_factor=new_layers_lr_factor)


PRESETS: dict[str, tuple[Architecture, Attention]] = {
    "drn50": ("resnet50", "none"),
    "sadrn50": ("resnet50", "spatial"),
    "cadrn50": ("resnet50", "channel"),
    "dadrn50": ("resnet50", "dual"),
    "seresnet50": ("seresnet50", "none"),
}
"""Trunk and attention of each name in ``MODELS``."""
_NO_OPTIONS = ("architecture", "attention", "num_classes", "spec", "pretrained", "return")


def _refuse_unused(name: str, given: Mapping[str, bool]) -> None:
    """Refuse options that a preset does not use, as any model refuses one that it does not have."""
    known = [option for option in get_annotations(dadrn) if option not in _NO_OPTIONS and option not in given]
    for option, is_given in given.items():
        if is_given:
            raise UsageError(
                f"{name} has no option '{option}'",
                where="model: options",
                fix=f"its options are: {', '.join(known)}",
                code="unknown-option",
            )


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
    import timm

    with fetching(name):
        state = timm.create_model(name, pretrained=True).state_dict()
    return {key: value for key, value in state.items() if not key.startswith("fc.")}
