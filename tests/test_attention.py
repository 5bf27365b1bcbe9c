"""Attention blocks against the hand-worked case, loops over the formulas, and the properties they imply."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from foveate.models.attention import (
    ChannelAttention,
    DualAttention,
    Normalization,
    QueryKeyAttention,
    Residual,
    ResidualChannelAttention,
    SpatialAttention,
    SqueezeExcite,
)

NORMALIZATIONS: tuple[Normalization, ...] = ("sigmoid", "softmax")
each_normalization = pytest.mark.parametrize("normalization", NORMALIZATIONS)
# Two channels at two positions, p0 = (1, 0) and p1 = (0, 2), as a map of one row.
HAND = torch.tensor([[[[1.0, 0.0]], [[0.0, 2.0]]]])


def _identity_spatial(normalization: Normalization) -> SpatialAttention:
    """B1 = B2 = D = identity and β = 1."""
    block = SpatialAttention(2, normalization=normalization, key_channels=2, mean=False)
    for conv in (block.key, block.query, block.value):
        nn.init.eye_(conv.weight.data[:, :, 0, 0])
        nn.init.zeros_(conv.bias)
    nn.init.ones_(block.beta)
    return block


def _drawn(block: nn.Module, seed: int = 0) -> nn.Module:
    """Parameters that are all different, β included."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.5, generator=generator)
    return block


def _map(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("normalization", "weights", "output"),
    [
        ("sigmoid", [[0.7311, 0.5], [0.5, 0.9820]], [[1.7311, 0.5], [1.0, 3.9640]]),
        ("softmax", [[0.7311, 0.2689], [0.0180, 0.9820]], [[1.7311, 0.0180], [0.5379, 3.9640]]),
    ],
)
def test_spatial_attention_of_the_case_worked_by_hand(
    normalization: Normalization, weights: list[list[float]], output: list[list[float]]
) -> None:
    y, attention = _identity_spatial(normalization)(HAND)
    torch.testing.assert_close(attention.weights.view(2, 2), torch.tensor(weights), atol=5e-5, rtol=0)
    torch.testing.assert_close(y.view(2, 2), torch.tensor(output), atol=5e-5, rtol=0)


@pytest.mark.parametrize(
    ("normalization", "output"),
    [
        ("sigmoid", [[1.7311, 1.0], [0.5, 3.9640]]),
        ("softmax", [[1.7311, 0.5379], [0.0180, 3.9640]]),
    ],
)
def test_channel_attention_of_the_case_worked_by_hand(
    normalization: Normalization, output: list[list[float]]
) -> None:
    block = ChannelAttention(normalization=normalization, mean_gram=False, mean=False)
    nn.init.ones_(block.beta)
    torch.testing.assert_close(block(HAND)[0].view(2, 2), torch.tensor(output), atol=5e-5, rtol=0)


def _weights_by_loops(scores: list[list[float]], normalization: Normalization) -> list[list[float]]:
    """α from scores[j][i], normalised over i."""
    if normalization == "sigmoid":
        return [[1 / (1 + math.exp(-s)) for s in row] for row in scores]
    return [[math.exp(s) / sum(map(math.exp, row)) for s in row] for row in scores]


def _spatial_by_loops(block: SpatialAttention, x: Tensor, divisor: int) -> tuple[list[list[float]], Tensor]:
    """Steps 1–4 for one image, position by position, with the sum of step 3 divided."""
    conv = {
        name: (layer.weight[:, :, 0, 0] @ x.flatten(1) + layer.bias[:, None]).detach()
        for name, layer in (("b1", block.key), ("b2", block.query), ("d", block.value))
    }
    places = range(x[0].numel())
    scores = [[float(conv["b1"][:, i] @ conv["b2"][:, j]) for i in places] for j in places]
    alpha = _weights_by_loops(scores, block.normalization)
    columns = [
        block.beta.item() / divisor * sum(alpha[j][i] * conv["d"][:, i] for i in places) + x.flatten(1)[:, j]
        for j in places
    ]
    return alpha, torch.stack(columns, dim=1).view_as(x)


