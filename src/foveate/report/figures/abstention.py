"""Charts of what is gained by abstaining."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from foveate.evaluate.results.probabilities import RiskCurve
from foveate.report.figures.drawing import BLUE, MUTED, ORANGE, new_figure, styled

_LINES = {"confidence": (BLUE, "-", "by confidence"), "novelty": (ORANGE, "--", "by novelty")}


@styled
def risk_coverage_figure(curves: Mapping[str, RiskCurve], error: float | None) -> Figure:
    """Share of wrong answers among those kept, over the share that is kept.

    Args:
        curves: by order, ``confidence`` or ``novelty``.
        error: share of wrong answers among all of them: the expected risk of leaving out at random.
    """
    figure, axes = new_figure(4.2, 2.9)
    if error is not None:
        axes.axhline(error, linestyle=":", color=MUTED, linewidth=1, label="at random")
    for name, curve in curves.items():
        colour, dash, label = _LINES[name]
        risk = np.array(curve.risk, dtype=float)  # None is NaN, which is not drawn
        axes.plot(curve.coverage, risk, dash, color=colour, label=label)
    axes.set(xlabel="share of answers kept (coverage)", ylabel="share of them that is wrong (risk)")
    axes.set_xlim(0, 1.02)
    axes.set_ylim(bottom=0)
    axes.legend(loc="best")
    return figure
