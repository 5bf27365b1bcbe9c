"""Charts of a comparison: every model's figure, its mean rank, and paired differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, MultipleLocator

from foveate.evaluate.results.comparison import SeedDifference, SeedFigure, VariantRanks
from foveate.report.figures.drawing import BLUE, INK, LINE, MUTED, ORANGE, new_figure, shorten, styled

_LONGEST = 28  # letters of a name beside an axis


@styled
def variants_figure(variants: Mapping[str, SeedFigure], what: str) -> Figure:
    """One figure of several variants, each with the value of every seed, their mean and its interval.

    Args:
        variants: by label; the first is at the top.
        what: name of the figure, for the axis.
    """
    figure, axes = new_figure(5.2, 0.9 + 0.34 * len(variants))
    for row, found in enumerate(variants.values()):
        seeds = [value for value in found.seeds.values() if value is not None]
        if found.low is not None and found.high is not None:
            axes.plot([found.low, found.high], [row, row], color=BLUE, alpha=0.4, linewidth=4)
        axes.plot(seeds, [row] * len(seeds), "o", color=ORANGE, markersize=4)
        if found.value is not None:
            axes.plot(found.value, row, "D", color=BLUE, markersize=5)
    axes.set_yticks(range(len(variants)), [shorten(label, _LONGEST) for label in variants])
    axes.set(xlabel=what, ylim=(len(variants) - 0.5, -0.5))
    axes.grid(False, axis="y")
    return figure


@styled
def rank_figure(ranks: VariantRanks) -> Figure:
    """Mean ranks by one figure, the best on the left, with bars that join who cannot be told apart.

    Args:
        ranks: of models that all have one.
    """
    means = {label: found.value for label, found in ranks.models.items() if found.value is not None}
    order, joined = sorted(means, key=lambda label: means[label]), ranks.indistinguishable
    figure, axes = new_figure(5.2, 1.0 + 0.16 * len(joined) + 0.27 * len(order))
    top = -0.55 - 0.4 * len(joined)
    for row, names in enumerate(joined):
        ends = [means[name] for name in (names[0], names[-1])]
        height = top + 0.35 + 0.4 * row
        axes.plot([ends[0] - 0.04, ends[1] + 0.04], [height] * 2, color=INK, linewidth=4, gid="joined")
    for row, label in enumerate(order):
        found = ranks.models[label]
        axes.plot([means[label]] * 2, [top, row], color=LINE, linewidth=1, zorder=0.5)
        if found.low is not None and found.high is not None:
            axes.plot([found.low, found.high], [row] * 2, color=BLUE, alpha=0.4, linewidth=4)
        axes.plot(means[label], row, "D", color=BLUE, markersize=5)
    axes.set_yticks(range(len(order)), [shorten(label, _LONGEST) for label in order])
    axes.set(
        xlim=(0.8, len(order) + 0.2),
        ylim=(len(order) - 0.5, top),
        xlabel="mean rank over resamplings (1 = best)",
    )
    axes.xaxis.set_major_locator(MultipleLocator(1))
    axes.grid(False, axis="y")
    return figure


@styled
def forest_figure(rows: Sequence[tuple[str, SeedDifference]], level: float) -> Figure:
    """Paired differences of one figure with their intervals; filled where a corrected test tells them apart.

    Args:
        rows: for each pair its name and its difference.
        level: of confidence.
    """
    figure, axes = new_figure(4.6, 0.75 + 0.3 * len(rows))
    axes.axvline(0, color=MUTED, linewidth=1, linestyle=":")
    for row, (_, found) in enumerate(rows):
        if found.value is None:
            axes.text(0, row, " undefined", va="center", color=MUTED, fontsize=8)
            continue
        sure = found.p_holm is not None and found.p_holm < 1 - level
        if found.low is not None and found.high is not None:
            axes.plot([found.low, found.high], [row, row], color=ORANGE if sure else BLUE, linewidth=1.6)
        axes.plot(
            found.value,
            row,
            "D" if sure else "o",
            color=ORANGE if sure else BLUE,
            markerfacecolor=ORANGE if sure else "none",
            markersize=6,
        )
    axes.set_yticks(range(len(rows)), [shorten(name, 2 * _LONGEST) for name, _ in rows])
    axes.set(ylim=(len(rows) - 0.5, -0.5), xlabel="difference")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.grid(False, axis="y")
    return figure