@each_normalization
@pytest.mark.parametrize("mean", [False, True])
def test_spatial_attention_equals_its_formula_position_by_position(
    normalization: Normalization, mean: bool
) -> None:
    block = _drawn(SpatialAttention(3, normalization=normalization, key_channels=2, mean=mean))
    x = _map(2, 3, 2, 3)
    y, attention = block(x)
    assert attention.weights.shape == (2, 2, 3, 2, 3)
    divisor = 6 if mean and normalization == "sigmoid" else 1
    for image in range(2):
        alpha, expected = _spatial_by_loops(block, x[image], divisor)
        torch.testing.assert_close(attention.weights[image].reshape(6, 6), torch.tensor(alpha))
        torch.testing.assert_close(y[image], expected)


@each_normalization
@pytest.mark.parametrize("mean_gram", [False, True])
@pytest.mark.parametrize("mean", [False, True])
def test_channel_attention_equals_its_formula_channel_by_channel(
    normalization: Normalization, mean_gram: bool, mean: bool
) -> None:
    block = _drawn(ChannelAttention(normalization=normalization, mean_gram=mean_gram, mean=mean))
    divisor = 4 if mean and normalization == "sigmoid" else 1
    x = _map(2, 4, 3, 2)
    y, attention = block(x)
    for image in range(2):
        a = x[image].flatten(1)
        scale = 1 / 6 if mean_gram else 1.0
        scores = [[scale * float(a[c] @ a[k]) for k in range(4)] for c in range(4)]
        alpha = torch.tensor(_weights_by_loops(scores, normalization))
        beta = block.beta.item() / divisor
        rows = [beta * sum(alpha[c, k] * a[k] for k in range(4)) + a[c] for c in range(4)]
        torch.testing.assert_close(attention.weights[image], alpha)
        torch.testing.assert_close(y[image].flatten(1), torch.stack(rows))


@each_normalization
def test_without_gradients_no_weights_are_held_whole_and_the_answer_is_the_same(
    normalization: Normalization,
) -> None:
    """1200 channels and 36² places: a block of rows is cut short, and the last is not full."""
    x = _map(1, 1200, 4, 4)
    channel = _drawn(ChannelAttention(normalization=normalization))
    spatial = _drawn(SpatialAttention(3, normalization=normalization, key_channels=2))
    for block, values, side in ((channel, x, 1200), (spatial, _map(1, 3, 36, 36), 36 * 36)):
        expected, attention = block(values)
        with torch.no_grad(), _LargestTensor() as largest:
            y, handed_out = block(values)
        torch.testing.assert_close(y, expected)
        assert largest.numel < side**2 / 2
        torch.testing.assert_close(handed_out.weights, attention.weights)
        assert handed_out.weights.numel() == side**2


class _LargestTensor(TorchDispatchMode):
    """Watches every operation for the number of elements of its largest result."""

    numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for each in tree_leaves(result):
            self.numel = max(self.numel, each.numel() if isinstance(each, Tensor) else 0)
        return result


@each_normalization
def test_a_fresh_block_is_the_identity_bit_for_bit(normalization: Normalization) -> None:
    x = 50 * _map(2, 16, 4, 5).relu()
    for block in (
        SpatialAttention(16, normalization=normalization),
        ChannelAttention(normalization=normalization, mean_gram=False),
        ChannelAttention(normalization=normalization),
    ):
        assert torch.equal(block(x)[0], x)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(block(x.bfloat16())[0], x.bfloat16())


@each_normalization
def test_moving_positions_moves_the_output_along(normalization: Normalization) -> None:
    x, order = _map(2, 5, 3, 4), torch.randperm(12, generator=torch.Generator().manual_seed(3))
    moved = x.flatten(2)[..., order].view_as(x)
    for block in (
        _drawn(SpatialAttention(5, normalization=normalization)),
        _drawn(ChannelAttention(normalization=normalization)),
    ):
        expected = block(x)[0].flatten(2)[..., order].view_as(x)
        torch.testing.assert_close(block(moved)[0], expected)
        assert not torch.allclose(expected, block(x)[0], atol=0.1)


