"""The residual trunk: ResNet-50 with strides replaced by dilation (DRN-A-50), at any width and depth.

Parameter names are those of torchvision's and timm's ResNet-50 (and, with gates, of timm's SE-ResNet-50),
so that their weights load. At width 1 and depths (3, 4, 6, 3) it is the published network.
"""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor, nn

from foveate.models.attention import SqueezeExcite

Depths = tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt]
FirstBlock = Literal["torchvision", "fyu"]
OutputStride = Literal[8, 16, 32]

RESNET50_DEPTHS: Depths = (3, 4, 6, 3)
EXPANSION = 4


class Bottleneck(nn.Module):
    """1×1 – 3×3 – 1×1 convolutions around a shortcut, with the stride on the 3×3 one (ResNet v1.5).

    Args:
        inputs: channels that come in.
        planes: channels of the 3×3 convolution; four times as many go out.
        stride: of the 3×3 convolution and the shortcut.
        dilation: of the 3×3 convolution.
        squeeze_excite: gate the last convolution's channels, before the sum.
    """

    def __init__(
        self, inputs: int, planes: int, *, stride: int = 1, dilation: int = 1, squeeze_excite: bool = False
    ) -> None:
        super().__init__()
        outputs = planes * EXPANSION
        self.conv1 = nn.Conv2d(inputs, planes, kernel_size=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, padding=dilation, dilation=dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, outputs, kernel_size=1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.se = SqueezeExcite(outputs) if squeeze_excite else None
        self.downsample = _projection(inputs, outputs, stride) if stride != 1 or inputs != outputs else None

    def forward(
        self, x: Float[Tensor, "B C H W"]
    ) -> tuple[Float[Tensor, "B D h w"], Float[Tensor, "B D"] | None]:
        """Return the block's output, and its channel gates if it has any."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        x = self.bn3(self.conv3(x))
        gate = None
        if self.se is not None:
            x, gate = self.se(x)
        x = x + shortcut
        return self.relu(x), gate


class ResidualTrunk(nn.Module):
    """ResNet-50 without its head; groups beyond the output stride trade their stride for dilation.

    At output stride 8, a 224-pixel input gives G2 256@56, G3 512@28, G4 1024@28 (dilation 2) and
    G5 2048@28 (dilation 4): the DRN-A-50 of Yu et al., CVPR 2017.

    Args:
        in_channels: of the input.
        width: multiplies every channel count, rounded to whole multiples of 8.
        depths: blocks in G2 to G5.
        output_stride: input pixels per step of the last map.
        first_block: dilation of the first block of a dilated group. ``torchvision``: that of the group
            before (G5 is 2, 4, 4), as the paper describes; ``fyu``: none (G5 is 1, 4, 4), as in the paper's
            code. Same parameters, another function.
        squeeze_excite: channel gates in every block (SE-ResNet-50).
    """

    def __init__(
        self,
        in_channels: int = 3,
        width: float = 1.0,
        depths: Depths = RESNET50_DEPTHS,
        output_stride: OutputStride = 8,
        first_block: FirstBlock = "torchvision",
        *,
        squeeze_excite: bool = False,
    ) -> None:
        super().__init__()
        base = max(8, round(8 * width) * 8)
        self.conv1 = nn.Conv2d(in_channels, base, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(base)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        shapes = _strides_and_dilations(output_stride, first_block)
        self.layer1 = _group(base, base, depths[0], shapes[0], squeeze_excite)
        self.layer2 = _group(4 * base, 2 * base, depths[1], shapes[1], squeeze_excite)
        self.layer3 = _group(8 * base, 4 * base, depths[2], shapes[2], squeeze_excite)
        self.layer4 = _group(16 * base, 8 * base, depths[3], shapes[3], squeeze_excite)
        self.channels = 8 * base * EXPANSION
        _initialise(self)

    def forward(self, x: Float[Tensor, "B C H W"]) -> tuple[Float[Tensor, "B D h w"], dict[str, Tensor]]:
        """Return the last map, and the channel gates ``(B, C)`` of each block that has them, by name."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        gates = {}
        # The papers count the stem as Group 1.
        for number, group in enumerate((self.layer1, self.layer2, self.layer3, self.layer4), start=2):
            for index, block in enumerate(group):
                x, gate = block(x)
                if gate is not None:
                    gates[f"group{number}.{index}"] = gate
        return x, gates


def _strides_and_dilations(output_stride: int, first_block: FirstBlock) -> list[tuple[int, int, int]]:
    """For G2 to G5: stride, dilation of the first block, dilation of the others."""
    shapes, reached, dilation = [(1, 1, 1)], 4, 1
    for _ in range(3):
        before, stride = dilation, 2
        if reached == output_stride:
            stride, dilation = 1, dilation * 2
        reached *= stride
        shapes.append((stride, 1 if first_block == "fyu" else before, dilation))
    return shapes


def _group(
    inputs: int, planes: int, depth: int, shape: tuple[int, int, int], squeeze_excite: bool
) -> nn.Sequential:
    stride, first, others = shape
    blocks = [Bottleneck(inputs, planes, stride=stride, dilation=first, squeeze_excite=squeeze_excite)]
    for _ in range(depth - 1):
        blocks.append(Bottleneck(planes * EXPANSION, planes, dilation=others, squeeze_excite=squeeze_excite))
    return nn.Sequential(*blocks)


def _projection(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel_size=1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
    )


def _initialise(trunk: nn.Module) -> None:
    """Draw convolutions from N(0, sqrt(2 / (k·k·outputs))), as the code of DRN does."""
    for module in trunk.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
