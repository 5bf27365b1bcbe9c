"""Charts of what a model is worth to those who act on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from foveate.evaluate.intervals import Value
from foveate.report.figures.drawing import BLUE, INK, MUTED, ORANGE, new_figure, styled


@styled
def decision_figure(
    thresholds: Sequence[float],
    model: Sequence[float],
    treat_all: Sequence[float],
    at: Mapping[float, Value],
) -> Figure:
    """Decision curve of one class: net benefit over the probability from which one acts.

    Args:
        thresholds: T of them.
        model, treat_all: net benefit of acting on the model's positive answers, and of acting on everybody,
            at each of them; acting on nobody is the line at 0.
        at: the model's net benefit with its interval at some thresholds.
    """
    figure, axes = new_figure(3.0, 2.9)
    axes.axhline(0, color=INK, linewidth=0.9, label="act on nobody")
    axes.plot(thresholds, treat_all, "--", color=ORANGE, linewidth=1.4, label="act on everybody")
    axes.plot(thresholds, model, color=BLUE, label="act on the model's answers")
    told = [(t, value.low, value.high) for t, value in at.items() if value.low is not None]
    bounds = np.array(told, dtype=float).reshape(-1, 3)
    axes.vlines(*bounds.T, color=BLUE, linewidth=1.2)
    top = max(0.02, *model, *treat_all, *bounds[:, 2])
    axes.set(xlim=(0, 1), ylim=(-0.25 * top, 1.08 * top))
    axes.set_xlabel("act from this probability on")
    axes.set_ylabel("net benefit per case")
    figure.legend(loc="outside upper left", labelcolor=MUTED)
    return figure
