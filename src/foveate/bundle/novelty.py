"""Whether an image is like those that the model learned from: a distance between features.

The features of the last stage, averaged over space, are compared with those of the training cases: the
Mahalanobis distance to the nearest class mean under one covariance for all classes (Lee et al. 2018,
NeurIPS, section 2.1; without its input perturbation and its ensemble of layers, both of which need novel
images to be tuned on). Distances are taken in the space of the first principal components, where the
covariance is estimated with shrinkage (Ledoit and Wolf 2004), because features outnumber patients. What
lies outside that space counts as well, in units of its variance in training (distance from feature space:
Moghaddam and Pentland 1997, IEEE TPAMI 19:696, section 2.2).

The score is no probability of anything. It becomes a flag through a threshold that a stated share of
validation cases stays below. No image is stored: only means and principal directions of features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from torch import Tensor

from foveate.contract import Classifier, ModelOutput, Views, given
from foveate.errors import UsageError
from foveate.evaluate.probabilities.conformal import familiar_limit
from foveate.files import replacing

Floats = NDArray[np.float64]
DIMENSIONS = 64  # principal components that are kept at most, and half of them at most
_ARRAYS = ("centre", "directions", "means", "whitening")

_LEAST_VARIANCE = 1e-6  # of any direction, as a share of what all have on average


@dataclass(frozen=True, slots=True)
class NoveltyScore:
    """Distance of features ``(N, C)`` from those of the training cases.

    Attributes:
        centre: ``(C,)`` mean of the training features; it stands in for features that a case lacks.
        directions: ``(D, C)`` principal directions, orthonormal.
        means: ``(M, D)`` mean of each class, along them.
        whitening: ``(D, D)``; Euclidean distances of ``x @ whitening`` are Mahalanobis distances of ``x``.
        outside: variance per dimension outside the directions; 0 where training cases have none.
        cases: number of training cases.
        threshold: above it a case counts as novel; infinite until it is set, and with fewer than three
            patients to set it.
        familiar: share of cases that the threshold lets pass.
        held: whether there were patients enough for that, or the threshold is a wider one.
    """

    centre: Floats
    directions: Floats
    means: Floats
    whitening: Floats
    outside: float
    cases: int
    threshold: float = float("inf")
    familiar: float = float("nan")
    held: bool = False

    @classmethod
    def fit(cls, features: Floats, labels: NDArray[np.integer[Any]] | None = None) -> Self:
        """Learn what is familiar.

        Args:
            features: ``(N, C)`` of training cases; NaN where a case lacks a view.
            labels: ``(N,)`` class of each, or None for one common mean (multi-label).

        Raises:
            UsageError: there are fewer than two cases, or all of a class have the same features.
        """
        from sklearn.covariance import ledoit_wolf  # scores are made without it

        features = np.asarray(features, dtype=np.float64)
        counts = (~np.isnan(features)).sum(axis=0)
        centre = np.nansum(features, axis=0) / np.maximum(counts, 1)
        filled = np.where(np.isnan(features), centre, features) - centre
        directions, outside = _principal(filled)
        inside = filled @ directions.T
        groups = np.zeros(len(features), dtype=int) if labels is None else np.asarray(labels)
        names, index = np.unique(groups, return_inverse=True)
        means = np.stack([inside[groups == name].mean(axis=0) for name in names])
        spread = inside - means[index]
        if not spread.any():
            raise UsageError(
                f"{len(features)} training cases of {len(names)} classes say nothing about what is familiar",
                fix="train on at least two different cases of a class",
            )
        covariance, _ = ledoit_wolf(spread, assume_centered=True)
        # Of two cases a class nothing may be shrunk, and directions without variance are left.
        covariance += _LEAST_VARIANCE * np.diag(covariance).mean() * np.eye(len(covariance))
        whitening = np.linalg.inv(np.linalg.cholesky(covariance)).T
        return cls(centre, directions, means, whitening, outside, len(features))

    def score(self, features: Floats) -> Floats:
        """How strange cases are.

        Args:
            features: ``(N, C)``; NaN where a case lacks a view.

        Returns:
            ``(N,)`` distances, 0 for the centre of a class, without upper end.
        """
        features = np.asarray(features, dtype=np.float64)
        centred = np.where(np.isnan(features), 0.0, features - self.centre)
        inside = centred @ self.directions.T
        steps = (inside[:, None] - self.means) @ self.whitening
        squared: Floats = (steps**2).sum(axis=2).min(axis=1)
        if self.outside:
            beyond = centred - inside @ self.directions
            squared = squared + (beyond**2).sum(axis=1) / self.outside
        return np.sqrt(squared)

    def with_threshold(self, scores: Floats, patient_ids: Sequence[str], familiar: float = 0.95) -> Self:
        """The same score with a threshold from validation cases.

        Args:
            scores: ``(N,)`` of validation cases.
            patient_ids: of each; each patient counts the same.
            familiar: share of cases like them that shall stay within the threshold. With few patients
                (45 for 0.95) it is wider, see ``familiar_limit``.
        """
        threshold, held = familiar_limit(np.asarray(scores, dtype=np.float64), patient_ids, familiar)
        return replace(self, threshold=threshold, familiar=familiar, held=held)

    def save(self, path: Path) -> dict[str, Any]:
        """Write the arrays as safetensors.

        Returns:
            The other attributes as plain JSON, for ``bundle.json``; ``load`` takes both.
        """
        with replacing(path) as temporary:
            save_file(
                {name: np.ascontiguousarray(getattr(self, name)) for name in _ARRAYS},
                temporary,
            )
        return {
            "outside": self.outside,
            "cases": self.cases,
            "threshold": self.threshold if np.isfinite(self.threshold) else None,
            "familiar": self.familiar if np.isfinite(self.familiar) else None,
            "held": self.held,
        }

    @classmethod
    def load(cls, path: Path, facts: Mapping[str, Any]) -> Self:
        """Read what ``save`` wrote and gave back."""
        arrays = load_file(path)
        threshold, familiar = facts["threshold"], facts["familiar"]
        return cls(
            **{name: arrays[name] for name in _ARRAYS},
            outside=facts["outside"],
            cases=facts["cases"],
            threshold=float("inf") if threshold is None else threshold,
            familiar=float("nan") if familiar is None else familiar,
            held=bool(facts.get("held", True)),
        )


def pooled_features(model: Classifier, output: ModelOutput, views: Views) -> Float[Tensor, "B C"]:
    """What the score is computed from: each view's cam feature averaged over space, side by side.

    Args:
        model: whose ``cam_feature`` names the map of each view; a map that several views share counts once.
        output: of a batch.
        views: the batch; rows of NaN are views that a case lacks.

    Returns:
        ``(B, C)`` float64; NaN where a case has no view of a map.

    Raises:
        UsageError: the model names no map of features.
    """
    owners: dict[str, list[str]] = {}
    for view, name in model.cam_feature.items():
        owners.setdefault(name, []).append(view)
    if not owners:
        raise UsageError(
            "the model hands out no map of features to compare images by", fix="fill in its cam_feature"
        )
    parts = []
    for name, names in owners.items():
        pooled = output.features[name].detach().double().flatten(2).mean(dim=2)
        there = torch.stack([given(views[view])[1] for view in names]).any(dim=0)
        parts.append(torch.where(there[:, None], pooled, torch.nan))
    return torch.cat(parts, dim=1)


def _principal(centred: Floats) -> tuple[Floats, float]:
    """Principal directions ``(D, C)`` of centred features, and the mean variance outside them."""
    cases, width = centred.shape
    if cases < 2 or not centred.any():
        raise UsageError(
            f"{cases} training cases with the same features say nothing about what is familiar",
            fix="train on at least two different cases",
        )
    _, lengths, directions = np.linalg.svd(centred, full_matrices=False)
    rank = int((lengths > lengths[0] * 1e-9).sum())
    kept = min(
        (rank + 1) // 2, DIMENSIONS
    )  # few cases fill few directions, and leave nothing to measure outside
    outside = float((lengths[kept:rank] ** 2).sum() / (cases - 1) / max(width - kept, 1))
    return directions[:kept], outside
