"""Other ways to a weight gradient, beside autograd's own, and routing that changes nothing else."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from foveate.train.tuning.convolution import Convolution, RoutedConvolutions, Way

CALLS = {1: nn.functional.conv1d, 2: nn.functional.conv2d, 3: nn.functional.conv3d}


def shapes() -> list[Convolution]:
    """Of one to three axes, with everything that a convolution may have."""
    plain = Convolution((3, 4, 9, 11), (6, 4, 3, 2), (1, 1), (1, 0), (1, 1), 1, "float64", False)
    return [
        plain,
        replace(plain, kernel=(6, 4, 1, 1), padding=(0, 0)),
        replace(plain, stride=(3, 2), padding=(2, 1)),
        replace(plain, dilation=(2, 3), padding=(2, 2)),
        replace(plain, kernel=(6, 2, 3, 3), groups=2),
        replace(plain, kernel=(4, 1, 3, 3), groups=4, stride=(2, 2)),
        replace(plain, image=(2, 3, 12), kernel=(5, 3, 4), stride=(2,), padding=(1,), dilation=(1,)),
        replace(
            plain,
            image=(2, 3, 2, 6, 5),
            kernel=(4, 3, 3, 3, 3),
            stride=(1, 2, 1),
            padding=(1, 1, 1),
            dilation=(1, 1, 1),
            channels_last=True,
        ),
    ]


def autograd(shape: Convolution) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Image, kernel, the output's gradient, and what autograd makes of it."""
    torch.manual_seed(0)
    image = torch.randn(shape.image, dtype=torch.float64, requires_grad=True)
    kernel = torch.randn(shape.kernel, dtype=torch.float64, requires_grad=True)
    convolve = CALLS[len(shape.stride)]
    output = convolve(image, kernel, None, shape.stride, shape.padding, shape.dilation, shape.groups)
    gradient = torch.randn_like(output)
    output.backward(gradient)
    assert image.grad is not None and kernel.grad is not None
    return image.detach(), kernel.detach(), gradient, image.grad, kernel.grad


@pytest.mark.parametrize("shape", shapes(), ids=Convolution.words)
def test_every_way_gives_the_gradient(shape: Convolution) -> None:
    image, kernel, gradient, of_image, of_kernel = autograd(shape)
    torch.testing.assert_close(shape.image_gradient(image, kernel, gradient), of_image)
    for way in ("library", *shape.ways()):
        tolerance = {"rtol": 1e-4, "atol": 1e-4} if way == "wide" else {"rtol": 1e-9, "atol": 1e-9}
        torch.testing.assert_close(
            shape.kernel_gradient(way, image, kernel, gradient), of_kernel, **tolerance
        )


def test_the_product_by_hand() -> None:
    shape = Convolution((1, 1, 2, 2), (1, 1, 2, 1), (1, 1), (0, 0), (1, 1), 1, "float32", False)
    image = torch.arange(1.0, 5.0).view(1, 1, 2, 2)  # 1 2 / 3 4
    gradient = torch.tensor([10.0, 1.0]).view(1, 1, 1, 2)  # a kernel of 2 rows, 1 column: (1, 3) and (2, 4)
    found = shape.kernel_gradient("product", image, torch.zeros(1, 1, 2, 1), gradient)
    assert found.flatten().tolist() == [10 * 1 + 2, 10 * 3 + 4]


ONE_SIDED = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")


def network() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 8, 3, padding=1, groups=2),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding="same", padding_mode="reflect"),
        nn.Conv2d(8, 4, 3, padding="same"),
        nn.Conv2d(4, 4, (2, 1), padding="same"),  # zeros on one side: cannot be routed, and is left alone
        nn.Conv2d(4, 4, 3, padding="valid", dilation=2),
    )


def outcome(
    model: nn.Module, image: Tensor, half: bool, ways: dict[Convolution, Way] | None
) -> tuple[Tensor, list[Tensor], dict[Convolution, int]]:
    """Output, gradients, and the convolutions that were seen."""
    image = image.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=half), RoutedConvolutions(ways or {}) as routed:
        output = model(image)
    output.float().square().mean().backward()
    assert image.grad is not None
    gradients = [item.grad for item in model.parameters() if item.grad is not None]
    return output.detach(), [image.grad, *gradients], routed.seen


@ONE_SIDED
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("way", ["padded", "product", "wide", "float32"])
def test_a_routed_network_gives_the_same_output_and_gradients(half: bool, way: Way) -> None:
    plain, image = network(), torch.randn(2, 3, 16, 16)
    output, gradients, seen = outcome(copy.deepcopy(plain), image, half, None)
    assert len(seen) == 5 and {shape.dtype for shape in seen} == {"bfloat16" if half else "float32"}
    ways = {shape: way if way in shape.ways() or way == "float32" else "wide" for shape in seen}
    routed_output, routed_gradients, _ = outcome(plain, image, half, ways)  # type: ignore[arg-type]
    tolerance = 3e-2 if half else 1e-5  # sums of the same factors, in another order
    torch.testing.assert_close(routed_output.float(), output.float(), atol=tolerance, rtol=tolerance)
    for mine, theirs in zip(routed_gradients, gradients, strict=True):
        assert mine.dtype == theirs.dtype == torch.float32
        torch.testing.assert_close(mine, theirs, atol=tolerance * float(theirs.abs().max()), rtol=tolerance)


@ONE_SIDED
def test_what_is_not_trained_is_not_routed() -> None:
    model, image = network(), torch.randn(2, 3, 16, 16)
    _, _, seen = outcome(model, image, False, None)
    with torch.no_grad(), RoutedConvolutions(dict.fromkeys(seen, "product")):
        routed = model.train()(image)
    assert torch.equal(routed, copy.deepcopy(model)(image))


def test_a_shape_in_words() -> None:
    shape = shapes()[5]
    assert shape.words() == "3×3 kernel, stride 2×2, 4 groups, 4 to 4 channels, 3 maps of 9×11"
