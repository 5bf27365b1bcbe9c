"""Charts of the trust card: removal curves, gaps beside those of the controls, randomised layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from foveate.evaluate.intervals import Value
from foveate.report.figures import BLUE, GREEN, INK, MUTED, ORANGE, VERMILLION, new_figure, shorten, styled

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


@styled
def curves_figure(panels: Mapping[str, tuple[Curve, Mapping[str, Curve]]], methods: Sequence[str]) -> Figure:
    """Mean score over the share of the image that is removed or shown, a panel for each way.

    Args:
        panels: by title the shares, and for each method and control the mean curve at these shares.
        methods: names of the methods; all others are controls.
    """
    figure = Figure(figsize=(3.3 * len(panels), 3.4))
    for axes, (title, (shares, curves)) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
    ):
        _draw(axes, shares, curves, methods)
        axes.set_title(title, fontsize=9)
        axes.set(xlabel="share of the image", xlim=(-0.02, 1.02))
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
    return figure


@styled
def stages_figure(curves: Mapping[str, Sequence[Value]], methods: Sequence[str], alike: float) -> Figure:
    """Likeness with the map of the trained model, over the stages of the randomisation.

    Args:
        curves: for each method and control the mean rank correlation of the magnitudes, stage by stage.
        methods: names of the methods; all others are controls.
        alike: below which pictures count as different.
    """
    figure, axes = new_figure(3.8, 3.2)
    stages = list(range(1 + max(map(len, curves.values()))))
    axes.axhline(alike, color=MUTED, linewidth=0.9)
    _draw(axes, stages, {name: [1.0, *(v.value for v in values)] for name, values in curves.items()}, methods)
    axes.set_xticks(stages, ["trained", "last layer", "half", "all"][: len(stages)])
    axes.set(xlabel="layers drawn anew", ylabel="rank correlation", ylim=(-0.35, 1.05))
    figure.legend(loc="outside lower center", ncols=3)
    return figure


@styled
def gaps_figure(panels: Mapping[str, Mapping[str, Value]], methods: Sequence[str]) -> Figure:
    """One figure of every method and control with its interval, a panel for each way of measuring.

    Args:
        panels: by title, for each method and control the mean.
        methods: names of the methods; all others are controls.
    """
    names = list(next(iter(panels.values())))
    figure = Figure(figsize=(1.0 + 2.3 * len(panels), 0.75 + 0.27 * len(names)))
    row_of = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (title, values) in zip(row_of, panels.items(), strict=True):
        axes.axvline(0, color=MUTED, linewidth=0.9, linestyle=":")
        for row, found in enumerate(values.values()):
            colour = BLUE if names[row] in methods else MUTED
            if found.low is not None and found.high is not None:
                axes.plot([found.low, found.high], [row, row], color=colour, alpha=0.45, linewidth=4)
            if found.value is not None:
                axes.plot(found.value, row, "o", color=colour)
        axes.set_title(title, fontsize=9)
        axes.grid(visible=False, axis="y")
        axes.locator_params(axis="x", nbins=4)
    row_of[0].set_yticks(range(len(names)), [shorten(CONTROL_NAMES.get(name, name), 24) for name in names])
    row_of[0].set_ylim(len(names) - 0.5, -0.5)
    return figure


def _draw(axes: Axes, places: Curve, curves: Mapping[str, Curve], methods: Sequence[str]) -> None:
    marks = cycle(_METHODS)
    style = {name: next(marks) for name in methods}
    for name, curve in curves.items():
        known = [(at, value) for at, value in zip(places, curve, strict=True) if value is not None]
        if not known:
            continue
        at, value = zip(*known, strict=True)
        label = shorten(CONTROL_NAMES.get(name, name), 22)
        if name in style:
            axes.plot(at, value, "-", color=style[name][0], marker=style[name][1], label=label)
        else:
            axes.plot(at, value, linestyle=_CONTROLS.get(name, ":"), color=MUTED, linewidth=1.3, label=label)