@each_normalization
def test_weights_sum_to_one_exactly_where_they_say_so(normalization: Normalization) -> None:
    x = _map(2, 6, 3, 4)
    spatial = SpatialAttention(6, normalization=normalization)(x)[1]
    channel = ChannelAttention(normalization=normalization)(x)[1]
    for attention, axes in ((spatial, (3, 4)), (channel, (2,))):
        assert ((attention.weights > 0) & (attention.weights < 1)).all()
        total = attention.weights.sum(dim=axes)
        assert torch.allclose(total, torch.ones_like(total)) is (attention.normalized_over is not None)
        assert attention.normalized_over == (axes if normalization == "softmax" else None)


@each_normalization
def test_under_autocast_weights_keep_the_precision_of_their_inputs(normalization: Normalization) -> None:
    """A Gram matrix rounded to bfloat16 would be off by up to 2 for entries of 500."""
    x = (2 * _map(1, 24, 14, 14).relu()).bfloat16()
    block = ChannelAttention(normalization=normalization, mean_gram=False)
    with torch.autocast("cpu", torch.bfloat16):
        weights = block(x)[1].weights
        rounded = torch.bmm(x.flatten(2), x.flatten(2).mT).float()
    assert weights.dtype == torch.float32
    torch.testing.assert_close(weights, block(x.double())[1].weights.float(), atol=1e-4, rtol=1e-4)
    exact = torch.bmm(x.double().flatten(2), x.double().flatten(2).mT)
    assert (rounded - exact).abs().max() > 0.5  # the precaution is needed


@each_normalization
def test_gradients_are_those_of_finite_differences(normalization: Normalization) -> None:
    x = _map(1, 3, 2, 2).double().requires_grad_()
    for block in (
        SpatialAttention(3, normalization=normalization, key_channels=2),
        ChannelAttention(normalization=normalization),
    ):
        block = _drawn(block).double()
        assert torch.autograd.gradcheck(lambda value, block=block: block(value)[0], x)
        block(x)[0].square().sum().backward()
        assert all(parameter.grad is not None for parameter in block.parameters())


def test_the_paper_s_channel_weights_saturate_and_the_corrected_ones_do_not() -> None:
    x = _map(1, 8, 28, 28).relu()
    paper = ChannelAttention(mean_gram=False)(x)[1].weights
    corrected = ChannelAttention()(x)[1].weights
    assert paper.min() == 1.0
    assert corrected.max() < 0.7


def test_what_sigmoid_weights_add_is_as_large_as_the_map_where_it_is_a_mean() -> None:
    """Of 2048 channels after a ReLU the sum is hundreds of times the map: no rate of β survives that."""
    x = _map(1, 2048, 8, 8).relu()
    summed, averaged = ChannelAttention(mean=False), ChannelAttention()
    for block, low, high in ((summed, 500, 700), (averaged, 0.2, 0.5)):
        nn.init.ones_(block.beta)
        with torch.no_grad():
            ratio = float((block(x)[0] - x).norm() / x.norm())
        assert low < ratio < high


def test_squeeze_excitation_equals_its_formula() -> None:
    block, x = _drawn(SqueezeExcite(32)), _map(2, 32, 3, 3)
    y, gate = block(x)
    pooled = x.flatten(2).mean(dim=2)
    hidden = (pooled @ block.fc1.weight[:, :, 0, 0].T + block.fc1.bias).clamp(min=0)
    expected = 1 / (1 + torch.exp(-(hidden @ block.fc2.weight[:, :, 0, 0].T + block.fc2.bias)))
    assert hidden.shape == (2, 2)
    torch.testing.assert_close(gate, expected)
    torch.testing.assert_close(y, x * expected[:, :, None, None])


