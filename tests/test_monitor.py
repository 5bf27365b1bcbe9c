"""Validation figures agree with scikit-learn and leave out what is undefined."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, roc_auc_score

from foveate.train.monitor import is_better, validation_figures


def test_validation_figures_agree_with_scikit_learn_and_leave_out_what_is_undefined() -> None:
    chance = np.random.default_rng(0)
    scores, labels = chance.normal(size=(40, 3)), chance.integers(0, 3, 40)
    figures = validation_figures("multiclass", scores, np.eye(3)[labels])
    assert figures["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, scores.argmax(1)))
    assert figures["accuracy"] == pytest.approx(accuracy_score(labels, scores.argmax(1)))
    shares = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    assert figures["auroc_macro"] == pytest.approx(roc_auc_score(labels, shares, multi_class="ovr"))
    truth = chance.integers(0, 2, (40, 3)).astype(float)
    truth[:, 2] = 1  # one kind of case only
    truth[:10, 1] = np.nan
    figures = validation_figures("multilabel", scores, truth)
    by_hand = [roc_auc_score(truth[:, 0], scores[:, 0]), roc_auc_score(truth[10:, 1], scores[10:, 1])]
    assert figures["auroc_macro"] == pytest.approx(np.mean(by_hand))
    right = [
        accuracy_score(truth[known, k], scores[known, k] > 0)
        for k, known in enumerate([slice(None), slice(10, None), slice(None)])
    ]
    assert figures["accuracy"] == pytest.approx(np.mean(right))
    assert validation_figures("multilabel", scores, np.ones((40, 3))) == {
        "balanced_accuracy": None,
        "accuracy": pytest.approx((scores > 0).mean()),
        "auroc_macro": None,
    }


def test_better_means_higher_or_for_a_loss_lower() -> None:
    def row(auroc: float, loss: float) -> dict[str, float]:
        return {"auroc_macro": auroc, "val_loss": loss}

    best = row(0.5, 0.7)
    assert is_better("auroc_macro", row(0.6, 0.9), best) and not is_better("auroc_macro", row(0.4, 0.1), best)
    assert is_better("auroc_macro", row(0.5, 0.6), best)  # equal: by the loss
    assert not is_better("auroc_macro", row(0.5, 0.7), best)
    assert is_better("val_loss", row(0.4, 0.6), best) and not is_better("val_loss", row(0.6, 0.7), best)
