"""Charts of calibration: what is observed over what is stated."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from foveate.evaluate.intervals import Floats
from foveate.evaluate.results.probabilities import CalibrationBin
from foveate.report.figures.drawing import BLUE, MUTED, ORANGE, PAPER, VERMILLION, styled, unit_figure

Bins = Sequence[CalibrationBin]


@styled
def calibration_figure(bins: Bins) -> Figure:
    """Observed share of true outcomes over stated probability, above the number of predictions per bin."""
    figure = Figure(figsize=(3.8, 3.7))
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    _diagonal(upper)
    stated, observed = _points(bins)
    upper.vlines(stated, stated, observed, color=VERMILLION, linewidth=1, label="gap")
    upper.plot(stated, observed, "-o", color=BLUE, label="model")
    upper.set(xlim=(0, 1), ylim=(-0.02, 1.02), ylabel="observed")
    upper.legend(loc="upper left")
    lower.bar(
        [part.low for part in bins],
        [part.n for part in bins],
        [part.high - part.low for part in bins],
        align="edge",
        color=BLUE,
        edgecolor=PAPER,
        linewidth=0.8,
    )
    lower.set(xlabel="stated probability", ylabel="count")
    return figure


@styled
def class_figure(raw: Bins, calibrated: Bins | None) -> Figure:
    """Reliability curves of one class against the rest: raw solid, calibrated dashed."""
    figure, axes = unit_figure()
    _diagonal(axes)
    axes.plot(*_points(raw), "-o", color=BLUE, label="raw", markersize=3)
    if calibrated is not None:
        axes.plot(*_points(calibrated), "--s", color=ORANGE, label="calibrated", markersize=3)
    axes.set(xlabel="stated probability", ylabel="observed")
    return figure


def _diagonal(axes: Axes) -> None:
    axes.plot([0, 1], [0, 1], ":", color=MUTED, linewidth=1, label="perfect calibration")


def _points(bins: Bins) -> tuple[Floats, Floats]:
    """Stated and observed of the bins that hold something."""
    filled = [(part.confidence, part.accuracy) for part in bins if part.n]
    stated, observed = np.array(filled, dtype=np.float64).reshape(-1, 2).T
    return stated, observed
