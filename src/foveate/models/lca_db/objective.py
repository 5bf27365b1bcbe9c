"""What LCA-DB minimises: losses of the bag and of its instances, weighted by either branch's attention.

With the bag's label y given to each of its N instances, CE the cross-entropy of an instance and α its
weight, over the B cases of a batch and the branches I (image) and P (patch)::

    R_I = Σ_b Σ_n α^I_bn CE(z^I_bn, y_b)         R_P likewise        own attention
    X_I = Σ_b Σ_n α^P_bn CE(z^I_bn, y_b)         X_P likewise        the other branch's: "cross attention"
    S   = mean_b (1 − cos(α^I_b, α^P_b))                             similarity
    L   = bag + u (R_I + R_P) / B + c u (X_I + X_P) + 0.25 S
    u   = 0 in the first epoch, then 0.2 exp(−5 (1 − min(epoch, 24) / 24)²)

Nothing is detached: losses reach the branches through α as well. c is 0.25 in the public code, where the
sum grows with the batch; or, divided by the batch, 2 / B, which is the same at its batch of 8.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from foveate.contract import Criterion, ModelOutput
from foveate.models.objectives import FocalBinaryCrossEntropy, FocalCrossEntropy

Reduction = Literal["sum", "mean"]
Loss = Literal["paper", "study"]

_BATCH = 8  # of the public training, at which both reductions of the cross terms weigh the same


@dataclass(frozen=True, slots=True)
class LcaOutput(ModelOutput):
    """What LCA-DB hands out; both by branch (``image``, ``patch``).

    Attributes:
        instances: ``(B, N, K)`` scores of the instances.
        weights: ``(B, N)`` their attention weights.
    """

    instances: Mapping[str, Float[Tensor, "B N K"]] = field(default_factory=dict)
    weights: Mapping[str, Float[Tensor, "B N"]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LcaObjective:
    """The loss of a batch.

    Attributes:
        loss: of the bag: the paper's focal loss (focusing 2, class weights 1), or the study's criterion.
        cross: whether the cross terms are in.
        similarity: whether S is in.
        cross_reduction: ``sum`` over the batch as in the public code, or ``mean``.
        cross_weight: before u and the cross terms; None means 0.25 for ``sum`` and 2 for ``mean``.
        instance_weight: the largest u.
        similarity_weight: before S.
        epochs: of the published training; progress 1 is so many.
        ramp_epochs: after so many of these u is at its largest.
    """

    loss: Loss = "paper"
    cross: bool = True
    similarity: bool = True
    cross_reduction: Reduction = "mean"
    cross_weight: float | None = None
    instance_weight: float = 0.2
    similarity_weight: float = 0.25
    epochs: int = 100
    ramp_epochs: float = 24.0

    def __call__(
        self, output: LcaOutput, targets: Tensor, progress: float, criterion: Criterion
    ) -> dict[str, Float[Tensor, ""]]:
        """The weighted terms, and their sum under ``total``.

        Args:
            output: of the network.
            targets: ``(B,)`` class indices, or ``(B, K)`` of 1, 0, NaN = unknown.
            progress: share of training done, in [0, 1].
            criterion: the study's.
        """
        if self.loss == "paper":
            criterion = FocalBinaryCrossEntropy() if targets.ndim == 2 else FocalCrossEntropy()
        terms = {"classification": criterion(output.logits, targets)}
        ramp = self.ramp(progress)
        with torch.autocast(output.logits.device.type, enabled=False):
            raw = branch_terms(output, targets)
        for name, value in raw.items():
            if (weight := self._weight(name, ramp, len(output.logits))) is not None:
                terms[name] = weight * value
        return {**terms, "total": torch.stack(list(terms.values())).sum()}

    def ramp(self, progress: float) -> float:
        """u; the published epochs are counted from 0 and stretched over the training."""
        epoch = math.floor(progress * self.epochs + 1e-6)
        if epoch == 0:
            return 0.0
        return self.instance_weight * math.exp(-5 * (1 - min(epoch / self.ramp_epochs, 1)) ** 2)

    def _weight(self, name: str, ramp: float, batch: int) -> float | None:
        """Factor of a raw term, None if it is left out."""
        if name == "similarity":
            return self.similarity_weight if self.similarity else None
        if name.startswith("instances"):
            return ramp / batch
        if not self.cross:
            return None
        if self.cross_reduction == "sum":
            return ramp * (0.25 if self.cross_weight is None else self.cross_weight)
        # NOTE[DIFF]: the public code's sum lets the batch size weigh these terms against all others.
        return ramp * (0.25 * _BATCH if self.cross_weight is None else self.cross_weight) / batch


def branch_terms(output: LcaOutput, targets: Tensor) -> dict[str, Float[Tensor, ""]]:
    """R, X and S of the module's docstring, unweighted: sums over the batch, S a mean.

    Returns:
        ``instances_<branch>`` for each branch; with both also ``cross_<branch>`` and ``similarity``.
    """
    losses = {name: instance_losses(logits, targets) for name, logits in output.instances.items()}
    alpha = output.weights
    terms = {f"instances_{name}": (alpha[name] * loss).sum() for name, loss in losses.items()}
    if len(losses) == 2:
        for name, other in (("image", "patch"), ("patch", "image")):
            terms[f"cross_{name}"] = (alpha[other] * losses[name]).sum()
        likeness = functional.cosine_similarity(alpha["image"], alpha["patch"], dim=1)
        terms["similarity"] = (1 - likeness).mean()
    return terms


def instance_losses(logits: Float[Tensor, "B N K"], targets: Tensor) -> Float[Tensor, "B N"]:
    """Cross-entropy of each instance with its bag's label.

    For several findings at once, which the paper does not have, the mean of their binary cross-entropies
    over the known ones.
    """
    if targets.ndim == 1:
        labels = targets[:, None].expand(-1, logits.shape[1])
        return functional.cross_entropy(logits.mT, labels, reduction="none")
    known = ~targets.isnan()
    truth = torch.where(known, targets, 0).to(logits.dtype)[:, None].expand_as(logits)
    loss = functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    return (loss * known[:, None]).sum(dim=2) / known.sum(dim=1, keepdim=True).clamp(min=1)
