"""How good an epoch is: figures over the validation cases, by scikit-learn."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn.metrics import balanced_accuracy_score, recall_score, roc_auc_score

from foveate.train.log import Row
from foveate.types import Task

Scores = NDArray[np.float64]
HIGHER_IS_BETTER = {"balanced_accuracy": True, "accuracy": True, "auroc_macro": True, "val_loss": False}


def validation_figures(task: Task, scores: Scores, truth: Scores) -> dict[str, float | None]:
    """Balanced accuracy, accuracy and macro AUROC; None where the validation cases do not define one.

    Multi-class: balanced accuracy is the mean recall of the classes that occur; AUROC is one class
    against the rest. Multi-label: each finding on its own, at a probability of 0.5 and over the cases
    where it is known; a finding with one kind of case only does not enter a mean of balanced accuracy or
    AUROC, nor does such a class.

    Args:
        task: multi-class or multi-label.
        scores: ``(N, K)`` logits.
        truth: ``(N, K)`` of 1, 0, NaN = unknown.
    """
    # One class against the rest ranks cases by probability, which other classes' logits enter as well.
    ranked = softmax(scores.astype(np.float64), axis=1) if task == "multiclass" else scores
    areas = _by_class(roc_auc_score, truth, ranked)
    if task == "multiclass":
        actual = truth.argmax(axis=1)
        occurring = np.unique(actual)
        recalls = recall_score(actual, scores.argmax(axis=1), labels=occurring, average=None)
        balanced = [float(recall) for recall in recalls]
        right = [float(np.mean(scores.argmax(axis=1) == actual))]
    else:
        balanced = _by_class(balanced_accuracy_score, truth, (scores > 0).astype(np.float64))
        known = ~np.isnan(truth)
        shares = ((scores > 0) == (truth == 1)).sum(axis=0, where=known) / np.maximum(known.sum(axis=0), 1)
        right = [float(share) for share in shares[known.any(axis=0)]]
    return {"balanced_accuracy": _mean(balanced), "accuracy": _mean(right), "auroc_macro": _mean(areas)}


def is_better(monitor: str, row: Row, best: Row) -> bool:
    """Whether an epoch beats the best so far: by the figure, by the validation loss where that is equal.

    Figures of few cases are often equal, or 1 from early on.

    Args:
        monitor: name of the figure.
        row, best: of the training log.
    """
    value, reached = row[monitor], best[monitor]
    assert value is not None and reached is not None  # seen to before the training began
    if value == reached:
        monitor, value, reached = "val_loss", row["val_loss"] or 0.0, best["val_loss"] or 0.0
    return value > reached if HIGHER_IS_BETTER[monitor] else value < reached


def _by_class(figure: Callable[[Scores, Scores], float], truth: Scores, scores: Scores) -> list[float]:
    """A figure for each class that has cases of both kinds."""
    found = []
    for actual, score in zip(truth.T, scores.T, strict=True):
        known = ~np.isnan(actual)
        if len(np.unique(actual[known])) == 2:
            found.append(float(figure(actual[known], score[known])))
    return found


def _mean(values: list[float]) -> float | None:
    return float(np.mean(values)) if values else None