def test_query_key_attention_equals_its_formula_position_by_position() -> None:
    """Six positions read the four that are left of twelve after pooling."""
    block = _drawn(QueryKeyAttention(4, key_channels=3, pooled=2))
    x, context = _map(2, 4, 2, 3), _map(2, 4, 2, 6, seed=1)
    y, attention = block(x, context)
    assert attention.weights.shape == (2, 2, 3, 2, 2)
    assert attention.normalized_over == (3, 4)
    pooled = context.unflatten(3, (2, 3)).mean(dim=4)
    y = y.detach()
    for image in range(2):
        q, k, v = (
            (conv.weight[:, :, 0, 0] @ each[image].flatten(1) + conv.bias[:, None]).detach()
            for conv, each in ((block.query, x), (block.key, pooled), (block.value, pooled))
        )
        for i in range(6):
            scores = [float(q[:, i] @ k[:, j]) / math.sqrt(3) for j in range(4)]
            alpha = [math.exp(score) / sum(map(math.exp, scores)) for score in scores]
            torch.testing.assert_close(
                attention.weights[image].flatten(2).flatten(0, 1)[i], torch.tensor(alpha)
            )
            gathered = sum(alpha[j] * v[:, j] for j in range(4))
            added = (block.beta * (block.out.weight[:, :, 0, 0] @ gathered + block.out.bias)).detach()
            torch.testing.assert_close(y[image].flatten(1)[:, i], x[image].flatten(1)[:, i] + added)


def test_query_key_attention_is_scaled_dot_product_attention() -> None:
    block = _drawn(QueryKeyAttention(8))
    x = _map(2, 8, 3, 4)
    q, k, v = (conv(x).flatten(2).mT for conv in (block.query, block.key, block.value))
    gathered = nn.functional.scaled_dot_product_attention(q, k, v).mT.unflatten(2, (3, 4))
    torch.testing.assert_close(block(x, x)[0], x + block.beta * block.out(gathered))


def test_a_fresh_query_key_block_is_the_identity_and_as_large_as_specified() -> None:
    """One of the two reads of a modality: query, key, value of 4128 and an output of 4224 parameters."""
    block = QueryKeyAttention(128)
    assert sum(parameter.numel() for parameter in block.parameters()) == 3 * 4128 + 4224 + 1
    x = _map(1, 128, 16, 28)
    y, attention = block(x, x)
    assert torch.equal(y, x)
    assert attention.weights.shape == (1, 16, 28, 14, 14)
    total = attention.weights.sum(dim=(3, 4))
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-6)


@pytest.mark.parametrize("residual", ["none", "skip", "rcab"])
def test_residual_channel_attention_equals_its_formula(residual: Residual) -> None:
    block, x = _drawn(ResidualChannelAttention(32, residual=residual)), _map(2, 32, 5, 3)
    y, attention = block(x)
    u = x
    if residual == "rcab":
        first, second = block.body[0], block.body[2]
        hidden = nn.functional.conv2d(x, first.weight, first.bias, padding=1).clamp(min=0)
        u = nn.functional.conv2d(hidden, second.weight, second.bias, padding=1)
    hidden = (u.flatten(2).mean(dim=2) @ block.gates.fc1.weight[:, :, 0, 0].T + block.gates.fc1.bias).relu()
    gates = 1 / (1 + torch.exp(-(hidden @ block.gates.fc2.weight[:, :, 0, 0].T + block.gates.fc2.bias)))
    torch.testing.assert_close(attention.weights, gates)
    expected = u * gates[:, :, None, None]
    torch.testing.assert_close(y, expected if residual == "none" else x + expected)


def test_channel_attention_of_32_channels_has_162_parameters_and_half_gates_without_weights() -> None:
    """Two hidden units (specification of the cervical comparison, 5.3 and 5.7)."""
    block, x = ResidualChannelAttention(32), _map(1, 32, 4, 4)
    assert sum(parameter.numel() for parameter in block.parameters()) == 162
    for parameter in block.parameters():
        nn.init.zeros_(parameter)
    assert torch.equal(block(x)[1].weights, torch.full((1, 32), 0.5))
    nn.init.constant_(block.gates.fc2.bias, 40.0)
    assert torch.equal(block(x)[0], x)


def test_a_fresh_dual_block_hands_on_its_input_once_per_path() -> None:
    x = _map(2, 6, 3, 4)
    fused, maps, attention = DualAttention(6, spatial="sigmoid", channel="softmax")(x)
    assert torch.equal(fused, 2 * x)
    assert set(maps) == {"spatial", "channel"}
    assert [each.name for each in attention] == ["spatial_attention", "channel_attention"]
    joined, _, _ = DualAttention(6, spatial="sigmoid", channel="sigmoid", fusion="concat")(x)
    assert torch.equal(joined, torch.cat([x, x], dim=1))
