"""Charts of the trust card: removal curves, gaps beside those of the controls, randomised layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from foveate.evaluate.intervals import Value
from foveate.report.figures.drawing import (
    BLUE,
    GREEN,
    INK,
    MUTED,
    ORANGE,
    VERMILLION,
    new_figure,
    shorten,
    styled,
)

Curve = Sequence[float | None]
# Colour and marker of methods; controls are grey and told apart by their dashes.
_METHODS = (BLUE, "o"), (ORANGE, "s"), (VERMILLION, "^"), (GREEN, "D"), (INK, "v")
_CONTROLS = {"random": ":", "centre": "--", "edge": "-.", "random_order": (0, (1, 3))}
CONTROL_NAMES = {
    "random": "random map",
    "centre": "centred map",
    "edge": "edge map",
    "random_order": "random order",
}


def _legend(figure: Figure) -> None:
    """Every curve below the chart, in as many columns as the names leave room for."""
    names = [text for axes in figure.axes for text in axes.get_legend_handles_labels()[1]]
    figure.legend(loc="outside lower center", ncols=3 if max(map(len, names), default=0) <= 12 else 2)


@styled
def removal_figure(shares: Curve, curves: Mapping[str, Curve], methods: Sequence[str]) -> Figure:
    """Mean score over the share of the image that is removed or shown.

    Args:
        shares: of the image.
        curves: for each method and control the mean curve at these shares.
        methods: names of the methods; all others are controls.
    """
    figure, axes = new_figure(3.6, 3.3)
    _draw(axes, shares, curves, methods)
    axes.set(xlabel="share of the image", ylabel="score")
    _legend(figure)
    return figure


@styled
def stages_figure(curves: Mapping[str, Sequence[Value]], methods: Sequence[str], alike: float) -> Figure:
    """Likeness with the map of the trained model, over the stages of the randomisation.

    Args:
        curves: for each method and control the mean rank correlation of the magnitudes, stage by stage.
        methods: names of the methods; all others are controls.
        alike: below which pictures count as different.
    """
    figure, axes = new_figure(3.6, 3.3)
    stages = list(range(1 + max(map(len, curves.values()))))
    axes.axhline(alike, color=MUTED, linewidth=0.9)
    _draw(axes, stages, {name: [1.0, *(v.value for v in values)] for name, values in curves.items()}, methods)
    axes.set_xticks(stages, ["trained", "last layer", "half", "all"][: len(stages)])
    axes.set(xlabel="layers drawn anew", ylabel="rank correlation", ylim=(-0.35, 1.05))
    _legend(figure)
    return figure


@styled
def gaps_figure(values: Mapping[str, Value], methods: Sequence[str]) -> Figure:
    """One figure of every method and control with its interval.

    Args:
        values: for each method and control the mean.
        methods: names of the methods; all others are controls.
    """
    figure, axes = new_figure(3.6, 0.75 + 0.27 * len(values))
    axes.axvline(0, color=MUTED, linewidth=0.9, linestyle=":")
    for row, (name, found) in enumerate(values.items()):
        colour = BLUE if name in methods else MUTED
        if found.low is not None and found.high is not None:
            axes.plot([found.low, found.high], [row, row], color=colour, alpha=0.45, linewidth=4)
        if found.value is not None:
            axes.plot(found.value, row, "o", color=colour)
    axes.set_yticks(range(len(values)), [_label(name) for name in values])
    axes.set_ylim(len(values) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    return figure


def _label(name: str) -> str:
    return shorten(CONTROL_NAMES.get(name, name), 21)


def _draw(axes: Axes, places: Curve, curves: Mapping[str, Curve], methods: Sequence[str]) -> None:
    marks = cycle(_METHODS)
    style = {name: next(marks) for name in methods}
    for name, curve in curves.items():
        known = [(at, value) for at, value in zip(places, curve, strict=True) if value is not None]
        if not known:
            continue
        at, value = zip(*known, strict=True)
        label = _label(name)
        if name in style:
            axes.plot(at, value, "-", color=style[name][0], marker=style[name][1], label=label)
        else:
            axes.plot(at, value, linestyle=_CONTROLS.get(name, ":"), color=MUTED, linewidth=1.3, label=label)
