"""What ``foveate predict`` prints of single images: probabilities raw and calibrated, the set, and doubts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from rich.markup import escape

from foveate.terminal import console, new_table, say

if TYPE_CHECKING:
    from foveate.types import Prediction

DOUBTS: Mapping[str, str] = {
    "novel": "unlike the training images",
    "set-empty": "no class fits",
    "set-large": "several classes fit",
}


def show_predictions(classes: Sequence[str], predictions: Sequence[Prediction]) -> None:
    """Print a block for each image: every class with its probability, then the set and the doubts."""
    for item in predictions:
        table = new_table(
            escape(item.case_id), "probability", *([] if item.calibrated is None else ["calibrated"])
        )
        told = [item.probabilities] if item.calibrated is None else [item.probabilities, item.calibrated]
        for name, *values in zip(classes, *told, strict=True):
            table.add_row(escape(name), *map(_share, values))
        console.print(table)
        if item.answer_set is not None:
            say(f"set: {', '.join(map(_in_words, item.answer_set)) or 'empty'}")
        if item.abstain:
            say(f"beware: {', '.join(DOUBTS[name] for name in item.abstain)}")


def _in_words(answer: str) -> str:
    """An answer of a set; ``?`` and ``!`` are the marks of ``SetRule.texts``."""
    name, mark = answer.rstrip("?!"), answer[-1:]
    return name + {"?": " (or not)", "!": " (neither presence nor absence fits)"}.get(mark, "")


def _share(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.3f}"
