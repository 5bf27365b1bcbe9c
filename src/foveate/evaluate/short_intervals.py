"""Intervals that are known to be too short, and how short: the share of simulated cohorts that they held.

``benchmarks/coverage.py --write`` simulates cohorts whose true figures are known and writes the table. Of the
settings of a size (common and rare class, weak and near perfect model, cases of a patient alike in truth or
not) it takes the one in which an interval of 95 % does worst.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from foveate.evaluate.intervals import Value

#: Per cent of cohorts that a 95 % interval held, by figure and number of patients; worst setting.
COVERAGE: Mapping[str, Mapping[int, int]] = {}
#: Below this share of cohorts an interval is said to be short.
ENOUGH = 93
#: Cohorts of more than so many times the largest size simulated are not judged by it.
FAR = 2


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
