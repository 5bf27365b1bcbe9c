"""Classification losses: cross-entropy and its binary form, balanced by class weights or by focusing.

All take raw logits, compute in float32 even under autocast, and are plain callables without state of a
module, so that nothing of the training enters a model's weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional

from foveate.contract import Criterion
from foveate.errors import UsageError
from foveate.types import Task

Balance = Literal["none", "weights", "focal"]


@dataclass(frozen=True, slots=True)
class CrossEntropy:
    """Multi-class cross-entropy, ``Σ_b w_y ℓ_b / Σ_b w_y`` with ``ℓ_b = −log softmax(z_b)_y``.

    Attributes:
        weights: ``(K,)`` w of each class, or None for 1.
    """

    weights: Float[Tensor, "K"] | None = None

    def __call__(self, logits: Float[Tensor, "B K"], targets: Int[Tensor, "B"]) -> Float[Tensor, ""]:
        """Loss of a batch with class indices."""
        weights = None if self.weights is None else self.weights.to(logits.device)
        return functional.cross_entropy(logits.float(), targets, weight=weights)


@dataclass(frozen=True, slots=True)
class FocalCrossEntropy:
    """Multi-class focal loss (Lin et al. 2017): mean over cases of ``−(1 − p_y)^γ log p_y``.

    Attributes:
        gamma: γ ≥ 0; 0 is cross-entropy.
    """

    gamma: float = 2.0

    def __call__(self, logits: Float[Tensor, "B K"], targets: Int[Tensor, "B"]) -> Float[Tensor, ""]:
        """Loss of a batch with class indices."""
        loss = functional.cross_entropy(logits.float(), targets, reduction="none")
        return (_missed(loss) ** self.gamma * loss).mean()


@dataclass(frozen=True, slots=True)
class BinaryCrossEntropy:
    """Multi-label cross-entropy: mean over known entries of ``w (softplus(z) − t z)``.

    Attributes:
        weights: ``(K, 2)`` w of each finding where it is absent (0) and present (1), or None for 1.
    """

    weights: Float[Tensor, "K 2"] | None = None

    def __call__(self, logits: Float[Tensor, "B K"], targets: Float[Tensor, "B K"]) -> Float[Tensor, ""]:
        """Loss of a batch with targets 1, 0, or NaN = unknown; 0 if nothing is known."""
        loss, truth, known = _binary(logits, targets)
        if self.weights is not None:
            absent, present = self.weights.to(loss.device).unbind(dim=1)
            loss = loss * torch.where(truth > 0, present, absent)
        return _mean_of_known(loss, known)


@dataclass(frozen=True, slots=True)
class FocalBinaryCrossEntropy:
    """Multi-label focal loss: mean over known entries of ``−(1 − p)^γ log p``, p given to the truth.

    Attributes:
        gamma: γ ≥ 0; 0 is binary cross-entropy.
    """

    gamma: float = 2.0

    def __call__(self, logits: Float[Tensor, "B K"], targets: Float[Tensor, "B K"]) -> Float[Tensor, ""]:
        """Loss of a batch with targets 1, 0, or NaN = unknown; 0 if nothing is known."""
        loss, _, known = _binary(logits, targets)
        return _mean_of_known(_missed(loss) ** self.gamma * loss, known)


def make_criterion(
    task: Task, *, class_counts: ArrayLike, balance: Balance = "none", focal_gamma: float = 2.0
) -> Criterion:
    """Choose the loss of a task.

    Args:
        task: multi-class or multi-label.
        class_counts: of the training cases, as ``count_classes`` gives them.
        balance: ``none``; ``weights``: each class (or each answer to a finding) weighs inversely to its
            frequency, see ``inverse_frequency``; ``focal``: easy cases count less.
        focal_gamma: how much less.

    Raises:
        UsageError: the counts do not have the task's shape, or γ is negative.
    """
    counts = np.asarray(class_counts, dtype=np.float64)
    if counts.ndim != (1 if task == "multiclass" else 2) or (counts < 0).any():
        raise UsageError(f"class counts of shape {counts.shape} do not belong to a {task} task")
    if focal_gamma < 0:
        raise UsageError(f"focal_gamma must be at least 0, got {focal_gamma}")
    weights = torch.from_numpy(inverse_frequency(counts)).float() if balance == "weights" else None
    if task == "multiclass":
        return FocalCrossEntropy(focal_gamma) if balance == "focal" else CrossEntropy(weights)
    return FocalBinaryCrossEntropy(focal_gamma) if balance == "focal" else BinaryCrossEntropy(weights)


def count_classes(task: Task, truth: NDArray[np.float64]) -> NDArray[np.int64]:
    """Count training cases.

    Args:
        task: multi-class or multi-label.
        truth: ``(N, K)`` of 1, 0, NaN = unknown, as ``Cohort.target`` gives rows.

    Returns:
        Cases of each class ``(K,)``; for multi-label ``(K, 2)``, those known to lack and to have a finding.
    """
    present = (truth == 1).sum(axis=0)
    return present if task == "multiclass" else np.stack([(truth == 0).sum(axis=0), present], axis=1)


def inverse_frequency(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights inverse to frequency, with mean 1 over the counted cases (scikit-learn's ``balanced``).

    ``w_c = n / (m n_c)`` with n cases in the m classes that occur; 0 for a class that does not.

    Args:
        counts: ``(..., m)``, classes along the last axis.
    """
    occurs = counts > 0
    share = counts.sum(axis=-1, keepdims=True) / np.maximum(occurs.sum(axis=-1, keepdims=True), 1)
    return np.where(occurs, share / np.where(occurs, counts, 1), 0.0)


def _binary(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cross-entropy of each entry, the truth with unknown as 0, and which entries are known."""
    known = ~targets.isnan()
    truth = torch.where(known, targets, 0).float()
    loss = functional.binary_cross_entropy_with_logits(logits.float(), truth, reduction="none")
    return loss, truth, known


def _mean_of_known(loss: Tensor, known: Tensor) -> Tensor:
    return (loss * known).sum() / known.sum().clamp(min=1)


def _missed(loss: Tensor) -> Tensor:
    """``1 − p`` from ``−log p``, exact near p = 1; kept off 0, where powers below 1 have no slope."""
    return (-torch.expm1(-loss)).clamp(min=torch.finfo(loss.dtype).tiny)
