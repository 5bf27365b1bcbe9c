"""Charts of the localization bench."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from foveate.evaluate.intervals import Value
from foveate.report.figures.drawing import BLUE, INK, LINES, MUTED, ORANGE, new_figure, styled

# Marker of each control, so that they are known without colour.
_CONTROLS = {"random": "x", "centre": "+", "edge": "|", "average": "s"}


@styled
def overlap_figure(methods: Mapping[str, Mapping[str, Value]]) -> Figure:
    """Share of cases whose box overlaps the truth at least so much, over the overlap asked for.

    Args:
        methods: at most three; for each, the localization accuracy by IoU threshold (``"0.1"``, …).
    """
    figure, axes = new_figure(4.6, 3.0)
    for (name, accuracy), (colour, marker, dash) in zip(methods.items(), LINES, strict=False):
        points = [(float(at), found) for at, found in accuracy.items() if found.value is not None]
        axes.plot(
            [at for at, _ in points],
            [found.value or 0.0 for _, found in points],
            dash,
            color=colour,
            marker=marker,
            label=name,
        )
        bounds = [(at, found.low, found.high) for at, found in points if found.low is not None]
        if bounds:
            axes.fill_between(*np.array(bounds, dtype=float).T, color=colour, alpha=0.15, linewidth=0)
    axes.set(xlabel="IoU asked for", ylabel="share of cases localized", ylim=(-0.02, 1.02))
    figure.legend(loc="outside upper center", ncols=len(methods))
    return figure


@styled
def bench_figure(measures: Mapping[str, Mapping[str, Value]], names: Mapping[str, str]) -> Figure:
    """The main measures on one scale: the heat maps with their interval, their ceiling, and the controls.

    Args:
        measures: by name of the measure, the value of each method.
        names: of the methods, for the legend.
    """
    figure, axes = new_figure(4.6, 1.3 + 0.34 * len(measures))
    for row, methods in enumerate(measures.values()):
        own, ceiling = methods["heatmap"], methods.get("ceiling")
        if ceiling is not None and ceiling.value is not None:
            axes.plot([0, ceiling.value], [row, row], color=MUTED, linewidth=0.8, zorder=1)
            axes.plot(ceiling.value, row, "D", color=ORANGE, label=names["ceiling"])
        for method, marker in _CONTROLS.items():
            if (value := methods[method].value if method in methods else None) is not None:
                axes.plot(
                    value,
                    row - 0.22,
                    marker,
                    color=MUTED,
                    label=names[method],
                    markersize=5,
                    fillstyle="none",
                )
        if own.low is not None and own.high is not None:
            axes.plot([own.low, own.high], [row + 0.12] * 2, color=BLUE, alpha=0.4, linewidth=4)
        if own.value is not None:
            axes.plot(own.value, row + 0.12, "o", color=BLUE, markeredgecolor=INK, label=names["heatmap"])
    axes.set_yticks(range(len(measures)), list(measures))
    axes.set(xlim=(-0.02, 1.02), ylim=(len(measures) - 0.5, -0.5), xlabel="score")
    axes.grid(visible=False, axis="y")
    handles, labels = axes.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    figure.legend(unique.values(), unique.keys(), loc="outside upper center", ncols=3)
    return figure
