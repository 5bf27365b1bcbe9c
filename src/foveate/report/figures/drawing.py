"""Charts of the report: matplotlib figures, and their way into the page as inline SVG.

Text stays text, so it takes the page's fonts and can be searched; colours become CSS variables, so the
same figure suits a light page, a dark page and paper. The series colours are those of Okabe and Ito
(2008), which readers with colour-vision deficiencies can tell apart; no chart relies on colour alone.
"""

from __future__ import annotations

import hashlib
import io
import re
import textwrap
import warnings
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from foveate.evaluate.results.metrics import PrCurve, RocCurve
from foveate.evaluate.results.views import ShareMeans

BLUE, VERMILLION, GREEN, ORANGE = "#0072b2", "#d55e00", "#009e73", "#e69f00"
INK, MUTED, LINE, PAPER = "#1b1f24", "#5b6673", "#d9dee4", "#fefefe"
# Colour in the figure → CSS variable in the page.
_VARIABLES = {
    BLUE: "--blue",
    VERMILLION: "--vermillion",
    GREEN: "--green",
    ORANGE: "--orange",
    INK: "--ink",
    MUTED: "--muted",
    LINE: "--line",
    PAPER: "--paper",
}
# Colour, marker and dash together, so that a line is known without its colour.
LINES = (BLUE, "o", "-"), (ORANGE, "s", "--"), (VERMILLION, "^", ":")

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "foveate",
    "text.parse_math": False,
    "font.size": 9,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": LINE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "lines.linewidth": 1.8,
    "lines.markersize": 4,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "legend.labelcolor": INK,
    "figure.constrained_layout.use": True,
}
#: Decorates every function that draws a figure.
styled = mpl.rc_context(_STYLE)


@styled
def lines_figure(
    epochs: NDArray[np.float64], series: Mapping[str, NDArray[np.float64]], best: int | None
) -> Figure:
    """Columns of the training log over epochs; a vertical line marks the epoch that was kept.

    Args:
        epochs: ``(N,)`` epoch numbers.
        series: one ``(N,)`` line per name, NaN where an epoch has no value.
        best: position of the best epoch, or None.
    """
    figure, axes = new_figure(3.4, 2.3)
    for (name, values), (colour, marker, dash) in zip(series.items(), LINES, strict=False):
        known = np.isfinite(values)
        mark = marker if known.sum() <= 20 else ""
        axes.plot(epochs[known], values[known], dash, color=colour, marker=mark, label=name)
    if best is not None:
        axes.axvline(
            epochs[best],
            color=MUTED,
            linewidth=0.9,
            linestyle=(0, (2, 2)),
            label=f"best epoch {epochs[best]:g}",
        )
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(loc="best")
    return figure


@styled
def roc_figure(curve: RocCurve) -> Figure:
    """Receiver operating characteristic of one class; the dotted diagonal is chance."""
    figure, axes = unit_figure()
    axes.plot([0, 1], [0, 1], ":", color=MUTED, linewidth=1, label="chance")
    axes.plot(curve.fpr, curve.tpr, color=BLUE, label="model")
    axes.set(xlabel="1 − specificity", ylabel="sensitivity")
    return figure


@styled
def pr_figure(curve: PrCurve, prevalence: float | None) -> Figure:
    """Precision over recall of one class; the dotted line is the share of positives, which is chance."""
    figure, axes = unit_figure()
    if prevalence is not None:
        axes.axhline(prevalence, linestyle=":", color=MUTED, linewidth=1, label="chance")
    axes.plot(curve.recall, curve.precision, color=BLUE, drawstyle="steps-post", label="model")
    axes.set(xlabel="recall (sensitivity)", ylabel="precision (PPV)")
    return figure


@styled
def confusion_figure(labels: Sequence[str], counts: Sequence[Sequence[int]], *, share: bool) -> Figure:
    """Confusion matrix, one row per true class.

    Args:
        labels: K class names.
        counts: ``(K, K)`` cases, rows = truth.
        share: write the share of the row's cases in per cent instead of the count.
    """
    cases = np.asarray(counts, dtype=float).reshape(len(labels), len(labels))
    totals = cases.sum(axis=1, keepdims=True)
    shares = np.divide(cases, totals, out=np.zeros_like(cases), where=totals > 0)
    cell = 0.5 if len(labels) <= 8 else 0.36
    names = [in_lines(label) for label in labels]
    margin = 0.5 + 0.085 * max(len(line) for name in names for line in name.split("\n"))
    figure, axes = new_figure(max(cell * len(labels), 1.6) + margin, max(cell * len(labels), 1.2) + margin)
    for (row, column), part in np.ndenumerate(shares):
        axes.add_patch(
            Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=BLUE, alpha=float(part), edgecolor="none")
        )
        text = _share_text(part, bool(totals[row, 0])) if share else f"{cases[row, column]:.0f}"
        colour = PAPER if part > 0.55 else INK if part > 0 else MUTED
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)
    _square_cells(axes, names)
    axes.set(xlabel="predicted", ylabel="true")
    return figure


