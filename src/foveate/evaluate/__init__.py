"""Arrays become numbers with intervals: how well classes are told apart, calibration, localization.

Statistics run without torch, from files alone.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from foveate.evaluate.probabilities.thresholds import choose_operating_thresholds
    from foveate.evaluate.summary import evaluate_predictions

__all__ = ["choose_operating_thresholds", "evaluate_predictions"]

# Loaded on first use: a single prediction needs one module of this room, and none of its libraries.
_PUBLIC = {
    "evaluate_predictions": "foveate.evaluate.summary",
    "choose_operating_thresholds": "foveate.evaluate.probabilities.thresholds",
}


def __getattr__(name: str) -> Any:
    """Load a public name from the module that holds it."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'foveate.evaluate' has no attribute '{name}'")
    return getattr(importlib.import_module(_PUBLIC[name]), name)
