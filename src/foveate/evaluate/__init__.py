"""Arrays become numbers with intervals: how well classes are told apart, calibration, localization.

Statistics run without torch, from files alone.
"""

from __future__ import annotations

from foveate.evaluate.summary import evaluate_predictions
from foveate.evaluate.thresholds import choose_operating_thresholds

__all__ = ["choose_operating_thresholds", "evaluate_predictions"]
