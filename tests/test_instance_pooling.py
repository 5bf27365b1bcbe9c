"""Pooling of instances against a case worked by hand, loops over the formulas, and inputs that break them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from foveate.models.attention import GatedAttentionMIL, LossBasedAttention, Weighting

# W is the identity and b zero, so instances are their own scores: norms 5, 5, 0, 10.
HAND = torch.tensor([[[3.0, 4.0], [0.0, 5.0], [0.0, 0.0], [6.0, 8.0]]])
WEIGHTINGS: tuple[Weighting, ...] = ("norm", "exp_sum")
each_weighting = pytest.mark.parametrize("weighting", WEIGHTINGS)


def _identity(weighting: Weighting = "norm", beta: float = 0.1) -> LossBasedAttention:
    block = LossBasedAttention(2, 2, weighting=weighting, beta=beta)
    nn.init.eye_(block.classifier.weight)
    nn.init.zeros_(block.classifier.bias)
    return block


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("gamma", "weights"),
    [
        (None, [0.2432432, 0.2432432, 0, 0.5135135]),
        (4, [0.2432432, 0.2432432, 0, 0.5135135]),
        (512, [0.2499511, 0.2499511, 0, 0.5000977]),
    ],
)
def test_the_case_worked_by_hand(gamma: int | None, weights: list[float]) -> None:
    bag = _identity()(HAND, gamma)
    torch.testing.assert_close(bag.weights, torch.tensor([weights]), atol=1e-6, rtol=0)
    assert bag.logits is not None and torch.equal(bag.logits, HAND)
    losses = nn.functional.cross_entropy(bag.logits[0], torch.ones(4, dtype=torch.long), reduction="none")
    expected = torch.tensor([0.3132617, 0.0067153, 0.6931472, 0.1269280])
    torch.testing.assert_close(losses, expected, atol=1e-6, rtol=0)
    if gamma != 512:
        torch.testing.assert_close(bag.pooled, torch.tensor([[3.8108106, 6.2972975]]), atol=1e-5, rtol=0)
        assert (bag.weights[0] * losses).sum().item() == pytest.approx(0.1430116, abs=1e-6)


def test_exp_sum_is_far_peakier_on_the_same_case() -> None:
    bag = _identity("exp_sum")(HAND)
    torch.testing.assert_close(
        bag.weights, torch.tensor([[0.0207, 0.0414, 0.00055, 0.9374]]), atol=5e-5, rtol=0
    )


def _weights_by_loops(z: Tensor, weighting: Weighting, threshold: float) -> list[float]:
    """α of one bag of scores (N, K)."""
    if weighting == "exp_sum":
        mass = [sum(math.exp(value) for value in row) for row in z.tolist()]
        return [value / sum(mass) for value in mass]
    norms = [math.sqrt(sum(value**2 for value in row)) for row in z.tolist()]
    kept = [max(0.0, norm / sum(norms) - threshold) for norm in norms]
    return [value / sum(kept) for value in kept]


@each_weighting
def test_loss_based_attention_equals_its_formula_instance_by_instance(weighting: Weighting) -> None:
    torch.manual_seed(0)
    block, x = LossBasedAttention(3, 4, weighting=weighting, beta=0.9), _random(2, 5, 3)
    bag = block(x)
    for case in range(2):
        z = x[case] @ block.classifier.weight.T + block.classifier.bias
        alpha = _weights_by_loops(z, weighting, 0.9 / 5)
        assert bag.weights[case].tolist() == pytest.approx(alpha, abs=1e-6)
        pooled = sum(share * x[case, index] for index, share in enumerate(alpha))
        torch.testing.assert_close(bag.pooled[case], pooled)
    assert (0 in bag.weights[0]) is (weighting == "norm"), "the norm form cuts off, the other does not"


@each_weighting
@pytest.mark.parametrize(
    "x",
    [
        torch.zeros(1, 4, 2),
        HAND,
        torch.full((1, 4, 2), 1e-3),
        torch.tensor([[[1e4, -1e4], [1e4, 1e4], [0.0, 0.0], [0.0, 0.0]]]),
    ],
    ids=["zeros", "one zero", "all alike", "huge"],
)
@pytest.mark.parametrize("beta", [0.0, 0.1, 1.0, 100.0])
def test_value_and_gradient_are_finite_where_the_published_form_is_not(
    weighting: Weighting, x: Tensor, beta: float
) -> None:
    x = x.clone().requires_grad_()
    bag = _identity(weighting, beta)(x)
    (bag.weights * torch.arange(4)).sum().backward()
    assert bag.weights.isfinite().all() and (bag.weights >= 0).all()
    torch.testing.assert_close(bag.weights.sum(dim=1), torch.ones(1))
    assert x.grad is not None and x.grad.isfinite().all()


def test_a_bag_of_which_nothing_survives_keeps_its_shares() -> None:
    torch.testing.assert_close(_identity(beta=100.0)(HAND).weights, torch.tensor([[0.25, 0.25, 0, 0.5]]))
    alike = torch.ones(1, 3, 2)
    torch.testing.assert_close(_identity(beta=1.0)(alike).weights, torch.full((1, 3), 1 / 3))


@each_weighting
def test_attention_is_computed_in_float32_under_autocast(weighting: Weighting) -> None:
    torch.manual_seed(0)
    block, gate, x = LossBasedAttention(8, 3, weighting=weighting), GatedAttentionMIL(8), _random(2, 5, 8)
    exact, gated = block(x), gate(x)
    with torch.autocast("cpu", torch.bfloat16):
        low, low_gated = block(x), gate(x)
    assert torch.equal(low.weights, exact.weights) and torch.equal(low.pooled, exact.pooled)
    assert torch.equal(low_gated.weights, gated.weights)
    half = block(x.bfloat16())
    assert half.weights.dtype == half.pooled.dtype == torch.float32


@pytest.mark.parametrize("gated", [True, False])
def test_gated_attention_equals_its_formula_instance_by_instance(gated: bool) -> None:
    torch.manual_seed(0)
    block, x = GatedAttentionMIL(3, hidden=4, gated=gated), _random(2, 5, 3)
    bag = block(x)
    assert bag.logits is None
    for case in range(2):
        scores = []
        for h in x[case]:
            inner = torch.tanh(block.values.weight @ h + block.values.bias)
            if block.gates is not None:
                inner = inner / (1 + torch.exp(-(block.gates.weight @ h + block.gates.bias)))
            scores.append((block.score.weight[0] @ inner).item())
        alpha = [math.exp(score) / sum(map(math.exp, scores)) for score in scores]
        assert bag.weights[case].tolist() == pytest.approx(alpha, abs=1e-6)
        pooled = sum(share * x[case, index] for index, share in enumerate(alpha))
        torch.testing.assert_close(bag.pooled[case], pooled)
