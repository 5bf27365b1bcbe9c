"""Residual Attention Network: stacked modules whose soft mask re-weights a trunk, ``(1 + M) ⊙ T``.

Wang et al., *Residual Attention Network for Image Classification*, CVPR 2017. RAN-92 is a model of the
cervical cytology comparison (EMBC 2021), and this computes as its published code does; RAN-56 is a baseline
of DADRN (ICIP 2019).

Training settings of the cytology comparison: cross-entropy, Adam at 1e-3 without weight decay or schedule,
batch 16, 50 epochs from scratch, the weights of the best validation accuracy.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from jaxtyping import Float
from pydantic import PositiveFloat
from torch import Tensor, nn
from torch.nn import functional

from foveate.contract import AttentionMap, InputSpec, ModelOutput, Views
from foveate.errors import UsageError
from foveate.models.single_view import SingleViewClassifier
from foveate.models.weights import KeyTable, load_whole, locate_weights, read_weights

_HEAD = re.compile(r"head\.")


class PreActivationBottleneck(nn.Module):
    """1×1 – 3×3 – 1×1 convolutions, each after batch norm and ReLU, around a shortcut.

    With ``a = relu(bn(x))``, the shortcut is x, or ``conv1×1(a)`` where the shape changes.

    NOTE[DIFF]: the published code builds that convolution in every block and calls it only where the shape
    changes; in RAN-92 the others are 32,768,000 parameters that never learn. They are not built here.

    Args:
        inputs: channels that come in.
        outputs: channels that go out; the 3×3 convolution has a quarter of them.
        stride: of the 3×3 convolution and of the shortcut.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        inner = outputs // 4
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, inner, kernel_size=1, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, outputs, kernel_size=1, bias=False)
        changes = stride != 1 or inputs != outputs
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if changes else None

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        """Return the block's output."""
        active: Tensor = self.bn1(x).relu()
        inner: Tensor = self.conv1(active)
        inner = self.conv2(self.bn2(inner).relu())
        inner = self.conv3(self.bn3(inner).relu())
        shortcut = x if self.shortcut is None else self.shortcut(active)
        return inner + shortcut


class AttentionModule(nn.Module):
    """A trunk of two blocks, times one plus a mask from an hourglass beside it (the paper's equation 3).

    With R a block of its own at each mention, ``down`` a 3×3 max-pooling of stride 2 and ``up`` bilinear to
    the size of what it is added to (corners aligned)::

        x = R(x)    T = R(R(x))    e_0 = x    e_k = R(down(e_{k-1}))       k = 1 … steps − 1
        m = R(R(down(e_{steps-1})))
        m ← R(up(m) + e_k + R(e_k))                                       k = steps − 1 … 1
        M = sigmoid(conv(relu(bn(conv(relu(bn(up(m) + T)))))))
        y = R((1 + M) ⊙ T)

    The paper's figure has ``R(e_k)`` alone as the skip, and no T beside the mask; both sums are in the
    authors' network definition of RAN-92, and in the code of the cytology comparison.

    Args:
        channels: C, the same everywhere.
        steps: how often the mask's branch halves the map.
    """

    def __init__(self, channels: int, steps: int) -> None:
        super().__init__()
        self.first = _block(channels)
        self.trunk = nn.Sequential(_block(channels), _block(channels))
        self.encoders = nn.ModuleList(_block(channels) for _ in range(steps - 1))
        self.skips = nn.ModuleList(_block(channels) for _ in range(steps - 1))
        self.bottom = nn.Sequential(_block(channels), _block(channels))
        self.decoders = nn.ModuleList(_block(channels) for _ in range(steps - 1))
        self.mask = nn.Sequential(
            *(nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, channels, 1, bias=False)),
            *(nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, channels, 1, bias=False)),
        )
        self.last = _block(channels)

    def forward(
        self, x: Float[Tensor, "B C H W"]
    ) -> tuple[Float[Tensor, "B C H W"], Float[Tensor, "B C H W"]]:
        """Return the module's output and its mask M, of values in (0, 1)."""
        x = self.first(x)
        trunk = self.trunk(x)
        levels = []
        for encoder, skip in zip(self.encoders, self.skips, strict=True):
            x = encoder(_down(x))
            levels.append(x + skip(x))
        mask = self.bottom(_down(x))
        for decoder, level in zip(reversed(self.decoders), reversed(levels), strict=True):
            mask = decoder(_up(mask, level) + level)
        mask = self.mask(_up(mask, trunk) + trunk).sigmoid()
        return self.last((1 + mask) * trunk), mask


