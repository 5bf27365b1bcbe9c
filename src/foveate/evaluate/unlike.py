"""How many cases have images that plainly differ from the training images; see ``bundle.familiar``."""

from __future__ import annotations

from collections import Counter

import numpy as np

from foveate.evaluate.intervals import Value
from foveate.evaluate.rates import Rates
from foveate.evaluate.results.metrics import UnlikeImages
from foveate.evaluate.table import PredictionTable

PREFIX = "unlike-"
"""How the doubts begin that plain facts of the images raise."""


def unlike_images(part: PredictionTable, level: float) -> UnlikeImages | None:
    """Count the cases that raised such a doubt.

    Args:
        part: the cases to count, of known truth or not.
        level: of the interval, which is exact (``rates``).

    Returns:
        None where no case did.
    """
    kinds = [[doubt for doubt in doubts.split(";") if doubt.startswith(PREFIX)] for doubts in part.doubts]
    unlike = np.array([[bool(found)] for found in kinds])
    if not unlike.any():
        return None
    (low, high), *_ = Rates.of(unlike, np.ones_like(unlike), part.patient_ids).intervals(level)
    counts = Counter(kind for found in kinds for kind in found)
    return UnlikeImages(
        share=Value(float(unlike.mean()), float(low), float(high), len(kinds), len(set(part.patient_ids))),
        cases=int(unlike.sum()),
        kinds=dict(counts.most_common()),
    )
