"""DenseNet-121 with channel attention, of the cervical cytology comparison.

*Towards interpretable attention networks for cervical cancer analysis* (EMBC 2021, arXiv 2106.00557) compares
ResNet-50, Residual Attention Network-92, DenseNet-121 and DenseNet-121 with channel attention on five classes
of cells. Its baselines are ``timm:resnet50`` and ``timm:densenet121`` with ``drop_rate: 0.5``, its residual
attention network is ``residual_attention92``; the fourth is here, after the published code.

Training settings of the paper's code: cross-entropy; Adam at 1e-3 without weight decay or schedule; batch 16;
50 epochs; the weights of the best validation accuracy; both DenseNets start from ImageNet weights, the others
at random.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from foveate.contract import AttentionMap, InputSpec, ModelOutput, Views
from foveate.models.attention import ResidualChannelAttention
from foveate.models.dadrn.trunk import Depths
from foveate.models.single_view import SingleViewClassifier
from foveate.models.weights import KeyTable, fetching, load_whole, locate_weights, read_weights

Placement = Literal["authors", "all_dense", "rcab"]
Dropout = Annotated[float, Field(ge=0, lt=1)]

DENSENET121_DEPTHS: Depths = (6, 12, 24, 16)
_DOWNLOAD = "densenet121.tv_in1k"  # torchvision's weights, of which the authors' are a copy
_MAP = "map"
_OLD_NAME = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])\.")  # torchvision's files: norm.1, not norm1
_HEAD = re.compile(r"net\.classifier\.")
_LAST = "features.denseblock4.denselayer16."
# A DenseNet-121 by torchvision's, timm's or the densenet_pytorch package's names, as it is or with the parts
# that the published code puts in: a dropout ahead of the last layer, a gate behind the last dense layer.
_NAMES = KeyTable(
    {
        "features.": "net.features.",
        "classifier.": "net.classifier.",
        "classifier.1.": "net.classifier.",
        f"{_LAST}0.": f"net.{_LAST}",
        f"{_LAST}1.conv_du.0.": "gates.denselayer16.gates.fc1.",
        f"{_LAST}1.conv_du.2.": "gates.denselayer16.gates.fc2.",
    }
)

_PLACEMENT = "choose the placement that the weights were trained with; of the published code it is authors"


class ChannelAttentionDenseNet(SingleViewClassifier):
    """DenseNet with channel gates in its last block; global average pooling, dropout, one linear layer.

    A gate is RCAN's channel attention, ``x · sigmoid(W2 relu(W1 GAP(x) + b1) + b2)`` with C / 16 hidden units
    (Zhang et al., ECCV 2018, section 3.3), which is squeeze-and-excitation.

    Hands out the feature ``last`` (what is pooled) and, in evaluation mode, the gates
    ``channel_attention.<layer>``, each ``(B, C)``.

    Args:
        num_classes: K.
        spec: one view.
        net: timm's DenseNet, with its weights.
        placement: see ``densenet121_ca``.
    """

    def __init__(self, num_classes: int, spec: InputSpec, net: Any, placement: Placement) -> None:
        super().__init__("densenet121_ca", num_classes, spec, cam_feature="last")
        self.net = net
        layers = list(net.features.denseblock4)
        growth = net.features.denseblock4[layers[-1]].conv2.out_channels
        self.gates = nn.ModuleDict()
        if placement == "rcab":
            self.gates[_MAP] = ResidualChannelAttention(net.num_features, residual="skip")
        else:
            for name in layers[-1:] if placement == "authors" else layers:
                self.gates[name] = ResidualChannelAttention(growth)

    @property
    def linear_head(self) -> nn.Linear:
        """The last layer: in evaluation it sees nothing but the average of ``last``."""
        head: nn.Linear = self.net.classifier
        return head

    def forward(self, views: Views) -> ModelOutput:
        """Classify ``(B, C, H, W)``; ``last`` is ``(B, 1024, H / 32, W / 32)``, rounded down."""
        x = self.only_view(views)
        gates: dict[str, Tensor] = {}
        for name, part in self.net.features.named_children():
            if name == "denseblock4":
                x, gates = self._last_block(x)
            else:
                x = part(x)
        shown = {} if self.training else gates
        return ModelOutput(
            logits=self.net.forward_head(x),
            features={"last": x},
            attention=tuple(AttentionMap(f"channel_attention.{key}", gate) for key, gate in shown.items()),
        )

    def _last_block(self, x: Float[Tensor, "B C h w"]) -> tuple[Float[Tensor, "B D h w"], dict[str, Tensor]]:
        """The block's map before the last norm, and its gates by the place they act on."""
        maps, gates = [x], {}
        for name, layer in self.net.features.denseblock4.items():
            new = layer(maps)
            if name in self.gates:
                new, attention = self.gates[name](new)
                gates[name] = attention.weights
            maps.append(new)
        joined = torch.cat(maps, dim=1)
        if _MAP in self.gates:
            joined, attention = self.gates[_MAP](joined)
            gates[_MAP] = attention.weights
        return joined, gates


def densenet121_ca(
    num_classes: int,
    spec: InputSpec,
    *,
    pretrained: bool | str = False,
    placement: Placement = "all_dense",
    dropout: Dropout = 0.5,
    depths: Depths = DENSENET121_DEPTHS,
    growth: PositiveInt = 32,
) -> ChannelAttentionDenseNet:
    """DenseNet-121 with channel attention in its last block.

    Args:
        num_classes: K.
        spec: one view.
        pretrained: True downloads torchvision's ImageNet weights through timm; a path names a file or folder
            of a DenseNet-121 (of timm or torchvision), whose gates start at random, or a trained model of
            this placement: our own, or, of ``authors``, a checkpoint of the published code. A head of
            other classes starts at random.
        placement: ``authors`` gates what the very last dense layer adds, by 2 hidden units: the published
            network, in which 32 of 1024 channels can change. ``all_dense`` gates what each dense layer of the
            last block adds. ``rcab`` adds ``gate · x`` to the whole map x ahead of the last norm.
            NOTE[DIFF]: the last two are ours, because 32 channels are few to attend over, and because the
            paper speaks of residual channel attention while the published block has no residual sum.
        dropout: ahead of the last layer, in training.
        depths: dense layers in each block.
        growth: channels that a dense layer adds.
    """
    import timm

    arguments = {"in_chans": spec.channels, "block_config": depths, "growth_rate": growth}
    net: Any = timm.create_model("densenet121", num_classes=num_classes, drop_rate=dropout, **arguments)
    model = ChannelAttentionDenseNet(num_classes, spec, net, placement)
    if pretrained is not False:
        state, where = _weights(pretrained)
        gated = any(key.startswith("gates.") for key in state)
        if not gated:
            state |= {key: value for key, value in model.state_dict().items() if key.startswith("gates.")}
        load_whole(model, state, heads=_HEAD, where=where, fix=_PLACEMENT if gated else "")
    return model


def _weights(pretrained: bool | str) -> tuple[dict[str, Tensor], str]:
    """A state dict in our names, and where it is from."""
    if pretrained is True:
        import timm

        with fetching(_DOWNLOAD):
            state = timm.create_model(_DOWNLOAD, pretrained=True).state_dict()
        return _NAMES.translated(state), f"pretrained: true ({_DOWNLOAD})"
    state = read_weights(locate_weights(str(pretrained), ["densenet121"]))
    bare = {_OLD_NAME.sub(r"\1\2.", key): value for key, value in state.items()}
    return _NAMES.translated(bare), f"pretrained: {pretrained}"
