"""Intervals that are known to be too short, and how short: the share of simulated cohorts that they held.

``benchmarks/coverage.py --write`` simulates cohorts whose true figures are known and writes the table. Of the
settings of a size (common and rare class, weak and near perfect model, cases of a patient alike in truth or
not) it takes the one in which an interval of 95 % does worst. The worst of many values of 120 cohorts is
often 91 by chance, so that only figures are listed that fall below ``SURELY`` at some size. AUROC, average
precision, rates and their averages were simulated with 600 cohorts and are short nowhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from foveate.evaluate.intervals import Value

#: Per cent of cohorts that a 95 % interval held, by figure and number of patients; worst setting.
COVERAGE: Mapping[str, Mapping[int, int]] = {
    "accuracy_at_80": {7: 90, 15: 83, 30: 66, 60: 71},
    "accuracy_at_90": {7: 90, 15: 92, 30: 84, 60: 87},
    "accuracy_familiar": {7: 89, 15: 92, 30: 91, 60: 94},
    "aurc": {7: 89, 15: 88, 30: 92, 60: 92},
    "brier": {7: 59, 15: 72, 30: 85, 60: 88},
    "change of brier": {7: 87, 15: 86, 30: 92, 60: 90},
    "change of ece": {7: 78, 15: 83, 30: 81, 60: 82},
    "change of log_loss": {7: 81, 15: 86, 30: 91, 60: 92},
    "ece": {7: 83, 15: 92, 30: 94, 60: 90},
    "ece_classwise": {7: 85, 15: 95, 30: 93, 60: 98},
    "ece_equal_mass": {7: 88, 15: 93, 30: 97, 60: 95},
    "excess": {7: 86, 15: 83, 30: 86, 60: 88},
    "gain": {7: 7, 15: 13, 30: 41, 60: 49},
    "kappa": {7: 84, 15: 88, 30: 89, 60: 92},
    "kappa_quadratic": {7: 93, 15: 89, 30: 94, 60: 93},
    "log_loss": {7: 78, 15: 84, 30: 90, 60: 88},
    "mcc": {7: 88, 15: 85, 30: 92, 60: 92},
    "model": {7: 64, 15: 73, 30: 82, 60: 90},
    "reliability": {7: 76, 15: 91, 30: 98, 60: 96},
    "resolution": {7: 67, 15: 62, 30: 64, 60: 79},
    "size": {7: 89, 15: 93, 30: 92, 60: 90},
    "uncertainty": {7: 46, 15: 72, 30: 83, 60: 92},
    "within_bins": {7: 30, 15: 20, 30: 33, 60: 71},
}
#: Below this share of cohorts the interval of a listed figure is said to be short.
ENOUGH = 93
#: A figure is listed if it falls below this share at some size: 93, less the noise of 120 cohorts.
SURELY = 90
#: Cohorts of more than so many times the largest size simulated are not judged by it.
FAR = 4


def noted(value: Value, figure: str) -> Value:
    """The same value, which says so if its interval does not keep what it promises.

    Args:
        value: of a figure.
        figure: its name in ``metrics.json``, such as ``ece``; ``change of ece`` for a difference of two.
    """
    sizes = COVERAGE.get(figure, {})
    if value.low is None or not sizes or value.patients > FAR * max(sizes):
        return value
    size = max((own for own in sizes if own <= value.patients), default=min(sizes))
    if sizes[size] >= ENOUGH:
        return value
    short = f"interval known to be too short: it held the truth in {sizes[size]} of 100 simulated cohorts"
    return replace(value, reason="; ".join(filter(None, (value.reason, f"{short} of {size} patients"))))
