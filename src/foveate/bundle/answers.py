"""What belongs to an answer besides the model's own numbers: the truth on file, its set, and doubts.

In NumPy only, so that every engine gives the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from foveate.errors import InputRefused
from foveate.types import Case, Prediction, Task

if TYPE_CHECKING:
    from foveate.evaluate.probabilities.conformal import SetRule


def truth_of(case: Case, task: Task, classes: Sequence[str]) -> NDArray[np.float64]:
    """Truth over the classes of a model, ``(K,)``: 1, 0, or NaN where the case does not say.

    Raises:
        InputRefused: the case is of a class that the model does not know.
    """
    if task == "multilabel":
        found = [case.findings.get(name) for name in classes]
        return np.array([np.nan if value is None else float(value) for value in found])
    if case.label is None:
        return np.full(len(classes), np.nan)
    if case.label not in classes:
        raise InputRefused(
            f"label '{case.label}' is not one that the model learned ({', '.join(classes)})",
            where=f"case {case.case_id}",
            fix="correct the label, or leave it empty to predict without truth",
            code="unknown-label",
        )
    return np.array([float(case.label == name) for name in classes])


def with_doubts(
    predictions: Sequence[Prediction], classes: Sequence[str], rule: SetRule | None, strangest: float
) -> list[Prediction]:
    """Add the set of each answer, and why one should rather not rely on it.

    Args:
        predictions: with raw probabilities, novelty, and in what the images plainly differ.
        classes: K names.
        rule: which answers go into a set; None leaves sets out.
        strangest: novelty above which an image counts as unlike the training images.
    """
    sets: Sequence[tuple[str, ...] | None] = [None] * len(predictions)
    doubts = [""] * len(predictions)
    if rule is not None and predictions:
        probabilities = np.stack([item.probabilities for item in predictions])
        sets = [tuple(text.split(";")) if text else () for text in rule.texts(probabilities, classes)]
        doubts = rule.doubts(probabilities)
    return [
        replace(
            item,
            answer_set=sets[row],
            abstain=tuple(
                filter(None, ("novel" if item.novelty > strangest else "", *item.unlike, doubts[row]))
            ),
        )
        for row, item in enumerate(predictions)
    ]
