"""Losses against numbers worked by hand, PyTorch, torchvision and scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor, nn
from torchvision.ops import sigmoid_focal_loss

from foveate.errors import UsageError
from foveate.models import count_classes, make_criterion
from foveate.models.objectives import inverse_frequency

NAN = float("nan")
# Probabilities (0.5, 0.25, 0.25) and (0.1, 0.8, 0.1).
LOGITS = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]]).log()


def _drawn(rows: int, classes: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(rows, classes, generator=generator)
    return logits, (torch.rand(rows, classes, generator=generator) < 0.3).float()


def test_cross_entropy_by_hand() -> None:
    criterion = make_criterion("multiclass", class_counts=[1, 1, 1])
    expected = (-math.log(0.25) - math.log(0.8)) / 2
    assert criterion(LOGITS, torch.tensor([1, 1])).item() == pytest.approx(expected, rel=1e-6)


def test_weighted_cross_entropy_by_hand() -> None:
    # 10 cases of 3 classes: w = 10 / (3 · (6, 3, 1)) = (5/9, 10/9, 10/3).
    criterion = make_criterion("multiclass", class_counts=[6, 3, 1], balance="weights")
    expected = (5 / 9 * math.log(2) + 10 / 9 * -math.log(0.8)) / (5 / 9 + 10 / 9)
    assert criterion(LOGITS, torch.tensor([0, 1])).item() == pytest.approx(expected, rel=1e-6)


def test_focal_cross_entropy_by_hand() -> None:
    criterion = make_criterion("multiclass", class_counts=[1, 1, 1], balance="focal", focal_gamma=2)
    expected = (0.75**2 * -math.log(0.25) + 0.2**2 * -math.log(0.8)) / 2
    assert criterion(LOGITS, torch.tensor([2, 1])).item() == pytest.approx(expected, rel=1e-5)
    # Uniform scores over 7 classes: (6/7)² ln 7.
    seven = make_criterion("multiclass", class_counts=[1] * 7, balance="focal")
    assert seven(torch.zeros(1, 7), torch.tensor([3])).item() == pytest.approx(1.4296483, rel=1e-6)


def test_binary_cross_entropy_skips_what_is_unknown() -> None:
    logits = torch.tensor([[0.8, 0.5], [0.4, 0.9]]).logit()
    targets = torch.tensor([[1.0, NAN], [0.0, 0.0]])
    criterion = make_criterion("multilabel", class_counts=[[1, 1], [1, 1]])
    expected = -(math.log(0.8) + math.log(0.6) + math.log(0.1)) / 3
    assert criterion(logits, targets).item() == pytest.approx(expected, rel=1e-6)


def test_weighted_binary_cross_entropy_by_hand() -> None:
    # Finding 0: 30 without, 10 with: w = 40 / (2 · (30, 10)) = (2/3, 2). Finding 1: as many: 1.
    criterion = make_criterion("multilabel", class_counts=[[30, 10], [5, 5]], balance="weights")
    logits = torch.tensor([[0.8, 0.5], [0.4, 0.9]]).logit()
    targets = torch.tensor([[1.0, NAN], [0.0, 0.0]])
    expected = -(2 * math.log(0.8) + 2 / 3 * math.log(0.6) + math.log(0.1)) / 3
    assert criterion(logits, targets).item() == pytest.approx(expected, rel=1e-6)


def test_weighted_losses_equal_pytorch_s() -> None:
    logits, truth = _drawn(50, 4)
    labels = truth.argmax(dim=1)
    weights = torch.tensor([10 / (4 * count) for count in (4, 3, 2, 1)])
    criterion = make_criterion("multiclass", class_counts=[4, 3, 2, 1], balance="weights")
    torch.testing.assert_close(criterion(logits, labels), nn.CrossEntropyLoss(weights)(logits, labels))

    counts = torch.tensor([[90.0, 10], [70, 30], [50, 50], [20, 80]])
    absent, present = (counts.sum(1) / (2 * counts[:, side]) for side in (0, 1))
    expected = nn.BCEWithLogitsLoss(weight=absent, pos_weight=present / absent)(logits, truth)
    criterion = make_criterion("multilabel", class_counts=counts, balance="weights")
    torch.testing.assert_close(criterion(logits, truth), expected)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 3.5])
def test_binary_focal_loss_equals_torchvision_s(gamma: float) -> None:
    logits, targets = _drawn(40, 5)
    criterion = make_criterion("multilabel", class_counts=[[1, 1]] * 5, balance="focal", focal_gamma=gamma)
    expected = sigmoid_focal_loss(logits, targets, alpha=-1, gamma=gamma, reduction="mean")
    torch.testing.assert_close(criterion(logits, targets), expected)


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_focal_loss_without_focus_is_cross_entropy(task: str) -> None:
    logits, truth = _drawn(20, 3)
    targets = truth.argmax(dim=1) if task == "multiclass" else truth
    counts = [1, 1, 1] if task == "multiclass" else [[1, 1]] * 3
    plain = make_criterion(task, class_counts=counts)
    focal = make_criterion(task, class_counts=counts, balance="focal", focal_gamma=0)
    torch.testing.assert_close(focal(logits, targets), plain(logits, targets))


@pytest.mark.parametrize("balance", ["none", "weights", "focal"])
@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_extreme_logits_keep_loss_and_gradient_finite(balance: str, gamma: float) -> None:
    for task, targets in (("multiclass", torch.tensor([0, 1])), ("multilabel", torch.eye(2))):
        logits = torch.tensor([[300.0, -300.0], [300.0, -300.0]], requires_grad=True)
        counts = [5, 5] if task == "multiclass" else [[5, 5], [5, 5]]
        criterion = make_criterion(task, class_counts=counts, balance=balance, focal_gamma=gamma)
        loss = criterion(logits, targets)
        loss.backward()
        assert loss.item() == pytest.approx(300.0 if task == "multiclass" else 150.0)  # wrong in half
        assert logits.grad.isfinite().all()


@pytest.mark.parametrize("balance", ["none", "weights", "focal"])
def test_a_batch_of_unknowns_costs_nothing_and_moves_nothing(balance: str) -> None:
    logits = torch.randn(3, 2, requires_grad=True)
    criterion = make_criterion("multilabel", class_counts=[[9, 1], [5, 5]], balance=balance)
    loss = criterion(logits, torch.full((3, 2), NAN))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(logits.grad, torch.zeros(3, 2))


def test_unknown_entries_have_no_gradient() -> None:
    logits = torch.zeros(2, 2, requires_grad=True)
    targets = torch.tensor([[1.0, NAN], [NAN, 0.0]])
    make_criterion("multilabel", class_counts=[[1, 1], [1, 1]])(logits, targets).backward()
    torch.testing.assert_close(logits.grad, torch.tensor([[-0.25, 0.0], [0.0, 0.25]]))


@pytest.mark.parametrize("balance", ["none", "weights", "focal"])
def test_losses_of_low_precision_logits_are_computed_in_float32(balance: str) -> None:
    logits, truth = _drawn(16, 3)
    low = logits.bfloat16()
    for task, targets, counts in (
        ("multiclass", truth.argmax(dim=1), [6, 3, 1]),
        ("multilabel", truth, [[6, 3], [5, 4], [1, 8]]),
    ):
        criterion = make_criterion(task, class_counts=counts, balance=balance)
        for autocast in (True, False):
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                loss = criterion(low, targets)
            assert loss.dtype == torch.float32
            torch.testing.assert_close(loss, criterion(low.float(), targets), rtol=1e-6, atol=0)


def test_inverse_frequency_equals_scikit_learn_s_and_averages_to_one() -> None:
    counts = np.array([12.0, 30.0, 7.0, 1.0])
    labels = np.repeat(np.arange(4), counts.astype(int))
    expected = compute_class_weight("balanced", classes=np.arange(4), y=labels)
    found = inverse_frequency(counts)
    np.testing.assert_allclose(found, expected)
    assert (found * counts).sum() / counts.sum() == pytest.approx(1)


def test_a_class_that_never_occurs_weighs_nothing() -> None:
    np.testing.assert_allclose(inverse_frequency(np.array([4.0, 0.0, 4.0])), [1, 0, 1])
    np.testing.assert_allclose(inverse_frequency(np.array([[10.0, 0.0], [0.0, 0.0]])), [[1, 0], [0, 0]])


def test_classes_are_counted_without_the_unknown() -> None:
    one_hot = np.array([[1, 0, 0], [0, 0, 1], [0, 0, 1], [NAN, NAN, NAN]])
    assert count_classes("multiclass", one_hot).tolist() == [1, 0, 2]
    findings = np.array([[1, 0], [NAN, 1], [0, 1], [0, NAN]])
    assert count_classes("multilabel", findings).tolist() == [[2, 1], [1, 2]]


def test_counts_of_the_other_task_are_refused() -> None:
    with pytest.raises(UsageError, match=r"class counts of shape \(2, 2\) do not belong to a multiclass"):
        make_criterion("multiclass", class_counts=[[1, 2], [3, 4]])
    with pytest.raises(UsageError, match="multilabel"):
        make_criterion("multilabel", class_counts=[1, 2])
    with pytest.raises(UsageError, match="focal_gamma must be at least 0"):
        make_criterion("multiclass", class_counts=[1, 2], balance="focal", focal_gamma=-1)
