"""How well the classes are told apart, as functions of case weights (see ``intervals``).

Aim: one set of definitions for multi-class and multi-label cohorts, each one-versus-rest per class and then
averaged over the classes for which it is defined.

* AUROC: probability that a case with the class scores above one without, ties counting half (Hanley and
  McNeil 1982, Radiology 143:29).
* AP: area under the precision-recall steps, ``sum (R_n - R_{n-1}) P_n`` over distinct scores; no
  interpolation. With no negative case it would be 1 whatever the model says, so it counts as undefined.
* precision (PPV) ``tp / predicted``, NPV ``tn / cleared`` (not predicted), recall (sensitivity)
  ``tp / positive``, specificity ``tn / negative``, F1 ``2 tp / (positive + predicted)``.
* accuracy: multi-class, the share of cases whose most probable class is the true one; multi-label, the mean
  over findings of the share of cases decided right.
* balanced accuracy: multi-class, the mean recall of the classes that occur; multi-label, the mean over
  findings of (recall + specificity) / 2.

Undefined (0/0) is NaN here and never enters an average. Unknown truth is left out, finding by finding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foveate.evaluate.intervals import Floats, ratio
from foveate.evaluate.table import PredictionTable
from foveate.types import Task

Bools = NDArray[np.bool_]

#: What a per-class metric needs to be defined.
NEEDS: Mapping[str, tuple[str, ...]] = {
    "auroc": ("positive", "negative"),
    "ap": ("positive", "negative"),
    "precision": ("predicted",),
    "npv": ("cleared",),
    "recall": ("positive",),
    "specificity": ("negative",),
    "f1": ("positive or predicted",),
    "accuracy": ("known",),
    "balanced_accuracy": ("positive", "negative"),
}


@dataclass(frozen=True, slots=True)
class Ranking:
    """Cases of one class in order of falling score, sorted once for all replicates.

    Attributes:
        order: ``(M,)`` cases with known truth, the highest score first; of equals the positive ones first.
        positive: ``(M,)`` their truth.
        starts: where each group of equal scores begins.
    """

    order: NDArray[np.intp]
    positive: Bools
    starts: NDArray[np.intp]
    _runs: _Runs

    @classmethod
    def of(cls, scores: Floats, truth: Floats) -> Ranking:
        """Sort the cases of one class.

        Args:
            scores: ``(N,)``, higher for more likely.
            truth: ``(N,)`` 1, 0, or NaN where unknown.
        """
        known = np.flatnonzero(~np.isnan(truth))
        order = known[np.lexsort((truth[known] != 1, -scores[known]))]
        ranked, positive = scores[order], truth[order] == 1
        new = np.concatenate([[True], ranked[1:] != ranked[:-1]])[: len(ranked)]
        return cls(order, positive, np.flatnonzero(new), _Runs.of(new, positive))

    def __call__(self, weights: Floats) -> tuple[Floats, Floats]:
        """AUROC and AP, each ``(B,)``, for ``(B, N)`` case weights; NaN where undefined."""
        if len(self.order) == 0:
            undefined = np.full(len(weights), np.nan)
            return undefined, undefined
        positive, negative = self._runs.sums(weights[:, self.order])
        above, below = np.cumsum(positive, axis=1), np.cumsum(negative, axis=1)
        pairs = above[:, -1] * below[:, -1]
        auroc = ratio(((above - positive / 2) * negative).sum(axis=1), pairs)
        precision = np.divide(above, above + below, out=np.zeros_like(above), where=above > 0)
        ap = ratio((positive * precision).sum(axis=1), above[:, -1])
        return auroc, np.where(pairs > 0, ap, np.nan)


@dataclass(frozen=True, slots=True)
class _Runs:
    """Ranked cases put together as far as AUROC and AP cannot tell: equals, and negatives with none between.

    Attributes:
        starts: ``(R,)`` where each run of cases of one kind begins.
        positive: ``(P,)`` the runs of positives.
        negative: ``(R - P,)`` the runs of negatives.
        places: ``(R,)`` the step of the curves that each run belongs to, equals of both kinds to the same.
    """

    starts: NDArray[np.intp]
    positive: NDArray[np.intp]
    negative: NDArray[np.intp]
    places: NDArray[np.intp]

    @classmethod
    def of(cls, new: Bools, positive: Bools) -> _Runs:
        """Find the runs; ``new`` and ``positive``, ``(M,)``, tell where scores change and who is positive."""
        group = np.cumsum(new) - 1
        mixed = np.bincount(group, weights=positive) > 0  # whether a group of equals holds a positive
        apart = np.concatenate([[True], mixed[1:] | mixed[:-1]])[: len(mixed)]
        turned = np.concatenate([[False], positive[1:] != positive[:-1]])[: len(positive)]
        starts = np.flatnonzero((new & apart[group]) | turned)
        kind = positive[starts]
        places = np.cumsum(apart)[group[starts]] - 1
        return cls(starts, np.flatnonzero(kind), np.flatnonzero(~kind), places)

    def sums(self, ranked: Floats) -> tuple[Floats, Floats]:
        """Weights of the positives and of the negatives of each step, ``(B, steps)``, from ``(B, M)``."""
        runs = np.add.reduceat(ranked, self.starts, axis=1) if len(self.starts) < ranked.shape[1] else ranked
        positive, negative = np.zeros((2, len(ranked), int(self.places[-1]) + 1))
        positive[:, self.places[self.positive]] = runs[:, self.positive]
        negative[:, self.places[self.negative]] = runs[:, self.negative]
        return positive, negative


class Discrimination:
    """Every per-class metric of a table of predictions, as one function of case weights.

    Args:
        table: N cases over K classes.
        decided: ``(N, K)`` what the model decides, of ``table.decisions``.
    """

    def __init__(self, table: PredictionTable, decided: Bools) -> None:
        self.task: Task = table.task
        self.decided = decided
        present, absent = table.truth == 1, table.truth == 0
        self._masks = np.stack([present, absent, present & decided, absent & decided]).astype(np.float64)
        self._rankings = [
            Ranking.of(ranks, truth) for ranks, truth in zip(table.ranks.T, table.truth.T, strict=True)
        ]

    def __call__(self, weights: Floats) -> dict[str, Floats]:
        """Metrics for ``(B, N)`` case weights.

        Returns:
            ``(B, K)`` each for the names in ``NEEDS``; multi-class ``accuracy`` is ``(B, 1)`` over all
            classes.
        """
        positive, negative, hit, alarm = (weights @ mask for mask in self._masks)
        ranked = [ranking(weights) for ranking in self._rankings]
        known, multiclass = positive + negative, self.task == "multiclass"
        accuracy = (
            ratio(hit.sum(axis=1), known[:, 0])[:, None]
            if multiclass
            else ratio(hit + negative - alarm, known)
        )
        recall, specificity = ratio(hit, positive), ratio(negative - alarm, negative)
        return {
            "auroc": np.stack([auroc for auroc, _ in ranked], axis=1),
            "ap": np.stack([ap for _, ap in ranked], axis=1),
            "precision": ratio(hit, hit + alarm),
            "npv": ratio(negative - alarm, positive - hit + negative - alarm),
            "recall": recall,
            "specificity": specificity,
            "f1": ratio(2 * hit, positive + hit + alarm),
            "accuracy": accuracy,
            "balanced_accuracy": recall if multiclass else (recall + specificity) / 2,
        }

    def why_undefined(self, metric: str) -> list[str]:
        """For each class, what the metric lacks; an empty text where it is defined."""
        positive, negative, hit, alarm = self._masks.sum(axis=1)
        counts = {
            "known": positive + negative,
            "positive": positive,
            "negative": negative,
            "predicted": hit + alarm,
            "cleared": positive - hit + negative - alarm,
            "positive or predicted": positive + alarm,
        }
        needs = ("positive",) if (self.task, metric) == ("multiclass", "balanced_accuracy") else NEEDS[metric]
        return [
            next((f"no {need} case" for need in ("known", *needs) if counts[need][k] == 0), "")
            for k in range(len(positive))
        ]