class ResidualAttentionTrunk(nn.Module):
    """Stem, three stages of one block and some attention modules, three more blocks, batch norm and ReLU.

    A 224-pixel input gives 256@56, 512@28, 1024@14 and 2048@7.

    Args:
        in_channels: of the input.
        modules: attention modules in each stage: (1, 1, 1) is RAN-56, (1, 2, 3) RAN-92.
        width: multiplies every channel count, rounded to whole multiples of 8.
    """

    def __init__(self, in_channels: int, modules: tuple[int, int, int], width: float = 1.0) -> None:
        super().__init__()
        base = max(8, round(8 * width) * 8)
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, base, kernel_size=7, stride=2, padding=3, bias=False),
            nn.BatchNorm2d(base),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(kernel_size=3, stride=2, padding=1),
        )
        self.entries, self.stages = nn.ModuleList(), nn.ModuleList()
        inputs, outputs = base, 4 * base
        for index, count in enumerate(modules):
            self.entries.append(PreActivationBottleneck(inputs, outputs, stride=1 if index == 0 else 2))
            self.stages.append(nn.ModuleList(AttentionModule(outputs, 3 - index) for _ in range(count)))
            inputs, outputs = outputs, 2 * outputs
        self.exit = nn.Sequential(
            PreActivationBottleneck(inputs, outputs, stride=2), _block(outputs), _block(outputs)
        )
        self.bn = nn.BatchNorm2d(outputs)
        self.channels = outputs

    def forward(self, x: Float[Tensor, "B C H W"]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the maps ``stage1`` to ``stage3`` and ``last``, and the masks by name, in order."""
        maps, masks = {}, {}
        x = self.stem(x)
        for number, (entry, stage) in enumerate(zip(self.entries, self.stages, strict=True), start=1):
            x = entry(x)
            for index, module in enumerate(stage.children(), start=1):
                x, masks[f"soft_mask.stage{number}.{index}"] = module(x)
            maps[f"stage{number}"] = x
        maps["last"] = self.bn(self.exit(x)).relu()
        return maps, masks


class ResidualAttentionClassifier(SingleViewClassifier):
    """Residual attention trunk → global average pooling → one linear layer.

    Hands out the features ``stage1`` to ``stage3`` and ``last`` (what is pooled), and, in evaluation mode,
    each module's mask ``soft_mask.stage<s>.<i>``: during training they would stay in memory for nothing.

    NOTE[DIFF]: the published code pools a window of 7×7 and enlarges masks to sizes that fit 224 pixels only.
    Here the pooling is global and masks grow to the map they meet, which is the same at 224 pixels and takes
    any other size.

    Args:
        name: for errors.
        num_classes: K.
        spec: one view.
        trunk: with its weights.
    """

    def __init__(self, name: str, num_classes: int, spec: InputSpec, trunk: ResidualAttentionTrunk) -> None:
        super().__init__(name, num_classes, spec, cam_feature="last")
        self.trunk = trunk
        self.head = nn.Linear(trunk.channels, num_classes)

    @property
    def linear_head(self) -> nn.Linear:
        """The head: it sees nothing but the average of ``last``."""
        return self.head

    def forward(self, views: Views) -> ModelOutput:
        """Classify ``(B, C, H, W)``; ``last`` is ``(B, D, H / 32, W / 32)``, rounded up."""
        maps, masks = self.trunk(self.only_view(views))
        shown = {} if self.training else masks
        return ModelOutput(
            logits=self.head(maps["last"].mean(dim=(2, 3))),
            features=maps,
            attention=tuple(AttentionMap(name, mask) for name, mask in shown.items()),
        )


def residual_attention56(
    num_classes: int, spec: InputSpec, *, pretrained: bool | str = False, width: PositiveFloat = 1.0
) -> ResidualAttentionClassifier:
    """RAN-56: one attention module in each stage.

    Args:
        num_classes: K.
        spec: one view.
        pretrained: a path names the file of a trained model of this name, such as a bundle's
            ``model.safetensors``, or of the published code; no ImageNet weights are published, so True is
            refused.
        width: multiplies every channel count.

    Raises:
        UsageError: ``pretrained=True``, or weights of another network.
    """
    return _build("residual_attention56", num_classes, spec, (1, 1, 1), width, pretrained)


def residual_attention92(
    num_classes: int, spec: InputSpec, *, pretrained: bool | str = False, width: PositiveFloat = 1.0
) -> ResidualAttentionClassifier:
    """RAN-92: one, two and three attention modules in its stages.

    Args:
        num_classes: K.
        spec: one view.
        pretrained, width: as for ``residual_attention56``.

    Raises:
        UsageError: as for ``residual_attention56``.
    """
    return _build("residual_attention92", num_classes, spec, (1, 2, 3), width, pretrained)


def _block(channels: int) -> PreActivationBottleneck:
    return PreActivationBottleneck(channels, channels)


def _down(x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C h w"]:
    return functional.max_pool2d(x, kernel_size=3, stride=2, padding=1)


def _up(x: Float[Tensor, "B C h w"], like: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
    size = like.shape[2:]
    return functional.interpolate(x, size=size, mode="bilinear", align_corners=True)


def _build(
    name: str,
    num_classes: int,
    spec: InputSpec,
    modules: tuple[int, int, int],
    width: float,
    pretrained: bool | str,
) -> ResidualAttentionClassifier:
    if pretrained is True:
        raise UsageError(
            "no ImageNet weights of a residual attention network are published",
            where="pretrained: true",
            fix="start at random, pretrained: false, or give the path of a trained model's model.safetensors",
            code="no-weights",
        )
    trunk = ResidualAttentionTrunk(spec.channels, modules, width)
    model = ResidualAttentionClassifier(name, num_classes, spec, trunk)
    if pretrained:
        state = read_weights(locate_weights(pretrained, []))
        state = AUTHORS.translated(state) if AUTHORS.fits(state) else state
        load_whole(model, state, heads=_HEAD, where=f"pretrained: {pretrained}")
    return model


def _authors_names() -> dict[str, str]:
    """Names of the published code, whose mask branches number their blocks by depth, and ours."""
    names = {
        "conv1.0.": "trunk.stem.0.",
        "conv1.1.": "trunk.stem.1.",
        "mpool2.0.": "trunk.bn.",
        "fc.": "head.",
    }
    outer = [f"entries.{stage}" for stage in range(3)] + [f"exit.{index}" for index in range(3)]
    for number, ours in enumerate(outer, start=1):
        names[f"residual_block{number}."] = f"trunk.{ours}."
        if number < 5:  # the shape changes, so that the projection is called
            names[f"residual_block{number}.conv4."] = f"trunk.{ours}.shortcut."
    for stage in (1, 2, 3):
        for index in range(3):
            suffix = f"_{index + 1}" if index else ""
            for theirs, ours in _module_names(4 - stage):
                names[f"attention_module{stage}{suffix}.{theirs}."] = (
                    f"trunk.stages.{stage - 1}.{index}.{ours}."
                )
    return names


def _module_names(steps: int) -> Iterator[tuple[str, str]]:
    """The blocks of an attention module whose mask halves the map ``steps`` times, theirs and ours."""
    yield from (("first_residual_blocks", "first"), ("trunk_branches", "trunk"), ("last_blocks", "last"))
    for level in range(1, steps):
        yield f"softmax{level}_blocks", f"encoders.{level - 1}"
        yield f"skip{level}_connection_residual_block", f"skips.{level - 1}"
        yield f"softmax{2 * steps - level}_blocks", f"decoders.{level - 1}"
    yield f"softmax{steps}_blocks", "bottom"
    yield f"softmax{2 * steps}_blocks", "mask"


AUTHORS = KeyTable(_authors_names(), re.compile(r"(?!residual_block[1-4]\.).*\.conv4\.weight$"))
