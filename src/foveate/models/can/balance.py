"""CAN's multi-label balance loss: rare answers weigh more within each finding, easy cases count less.

MICCAI 2019 (arXiv 2007.10859) says what it is for, the imbalance between positive and negative cases within
each disease and the dominance of easy ones, but its formula was not to be found: this is a focal loss with
class weights, our reading of those two purposes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn import functional

from foveate.types import Task

Weights = Literal["unit", "shares"]


@dataclass(frozen=True, slots=True)
class BalanceLoss:
    """Focal loss with a weight for each answer, multi-label or multi-class by the kind of targets.

    Multi-label, over the known entries::

        L = −mean( w⁺_c t (1 − p)^γ log p + w⁻_c (1 − t) p^γ log(1 − p) ),   p = sigmoid(z)

    Multi-class, over the cases of classes y: ``L = −mean( w_y (1 − p_y)^γ log p_y )`` with p the softmax. It
    is not divided by the mean weight. With γ = 0 and weights of 1 these are the cross-entropies.

    Attributes:
        gamma: γ ≥ 0.
        weights: as ``balance_weights`` gives them, or None for 1.
    """

    gamma: float = 2.0
    weights: Float[Tensor, "..."] | None = None

    def __call__(self, logits: Float[Tensor, "B K"], targets: Tensor) -> Float[Tensor, ""]:
        """Loss of a batch; targets ``(B,)`` class indices, or ``(B, K)`` of 1, 0, NaN = unknown."""
        score = self._of_findings if targets.is_floating_point() else self._of_classes
        return score(logits.float(), targets)

    def _of_findings(self, logits: Tensor, targets: Tensor) -> Tensor:
        known = ~targets.isnan()
        truth = torch.where(known, targets, 0).float()
        sign = 2 * truth - 1  # log p of the truth is logsigmoid(±z), exact at both ends
        loss = (
            -functional.logsigmoid(sign * logits)
            * functional.logsigmoid(-sign * logits).mul(self.gamma).exp()
        )
        if self.weights is not None:
            absent, present = self.weights.to(loss.device).unbind(dim=1)
            loss = loss * torch.where(truth > 0, present, absent)
        return (loss * known).sum() / known.sum().clamp(min=1)

    def _of_classes(self, logits: Tensor, targets: Tensor) -> Tensor:
        loss = functional.cross_entropy(logits, targets, reduction="none")
        others = logits.scatter(1, targets[:, None], float("-inf")).logsumexp(dim=1) - logits.logsumexp(dim=1)
        loss = loss * (self.gamma * others).exp()
        return (loss if self.weights is None else loss * self.weights.to(loss.device)[targets]).mean()


def balance_weights(task: Task, counts: ArrayLike, weights: Weights = "unit") -> Float[Tensor, "..."]:
    """Weights of the answers from counts of training cases.

    ``shares``, multi-label, with P cases known to have a finding and N known to lack it: ``w⁺ = N / (P + N)``
    and ``w⁻ = P / (P + N)``. Multi-class, as if each class were a finding: ``w_c = 1 − n_c / n``.

    ``unit`` divides all of them by one number, so that their mean over the training cases' known answers
    is 1. NOTE[DIFF]: our own form of the loss again; shares of rare findings have a mean near 0 (0.1 on
    ChestX-ray14), and a loss as small as that is outweighed by whatever stands beside it.

    Args:
        task: multi-class or multi-label.
        counts: as ``count_classes`` gives them, ``(K,)`` or ``(K, 2)`` of absent and present.
        weights: see above.

    Returns:
        ``(K,)``, or ``(K, 2)`` of w⁻ and w⁺; 0 for a finding of which nothing is known.
    """
    given = np.asarray(counts, dtype=np.float64)
    shares = given / np.maximum(given.sum(axis=-1, keepdims=True), 1)
    chosen = 1 - shares if task == "multiclass" else shares[:, ::-1]
    if weights == "unit":
        total = (chosen * given).sum()
        chosen = chosen * (given.sum() / total if total else 1)
    return torch.from_numpy(chosen.copy()).float()