@styled
def shares_figure(views: Mapping[str, ShareMeans]) -> Figure:
    """Share of each view in the attribution of one class (bars), and in its heat maps (diamonds).

    Args:
        views: the means of each.
    """
    figure, axes = new_figure(3.4, 0.75 + 0.3 * len(views))
    names = list(views)
    for place, name in enumerate(names):
        bar, map_ = views[name].attribution, views[name].evidence
        axes.barh(place, bar.value or 0.0, height=0.62, color=BLUE, alpha=0.75)
        if bar.low is not None and bar.high is not None:
            axes.plot([bar.low, bar.high], [place - 0.12] * 2, color=INK, linewidth=1.2)
        if map_.value is not None:
            axes.plot(map_.value, place + 0.14, "D", color=ORANGE, markeredgecolor=INK, markeredgewidth=0.5)
        if map_.low is not None and map_.high is not None:
            axes.plot([map_.low, map_.high], [place + 0.14] * 2, color=ORANGE, linewidth=1.2, zorder=1.5)
    axes.set_yticks(range(len(names)), [shorten(name) for name in names])
    axes.set(xlim=(0, 1), ylim=(len(names) - 0.5, -0.5), xlabel="share")
    axes.grid(visible=False, axis="y")
    return figure


def svg(figure: Figure, label: str) -> Markup:
    """Turn a figure into inline SVG with the page's fonts and colours.

    Args:
        figure: drawn by a function of this module.
        label: what it shows, for readers who cannot see it.
    """
    buffer = io.StringIO()
    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        # The browser has the fonts for scripts that matplotlib's own font lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = re.sub(r"<(metadata|style)\b.*?</\1>|<!--.*?-->", "", buffer.getvalue(), flags=re.DOTALL)
    body = text[text.index("<svg") :]
    body = body[body.index(">") + 1 :].replace("xlink:href", "href")
    body = _unique_ids(body, "f" + hashlib.sha256(f"{label}\0{body}".encode()).hexdigest()[:10])
    for colour, variable in _VARIABLES.items():
        body = body.replace(colour, f"var({variable})")
    width, height = (figure.get_size_inches() * 72).tolist()
    size = f'viewBox="0 0 {width:g} {height:g}" style="max-width:{width * 4 / 3:.0f}px"'
    return Markup(f'<svg {size} role="img" aria-label="{escape(label)}">{body}')


def shorten(label: str, most: int = 18) -> str:
    """Cut a long name so that it fits an axis."""
    return label if len(label) <= most else label[: most - 1] + "…"


def in_lines(label: str, width: int = 16) -> str:
    """Break a long name into two lines between words, and cut what does not fit them."""
    lines = textwrap.wrap(label, width, break_long_words=False) or [""]
    kept = lines[:1] if len(lines) == 1 else [lines[0], " ".join(lines[1:])]
    return "\n".join(shorten(line, width + 8) for line in kept)


def new_figure(width: float, height: float) -> tuple[Figure, Axes]:
    """An empty chart, in inches, in the style that surrounds it."""
    figure = Figure(figsize=(width, height))
    return figure, figure.subplots()


def unit_figure() -> tuple[Figure, Axes]:
    """Square axes from 0 to 1 on both sides."""
    figure, axes = new_figure(2.2, 2.2)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1), aspect="equal")
    return figure, axes


def _square_cells(axes: Axes, labels: Iterable[str]) -> None:
    names = list(labels)
    longest = max((len(line) for name in names for line in name.split("\n")), default=0)
    upright = longest > (9 if len(names) < 3 else 5)
    axes.set_xticks(range(len(names)), names, rotation=90 if upright else 0)
    axes.set_yticks(range(len(names)), names)
    axes.set(xlim=(-0.5, len(names) - 0.5), ylim=(len(names) - 0.5, -0.5), aspect="equal")
    axes.tick_params(length=0)
    axes.grid(False)


def _share_text(part: float, known: bool) -> str:
    return f"{100 * part:.0f}" if known else "–"


def _unique_ids(body: str, prefix: str) -> str:
    """Drop identifiers nobody refers to and make the others unique in the page."""
    used = set(re.findall(r'(?:href="|url\()#([^")]+)', body))
    body = re.sub(
        r' id="([^"]+)"', lambda found: f' id="{prefix}-{found[1]}"' if found[1] in used else "", body
    )
    return re.sub(r'(href="|url\()#', rf"\g<1>#{prefix}-", body)
