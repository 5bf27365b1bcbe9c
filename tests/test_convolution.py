"""Kernel gradients as matrix products, beside autograd's own, and that nothing else of a model changes."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from foveate.train.convolution import MatmulGradConv2d, kernel_gradient, with_matmul_gradients


@pytest.mark.parametrize("size", [(1, 1), (3, 3), (2, 5)])
@pytest.mark.parametrize("stride", [(1, 1), (2, 1), (3, 2)])
@pytest.mark.parametrize("padding", [(0, 0), (1, 2)])
def test_the_product_is_the_gradient(
    size: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    image = torch.randn(3, 4, 9, 11, dtype=torch.float64)
    kernel = torch.randn(5, 4, *size, dtype=torch.float64, requires_grad=True)
    result = nn.functional.conv2d(image, kernel, stride=stride, padding=padding)
    gradient = torch.randn_like(result)
    result.backward(gradient)
    torch.testing.assert_close(kernel_gradient(image, gradient, size, stride, padding), kernel.grad)


def test_a_kernel_gradient_by_hand() -> None:
    image = torch.arange(1.0, 5.0).view(1, 1, 2, 2)  # 1 2 / 3 4
    gradient = torch.tensor([10.0, 1.0]).view(1, 1, 1, 2)  # a kernel of 2 rows, 1 column: (1, 3) and (2, 4)
    found = kernel_gradient(image, gradient, (2, 1), (1, 1), (0, 0))
    assert found.flatten().tolist() == [10 * 1 + 2, 10 * 3 + 4]


def network() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 8, 3, padding=1, groups=2),
        nn.Conv2d(8, 64, 1, bias=False),
        nn.ReLU(),
        nn.Conv2d(64, 64, 3, padding=1),  # 128 pixels of a batch of two, 576 weights a channel: a product
        nn.Conv2d(64, 4, 3, padding="same"),
    )


@pytest.mark.parametrize("half", [False, True])
def test_a_network_gives_the_same_output_and_gradients(half: bool) -> None:
    plain, image = network(), torch.randn(2, 3, 16, 16)
    changed = copy.deepcopy(plain)
    assert with_matmul_gradients(changed) == 3, "not the grouped one, nor the one padded by name"
    outputs = []
    for model in (plain, changed):
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            outputs.append(model(image))
        outputs[-1].float().square().mean().backward()
    assert torch.equal(*outputs)
    tolerance = 2e-2 if half else 1e-5  # sums of the same bfloat16 factors, in another order
    for one, other in zip(plain.parameters(), changed.parameters(), strict=True):
        assert one.grad is not None and other.grad is not None
        assert other.grad.dtype == torch.float32
        difference = (one.grad - other.grad).norm() / one.grad.norm()
        assert difference < tolerance


def test_parameters_keep_their_names_and_subclasses_their_forward() -> None:
    class Own(nn.Conv2d):
        pass

    model = nn.Sequential(nn.Conv2d(2, 2, 1), Own(2, 2, 1))
    names = list(model.state_dict())
    assert with_matmul_gradients(model) == 1
    assert isinstance(model[0], MatmulGradConv2d) and type(model[1]) is Own
    assert list(model.state_dict()) == names


def test_frozen_kernels_and_inference_take_torchs_own_way() -> None:
    model = network()
    with_matmul_gradients(model)
    model[3].weight.requires_grad_(False)
    model(torch.randn(2, 3, 16, 16)).mean().backward()
    assert model[3].weight.grad is None and model[0].weight.grad is not None
    with torch.inference_mode():
        assert model(torch.randn(1, 3, 16, 16)).shape == (1, 4, 8, 8)
